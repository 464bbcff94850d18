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

// complete completes values that a daemon knows, if one answers. Otherwise there are none: a TAB
// starts nothing and reads no tables.
func (g *global) complete(values func(nat.State) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return values(g.completionState(cmd.Context())), cobra.ShellCompDirectiveNoFileComp
	}
}

// completionState is the daemon's state; without a daemon it is empty.
func (g *global) completionState(ctx context.Context) nat.State {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	if g.direct {
		return nat.State{}
	}
	client, _, err := g.locate(ctx)
	if err != nil {
		return nat.State{}
	}
	s, err := client.State(ctx)
	if err != nil {
		return nat.State{}
	}
	return s
}

// first completes the first argument, and no other.
func first(complete cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, given string) ([]string, cobra.ShellCompDirective) {
		if len(args) != 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(cmd, args, given)
	}
}

// completeProto completes a protocol as the first argument.
func completeProto() cobra.CompletionFunc {
	return first(cobra.FixedCompletions([]string{"tcp", "udp"}, cobra.ShellCompDirectiveNoFileComp))
}

func endpointNames(s nat.State) (names []string) {
	for _, a := range s.Endpoints {
		names = append(names, a.Name)
	}
	return names
}

func networkNames(s nat.State) (names []string) {
	for _, n := range s.Networks {
		names = append(names, n.Name)
	}
	return names
}

// completeRemoved completes the arguments of rm: a protocol and then its frontends, or
// FRONTEND/PROTO, with the text of the mapping as its description. That text itself would need
// quotes in a shell.
func (g *global) completeRemoved(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 || cmd.Flags().Changed("name") {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var words []string
	if len(args) == 0 {
		words = []string{"tcp", "udp"}
	}
	for _, m := range allMappings(g.completionState(cmd.Context())) {
		beside := "\t" + printable.Text(strings.TrimSpace(m.String()+" "+m.Name))
		switch {
		case len(args) == 0:
			words = append(words, m.FrontendText()+"/"+m.Proto.String()+beside)
		case args[0] == m.Proto.String():
			words = append(words, m.FrontendText()+beside)
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

// completeExplained completes the arguments of explain: a protocol, and the frontends that have one
// port each.
func (g *global) completeExplained(cmd *cobra.Command, args []string, given string) ([]string, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return completeProto()(cmd, args, given)
	}
	var words []string
	for _, m := range allMappings(g.completionState(cmd.Context())) {
		if m.Proto.String() == args[0] {
			m.More = 0 // a packet goes to one port, such as the first of a range
			words = append(words, m.FrontendText()+"\t"+printable.Text(strings.TrimSpace(m.String()+" "+m.Name)))
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

// mostCompleted is how many ports of a range are completed: nobody reads a thousand.
const mostCompleted = 64

// completePort completes the arguments of port: the name of an endpoint, and one of its ports.
func (g *global) completePort(cmd *cobra.Command, args []string, given string) ([]string, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return first(g.complete(endpointNames))(cmd, args, given)
	}
	var ports []string
	for _, ep := range g.completionState(cmd.Context()).Endpoints {
		for _, spec := range ep.Ports {
			for n := 0; n <= min(int(spec.More), mostCompleted-1) && ep.Name == args[0]; n++ {
				port := strconv.Itoa(int(spec.Backend) + n)
				if spec.Proto == nat.UDP {
					port += "/udp"
				}
				ports = append(ports, port)
			}
		}
	}
	return ports, cobra.ShellCompDirectiveNoFileComp
}

// allMappings are the mappings of a state, with those of its endpoints.
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
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, cobra.ShellCompDirectiveDefault
}
