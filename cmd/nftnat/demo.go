// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nftnat/nftnat/internal/lab"
)

func newDemo(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show nftnat at work in temporary network namespaces",
		Long: "Make a client, a host and a backend in temporary network namespaces, publish tcp\n" +
			"8080 and udp 53 on the host, send requests from the client, show the answers, and\n" +
			"remove everything. The exit status is 0 only if all of it worked. Nothing outside\n" +
			"the namespaces is changed. If you are not root, the demo makes a user namespace and\n" +
			"runs in that.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), demoTimeout)
			defer cancel()
			again, err := needsUserNamespace()
			switch {
			case err != nil:
				return err
			case again:
				return inUserNamespace(ctx)
			}
			return demo(ctx, cmd.OutOrStdout(), g.stderr)
		},
	}
}

// demoTimeout bounds the whole demonstration, which takes well under a second.
const demoTimeout = 30 * time.Second

// demonstration is the laboratory and where it is told about.
type demonstration struct {
	*lab.Topology
	out, errs io.Writer
}

func demo(ctx context.Context, out, errs io.Writer) (err error) {
	top, err := lab.Build(lab.Options{Parts: lab.PartBackend1})
	if errors.Is(err, fs.ErrPermission) {
		return namespaceError{fmt.Errorf("build namespaces: %w", err)}
	}
	if err != nil {
		return fmt.Errorf("build namespaces: %w", err)
	}
	defer func() { err = errors.Join(err, top.Close()) }()
	d := &demonstration{Topology: top, out: out, errs: errs}

	web, err := lab.EchoHTTP(top.Backend1, "web", ":80")
	if err != nil {
		return fmt.Errorf("start web server: %w", err)
	}
	defer func() { err = errors.Join(err, web.Close()) }()
	dns, err := lab.EchoUDP(top.Backend1, "dns", ":53")
	if err != nil {
		return fmt.Errorf("start udp server: %w", err)
	}
	defer func() { err = errors.Join(err, dns.Close()) }()

	fmt.Fprintf(out, "client %s -- host %s -- backend %s, each a network namespace of its own\n",
		top.Client.V4, top.Host.V4, top.Backend1.V4)
	return d.run(ctx)
}

// run publishes, asks, unpublishes and asks again.
func (d *demonstration) run(ctx context.Context) error {
	backend := d.Backend1.V4.String()
	tcp := netip.AddrPortFrom(d.Host.V4, 8080).String()
	udp := netip.AddrPortFrom(d.Host.V4, 53).String()
	steps := []func() error{
		func() error { return d.nftnat("add", "tcp", "8080", backend+":80", "--name", "web") },
		func() error { return d.nftnat("add", "udp", "53", backend, "--name", "dns") },
		func() error { return d.nftnat("ls") },
		func() error { return d.curl(ctx, tcp) },
		func() error { return d.ask(ctx, udp) },
		func() error { return d.nftnat("rm", "tcp", "8080") },
		func() error { return d.refused(ctx, tcp) },
		func() error { return d.nftnat("purge") },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	fmt.Fprintln(d.out, "all of it worked; the namespaces are gone")
	return nil
}

// nftnat runs a command line of this program in the host's namespace.
func (d *demonstration) nftnat(args ...string) error {
	fmt.Fprintf(d.out, "host$ nftnat %s\n", strings.Join(args, " "))
	if status := run(append([]string{"--direct", "--netns", d.Host.Path()}, args...), strings.NewReader(""), d.out, d.errs); status != exitDone {
		return fmt.Errorf("nftnat %s: exit status %d", args[0], status)
	}
	return nil
}

// curl sends an HTTP request from the client, which must reach the backend with the
// client's own address.
func (d *demonstration) curl(ctx context.Context, addr string) error {
	fmt.Fprintf(d.out, "client$ curl http://%s/\n", addr)
	name, peer, err := lab.AskHTTP(ctx, d.Client, addr)
	if err != nil {
		return fmt.Errorf("request http://%s/: %w", addr, err)
	}
	return d.answered("web", name, peer)
}

// ask does so with a UDP datagram.
func (d *demonstration) ask(ctx context.Context, addr string) error {
	fmt.Fprintf(d.out, "client$ echo hello | nc -u %s\n", strings.ReplaceAll(addr, ":", " "))
	name, peer, err := lab.Ask(ctx, d.Client, "udp", addr, netip.AddrPort{})
	if err != nil {
		return fmt.Errorf("ask udp %s: %w", addr, err)
	}
	return d.answered("dns", name, peer)
}

func (d *demonstration) answered(want, name string, peer netip.AddrPort) error {
	fmt.Fprintf(d.out, "backend %q answers; it saw the client as %s\n", name, peer)
	if name != want || peer.Addr() != d.Client.V4 {
		return fmt.Errorf("the answer should be of %q, to %s", want, d.Client.V4)
	}
	return nil
}

// refused sees to it that nobody answers any more.
func (d *demonstration) refused(ctx context.Context, addr string) error {
	fmt.Fprintf(d.out, "client$ curl http://%s/\n", addr)
	_, _, err := lab.AskHTTP(ctx, d.Client, addr)
	if err == nil {
		return fmt.Errorf("request http://%s/: it was answered after the port was unpublished", addr)
	}
	fmt.Fprintf(d.out, "refused, as it should be: %v\n", err)
	return nil
}
