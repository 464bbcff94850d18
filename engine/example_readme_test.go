// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"fmt"

	"github.com/nftnat/nftnat/engine"
)

// The example of README.md. It takes CAP_NET_ADMIN, so this one is compiled and not run.
func Example() {
	_ = func() error {
		e, err := engine.Open(engine.Options{})
		if err != nil {
			return err // another engine has the table: *engine.OwnedError names its pid
		}
		defer e.Close() // the table and its mappings stay at work

		m, err := engine.NewMapping("tcp", "0", "172.17.0.2:80")
		if err != nil {
			return err
		}
		done, err := e.Publish(m) // all or none, with the ports that were chosen
		if err != nil {
			return err // *engine.ConflictError names the mapping in the way
		}
		fmt.Println(done[0]) // 49153->172.17.0.2:80
		return nil
	}
}
