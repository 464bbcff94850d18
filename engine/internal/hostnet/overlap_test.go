// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// A network may lie under a wider route, but not where its addresses are somebody else's.
// br0 has 192.0.2.1/24, and br1 is where a network may be.
func TestOverlap(t *testing.T) {
	for name, c := range map[string]struct {
		with   string // commands of ip(8)
		prefix string
		want   string // empty: no conflict
	}{
		"by a gateway":         {"route add 10.0.0.0/8 via 192.0.2.2", "10.99.0.0/24", ""},
		"by a gateway, bridge": {"route add 10.0.0.0/8 via 192.0.2.2; addr add 10.99.0.1/24 dev br1", "10.99.0.0/24", ""},
		"by a tunnel":          {"addr add 10.8.0.6/24 dev br0; route add 10.0.0.0/8 dev br0", "10.99.0.0/24", ""},
		"by a tunnel 6":        {"addr add fd08::6/64 dev br0; route add fd00::/8 dev br0", "fd00:99::/64", ""},
		"half defaults":        {"route add 0.0.0.0/1 via 192.0.2.2; route add 128.0.0.0/1 via 192.0.2.2", "10.99.0.0/24", ""},
		"half defaults 6":      {"route add ::/1 dev br0; route add 8000::/1 dev br0; route add 2000::/3 dev br0", "fd00:99::/64", ""},
		"multipath":            {"route add 10.0.0.0/8 nexthop via 192.0.2.2 nexthop via 192.0.2.3", "10.99.0.0/24", ""},
		"blackhole":            {"route add blackhole 10.0.0.0/8; route add unreachable 10.96.0.0/11", "10.99.0.0/24", ""},
		"route within": {"route add 10.99.0.64/26 via 192.0.2.2", "10.99.0.0/24",
			"the route 10.99.0.64/26 by 192.0.2.2: delete it, or choose another prefix"},
		"route within, bridge": {"addr add 10.99.0.1/24 dev br1; route add 10.99.0.64/26 via 192.0.2.2", "10.99.0.0/24",
			"the route 10.99.0.64/26 by 192.0.2.2: delete it, or choose another prefix"},
		"same route": {"route add 10.99.0.0/24 dev br1", "10.99.0.0/24",
			"the route 10.99.0.0/24 by br1: delete it, or choose another prefix, or give the interface the address 10.99.0.1 if it is the network's own"},
		"own routes":       {"addr add 10.99.0.1/32 dev br1; route add 10.99.0.2/32 dev br1", "10.99.0.0/24", ""},
		"blackhole within": {"route add blackhole 10.99.0.0/24", "10.99.0.0/24", "the route blackhole 10.99.0.0/24: delete it, or choose another prefix"},
		"delegated":        {"addr add fd00:99::1/64 dev br1; route add unreachable fd00:99::/64 metric 1024", "fd00:99::/64", ""},
		"prohibit within":  {"route add prohibit 10.99.0.7", "10.99.0.0/24", "the route prohibit 10.99.0.7/32: delete it, or choose another prefix"},
		"throw":            {"route add throw 10.99.0.0/24", "10.99.0.0/24", ""},
		"address": {"addr add 10.99.0.7/16 dev br0", "10.99.0.0/24",
			"the address 10.99.0.7 of br0: choose another prefix, or give the network's own interface the address 10.99.0.1"},
		"subnet":   {"addr add 10.1.0.7/8 dev br0", "10.99.0.0/24", "the subnet 10.0.0.0/8 of br0: choose a prefix outside of it"},
		"subnet 6": {"addr add fd00::7/16 dev br0", "fd00:99::/64", "the subnet fd00::/16 of br0: choose a prefix outside of it"},
		"subnet without a route": {"addr add 10.1.0.7/8 dev br0 noprefixroute", "10.99.0.0/24",
			"the subnet 10.0.0.0/8 of br0: choose a prefix outside of it"},
		"own subnet":          {"addr add 10.99.0.1/8 dev br1", "10.99.0.0/24", "the subnet 10.0.0.0/8 of br1: choose a prefix outside of it"},
		"on link by a router": {"route add fd00::/16 dev br0 proto ra", "fd00:99::/64", "the subnet fd00::/16 of br0: choose a prefix outside of it"},
		"peer": {"addr add 10.1.0.7 peer 10.99.0.7 dev br0", "10.99.0.0/24",
			"the route 10.99.0.7/32 by br0: delete it, or choose another prefix, or give the interface the address 10.99.0.1 if it is the network's own"},
		"AnyIP": {"route add local 10.96.0.0/11 dev lo", "10.99.0.0/24", "the route local 10.96.0.0/11 of table local: choose a prefix outside of it"},
		"AnyIP within": {"route add local 10.99.0.64/26 dev lo", "10.99.0.0/24",
			"the route local 10.99.0.64/26 of table local: choose a prefix outside of it"},
		"table nobody asks": {"route add 10.99.0.0/24 via 192.0.2.2 table 100", "10.99.0.0/24", ""},
		"table of a source": {"route add 10.99.0.0/24 via 192.0.2.2 table 100; rule add from 192.0.2.1 lookup 100", "10.99.0.0/24", ""},
		"table of a mark":   {"route add default via 192.0.2.2 table 100; rule add not fwmark 7 lookup 100", "10.99.0.0/24", ""},
		"table before": {"route add 10.0.0.0/8 via 192.0.2.2 table 100; rule add pref 100 lookup 100", "10.99.0.0/24",
			`the route 10.0.0.0/8 by 192.0.2.2 of table 100: choose another prefix, or "ip rule add to 10.99.0.0/24 lookup main pref 99"`},
		"table before, default": {"route add default via 192.0.2.2 table 100; rule add pref 100 lookup 100; addr add 10.99.0.1/24 dev br1", "10.99.0.0/24",
			`the route 0.0.0.0/0 by 192.0.2.2 of table 100: choose another prefix, or "ip rule add to 10.99.0.0/24 lookup main pref 99"`},
		"table before, advice taken": {"route add 10.0.0.0/8 via 192.0.2.2 table 100; rule add pref 100 lookup 100; rule add to 10.99.0.0/24 lookup main pref 99", "10.99.0.0/24", ""},
		"table before, but throw":    {"route add 10.0.0.0/8 via 192.0.2.2 table 100; route add throw 10.99.0.0/16 table 100; rule add pref 100 lookup 100", "10.99.0.0/24", ""},
		"table after":                {"route add 10.99.0.0/24 via 192.0.2.2 table 100; rule add pref 40000 lookup 100", "10.99.0.0/24", ""},
		"main first":                 {"route add default via 192.0.2.2 table 100; rule add pref 101 not fwmark 7 lookup 100; rule add pref 102 lookup 100; rule add pref 100 lookup main suppress_prefixlength 0", "10.99.0.0/24", ""},
	} {
		t.Run(name, func(t *testing.T) {
			ns := labtest.NewNS(t, "overlap")
			six := strings.Contains(c.prefix, ":")
			own := "192.0.2.1/24"
			if six {
				own = "2001:db8::1/64"
			}
			for command := range strings.SplitSeq("link add br0 type bridge; link add br1 type bridge; link set lo up; link set br0 up; link set br1 up; addr add "+own+" dev br0; "+c.with, "; ") {
				if six {
					command = "-6 " + command
				}
				labtest.Exec(t, ns, "ip", strings.Fields(command)...)
			}
			opened, err := OpenNamespace(ns.Path())
			require.NoError(t, err)
			defer func() { require.NoError(t, opened.Close()) }()
			r, err := OpenRoutes(opened)
			require.NoError(t, err)
			defer r.Close()
			p := netip.MustParsePrefix(c.prefix)
			got, err := r.Overlap(nat.Network{Name: "n", Prefix: p, Gateway: p.Addr().Next()})
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}
