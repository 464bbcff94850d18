// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/fleet/keys"
)

func newGet(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "get",
		Short: "Print what is desired",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := g.open(cmd.Context())
			if err != nil {
				return err
			}
			defer s.Close()
			snap, err := s.List(cmd.Context(), keys.Desired)
			if err != nil {
				return err
			}
			for _, e := range snap.Entries {
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", e.Key, e.Value); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
