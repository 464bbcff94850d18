// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
)

func newLs(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List what is published",
		Long: "List what is published: a table in which consecutive ports are one range, or\n" +
			"with --json an array with an object for each port.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.with(cmd.Context(), reading, func(p publisher) error {
				ms, err := p.Mappings(cmd.Context())
				if err != nil {
					return err
				}
				if g.json {
					return printJSON(cmd.OutOrStdout(), api.Mappings(slices.Values(ms)))
				}
				return list(cmd, engine.Collapse(ms))
			})
		},
	}
}

func list(cmd *cobra.Command, ms []engine.Mapping) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "PROTO\tFRONTEND\tBACKEND\tNAME\tPROXY\tEXPIRES")
	for _, m := range ms {
		proxy, expires := "yes", "never"
		if m.NoProxy {
			proxy = "no"
		}
		if !m.Expires.IsZero() {
			expires = m.Expires.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", m.Proto, m.FrontendText(), m.BackendText(), printable(m.Name), proxy, expires)
	}
	return w.Flush()
}
