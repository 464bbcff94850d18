// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/state"
)

func newExport(g *global) *cobra.Command {
	return offer(&cobra.Command{
		Use:   "export",
		Short: "Print networks, endpoints and mappings as a file for apply",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.with(cmd.Context(), reading, func(p publisher) error {
				s, err := p.State(cmd.Context())
				if err != nil {
					return err
				}
				return state.Encode(cmd.OutOrStdout(), s)
			})
		},
	}, toDaemon)
}
