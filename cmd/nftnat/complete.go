// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/internal/netns"
	"github.com/nftnat/nftnat/internal/printable"
	"github.com/nftnat/nftnat/nat"
)

// completionTimeout bounds how long a shell waits for names after TAB.
const completionTimeout = time.Second

// complete completes names that a daemon tells, if one answers. Otherwise there are
// none: a TAB starts nothing and reads no tables.
func (g *global) complete(names func(nat.State) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, completionTimeout)
		defer cancel()
		if g.direct {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		client, _, err := g.locate(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		s, err := client.State(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names(s), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeOnly completes the first argument with names, and no other.
func (g *global) completeOnly(names func(nat.State) []string) cobra.CompletionFunc {
	complete := g.complete(names)
	return func(cmd *cobra.Command, args []string, given string) ([]string, cobra.ShellCompDirective) {
		if len(args) != 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(cmd, args, given)
	}
}

func endpointNames(s nat.State) []string {
	names := make([]string, len(s.Endpoints))
	for i, a := range s.Endpoints {
		names[i] = a.Name
	}
	return names
}

func networkNames(s nat.State) []string {
	names := make([]string, len(s.Networks))
	for i, n := range s.Networks {
		names[i] = n.Name
	}
	return names
}

// completeFirst completes the first argument with words, and no other.
func completeFirst(words ...string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) != 0 {
			words = nil
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeRemoved completes what rm takes: a protocol, or FRONTEND/PROTO, which unlike the
// text of a mapping needs no quotes in a shell, with that text beside it; and the frontends
// of a protocol.
func (g *global) completeRemoved(cmd *cobra.Command, args []string, given string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 || cmd.Flags().Changed("name") {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	frontends, directive := g.complete(func(s nat.State) (words []string) {
		for _, m := range allMappings(s) {
			beside := "\t" + printable.Text(strings.TrimSpace(m.String()+" "+m.Name))
			switch {
			case len(args) == 0:
				words = append(words, m.FrontendText()+"/"+m.Proto.String()+beside)
			case args[0] == m.Proto.String():
				words = append(words, m.FrontendText()+beside)
			}
		}
		return words
	})(cmd, args, given)
	if len(args) == 0 {
		frontends = append([]string{"tcp", "udp"}, frontends...)
	}
	return frontends, directive
}

// completePort completes what port takes: the name of an endpoint, and one of its ports.
func (g *global) completePort(cmd *cobra.Command, args []string, given string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return g.complete(endpointNames)(cmd, args, given)
	case 1:
		return g.complete(func(s nat.State) (ports []string) {
			i := slices.IndexFunc(s.Endpoints, func(a nat.EndpointSpec) bool { return a.Name == args[0] })
			if i < 0 {
				return nil
			}
			for _, spec := range s.Endpoints[i].Ports {
				for n := range int(spec.More) + 1 {
					port := strconv.Itoa(int(spec.Backend) + n)
					if spec.Proto == nat.UDP {
						port += "/udp"
					}
					ports = append(ports, port)
				}
			}
			return ports
		})(cmd, args, given)
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// allMappings are the mappings of a state, those of its endpoints with them.
func allMappings(s nat.State) []nat.Mapping {
	ms := slices.Clone(s.Mappings)
	for _, ep := range nat.EndpointsOf(nat.State{Networks: s.Networks, Endpoints: s.Endpoints}) {
		ms = append(ms, ep.Mappings...)
	}
	return ms
}

func mappingNames(s nat.State) (names []string) {
	for _, m := range allMappings(s) {
		if m.Name != "" && !slices.Contains(names, m.Name) {
			names = append(names, m.Name)
		}
	}
	return names
}

// completeNetns completes the names of network namespaces, and paths.
func completeNetns(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	entries, err := os.ReadDir(netns.Dir)
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, cobra.ShellCompDirectiveDefault
}
