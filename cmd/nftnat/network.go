// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

func newNetwork(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "network",
		Short: "Declare networks, list them, and take them back",
		Long: "Networks are prefixes whose addresses endpoints get. What of a network leaves the\n" +
			"host is masqueraded, and from outside only published ports of it answer.",
		Example: "  nftnat network create inside 172.30.0.0/24\n  nftnat network ls\n  nftnat network rm inside",
		Args:    usage(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newNetworkCreate(g), newNetworkLs(g), newNetworkRm(g))
	return cmd
}

func newNetworkCreate(g *global) *cobra.Command {
	var (
		gateway               string
		noMasquerade, noGuard bool
	)
	cmd := &cobra.Command{
		Use:   "create NAME PREFIX",
		Short: "Declare a network",
		Long: "Declare a network. PREFIX is ADDRESS/LENGTH, IPv4 or IPv6. The bridge, or whatever\n" +
			"carries the network, is made by others, before or after.",
		Example: "  nftnat network create inside 172.30.0.0/24\n" +
			"  nftnat network create six fd00:30::/64 --gateway fd00:30::1",
		Args: usage(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := nat.ParseNetwork(args[0], args[1], gateway)
			if err != nil {
				return err
			}
			n.NoMasquerade, n.NoGuard = noMasquerade, noGuard
			if err := n.Validate(); err != nil {
				return err
			}
			return g.with(cmd.Context(), writing, func(p publisher) error {
				made, err := p.CreateNetwork(cmd.Context(), n)
				if err != nil {
					return err
				}
				if g.json {
					return printJSON(cmd.OutOrStdout(), api.NetworkOf(made, 0))
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), made)
				return err
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&gateway, "gateway", "", "this host's `ADDRESS` on the network (default the first)")
	flags.BoolVar(&noMasquerade, "no-masquerade", false, "leave the source of what it sends to the world as it is")
	flags.BoolVar(&noGuard, "no-guard", false, "let everybody who has a route reach every port of it")
	return offer(cmd, toDaemon+forJSON)
}

func newNetworkLs(g *global) *cobra.Command {
	return offer(&cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the networks",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.with(cmd.Context(), reading, func(p publisher) error {
				s, err := p.State(cmd.Context())
				if err != nil {
					return err
				}
				if g.json {
					return printJSON(cmd.OutOrStdout(), api.Networks(s))
				}
				return listNetworks(cmd, api.Networks(s))
			})
		},
	}, toDaemon+forJSON)
}

func listNetworks(cmd *cobra.Command, networks []api.Network) error {
	word := map[bool]string{true: "yes", false: "no"}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tPREFIX\tGATEWAY\tMASQUERADE\tGUARD\tENDPOINTS")
	for _, n := range networks {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\n", n.Name, n.Prefix, n.Gateway, word[n.Masquerade], word[n.Guard], n.Endpoints)
	}
	return w.Flush()
}

func newNetworkRm(g *global) *cobra.Command {
	return offer(&cobra.Command{
		Use:               "rm NAME",
		Aliases:           []string{"remove", "delete"},
		Short:             "Take a network back, if no endpoint is in it",
		Example:           "  nftnat network rm inside",
		Args:              usage(cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeOnly(networkNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := nat.ValidateNetworkName(args[0]); err != nil {
				return err
			}
			return g.with(cmd.Context(), writing, func(p publisher) error {
				return p.RemoveNetwork(cmd.Context(), args[0])
			})
		},
	}, toDaemon)
}
