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
	"github.com/nftnat/nftnat/internal/printable"
	"github.com/nftnat/nftnat/nat"
)

func newLs(g *global) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:        "ls [PROTO]",
		Aliases:    []string{"list"},
		SuggestFor: []string{"show"},
		Short:      "List what is published",
		Long: "List what is published: a table in which consecutive ports are one range, or\n" +
			"with --json an array with an object for each port.",
		Example: "  nftnat ls\n  nftnat ls udp --name dns",
		Args:    usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			wanted, err := filterOf(args, name, cmd.Flags().Changed("name"))
			if err != nil {
				return err
			}
			return g.with(cmd.Context(), reading, func(p publisher) error {
				ms, err := p.Mappings(cmd.Context())
				if err != nil {
					return err
				}
				ms = slices.DeleteFunc(ms, func(m nat.Mapping) bool { return !wanted(m) })
				if g.json {
					return printJSON(cmd.OutOrStdout(), api.Mappings(ms))
				}
				return list(cmd, nat.Collapse(ms))
			})
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "list only mappings of this name")
	cmd.ValidArgsFunction = completeFirst("tcp", "udp")
	_ = cmd.RegisterFlagCompletionFunc("name", g.complete(mappingNames)) // the flag is there, which is the only error
	return offer(cmd, toDaemon+forJSON)
}

// filterOf is what is listed: all, or what is of a protocol or a name.
func filterOf(args []string, name string, named bool) (func(nat.Mapping) bool, error) {
	var proto nat.Proto
	if len(args) == 1 {
		var err error
		if proto, err = nat.ParseProto(args[0]); err != nil {
			return nil, err
		}
	}
	if named {
		if err := nat.ValidateName(name); err != nil {
			return nil, err
		}
	}
	return func(m nat.Mapping) bool { return (proto == 0 || m.Proto == proto) && (!named || m.Name == name) }, nil
}

// timeLeft is how long it is until a time, in the largest unit of which there are two.
func timeLeft(at, now time.Time) string {
	left := at.Sub(now)
	switch {
	case left < 2*time.Minute:
		return fmt.Sprintf("in %ds", max(left/time.Second, 0))
	case left < 2*time.Hour:
		return fmt.Sprintf("in %dm", left/time.Minute)
	case left < 48*time.Hour:
		return fmt.Sprintf("in %dh", left/time.Hour)
	}
	return fmt.Sprintf("in %dd", left/(24*time.Hour))
}

func list(cmd *cobra.Command, ms []nat.Mapping) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "PROTO\tFRONTEND\tBACKEND\tNAME\tPROXY\tEXPIRES")
	for _, m := range ms {
		proxy, expires := "yes", "never"
		if m.NoProxy {
			proxy = "no"
		}
		if !m.Expires.IsZero() {
			expires = timeLeft(m.Expires, time.Now())
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", m.Proto, m.FrontendText(), m.BackendText(), printable.Text(m.Name), proxy, expires)
	}
	return w.Flush()
}
