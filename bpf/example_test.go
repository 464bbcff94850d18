// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/nftnat/nftnat/bpf"
)

// Why packets to or from TCP port 8080 are dropped in the next ten seconds.
func Example() {
	info, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		fmt.Println(err)
		return
	}
	drops, err := bpf.OpenDrops(info.Sys().(*syscall.Stat_t).Ino)
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := drops.Watch(8080, bpf.TCP); err != nil {
		fmt.Println(err)
		return
	}
	err = drops.Run(ctx, func(d bpf.Drop) { fmt.Println(d.Reason) })
	fmt.Println(err, drops.Close())
}
