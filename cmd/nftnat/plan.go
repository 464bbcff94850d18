// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/engine"
)

func newPlan(g *global) *cobra.Command {
	return offer(&cobra.Command{
		Use:   "plan",
		Short: "Print the ruleset that nftnat keeps in its table",
		Long: "Print the ruleset that nftnat keeps in its table, as nft(8) lists and reads it, with\n" +
			"a line on what each chain, map and set is for. It is the same whatever is published:\n" +
			"mappings, networks and endpoints are elements of the maps and sets. The command\n" +
			"needs no privilege, and asks neither the daemon nor the kernel.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := engine.ExplainedPlan(g.table)
			if err != nil {
				return err
			}
			_, err = io.WriteString(cmd.OutOrStdout(), text)
			return err
		},
	}, "table")
}
