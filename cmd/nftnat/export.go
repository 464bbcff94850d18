// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/state"
)

func newExport(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "export",
		Short: "Print what is published as a file for apply",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.with(true, func(e *engine.Engine) error {
				return state.Encode(cmd.OutOrStdout(), state.File{Mappings: slices.Collect(e.Mappings())})
			})
		},
	}
}
