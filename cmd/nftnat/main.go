// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

//go:build !man

// Command nftnat publishes host ports to backends, over netlink alone.
package main

import (
	"os"
	"path/filepath"

	"github.com/nftnat/nftnat/cni"
)

func main() {
	if status, asked := dockerProxy(os.Args, os.Stdout, os.Stderr); asked {
		os.Exit(status)
	}
	args := os.Args[1:]
	switch {
	case isPlugin(os.Args):
		os.Exit(newPlugin().Main())
	case filepath.Base(os.Args[0]) == cni.Type:
		args = append([]string{"cni"}, args...) // as in nftnat-cni install
	}
	os.Exit(run(args, os.Stdin, os.Stdout, os.Stderr))
}
