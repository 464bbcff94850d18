// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/space"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/internal/printable"
	"github.com/nftnat/nftnat/nat"
)

// withStore runs a command that needs etcd.
func withStore(g *global, f func(context.Context, *cobra.Command, *store.Store, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		s, err := g.open(cmd.Context())
		if err != nil {
			return err
		}
		return errors.Join(f(cmd.Context(), cmd, s, args), s.Close())
	}
}

func newNetwork(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "network",
		Short: "Create, list and remove networks that hosts share",
		Long: "A shared network is cut into blocks. A host acquires a block when it leases an address and\n" +
			"has no room, so that no two hosts lease the same one.",
		Example: "  nftnat-fleet network create all 10.60.0.0/16\n  nftnat-fleet network ls\n  nftnat-fleet network rm all",
		Args:    usage(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newNetworkCreate(g), newNetworkLs(g), newNetworkRm(g), newNetworkRoutes(g))
	return cmd
}

func newNetworkCreate(g *global) *cobra.Command {
	var (
		d      space.Definition
		socket string
	)
	cmd := &cobra.Command{
		Use:   "create NAME PREFIX",
		Short: "Create a network that hosts share",
		Args:  usage(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := nat.ParseNetwork(args[0], args[1], "")
			if err != nil {
				return err
			}
			d.Name, d.Prefix = n.Name, n.Prefix
			if cmd.Flags().Changed("block") && d.Block == 0 {
				return usageError{errors.New("--block is the length of a prefix, as in --block 26")}
			}
			if err := d.WithDefaults().Validate(); err != nil { // before etcd is asked
				return err
			}
			// On a host without a daemon there is nothing that it could overlap.
			local, err := api.NewClient(socket).Networks(cmd.Context())
			if err != nil && !errors.Is(err, api.ErrNoServer) {
				return err
			}
			return withStore(g, func(ctx context.Context, cmd *cobra.Command, s *store.Store, _ []string) error {
				made, err := space.Create(ctx, s, d, local)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s: %d blocks of /%d\n", made.Name, made.Prefix, made.Blocks(), made.Block)
				return err
			})(cmd, args)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&d.Block, "block", 0, "the `LENGTH` of a block's prefix (default 26, or of IPv6 14 more than that of PREFIX)")
	flags.BoolVar(&d.NoMasquerade, "no-masquerade", false, "keep the endpoint's address as the source of what leaves the host")
	flags.BoolVar(&d.NoGuard, "no-guard", false, "let other hosts reach all ports of endpoints by routing")
	flags.StringVar(&socket, "socket", cmp.Or(os.Getenv("NFTNAT_SOCKET"), defaultSocket), "the daemon's socket `PATH`: its networks must not overlap")
	return cmd
}

const (
	defaultSocket = "/run/nftnat/nftnat.sock"
	defaultAgent  = "/run/nftnat-fleet/agent.sock"
)

func newNetworkLs(g *global) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the shared networks and addresses, and how many blocks hosts hold",
		Args:    usage(cobra.NoArgs),
		RunE: withStore(g, func(ctx context.Context, cmd *cobra.Command, s *store.Store, _ []string) error {
			all, closed, err := space.List(ctx, s)
			if err != nil {
				return err
			}
			if closed != nil {
				fmt.Fprintf(g.stderr, "nftnat-fleet: %s\n", printable.Line(closed.Error()))
			}
			if g.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(networkDocs(all))
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tPREFIX\tBLOCKS\tHELD BY") // the writer keeps it until Flush
			for _, doc := range networkDocs(all) {
				var held []string
				for _, host := range slices.Sorted(maps.Keys(doc.Held)) {
					held = append(held, fmt.Sprintf("%s %d", host, len(doc.Held[host])))
				}
				fmt.Fprintf(w, "%s\t%s\t%d of %s\t%s\n", printable.Text(doc.Name), doc.Prefix, doc.Blocks, doc.Block, strings.Join(held, ", "))
			}
			return w.Flush()
		}),
	}
}

// networkDoc is a shared network as JSON.
type networkDoc struct {
	Name   string              `json:"name"`
	Prefix string              `json:"prefix"` // of ports: 49153-65535
	Blocks uint64              `json:"blocks"`
	Block  string              `json:"block"` // how large each is
	Held   map[string][]string `json:"held"`
}

func networkDocs(all []space.Shared) []networkDoc {
	docs := []networkDoc{}
	for _, one := range all {
		doc := networkDoc{Name: one.Name, Prefix: "49153-65535", Blocks: one.Size, Block: "64 ports", Held: map[string][]string{}}
		if one.Prefix.IsValid() {
			doc.Prefix, doc.Block = one.Prefix.String(), fmt.Sprintf("/%d", one.Definition.Block)
		} else if len(one.Held) == 0 {
			continue // an address whose ports nobody uses
		}
		for host, blocks := range one.Held {
			for _, i := range blocks {
				doc.Held[host] = append(doc.Held[host], one.Block(i))
			}
		}
		docs = append(docs, doc)
	}
	return docs
}

func newNetworkRm(g *global) *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME",
		Aliases: []string{"remove", "delete"},
		Short:   "Remove a shared network of which no host holds a block",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: withStore(g, func(ctx context.Context, _ *cobra.Command, s *store.Store, args []string) error {
			return space.Remove(ctx, s, args[0])
		}),
	}
}

func newNetworkRoutes(g *global) *cobra.Command {
	var (
		via  []string
		here string
	)
	name, _ := os.Hostname()
	cmd := &cobra.Command{
		Use:   "routes NAME",
		Short: "Print the commands that route a shared network's blocks to the hosts that hold them",
		Long: "Print a line of ip(8) for each block of each other host, by the address from which its agent reaches\n" +
			"etcd or that --via gives. Packets between hosts are the operator's: run the lines on hosts of one\n" +
			"LAN, or have routers do it.",
		Example: "  nftnat-fleet network routes all | sh\n  nftnat-fleet network routes all --via b=198.51.100.2",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: withStore(g, func(ctx context.Context, cmd *cobra.Command, s *store.Store, args []string) error {
			network, err := space.Find(ctx, s, args[0])
			if err != nil {
				return err
			}
			ways, err := addressesOf(ctx, s, via)
			if err != nil {
				return err
			}
			delete(ways, here)
			return printRoutes(cmd.OutOrStdout(), network, ways)
		}),
	}
	cmd.Flags().StringArrayVar(&via, "via", nil, "the `HOST=ADDRESS` that leads to a host's blocks")
	cmd.Flags().StringVar(&here, "host", name, "the `NAME` of the host for which the routes are; its own blocks need none")
	return cmd
}

// addressesOf returns the addresses of hosts: those that are given, else that of the agent.
func addressesOf(ctx context.Context, s *store.Store, via []string) (map[string]netip.Addr, error) {
	ways := map[string]netip.Addr{}
	agents, err := s.List(ctx, keys.Hosts)
	if err != nil {
		return nil, err
	}
	for _, e := range agents.Entries {
		if a, err := keys.ParseAgent(e.Value); err == nil {
			// A zone is of that host alone, and can be any text: what is printed is run by a shell.
			if at, err := netip.ParseAddr(a.Address); err == nil && at.Zone() == "" {
				ways[strings.TrimPrefix(e.Key, keys.Hosts)] = at
			}
		}
	}
	for _, text := range via {
		host, addr, ok := strings.Cut(text, "=")
		at, err := netip.ParseAddr(addr)
		if !ok || err != nil || at.Zone() != "" || keys.ValidateName("host", host) != nil {
			return nil, usageError{fmt.Errorf("--via %q is not HOST=ADDRESS", text)}
		}
		ways[host] = at
	}
	return ways, nil
}

func printRoutes(w io.Writer, network space.Shared, ways map[string]netip.Addr) error {
	for _, host := range slices.Sorted(maps.Keys(ways)) {
		family := ""
		if network.Prefix.Addr().Is6() {
			family = "-6 "
		} else if ways[host].Is6() {
			family = "-4 "
		}
		by := "via"
		if ways[host].Is6() && network.Prefix.Addr().Is4() {
			by = "via inet6"
		}
		for _, i := range network.Held[host] {
			if _, err := fmt.Fprintf(w, "ip %sroute replace %s %s %s\n", family, network.BlockPrefix(i), by, ways[host]); err != nil {
				return err
			}
		}
	}
	return nil
}

// agentFlag has a command ask the agent of this host.
func agentFlag(cmd *cobra.Command, path *string) *cobra.Command {
	cmd.Flags().StringVar(path, "agent", cmp.Or(os.Getenv("NFTNAT_FLEET_AGENT"), defaultAgent), "the `PATH` of the agent's socket")
	return cmd
}

func newLease(g *global) *cobra.Command {
	var (
		agent, address string
		ports          []string
	)
	cmd := &cobra.Command{
		Use:   "lease NETWORK NAME",
		Short: "Attach an endpoint with an address of a shared network, and publish ports of it",
		Long: "Lease an address that no other host leases, as nftnat attach does of a network of one host.\n" +
			"The same again changes nothing. nftnat ps lists the endpoint.",
		Example: "  nftnat-fleet lease all web -p 8080:80",
		Args:    usage(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ep, err := space.NewClient(agent).Lease(cmd.Context(), args[0], args[1], address, ports...)
			if err != nil {
				return err
			}
			if g.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(ep)
			}
			lines := []string{ep.Address}
			for _, doc := range ep.Mappings {
				m, err := doc.Value()
				if err != nil {
					return err
				}
				lines = append(lines, m.String())
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), strings.Join(lines, "\n"))
			return err
		},
	}
	cmd.Flags().StringVar(&address, "ip", "", "this `ADDRESS`, of a block that this host holds (default the next free one)")
	cmd.Flags().StringArrayVarP(&ports, "publish", "p", nil, "a `SPEC` of a port, as of nftnat attach")
	return agentFlag(cmd, &agent)
}

func newRelease(*global) *cobra.Command {
	var agent string
	cmd := &cobra.Command{
		Use:   "release NETWORK NAME",
		Short: "Detach an endpoint of a shared network",
		Long:  "Release its address, and print what was published of it. nftnat detach does the same, but for a block that is given back half a minute later.",
		Args:  usage(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ms, err := space.NewClient(agent).Release(cmd.Context(), args[0], args[1])
			for _, text := range ms {
				fmt.Fprintln(cmd.OutOrStdout(), text)
			}
			return err
		},
	}
	return agentFlag(cmd, &agent)
}

func newPublish(*global) *cobra.Command {
	var agent, name string
	cmd := &cobra.Command{
		Use:   "publish PROTO ADDRESS BACKEND",
		Short: "Publish a port of an address that hosts share, one that no other host uses",
		Long: "Publish a port from 49153 to 65535 of the address, which has to be one of this host, at least at\n" +
			"times. The mapping's name begins with \"shared:\". nftnat rm unpublishes it.",
		Example: "  nftnat-fleet publish tcp 192.0.2.80 172.17.0.2:80 --name web",
		Args:    usage(cobra.ExactArgs(3)),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := space.NewClient(agent).Publish(cmd.Context(), args[0], args[1], args[2], name)
			if err == nil {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "the owner's `NAME`")
	return agentFlag(cmd, &agent)
}

func newForget(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "forget HOST",
		Short: "Take all blocks from a host that is dead",
		Long: "Take all blocks of shared networks and addresses from a host, and print them; other hosts lease their\n" +
			"addresses then. Do this when the host is off for good: while it runs, cut off from etcd, its endpoints\n" +
			"have the addresses.",
		Args: usage(cobra.ExactArgs(1)),
		RunE: withStore(g, func(ctx context.Context, cmd *cobra.Command, s *store.Store, args []string) error {
			freed, err := space.Forget(ctx, s, args[0])
			for _, text := range freed {
				fmt.Fprintln(cmd.OutOrStdout(), printable.Text(text))
			}
			return err
		}),
	}
}

func newResume(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "resume",
		Short: "Lease again after a restore of etcd, though some hosts have not claimed what they hold",
		Args:  usage(cobra.NoArgs),
		RunE: withStore(g, func(ctx context.Context, _ *cobra.Command, s *store.Store, _ []string) error {
			return space.Resume(ctx, s)
		}),
	}
}
