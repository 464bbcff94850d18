// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/fleet/internal/demo"
)

func newDemo(*global) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show three hosts, one of which dies, in temporary network namespaces",
		Long: "Make an etcd, a client, a web server and three hosts in temporary network namespaces, publish the\n" +
			"server on a floating address, let the host die that holds it, and show that another serves.\n" +
			"Then the address is handed over to the third, and everything is removed. The exit status is 0\n" +
			"only if all of it worked. Nothing outside the namespaces is changed. It has to be root, and needs\n" +
			"the programs etcd (Debian's etcd-server) and nftnat.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			return demo.Run(cmd.Context(), demo.Options{Fleet: self, Out: cmd.OutOrStdout()})
		},
	}
}
