// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

//go:build !man

// Command nftnat publishes host ports to backends, over netlink alone.
package main

import "os"

func main() {
	if status, asked := dockerProxy(os.Args, os.Stdout, os.Stderr); asked {
		os.Exit(status)
	}
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
