// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

func newAttach(g *global) *cobra.Command {
	var (
		network, address string
		specs            []string
	)
	cmd := &cobra.Command{
		Use:   "attach NAME",
		Short: "Lease an address of a network and publish ports of it",
		Long: "Lease an address of a network for an endpoint and publish ports of it, all or\n" +
			"nothing. Print the address, then each mapping on a line of its own.\n\n" +
			"SPEC is PORT (the next free port of this host leads to it), :PORT (the same port on\n" +
			"both sides), FRONTEND:PORT, or ADDR:FRONTEND:PORT, with /tcp or /udp at the end;\n" +
			"ports may be ranges, FIRST-LAST.",
		Example: "  nftnat attach web -p 8080:80 -p 53/udp\n" +
			"  nftnat attach web --network inside --ip 172.30.0.7 -p 192.0.2.1:8000-8009:9000-9009",
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := nat.ParseEndpointSpec(args[0], network, address, specs...)
			if err != nil {
				return err
			}
			if err := a.Validate(); err != nil {
				return err
			}
			return g.with(cmd.Context(), writing, func(p publisher) error {
				ep, err := p.Attach(cmd.Context(), a)
				if err != nil {
					return err
				}
				if g.json {
					return printJSON(cmd.OutOrStdout(), api.EndpointOf(ep))
				}
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), ep.Address); err != nil {
					return err
				}
				return g.printMappings(cmd, ep.Mappings)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&network, "network", "", "the `NAME` of the network (default that of --ip, or the only one)")
	flags.StringVar(&address, "ip", "", "this `ADDRESS` (default the next free one)")
	flags.StringArrayVarP(&specs, "publish", "p", nil, "publish this port: a `SPEC`, any number of times")
	// The flag is there, which is the only error.
	_ = cmd.RegisterFlagCompletionFunc("network", g.complete(networkNames))
	return offer(cmd, toDaemon+forJSON)
}

func newDetach(g *global) *cobra.Command {
	return offer(&cobra.Command{
		Use:   "detach NAME",
		Short: "Release an endpoint's address and unpublish its ports",
		Long: "Release the address of an endpoint, unpublish its ports, and print what was\n" +
			"published. All its connections end, TCP too, because another endpoint may get the\n" +
			"address.",
		Example:           "  nftnat detach web",
		Args:              usage(cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeOnly(endpointNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := nat.ValidateEndpointName(args[0]); err != nil {
				return err
			}
			return g.with(cmd.Context(), writing, func(p publisher) error {
				gone, err := p.Detach(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return g.printMappings(cmd, gone)
			})
		},
	}, toDaemon+forJSON)
}
