// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/order"
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
			return change(g, cmd, func(p publisher, ctx context.Context) (nat.Endpoint, error) {
				return p.Attach(ctx, a)
			}, g.endpointDoc, func(w io.Writer, ep nat.Endpoint) error {
				if _, err := fmt.Fprintln(w, ep.Address); err != nil {
					return err
				}
				return printMappings(w, ep.Mappings)
			}, func(ep nat.Endpoint) []nat.Mapping { return ep.Mappings })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&network, "network", "", "the `NAME` of the network (default that of --ip, or the only one)")
	flags.StringVar(&address, "ip", "", "this `ADDRESS` (default the next free one)")
	flags.StringArrayVarP(&specs, "publish", "p", nil, "publish this port: a `SPEC`, any number of times")
	completeFlag(cmd, "network", g.complete(networkNames))
	return offer(cmd, toDaemon+forPorts)
}

// endpointDoc is the document of an endpoint, and endpointDocs are those of some.

func (g *global) endpointDoc(ep nat.Endpoint) api.Endpoint {
	if g.ranges {
		return api.RangeEndpointOf(ep)
	}
	return api.EndpointOf(ep)
}

func (g *global) endpointDocs(eps []nat.Endpoint) []api.Endpoint {
	docs := make([]api.Endpoint, 0, len(eps)) // never nil
	for _, ep := range eps {
		docs = append(docs, g.endpointDoc(ep))
	}
	return docs
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
		ValidArgsFunction: first(g.complete(endpointNames)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := nat.ValidateEndpointName(args[0]); err != nil {
				return err
			}
			return show(g, cmd, writing, func(p publisher, ctx context.Context) ([]nat.Mapping, error) {
				return p.Detach(ctx, args[0])
			}, g.mappingDoc, printMappings)
		},
	}, toDaemon+forPorts)
}

func newPs(g *global) *cobra.Command {
	return offer(&cobra.Command{
		Use:   "ps",
		Short: "List the endpoints",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return show(g, cmd, reading, publisher.Endpoints, g.endpointDocs, func(w io.Writer, all []nat.Endpoint) error {
				return printTable(w, func(w io.Writer) {
					fmt.Fprintln(w, "NAME\tADDRESS\tPORTS")
					for _, ep := range all {
						fmt.Fprintf(w, "%s\t%s\t%s\n", ep.Name, ep.Address, portsColumn(ep.Mappings))
					}
				})
			})
		},
	}, toDaemon+forPorts)
}

// longRun is from how many consecutive ports on they are written as one range in the
// column of ports. A few stand there one by one, as in 2013, for those who read that; a
// range of a thousand would make a line of twenty kilobytes, which nobody reads.
const longRun = 8

// portsColumn writes what is published of an endpoint as `docker ps` did in 2013:
// "49153->80, 53->53/udp", sorted as strings.
func portsColumn(ms []nat.Mapping) string {
	var ports []string
	for _, m := range ms {
		if int(m.More)+1 >= longRun {
			ports = append(ports, portText(m))
			continue
		}
		for single := range nat.Expand(m) {
			ports = append(ports, portText(single))
		}
	}
	slices.Sort(ports)
	return strings.Join(ports, ", ")
}

// portText is the mapping's text without the address of its backend.
func portText(m nat.Mapping) string {
	front, back, _ := strings.Cut(m.String(), "->")
	return front + "->" + back[strings.LastIndexByte(back, ':')+1:]
}

func newInspect(g *global) *cobra.Command {
	return offer(&cobra.Command{
		Use:               "inspect NAME",
		Short:             "Print an endpoint as JSON, in the form that Docker had in 2013",
		Example:           "  nftnat inspect web",
		Args:              usage(cobra.ExactArgs(1)),
		ValidArgsFunction: first(g.complete(endpointNames)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ep, err := g.endpoint(cmd, args[0])
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), api.Inspect(ep))
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
			port, err := parsePrivate(args[1])
			if err != nil {
				return err
			}
			ep, err := g.endpoint(cmd, args[0])
			if err != nil {
				return err
			}
			found := leadingTo(ep.Mappings, port)
			if len(found) == 0 {
				return fmt.Errorf("%s %d of endpoint %s is %w", port.Proto, port.Backend, args[0], nat.ErrNotFound)
			}
			return printAnswer(g, cmd, found, g.mappingDoc, func(w io.Writer, found []nat.Mapping) error {
				for _, m := range found {
					if _, err := fmt.Fprintln(w, m.FrontendText()); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}, toDaemon+forJSON)
}

// endpoint asks for an endpoint.
func (g *global) endpoint(cmd *cobra.Command, name string) (nat.Endpoint, error) {
	if err := nat.ValidateEndpointName(name); err != nil {
		return nat.Endpoint{}, err
	}
	return ask(cmd.Context(), g, reading, func(p publisher, ctx context.Context) (nat.Endpoint, error) {
		return p.Endpoint(ctx, name)
	})
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
		by := port.Backend - m.Backend.Port()
		if m.Proto == port.Proto && port.Backend >= m.Backend.Port() && by <= m.More {
			m.Frontend = netip.AddrPortFrom(m.Frontend.Addr(), m.Frontend.Port()+by)
			m.Backend = netip.AddrPortFrom(m.Backend.Addr(), port.Backend)
			m.More = 0
			found = append(found, m)
		}
	}
	order.Sort(found, func(a, b nat.Mapping) int {
		return cmp.Or(cmp.Compare(a.Frontend.Port(), b.Frontend.Port()), nat.Compare(a, b))
	})
	return found
}
