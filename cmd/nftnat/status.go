// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/buildinfo"
	"github.com/nftnat/nftnat/internal/printable"
)

func newStatus(g *global) *cobra.Command {
	return offer(&cobra.Command{
		Use:   "status",
		Short: "Print the state of the daemon, or without one what the kernel holds",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return show(g, cmd, reading, publisher.Status, same, printStatus)
		},
	}, toDaemon+forJSON)
}

// printStatus prints what the daemon says of itself, or without one (PID 0) what the kernel
// holds.
func printStatus(w io.Writer, st api.Status) error {
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
	return printTable(w, func(w io.Writer) {
		switch {
		case st.PID != 0:
			fmt.Fprintf(w, "daemon\tpid %d, up %s, version %s\n", st.PID, time.Duration(st.Uptime)*time.Second, printable.Text(st.Version))
		case st.Table.Owned:
			fmt.Fprintln(w, "daemon\tgives no answer, but a process owns the table")
		default:
			fmt.Fprintln(w, "daemon\tnone answers: localhost is not served, and other programs can take the ports")
		}
		fmt.Fprintf(w, "table\tinet %s, %s\n", st.Table.Name, owned)
		n := st.Mappings
		fmt.Fprintf(w, "mappings\ttcp %d ipv4, %d ipv6; udp %d ipv4, %d ipv6\n", n.TCP.IPv4, n.TCP.IPv6, n.UDP.IPv4, n.UDP.IPv6)
		fmt.Fprintf(w, "networks\t%d, with %d endpoints\n", st.Networks, st.Endpoints)
		if st.PID != 0 {
			if l := st.Loopback; l != nil {
				fmt.Fprintf(w, "localhost\t%s\n", describeLoopback(l))
			}
			fmt.Fprintf(w, "proxies\t%d, carrying %d connections and %d UDP flows\n", st.Proxies, st.Flows.TCP, st.Flows.UDP)
		}
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
		for _, m := range st.MissingFeatures {
			fmt.Fprintf(w, "no %s\t%s\n", printable.Text(m.Name), printable.Text(m.Fallback))
		}
		for _, line := range st.Warnings {
			fmt.Fprintf(w, "warning\t%s\n", printable.Text(line))
		}
		for _, line := range st.Findings {
			fmt.Fprintf(w, "warning\t%s\n", printable.Text(line))
		}
	})
}

// describeLoopback says how localhost is served.
func describeLoopback(l *api.Loopback) string {
	switch {
	case l.By == api.LoopbackBPF:
		return "by eBPF"
	case l.Reason != "":
		return "by proxies, and not by eBPF: " + printable.Text(l.Reason)
	}
	return "by proxies"
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
		Short: "Print each change of mappings as it happens, a JSON document a line",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, _, err := g.locate(cmd.Context())
			if errors.Is(err, api.ErrNoServer) {
				err = hintedError{fmt.Errorf("follow events: %w", err), `"nftnat serve", or the first command that publishes something, starts a daemon`}
			}
			if err != nil {
				return err
			}
			follow := client.Events
			if g.ranges {
				follow = client.RangeEvents
			}
			events, err := follow(cmd.Context())
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
	}, "socket netns table "+forPorts)
}

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
