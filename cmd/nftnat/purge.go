// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/engine"
)

func newPurge(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "purge",
		Short: "Unpublish everything and delete the table",
		Long: "Unpublish everything and delete the table. IP forwarding stays as it is: others\n" +
			"may need it by now.",
		Args: usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			e, err := g.open(false)
			if err != nil {
				return err
			}
			return purge(e)
		},
	}
}

func purge(e *engine.Engine) error {
	err := e.Purge()
	if err != nil {
		// Purge leaves the engine open if it fails; the error is what counts.
		_ = e.Close()
	}
	return err
}
