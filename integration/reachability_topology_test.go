// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// reach is a topology in which every cell can be measured: two networks, one of them with a
// backend that publishes ports of every kind, and a sibling.
type reach struct {
	top      *lab.Topology
	engine   *engine.Engine
	machines map[source]*lab.NS
	names    map[netip.Addr]string // of the clients that a server can see
	link     netip.Addr            // the client's link-local address
	mutated  bool                  // the ruleset is not the engine's
	ranged   bool                  // ports of ranges are asked for, in the place of single ones
}

// Frontends, the same over TCP and UDP. Each family has its own for any address, because
// that is what "any" means: both families, wherever the backend is.
const (
	reachAny4     = 8080
	reachAny6     = 8090
	reachOne      = 8081
	reachLoopback = 8082
	reachNone     = 8083
	reachFar      = 8084
	reachOwn      = 8085 // the host's own server
	reachOut      = 8087 // of ports that the backend sends from; over IPv6 by 10 more if for any address
	reachOutOne   = 8088
	reachNoLink   = 8089
)

// Frontends that are ports of ranges. Those of any address are wider than any that has a socket for each port.
const (
	reachRangeAny4     = 21000
	reachRangeAny6     = 24000
	reachRangeOne      = 27000
	reachRangeLoopback = 27100
	reachRangeWidth    = 2000
	reachNarrowWidth   = 10
	reachInRange       = 5 // the port of each that is asked for
	reachHole          = 7 // the one that was taken out of the first
)

func newReach(t *testing.T, loopback engine.Loopback) *reach {
	t.Helper()
	top := newTopology(t, lab.Options{Parts: lab.PartAll | lab.PartOther, BridgeNF: true})
	r := &reach{top: top, machines: map[source]*lab.NS{
		fromClient: top.Client, fromLinkLocal: top.Client, fromNeighbour: top.Neighbour, fromHost: top.Host,
		fromBackend: top.Backend1, fromSibling: top.Backend2, fromOther: top.Other,
	}}
	r.names = map[netip.Addr]string{
		top.Second4: "host (second)", top.Second6: "host (second)",
		top.Gateway4: "gateway", top.Gateway6: "gateway",
		mustAddr("198.51.100.1"): "host (far)", mustAddr("2001:db8:2::1"): "host (far)",
	}
	for s, ns := range r.machines {
		if s != fromLinkLocal {
			r.names[ns.V4], r.names[ns.V6] = string(s), string(s)
		}
	}
	var err error
	r.link, err = linkLocalAddr(top.Client)
	require.NoError(t, err)
	require.NoError(t, top.RouteLoopback(top.Neighbour))
	require.NoError(t, top.RouteLoopback(top.Backend2))
	for _, network := range []string{"tcp", "udp"} {
		for port, name := range map[string]string{":80": serverPublished, ":81": serverOther, ":82": serverLoopback} {
			labtest.Echo(t, top.Backend1, network, name, port)
		}
		for port, name := range map[int]string{
			reachRangeAny4: serverPublished, reachRangeAny6: serverPublished, reachRangeOne: serverPublished, reachRangeLoopback: serverLoopback,
			reachRangeAny4 + reachHole - reachInRange: serverPublished,
		} {
			labtest.Echo(t, top.Backend1, network, name, fmt.Sprint(":", port+reachInRange))
		}
		labtest.Echo(t, top.Far, network, serverFar, at(netip.IPv6Unspecified(), reachFar))
		labtest.Echo(t, top.Client, network, serverNear, at(netip.IPv6Unspecified(), reachFar))
	}
	wireSideway(t, top)
	r.giveNoLink(t)
	labtest.EchoTCP(t, top.Host, "host", at(netip.IPv6Unspecified(), reachOwn))
	r.publish(t, loopback)
	r.publishRanges(t)
	r.watchForTrespassers(t)
	return r
}

// giveNoLink gives the host addresses that are on no link, and their servers routes to them.
func (r *reach) giveNoLink(t *testing.T) {
	t.Helper()
	for a, via := range map[string]string{noLink4: "198.51.100.1", noLink6: "2001:db8:2::1"} {
		labtest.Exec(t, r.top.Host, "ip", "address", "add", a, "dev", "lo", "nodad")
		labtest.Exec(t, r.top.Far, "ip", "route", "replace", a, "via", via)
		r.names[mustAddr(a)] = "host (no link)"
	}
}

// The addresses of no link.
const noLink4, noLink6 = "203.0.113.9", "2001:db8:9::9"

// publish declares the networks and attaches the endpoints, with an engine with proxies.
func (r *reach) publish(t *testing.T, loopback engine.Loopback) {
	t.Helper()
	top := r.top
	e, err := engine.Open(t.Context(), engine.Options{NetNS: top.Host.Path(), NoOwner: true, Loopback: loopback})
	require.NoError(t, err)
	require.Equal(t, loopback, must(e.Status(t.Context())).Loopback)
	t.Cleanup(func() {
		if err := e.Close(); err != nil && !errors.Is(err, nat.ErrClosed) {
			t.Error(err)
		}
	})
	r.engine = e
	for _, n := range []struct {
		name     string
		prefixes [2]netip.Prefix
	}{{"inside", [2]netip.Prefix{top.Inside4, top.Inside6}}, {"other", [2]netip.Prefix{top.OtherNet4, top.OtherNet6}}} {
		for i, family := range []string{"4", "6"} {
			_, err := e.CreateNetwork(t.Context(), nat.Network{Name: n.name + family, Prefix: n.prefixes[i]})
			require.NoError(t, err)
		}
	}
	attach := func(name, network string, addr netip.Addr, specs ...string) {
		a := nat.EndpointSpec{Name: name, Network: network, Address: addr}
		for _, text := range specs {
			s, err := nat.ParsePortSpec(text)
			require.NoError(t, err)
			a.Ports = append(a.Ports, s)
		}
		_, err := e.Attach(t.Context(), a)
		require.NoError(t, err)
	}
	attach("backend4", "inside4", top.Backend1.V4,
		"8080:80", "8080:80/udp", "192.0.2.1:8081:80", "192.0.2.1:8081:80/udp", "127.0.0.1:8082:82", "127.0.0.1:8082:82/udp",
		"192.0.2.1:8086:84", "192.0.2.1:8086:84/udp",
		"8087:87", "8087:87/udp", "192.0.2.1:8088:88", "192.0.2.1:8088:88/udp", noLink4+":8089:89", noLink4+":8089:89/udp")
	attach("backend6", "inside6", top.Backend1.V6,
		"8090:80", "8090:80/udp", "[2001:db8:1::1]:8081:80", "[2001:db8:1::1]:8081:80/udp", "[::1]:8082:82", "[::1]:8082:82/udp",
		"[2001:db8:1::1]:8086:84", "[2001:db8:1::1]:8086:84/udp",
		"8097:87", "8097:87/udp", "[2001:db8:1::1]:8088:88", "[2001:db8:1::1]:8088:88/udp", "["+noLink6+"]:8089:89", "["+noLink6+"]:8089:89/udp")
	attach("sibling4", "inside4", top.Backend2.V4)
	attach("sibling6", "inside6", top.Backend2.V6)
	attach("other4", "other4", top.Other.V4)
	attach("other6", "other6", top.Other.V6)
}

// publishRanges publishes ranges for the same addresses as the single ports, and takes a port out of one.
func (r *reach) publishRanges(t *testing.T) {
	t.Helper()
	top := r.top
	for _, proto := range []string{"", "/udp"} {
		ranged := func(host string, first, width int, backend netip.Addr) string {
			last := first + width - 1
			return fmt.Sprintf("%s%d-%d->%s-%d%s", host, first, last, at(backend, first), last, proto)
		}
		publish(t, r.engine,
			ranged("", reachRangeAny4, reachRangeWidth, top.Backend1.V4), ranged("", reachRangeAny6, reachRangeWidth, top.Backend1.V6),
			ranged("192.0.2.1:", reachRangeOne, reachNarrowWidth, top.Backend1.V4), ranged("[2001:db8:1::1]:", reachRangeOne, reachNarrowWidth, top.Backend1.V6),
			ranged("127.0.0.1:", reachRangeLoopback, reachNarrowWidth, top.Backend1.V4), ranged("[::1]:", reachRangeLoopback, reachNarrowWidth, top.Backend1.V6))
		const hole = reachRangeAny4 + reachHole
		_, err := r.engine.Remove(t.Context(), nat.Removal{Mappings: mappings(t, fmt.Sprintf("%d->%s%s", hole, at(top.Backend1.V4, hole), proto))})
		require.NoError(t, err)
	}
}

// address returns the destination and source of a cell. If the source is zero, the kernel
// chooses it.
func (r *reach) address(c cell) (to, from netip.AddrPort) {
	f := families(r.top)[0]
	loopback, anyPort, acrossPort := loopback4, uint16(reachAny4), uint16(reachAny6)
	if c.bits == 128 {
		f = families(r.top)[1]
		loopback, anyPort, acrossPort = loopback6, uint16(reachAny6), uint16(reachAny4)
	}
	host := map[asked]netip.Addr{
		byLAN: f.host, bySecond: f.second, byGateway: f.gateway, byLoopback: loopback, byBackend: f.backend1, byFar: f.far, byNear: f.client,
	}[c.asked]
	port := map[target]uint16{
		publishedAny: anyPort, publishedAcross: acrossPort, publishedOne: reachOne, publishedLoopback: reachLoopback,
		unpublished: reachNone, backendPort: 80, otherPortOf: 81, farPort: reachFar,
		fromAny: reachFar, fromOne: reachFar, fromNoLink: reachFar,
	}[c.target]
	if r.ranged {
		anyPort, acrossPort = uint16(reachRangeAny4), uint16(reachRangeAny6)
		if c.bits == 128 {
			anyPort, acrossPort = acrossPort, anyPort
		}
		port = map[target]uint16{
			publishedAny: anyPort, publishedAcross: acrossPort, publishedOne: reachRangeOne, publishedLoopback: reachRangeLoopback,
			unpublished: reachRangeAny4 + reachHole - reachInRange,
		}[c.target] + reachInRange
	}
	switch {
	case c.source == fromLinkLocal:
		from = netip.AddrPortFrom(r.link, 0)
	case c.target.isPublishedSource():
		from = netip.AddrPortFrom(f.backend1, map[target]uint16{fromAny: 87, fromOne: 88, fromNoLink: 89}[c.target])
	case c.asked == byLoopback && c.source != fromHost:
		// Otherwise the kernel would choose a loopback address, which the attacker does not have.
		from = netip.AddrPortFrom(map[int]netip.Addr{32: r.machines[c.source].V4, 128: r.machines[c.source].V6}[c.bits], 0)
	}
	return netip.AddrPortFrom(host, port), from
}
