// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

func newPs(g *global) *cobra.Command {
	return offer(&cobra.Command{
		Use:   "ps",
		Short: "List the endpoints",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.with(cmd.Context(), reading, func(p publisher) error {
				all, err := p.Endpoints(cmd.Context())
				if err != nil {
					return err
				}
				if g.json {
					return printJSON(cmd.OutOrStdout(), api.Endpoints(all))
				}
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
				fmt.Fprintln(w, "NAME\tADDRESS\tPORTS")
				for _, ep := range all {
					fmt.Fprintf(w, "%s\t%s\t%s\n", ep.Name, ep.Address, portsColumn(ep.Mappings))
				}
				return w.Flush()
			})
		},
	}, toDaemon+forJSON)
}

// longRun is from how many consecutive ports on they are written as one range in the
// column of ports. A few stand there one by one, as in 2013, for those who read that; a
// range of a thousand would make a line of twenty kilobytes, which nobody reads.
const longRun = 8

// portsColumn writes what is published of an endpoint as `docker ps` did in 2013:
// "49153->80, 53->53/udp", sorted as strings.
func portsColumn(ms []nat.Mapping) string {
	var ports []string
	for _, m := range ms {
		if int(m.More)+1 >= longRun {
			ports = append(ports, portText(m))
			continue
		}
		for single := range nat.Expand(m) {
			ports = append(ports, portText(single))
		}
	}
	slices.Sort(ports)
	return strings.Join(ports, ", ")
}

// portText is the mapping's text without the address of its backend.
func portText(m nat.Mapping) string {
	front, back, _ := strings.Cut(m.String(), "->")
	return front + "->" + back[strings.LastIndexByte(back, ':')+1:]
}
