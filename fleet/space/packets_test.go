// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package space

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/fleet/internal/etcdtest"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// realHost is a host with a real daemon and an agent, and a bridge for endpoints.
type realHost struct {
	ns     *lab.NS
	name   string
	daemon *api.Client
	agent  *Client
	*Manager
}

// buildDaemon builds nftnat.
func buildDaemon(tb testing.TB) string {
	tb.Helper()
	program := filepath.Join(tb.TempDir(), "nftnat")
	build := exec.Command(labtest.Tool(tb, "go"), "build", "-o", program, "./cmd/nftnat")
	build.Dir = filepath.Join("..", "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(tb, err, "%s", out)
	return program
}

// startHost starts a daemon and an agent on a host.
func startHost(tb testing.TB, program string, ns *lab.NS, s *store.Store, name string) *realHost {
	tb.Helper()
	dir, err := os.MkdirTemp("/run", "space")
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := &realHost{ns: ns, name: name, daemon: api.NewClient(filepath.Join(dir, "d")), agent: NewClient(filepath.Join(dir, "a"))}
	labtest.Start(tb, ns, program, "serve", "--socket", h.daemon.Path())
	eventually(tb, func() error { return h.daemon.Health(tb.Context()) })
	h.Manager = New(Options{Host: name, Store: s, Daemon: h.daemon})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 3)
	go func() {
		done <- s.Follow(ctx, "", func(u store.Update) error {
			h.Update(u)
			return nil
		})
	}()
	go func() { done <- h.Run(ctx) }()
	l, err := api.Listen(h.agent.path, -1)
	require.NoError(tb, err)
	go func() { done <- h.Serve(ctx, l) }()
	tb.Cleanup(func() {
		cancel()
		for range cap(done) {
			if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
				tb.Error(err)
			}
		}
	})
	labtest.Exec(tb, ns, "ip", "link", "add", "br0", "type", "bridge")
	labtest.Exec(tb, ns, "ip", "link", "set", "br0", "up")
	return h
}

// endpoint leases an address and makes a machine that has it, which answers at port 80.
func (h *realHost) endpoint(tb testing.TB, network, name string, ports ...string) (*lab.NS, api.Endpoint) {
	tb.Helper()
	ep, err := h.agent.Lease(tb.Context(), network, name, "", ports...)
	require.NoError(tb, err)
	length := netip.MustParsePrefix(ep.Prefix).Bits()
	machine, err := lab.New(h.name + "-" + name)
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = machine.Close() })
	for _, line := range []string{
		fmt.Sprintf("link add %s type veth peer name eth0 netns %s", name, machine.Path()),
		fmt.Sprintf("link set %s master br0 up", name),
		fmt.Sprintf("addr replace %s/%d dev br0", ep.Gateway, length),
	} {
		labtest.Exec(tb, h.ns, "ip", strings.Fields(line)...)
	}
	for _, line := range []string{"link set lo up", "link set eth0 up", fmt.Sprintf("addr add %s/%d dev eth0", ep.Address, length), "route add default via " + ep.Gateway} {
		labtest.Exec(tb, machine, "ip", strings.Fields(line)...)
	}
	server, err := lab.EchoTCP(machine, name, ep.Address+":80")
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = server.Close() })
	return machine, ep
}

func ask(ctx context.Context, ns *lab.NS, addr string, timeout time.Duration) (string, netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	name, peer, err := lab.Ask(ctx, ns, "tcp", addr, netip.AddrPort{})
	return name, peer.Addr(), err
}

// TestPackets has two hosts with real daemons and endpoints of one shared network, whose packets are routed
// between the hosts.
func TestPackets(t *testing.T) {
	c := etcdtest.New(t, etcdtest.Options{Hosts: 2})
	program := buildDaemon(t)
	operator := openStore(t, c, c.Client)
	t.Cleanup(func() { _ = operator.Close() })
	shared(t, operator, "all", "10.60.0.0/16", 26)
	_, err := Create(t.Context(), operator, Definition{Name: "open", Prefix: netip.MustParsePrefix("10.61.0.0/16"), NoGuard: true, NoMasquerade: true}, nil)
	require.NoError(t, err)
	var hosts []*realHost
	for i, name := range []string{"a", "b"} {
		s := openStore(t, c, c.Hosts[i])
		t.Cleanup(func() { _ = s.Close() })
		hosts = append(hosts, startHost(t, program, c.Hosts[i], s, name))
	}
	a, b := hosts[0], hosts[1]

	// Each gets an address of its own, and published ports answer on the LAN.
	_, web := a.endpoint(t, "all", "web", "8080:80")
	_, www := b.endpoint(t, "all", "www", "8080:80")
	require.NotEqual(t, web.Prefix, www.Prefix)
	again, err := a.agent.Lease(t.Context(), "all", "web", "", "8080:80")
	require.NoError(t, err)
	require.Equal(t, web, again)
	for host, want := range map[*realHost]string{a: "web", b: "www"} {
		name, peer, err := ask(t.Context(), c.Client, host.ns.V4.String()+":8080", 5*time.Second)
		require.NoError(t, err)
		require.Equal(t, want, name)
		require.Equal(t, c.Client.V4, peer)
	}

	// The operator routes blocks between hosts.
	near, nearEP := a.endpoint(t, "open", "near")
	_, farEP := b.endpoint(t, "open", "far")
	for from, to := range map[*realHost]*realHost{a: b, b: a} {
		var routes strings.Builder
		all, _, err := List(t.Context(), operator)
		require.NoError(t, err)
		for _, network := range all {
			for _, i := range network.Held[to.name] {
				fmt.Fprintf(&routes, "ip route replace %s via %s\n", network.Block(i), to.ns.V4)
			}
		}
		labtest.ExecInput(t, from.ns, routes.String(), "sh")
	}
	name, peer, err := ask(t.Context(), near, farEP.Address+":80", 5*time.Second)
	require.NoError(t, err)
	require.Equal(t, "far", name)
	require.Equal(t, nearEP.Address, peer.String(), "a sibling's address is kept")
	// The guard lets nothing else pass: not even a sibling of another host.
	_, _, err = ask(t.Context(), near, www.Address+":80", time.Second)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)

	// Both hosts have the address, and publish ports of it that differ.
	seen := map[string]bool{}
	for host, ep := range map[*realHost]api.Endpoint{a: web, b: www} {
		labtest.Exec(t, host.ns, "ip", "addr", "add", "192.0.2.80/32", "dev", "lo")
		text, err := host.agent.Publish(t.Context(), "tcp", "192.0.2.80", ep.Address+":80", "x")
		require.NoError(t, err)
		m, err := nat.ParseMappingText(text)
		require.NoError(t, err)
		require.False(t, seen[m.Frontend.String()])
		seen[m.Frontend.String()] = true
		via := exec.Command(labtest.Tool(t, "ip"), "route", "replace", "192.0.2.80", "via", host.ns.V4.String())
		require.Zero(t, labtest.Run(t, c.Client, via).Code)
		name, _, err := ask(t.Context(), c.Client, m.Frontend.String(), 5*time.Second)
		require.NoError(t, err)
		require.Equal(t, ep.Name, name)
	}

	// A network of a host that overlaps keeps it from leasing, with the reason.
	over, err := Create(t.Context(), operator, define("over", "10.70.0.0/16", 26), nil)
	require.NoError(t, err)
	_, err = a.daemon.CreateNetwork(t.Context(), nat.Network{Name: "inside", Prefix: netip.MustParsePrefix("10.70.3.0/24")})
	require.NoError(t, err)
	_, err = a.agent.Lease(t.Context(), over.Name, "x", "")
	require.ErrorIs(t, err, nat.ErrConflict)
	require.ErrorContains(t, err, "is taken by network inside 10.70.3.0/24 of this host")
	_, err = a.agent.Lease(t.Context(), "nothing", "x", "")
	require.ErrorIs(t, err, nat.ErrNotFound)
	_, err = a.agent.Release(t.Context(), "all", "web")
	require.NoError(t, err)
	_, err = a.agent.Release(t.Context(), "all", "web")
	require.ErrorIs(t, err, nat.ErrNotFound)
}
