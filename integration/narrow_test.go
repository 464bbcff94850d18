// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// narrow is a topology with a backend two routers away from the host. The wire between the
// routers has a smaller MTU than all others:
//
//	client ─ host ─ far ─(mtu)─ router ─ deep
//
// Client and backend do not see the MTU of that wire. Each learns it from the router on its
// side of the wire.
type narrow struct {
	*lab.Topology
	deep     *lab.NS
	mtu      int
	families []deepFamily // IPv4 and, unless the MTU is too small for it, IPv6
}

// deepFamily is a family with the additional addresses of narrow.
type deepFamily struct {
	family
	deep      netip.Addr
	forbidden netip.Addr // behind far as well, which refuses to forward to it
}

// minMTU6 is the smallest MTU of IPv6 (RFC 8200 section 5).
const minMTU6 = 1280

func newNarrow(t *testing.T, mtu int) *narrow {
	t.Helper()
	top := newTopology(t, lab.Options{Parts: lab.PartFar, Forwarding: true})
	router := labtest.NewNS(t, "router")
	n := &narrow{Topology: top, deep: labtest.NewNS(t, "deep"), mtu: mtu}
	for _, ns := range []*lab.NS{router, n.deep} {
		limitNoErrors(t, ns)
	}
	both := families(top)
	n.families = append(n.families, deepFamily{both[0], mustAddr("203.0.113.130"), mustAddr("203.0.113.66")})
	narrowFar, narrowRouter := prefixes("203.0.113.1/26"), prefixes("203.0.113.2/26")
	routerDeep, deep := prefixes("203.0.113.129/26"), prefixes("203.0.113.130/26")
	routes := []struct {
		ns    *lab.NS
		route string
	}{
		{top.Host, "203.0.113.0/24 via " + top.Far.V4.String()},
		{top.Far, "203.0.113.128/26 via 203.0.113.2"},
		{top.Far, "prohibit 203.0.113.64/26"},
		{router, "default via 203.0.113.1"},
		{n.deep, "default via 203.0.113.129"},
	}
	if mtu >= minMTU6 {
		n.families = append(n.families, deepFamily{both[1], mustAddr("2001:db8:3:2::2"), mustAddr("2001:db8:3:1::2")})
		narrowFar = append(narrowFar, prefixes("2001:db8:3::1/64")...)
		narrowRouter = append(narrowRouter, prefixes("2001:db8:3::2/64")...)
		routerDeep = append(routerDeep, prefixes("2001:db8:3:2::1/64")...)
		deep = append(deep, prefixes("2001:db8:3:2::2/64")...)
		routes = append(routes, []struct {
			ns    *lab.NS
			route string
		}{
			{top.Host, "2001:db8:3::/48 via " + top.Far.V6.String()},
			{top.Far, "2001:db8:3:2::/64 via 2001:db8:3::2"},
			{top.Far, "prohibit 2001:db8:3:1::/64"},
			{router, "default via 2001:db8:3::1"},
			{n.deep, "default via 2001:db8:3:2::1"},
		}...)
	}
	require.NoError(t, lab.Wire(
		lab.End{NS: top.Far, Link: "narrow0", MTU: mtu, Addrs: narrowFar},
		lab.End{NS: router, Link: lab.MachineLink, MTU: mtu, Addrs: narrowRouter},
	))
	require.NoError(t, lab.Wire(
		lab.End{NS: router, Link: "deep0", Addrs: routerDeep},
		lab.End{NS: n.deep, Link: lab.MachineLink, Addrs: deep},
	))
	for _, r := range routes {
		labtest.Exec(t, r.ns, "ip", append([]string{"route", "add"}, strings.Fields(r.route)...)...)
	}
	for _, ns := range []*lab.NS{top.Far, router} {
		require.NoError(t, ns.Sysctl("net.ipv4.ip_forward", "1"))
		require.NoError(t, ns.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	}
	return n
}

func prefixes(texts ...string) []netip.Prefix {
	ps := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		ps[i] = netip.MustParsePrefix(text)
	}
	return ps
}
