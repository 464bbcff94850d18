// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

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
