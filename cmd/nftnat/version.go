// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/internal/buildinfo"
)

func newVersion(g *global) *cobra.Command {
	return offer(&cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.printVersion(cmd)
		},
	}, forJSON)
}

func (g *global) printVersion(cmd *cobra.Command) error {
	info := buildinfo.Read()
	if g.json {
		return printJSON(cmd.OutOrStdout(), info)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "nftnat %s\n", info)
	return err
}
