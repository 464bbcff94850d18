// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// echoCase is a published port.
type echoCase struct {
	network  string
	frontend netip.Addr // the zero address: any
	backend  family
}

func echoCases(top *lab.Topology) []echoCase {
	var cases []echoCase
	for _, network := range []string{"tcp", "udp"} {
		for _, frontend := range []netip.Addr{
			{}, loopback4, loopback6, top.Host.V4, top.Host.V6, netip.IPv4Unspecified(), netip.IPv6Unspecified(),
		} {
			for _, backend := range families(top) {
				cases = append(cases, echoCase{network, frontend, backend})
			}
		}
	}
	return cases
}

func (c echoCase) name() string {
	frontend := "any"
	if c.frontend.IsValid() {
		frontend = strings.ReplaceAll(c.frontend.String(), ":", "_")
	}
	return strings.Join([]string{c.network, frontend, c.backend.name}, "/")
}

// covers reports whether clients that connect to an address are served.
func (c echoCase) covers(asked netip.Addr) bool {
	switch {
	case !c.frontend.IsValid():
		return true
	case c.frontend.IsUnspecified():
		return c.frontend.Is4() == asked.Is4()
	}
	return c.frontend == asked
}

// seen returns the client's address as the backend sees it: the client's own if netfilter
// translates, and the host's if a proxy serves it.
func (c echoCase) seen(client, asked netip.Addr) netip.Addr {
	if asked.IsLoopback() || asked.Is4() != c.backend.backend1.Is4() {
		return c.backend.gateway
	}
	return client
}

// Every kind of frontend with every kind of backend, at every address of the host, for the
// host and for a client: all addresses that the mapping covers answer, from the address that
// was called, and no others do.
func TestProxiedEcho(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":80")
	}
	s := newTestbed(t, top.Host)
	s.loopback = "proxy"
	s.serve(t)
	for i, c := range echoCases(top) {
		t.Run(c.name(), func(t *testing.T) { c.test(t, top, s, 8000+i) })
	}
	require.Equal(t, "[]\n", s.succeed(t, "ls --json"))
	require.Zero(t, s.status(t).Proxies)
}

func (c echoCase) test(t *testing.T, top *lab.Topology, s *testbed, port int) {
	t.Helper()
	add := fmt.Sprintf("add --quiet %s %s %s", c.network, toward(c.frontend, port, port), at(c.backend.backend1, 80))
	s.succeed(t, add)
	ask := func(from *lab.NS, client, asked netip.Addr) {
		if !c.covers(asked) {
			require.ErrorIs(t, labtest.NoAnswer(t, from, c.network, at(asked, port)), unix.ECONNREFUSED, "%s of %s", asked, from)
			return
		}
		peer := labtest.Reaches(t, from, c.network, at(asked, port), "backend")
		require.Equal(t, c.seen(client, asked), peer.Addr(), "%s of %s", asked, from)
	}
	for _, f := range families(top) {
		for _, asked := range []netip.Addr{f.host, f.gateway} {
			ask(top.Client, f.client, asked)
			ask(top.Host, asked, asked) // the host uses an address of its own to connect to it
		}
		ask(top.Client, f.client, f.second)
	}
	for _, asked := range []netip.Addr{loopback4, loopback6} {
		ask(top.Host, asked, asked)
	}
	require.Equal(t, 1, s.status(t).Proxies)

	s.succeed(t, fmt.Sprintf("rm %s %s", c.network, toward(c.frontend, port, port)))
	for _, asked := range []netip.Addr{loopback4, loopback6, top.Host.V4, top.Host.V6} {
		require.ErrorIs(t, labtest.NoAnswer(t, top.Host, c.network, at(asked, port)), unix.ECONNREFUSED)
	}
	for _, asked := range []netip.Addr{top.Host.V4, top.Host.V6} {
		require.ErrorIs(t, labtest.NoAnswer(t, top.Client, c.network, at(asked, port)), unix.ECONNREFUSED)
	}
}

// A mapping on a loopback address serves only this host, also while a neighbour routes
// 127.0.0.1 and ::1 to it.
func TestProxiedLoopbackIsPrivate(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	require.NoError(t, top.RouteLoopback(top.Client))
	s := newTestbed(t, top.Host)
	s.loopback = "proxy"
	s.serve(t)
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":80")
		s.succeed(t, fmt.Sprintf("add --quiet %s 127.0.0.1:8080 172.30.0.2:80", network))
		s.succeed(t, fmt.Sprintf("add --quiet %s [::1]:8080 [fd00:30::2]:80", network))
		s.succeed(t, fmt.Sprintf("add --quiet %s 8081 172.30.0.2:80", network))
	}
	for _, careless := range []string{"0", "1"} {
		require.NoError(t, top.Host.Sysctl("net.ipv4.conf.all.route_localnet", careless))
		for _, network := range []string{"tcp", "udp"} {
			labtest.Reaches(t, top.Host, network, "127.0.0.1:8080", "backend")
			labtest.Reaches(t, top.Host, network, "[::1]:8080", "backend")
			labtest.Reaches(t, top.Client, network, "192.0.2.1:8081", "backend")
			noAnswers(t, top.Client, network, "127.0.0.1:8080", "[::1]:8080", "127.0.0.1:8081", "[::1]:8081")
		}
	}
}

// The same with other programs as clients and servers.
func TestProxiedOthers(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoHTTP(t, top.Backend1, "web", ":80")
	labtest.Start(t, top.Backend1, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=",
		"--no-resolv", "--no-hosts", "--user=root", "--port=5353", "--address=/web.example/203.0.113.7")
	await(t, "dnsmasq to listen", func() bool {
		r := labtest.Run(t, top.Backend1, command(t, "dig", "@127.0.0.1", "-p", "5353", "web.example", "+short", "+time=1", "+tries=1"))
		return r.Code == 0 && r.Stdout == "203.0.113.7\n"
	})
	s := newTestbed(t, top.Host)
	s.loopback = "proxy"
	for _, backend := range families(top) {
		for _, line := range []string{"tcp 8080 %s:80", "tcp 53 %s:5353", "udp 53 %s:5353"} {
			address := strings.TrimSuffix(at(backend.backend1, 1), ":1")
			s.succeed(t, "add --quiet "+fmt.Sprintf(line, address))
		}
		for _, asked := range []string{"127.0.0.1", "::1"} {
			url := "http://" + at(netip.MustParseAddr(asked), 8080) + "/"
			body := labtest.Exec(t, top.Host, "curl", "--silent", "--show-error", "--max-time", "10", url)
			require.Contains(t, body, "web ")
			require.Contains(t, body, backend.gateway.String())
			for _, flag := range []string{"+notcp", "+tcp"} {
				answer := labtest.Exec(t, top.Host, "dig", "@"+asked, "web.example", "A", "+short", "+time=5", "+tries=1", flag)
				require.Equal(t, "203.0.113.7\n", answer)
			}
		}
		for _, line := range []string{"rm tcp 8080", "rm tcp 53", "rm udp 53"} {
			s.succeed(t, line)
		}
		r := labtest.Run(t, top.Host, command(t, "curl", "--silent", "--show-error", "--max-time", "10", "http://127.0.0.1:8080/"))
		require.Equal(t, 7, r.Code, "curl: failed to connect, not timed out: %s", r.Stderr)
	}
}
