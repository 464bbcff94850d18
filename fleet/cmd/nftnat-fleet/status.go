// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/internal/printable"
	"github.com/nftnat/nftnat/nat"
)

// hostDocument is a host in the JSON of status.
type hostDocument struct {
	Host  string      `json:"host"`
	Alive bool        `json:"alive"` // its agent has a lease
	Agent *keys.Agent `json:"agent,omitempty"`
	*keys.HostStatus
	// Wanted is the revision of the newest key that concerns the host.
	Wanted int64 `json:"wanted"`
}

func newStatus(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "status [HOST]",
		Short: "Print what each host has applied, and what it could not",
		Args:  usage(cobra.MaximumNArgs(1)),
		RunE: withStore(g, func(ctx context.Context, cmd *cobra.Command, s *store.Store, args []string) error {
			hosts, err := readHosts(ctx, s)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				h, ok := hosts[args[0]]
				if !ok {
					return fmt.Errorf("host %q is %w", args[0], nat.ErrNotFound)
				}
				hosts = map[string]*hostDocument{args[0]: h}
			}
			if fault := s.Fault(); fault != nil {
				fmt.Fprintf(g.stderr, "nftnat-fleet: %s\n", printable.Line(strings.ReplaceAll(fault.Error(), "\n", "; ")))
			}
			return g.printHosts(cmd.OutOrStdout(), hosts)
		}),
	}
}

// readHosts are the hosts that have an agent, or of which something is desired.
func readHosts(ctx context.Context, s *store.Store) (map[string]*hostDocument, error) {
	hosts := map[string]*hostDocument{}
	of := func(name string) *hostDocument {
		if hosts[name] == nil {
			hosts[name] = &hostDocument{Host: name}
		}
		return hosts[name]
	}
	agents, err := s.List(ctx, keys.Hosts)
	if err != nil {
		return nil, err
	}
	for _, e := range agents.Entries {
		h := of(strings.TrimPrefix(e.Key, keys.Hosts))
		h.Alive = true
		if a, err := keys.ParseAgent(e.Value); err == nil {
			h.Agent = &a
		}
	}
	statuses, err := s.List(ctx, keys.Statuses)
	if err != nil {
		return nil, err
	}
	for _, e := range statuses.Entries {
		if st, err := keys.ParseStatus(e.Value); err == nil {
			of(strings.TrimPrefix(e.Key, keys.Statuses)).HostStatus = &st
		}
	}
	items, err := s.List(ctx, keys.Desired)
	if err != nil {
		return nil, err
	}
	for _, e := range items.Entries {
		if i, err := keys.ParseItem(e.Key); err == nil && i.Scope.Host() != "" {
			of(i.Scope.Host())
		}
	}
	for _, e := range items.Entries {
		i, err := keys.ParseItem(e.Key)
		for name, h := range hosts {
			var groups []string
			if h.Agent != nil {
				groups = h.Agent.Groups
			}
			if err == nil && i.Scope.Concerns(name, groups) {
				h.Wanted = max(h.Wanted, e.Modified)
			}
		}
	}
	return hosts, nil
}

// state is a host in a word or two.
func (h *hostDocument) state() string {
	switch {
	case !h.Alive:
		return "no agent"
	case h.HostStatus == nil:
		return "starting"
	case h.Daemon != "":
		return "no daemon"
	case h.Waiting != "":
		return "waiting"
	case h.Revision < h.Wanted:
		return "behind"
	case len(h.Errors)+h.More != 0:
		return fmt.Sprintf("%d errors", len(h.Errors)+h.More)
	}
	return "applied"
}

func (g *global) printHosts(w io.Writer, hosts map[string]*hostDocument) error {
	names := slices.Sorted(maps.Keys(hosts))
	if g.json {
		docs := []*hostDocument{}
		for _, name := range names {
			docs = append(docs, hosts[name])
		}
		return json.NewEncoder(w).Encode(docs)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "HOST\tADDRESS\tGROUPS\tREVISION\tMAPPINGS\tSTATE")
	for _, name := range names {
		h := hosts[name]
		address, groups, revision, mappings := "-", "-", "-", "-"
		if h.Agent != nil {
			if address = h.Agent.Address; len(h.Agent.Groups) != 0 {
				groups = strings.Join(h.Agent.Groups, ",")
			}
		}
		if h.HostStatus != nil {
			revision, mappings = fmt.Sprint(h.Revision), fmt.Sprint(h.Mappings)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", printable.Text(name), printable.Text(address), printable.Text(groups), revision, mappings, h.state())
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, name := range names {
		for _, line := range hosts[name].lines() {
			if _, err := fmt.Fprintf(w, "%s: %s\n", printable.Text(name), printable.Line(line)); err != nil {
				return err
			}
		}
	}
	return nil
}

// lines say what is wrong on a host.
func (h *hostDocument) lines() (lines []string) {
	if h.HostStatus == nil {
		return nil
	}
	if h.Daemon != "" {
		lines = append(lines, "the daemon: "+h.Daemon)
	}
	if h.Waiting != "" {
		lines = append(lines, "waits for the end of "+h.Waiting)
	}
	for _, f := range h.Errors {
		lines = append(lines, fmt.Sprintf("%s (revision %d): %s", f.Key, f.Revision, f.Reason))
	}
	if h.More != 0 {
		lines = append(lines, fmt.Sprintf("and %d more", h.More))
	}
	lines = append(lines, h.Parts...)
	for _, d := range h.Doctor {
		lines = append(lines, "doctor: "+d)
	}
	return lines
}
