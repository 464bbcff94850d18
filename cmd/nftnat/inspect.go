// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/nat"
)

func newInspect(g *global) *cobra.Command {
	return offer(&cobra.Command{
		Use:               "inspect NAME",
		Short:             "Print an endpoint as JSON, in the form that Docker had in 2013",
		Example:           "  nftnat inspect web",
		Args:              usage(cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeOnly(endpointNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := nat.ValidateEndpointName(args[0]); err != nil {
				return err
			}
			return g.with(cmd.Context(), reading, func(p publisher) error {
				doc, err := p.Inspect(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return printJSON(cmd.OutOrStdout(), doc)
			})
		},
	}, toDaemon+forJSON)
}

func newPort(g *global) *cobra.Command {
	return offer(&cobra.Command{
		Use:   "port NAME PRIVATE[/PROTO]",
		Short: "Print the frontend of an endpoint's port",
		Long: "Print the frontend at which a port of an endpoint is published, with its address if\n" +
			"it has one. If there are several, each is on a line of its own, the lowest port first.",
		Example:           "  nftnat port web 80\n  nftnat port web 53/udp",
		Args:              usage(cobra.ExactArgs(2)),
		ValidArgsFunction: g.completePort,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := nat.ValidateEndpointName(args[0]); err != nil {
				return err
			}
			port, err := parsePrivate(args[1])
			if err != nil {
				return err
			}
			return g.with(cmd.Context(), reading, func(p publisher) error {
				ep, err := p.Endpoint(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				found := leadingTo(ep.Mappings, port)
				if len(found) == 0 {
					return fmt.Errorf("%s %d of endpoint %s is %w", port.Proto, port.Backend, args[0], nat.ErrNotFound)
				}
				if g.json {
					return g.printMappings(cmd, found)
				}
				for _, m := range found {
					if _, err := fmt.Fprintln(cmd.OutOrStdout(), m.FrontendText()); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}, toDaemon+forJSON)
}

// parsePrivate reads a port of an endpoint: a port spec that says nothing of a frontend.
func parsePrivate(text string) (nat.PortSpec, error) {
	port, err := nat.ParsePortSpec(text)
	if err == nil && (port.More != 0 || strings.Contains(text, ":")) {
		err = &nat.PortSpecError{Spec: text}
	}
	return port, err
}

// leadingTo are the mappings of one port each that lead to a port, those of the lowest
// frontends first, as `inspect` has them.
func leadingTo(ms []nat.Mapping, port nat.PortSpec) []nat.Mapping {
	var found []nat.Mapping
	for _, m := range ms {
		for single := range nat.Expand(m) {
			if single.Proto == port.Proto && single.Backend.Port() == port.Backend {
				found = append(found, single)
			}
		}
	}
	slices.SortFunc(found, func(a, b nat.Mapping) int {
		return cmp.Or(cmp.Compare(a.Frontend.Port(), b.Frontend.Port()), nat.Compare(a, b))
	})
	return found
}
