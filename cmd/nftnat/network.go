// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

func newNetwork(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "network",
		Short: "Create, list and remove networks",
		Long: "A network is a prefix from which endpoints get their addresses. What endpoints send\n" +
			"out of the host is masqueraded, and only their published ports can be reached from\n" +
			"outside; network create has options against either.",
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
		Short: "Create a network",
		Long: "Create a network. PREFIX is ADDRESS/LENGTH, IPv4 or IPv6. nftnat does not make the\n" +
			"bridge, or other interface, that carries the network; it may be made before or after.",
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
			return show(g, cmd, writing, func(p publisher, ctx context.Context) (nat.Network, error) {
				return p.CreateNetwork(ctx, n)
			}, func(made nat.Network) api.Network { return api.NetworkOf(made, 0) }, func(w io.Writer, made nat.Network) error {
				_, err := fmt.Fprintln(w, made)
				return err
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&gateway, "gateway", "", "this host's `ADDRESS` on the network (default the first)")
	flags.BoolVar(&noMasquerade, "no-masquerade", false, "keep the endpoint's address as the source of what leaves the host")
	flags.BoolVar(&noGuard, "no-guard", false, "let other hosts reach all ports of endpoints by routing")
	return offer(cmd, toDaemon+forJSON)
}

func newNetworkLs(g *global) *cobra.Command {
	return offer(&cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the networks",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return show(g, cmd, reading, publisher.State, api.Networks, func(w io.Writer, s nat.State) error {
				return printTable(w, func(w io.Writer) {
					fmt.Fprintln(w, "NAME\tPREFIX\tGATEWAY\tMASQUERADE\tGUARD\tENDPOINTS")
					for _, n := range api.Networks(s) {
						fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\n", n.Name, n.Prefix, n.Gateway, yesOrNo(n.Masquerade), yesOrNo(n.Guard), n.Endpoints)
					}
				})
			})
		},
	}, toDaemon+forJSON)
}

func newNetworkRm(g *global) *cobra.Command {
	return offer(&cobra.Command{
		Use:               "rm NAME",
		Aliases:           []string{"remove", "delete"},
		Short:             "Remove a network that has no endpoint",
		Example:           "  nftnat network rm inside",
		Args:              usage(cobra.ExactArgs(1)),
		ValidArgsFunction: first(g.complete(networkNames)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := nat.ValidateNetworkName(args[0]); err != nil {
				return err
			}
			_, err := ask(cmd.Context(), g, writing, func(p publisher, ctx context.Context) (struct{}, error) {
				return struct{}{}, p.RemoveNetwork(ctx, args[0])
			})
			return err
		},
	}, toDaemon)
}
