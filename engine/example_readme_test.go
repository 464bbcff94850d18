// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"context"
	"fmt"
	"log"
	"sync"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/nat"
)

// The example of README.md. It takes CAP_NET_ADMIN, so this one is compiled and not run.
func Example() {
	_ = func(ctx context.Context) error {
		e, err := engine.Open(ctx, engine.Options{})
		if err != nil {
			return err // another engine has the table: *nat.OwnedError names its pid
		}
		var running sync.WaitGroup
		defer running.Wait()
		defer e.Close() // ends Run; the table and its mappings stay at work
		running.Go(func() {
			// Run repairs the table, follows the host's changes, and ends what expires.
			if err := e.Run(ctx); err != nil {
				log.Print(err)
			}
		})

		m, err := nat.ParseMapping("tcp", "0", "172.17.0.2:80")
		if err != nil {
			return err
		}
		done, err := e.Publish(ctx, nat.PublishOptions{}, m) // all or none, with the ports that were chosen
		if err != nil {
			return err // *nat.ConflictError names the mapping in the way
		}
		fmt.Println(done[0]) // 49153->172.17.0.2:80
		return nil
	}
}
