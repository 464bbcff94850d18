// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/api"
)

func newStatus(g *global) *cobra.Command {
	return offer(&cobra.Command{
		Use:   "status",
		Short: "Tell how the daemon is",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), readPatience)
			defer cancel()
			client, _, err := g.locate(ctx)
			if err != nil {
				return err
			}
			st, err := client.Status(ctx)
			if err != nil {
				return err
			}
			if g.json {
				return printJSON(cmd.OutOrStdout(), st)
			}
			return printStatus(cmd, st)
		},
	}, toDaemon+forJSON)
}

func printStatus(cmd *cobra.Command, st api.Status) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
	owned := "open to others"
	if st.Table.Owned {
		owned = "owned"
	}
	switch st.Table.Repaired {
	case 0:
	case 1:
		owned += ", repaired once"
	default:
		owned += fmt.Sprintf(", repaired %d times", st.Table.Repaired)
	}
	fmt.Fprintf(w, "daemon\tpid %d, up %s, version %s\n", st.PID, time.Duration(st.Uptime)*time.Second, printable(st.Version))
	fmt.Fprintf(w, "table\tinet %s, %s\n", st.Table.Name, owned)
	fmt.Fprintf(w, "mappings\ttcp %d ipv4, %d ipv6; udp %d ipv4, %d ipv6\n",
		st.Mappings.TCP.IPv4, st.Mappings.TCP.IPv6, st.Mappings.UDP.IPv4, st.Mappings.UDP.IPv6)
	fmt.Fprintf(w, "networks\t%d, with %d endpoints\n", st.Networks, st.Endpoints)
	fmt.Fprintf(w, "proxies\t%d, carrying %d connections and %d UDP flows\n", st.Proxies, st.Flows.TCP, st.Flows.UDP)
	if st.Conntrack != nil {
		fmt.Fprintf(w, "conntrack\t%d flows of at most %d\n", st.Conntrack.Count, st.Conntrack.Max)
	}
	fmt.Fprintf(w, "forwarding\tipv4 %s, ipv6 %s\n", st.Forwarding.IPv4, st.Forwarding.IPv6)
	if c := st.Confinement; c != nil {
		fmt.Fprintf(w, "confined\t%s\n", describeConfinement(c))
		for _, line := range c.Missing {
			fmt.Fprintf(w, "not confined\t%s\n", line)
		}
	}
	for _, l := range st.Lacks {
		fmt.Fprintf(w, "no %s\t%s\n", printable(l.Feature), printable(l.Instead))
	}
	for _, line := range st.Warnings {
		fmt.Fprintf(w, "warning\t%s\n", printable(line))
	}
	return w.Flush()
}

// describeConfinement says what is in force.
func describeConfinement(c *api.Confinement) string {
	var parts []string
	switch {
	case len(c.Capabilities) != 0:
		parts = append(parts, strings.Join(c.Capabilities, " "))
	case c.Capabilities != nil:
		parts = append(parts, "no capability")
	}
	if c.Landlock != 0 {
		parts = append(parts, fmt.Sprintf("files by Landlock %d", c.Landlock))
	}
	if c.SystemCalls != 0 {
		parts = append(parts, fmt.Sprintf("%d system calls", c.SystemCalls))
	}
	if c.NoNewPrivileges {
		parts = append(parts, "no new privileges")
	}
	if len(parts) == 0 {
		return "in nothing"
	}
	return strings.Join(parts, ", ")
}

func newEvents(g *global) *cobra.Command {
	return offer(&cobra.Command{
		Use:   "events",
		Short: "Follow what happens to what is published, a JSON document a line",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, _, err := g.locate(cmd.Context())
			if err != nil {
				return err
			}
			events, err := client.Events(cmd.Context())
			if err != nil {
				return err
			}
			for ev, err := range events {
				if err != nil {
					return err
				}
				if err := printJSON(cmd.OutOrStdout(), ev); err != nil {
					return err
				}
			}
			return errors.New("the daemon has ended")
		},
	}, "socket netns table "+forJSON)
}
