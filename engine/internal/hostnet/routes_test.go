// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// Routes and the ID are of the namespace that was opened.
func TestRoutes(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1})
	ns, err := OpenNamespace(top.Host.Path())
	require.NoError(t, err)
	r, err := OpenRoutes(ns)
	require.NoError(t, err)
	labtest.Tool(t, "ip")
	labtest.Exec(t, top.Host, "ip", "route", "add", "prohibit", "198.51.100.0/24")
	labtest.Exec(t, top.Host, "ip", "route", "add", "192.168.77.0/24", "via", top.Backend1.V4.String())
	labtest.Exec(t, top.Host, "ip", "link", "add", "dummy1", "up", "type", "bridge")
	labtest.Exec(t, top.Host, "ip", "route", "add", "192.168.78.0/24",
		"nexthop", "dev", "dummy1", "nexthop", "dev", lab.HostBridge, "nexthop", "via", top.Backend1.V4.String())
	link, err := r.handle.LinkByName(lab.HostBridge)
	require.NoError(t, err)
	for addr, want := range map[string]Route{
		top.Backend1.V4.String(): {Kind: Unicast, Link: lab.HostBridge, Bridge: link.Attrs().Index},
		"192.168.78.7":           {Kind: Unicast, Link: "dummy1", More: []string{lab.HostBridge}},
		"127.0.0.1":              {Kind: Local},
		"198.51.100.7":           {Kind: Other},
		"192.168.77.7":           {Kind: Unicast, Link: lab.HostBridge},
	} {
		got, err := r.Lookup(netip.MustParseAddr(addr))
		require.NoError(t, err)
		require.Equal(t, want, got, addr)
	}
	// Next hops as objects, which the kernel lists with the route or not.
	labtest.Exec(t, top.Host, "ip", "nexthop", "add", "id", "7", "dev", "dummy1")
	labtest.Exec(t, top.Host, "ip", "route", "add", "192.168.79.0/24", "nhid", "7")
	for _, compat := range []string{"1", "0"} {
		require.NoError(t, top.Host.Sysctl("net.ipv4.nexthop_compat_mode", compat))
		got, err := r.Lookup(netip.MustParseAddr("192.168.79.7"))
		require.NoError(t, err)
		require.Equal(t, "dummy1", got.Link)
	}
	// As many at once as one by one, with those that have no route or are forbidden.
	labtest.Exec(t, top.Host, "ip", "route", "add", "blackhole", "10.66.0.0/16")
	labtest.Exec(t, top.Host, "ip", "-6", "route", "add", "prohibit", "2001:db8:66::/48")
	var all []netip.Addr
	one := map[netip.Addr]Route{}
	for i := range 3 * lookupBatch {
		for _, text := range []string{"172.30.0.%d", "10.66.0.%d", "192.168.77.%d", "192.168.78.%d", "100.64.0.%d", "198.51.100.%d", "fd00:30::%d", "2001:db8:66::%d", "2001:db8:77::%d"} {
			a := netip.MustParseAddr(fmt.Sprintf(text, i))
			all = append(all, a)
			if one[a], err = r.Lookup(a); err != nil {
				require.NoError(t, err, a)
			}
		}
	}
	found, err := r.LookupAll(all)
	require.NoError(t, err)
	require.Equal(t, one, listed(found))
	require.Equal(t, Unreachable, found.Of(netip.MustParseAddr("100.64.0.1")).Kind)
	require.Equal(t, Other, found.Of(netip.MustParseAddr("10.66.0.1")).Kind)
	require.Equal(t, Other, found.Of(netip.MustParseAddr("2001:db8:66::1")).Kind)
	require.Equal(t, lab.HostBridge, found.Of(netip.MustParseAddr("fd00:30::2")).Link)
	last, err := r.Lookup(netip.MustParseAddr("172.30.0.255"))
	require.NoError(t, err)
	require.Equal(t, Route{Kind: Broadcast}, last)
	own, err := (&Namespace{}).ID()
	require.NoError(t, err)
	there, err := ns.ID()
	require.NoError(t, err)
	require.NotEqual(t, own, there)
	r.Close()
	require.NoError(t, ns.Close())
}

// listed returns routes by their addresses.
func listed(m RouteMap) map[netip.Addr]Route {
	all := map[netip.Addr]Route{}
	for a, r := range m.All {
		all[a] = *r
	}
	return all
}

// Among random routes and rules, many are looked up at once as one by one, and so they are where
// there are more routes than addresses.
func TestRegions(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.Tool(t, "ip")
	ns, err := OpenNamespace(top.Host.Path())
	require.NoError(t, err)
	r, err := OpenRoutes(ns)
	require.NoError(t, err)
	random := rand.New(rand.NewPCG(1, 2))
	address := func(six bool) netip.Addr {
		if six {
			return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(random.Uint32() % 64), 14: byte(random.Uint32() % 4)})
		}
		return netip.AddrFrom4([4]byte{10, 0, byte(random.Uint32() % 4), byte(random.Uint32())})
	}
	kinds := []string{
		"route replace %s dev " + lab.HostBridge, "route replace %s dev " + lab.HostBridge + " table 7",
		"rule add to %s table 7", "rule add to %s prohibit", "route replace blackhole %s", "route replace throw %s table 7",
	}
	for _, family := range []string{"-4", "-6"} {
		var script strings.Builder
		for range 50 {
			bits, most := 20+random.IntN(13), len(kinds)
			if family == "-6" {
				bits, most = 112+random.IntN(17), len(kinds)-2
			}
			fmt.Fprintf(&script, kinds[random.IntN(most)]+"\n", netip.PrefixFrom(address(family == "-6"), bits).Masked())
		}
		labtest.ExecInput(t, top.Host, script.String(), "ip", family, "-batch", "-")
	}
	addrs := []netip.Addr{
		netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.IPv6LinkLocalAllNodes(), netip.IPv6Loopback(),
		netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("fe80::1"),
	}
	for len(addrs) < 3*manyAddrs {
		addrs = append(addrs, address(len(addrs)%2 == 0))
	}
	want, err := r.lookUpEach(addrs)
	require.NoError(t, err)
	got, err := r.LookupAll(addrs)
	require.NoError(t, err)
	require.NotNil(t, r.lists)
	require.Equal(t, listed(want), listed(got))

	var script strings.Builder
	for i := range 4 * manyAddrs {
		fmt.Fprintf(&script, "route add 10.9.%d.%d dev %s\n", i/256, i%256, lab.HostBridge)
	}
	labtest.ExecInput(t, top.Host, script.String(), "ip", "-batch", "-")
	for range 2 {
		got, err = r.LookupAll(addrs[:manyAddrs])
		require.NoError(t, err)
		require.Nil(t, r.lists)
		for a, route := range got.All {
			require.Equal(t, want.Of(a), *route, a)
		}
	}
	r.Close()
	require.NoError(t, ns.Close())
}

// What is on link by an interface are the outermost destinations of its routes without a
// gateway, in all tables.
func TestOnLink(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1})
	ns, err := OpenNamespace(top.Host.Path())
	require.NoError(t, err)
	r, err := OpenRoutes(ns)
	require.NoError(t, err)
	labtest.Tool(t, "ip")
	gateway4, gateway6 := top.Backend1.V4.String(), top.Backend1.V6.String()
	script := strings.NewReplacer("BR", lab.HostBridge, "GW4", gateway4, "GW6", gateway6).Replace(`
		link add tun0 up type bridge
		link add tun1 up type bridge
		addr add 10.9.0.1/24 dev BR
		addr add 10.9.0.2/25 dev BR
		addr add 2001:db8:9::1/64 dev BR nodad
		route add 10.9.9.0/24 via GW4
		route add default via GW4
		route add 10.10.0.0/16 dev tun0
		route add 10.10.1.0/24 dev tun0 table 99
		route add 10.11.0.0/16 dev tun0 table 99
		route add default dev tun0 table 99
		route add 10.12.0.0/16 nexthop dev tun0 nexthop dev tun1 nexthop via GW4
		route add unreachable 10.13.0.0/16 dev tun0
		route add 2001:db8:10::/48 dev tun0
		route add 2001:db8:11::/48 dev tun0
		route add 2001:db8:11::/48 dev BR metric 2000
		route add 2001:db8:12::/48 via GW6
		route add default dev tun1 table 99`)
	for line := range strings.Lines(strings.TrimSpace(script)) {
		words := strings.Fields(line)
		if strings.Contains(line, "unreachable") {
			words = slices.DeleteFunc(words, func(w string) bool { return w == "dev" || w == "tun0" })
		}
		if strings.Contains(line, "2001:") {
			words = append([]string{"-6"}, words...)
		}
		if line := strings.Join(words, " "); line == "route add default dev tun1 table 99" {
			words = append([]string{"-6"}, words...)
		}
		labtest.Exec(t, top.Host, "ip", words...)
	}
	want4 := map[string][]string{
		lab.HostBridge: {"10.9.0.0/24", top.Inside4.Masked().String()},
		"tun0":         {"10.10.0.0/16", "10.11.0.0/16", "10.12.0.0/16"},
		"tun1":         {"10.12.0.0/16"},
	}
	want6 := map[string][]string{
		lab.HostBridge: {"2001:db8:9::/64", "2001:db8:11::/48", top.Inside6.Masked().String()},
		"tun0":         {"2001:db8:10::/48", "2001:db8:11::/48"},
	}
	names := []string{lab.HostBridge, "tun0", "tun1", "nosuch"}
	for i := range maxSingleLinks { // more are listed at once
		labtest.Exec(t, top.Host, "ip", "link", "add", fmt.Sprint("more", i), "up", "type", "bridge")
	}
	for _, all := range [][]string{names, append(slices.Clone(names), "more0", "more1", "more2", "more3", "more4", "more5", "more6")} {
		for is4, want := range map[bool]map[string][]string{true: want4, false: want6} {
			found, err := r.OnLink(all, is4)
			require.NoError(t, err)
			got := map[string][]string{}
			for name, ps := range found {
				for _, p := range ps {
					got[name] = append(got[name], p.String())
				}
			}
			require.Equal(t, want, got)
		}
	}
	r.Close()
	require.NoError(t, ns.Close())
}

func TestParseNextHops(t *testing.T) {
	for _, b := range [][]byte{nil, {1}, make([]byte, 8), {200, 0, 0, 0, 1, 0, 0, 0}, {0, 200, 0, 0, 0, 0, 0, 1}} {
		require.Empty(t, parseNextHops(b), b)
	}
	require.Zero(t, parseRoute([]byte{1, 2}))
	short := make([]byte, unix.SizeofRtMsg)
	require.Empty(t, parseRoute(short).hops)
}

func TestOpenNamespace(t *testing.T) {
	_, err := OpenNamespace("/nosuch")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = OpenNamespace("/dev/null")
	require.ErrorIs(t, err, nat.ErrInvalid)
	require.NoError(t, (&Namespace{}).Close())
}

func TestRouteCache(t *testing.T) {
	kinds := map[string]RouteKind{"192.0.2.1": Local, "172.30.0.255": Broadcast, "198.18.0.1": Other, "172.30.0.2": Unicast}
	asked := 0
	c := NewRouteCache(func(a netip.Addr) (Route, error) {
		asked++
		if a.Is6() {
			return Route{}, errors.New("no luck")
		}
		return Route{Kind: kinds[a.String()]}, nil
	}, RouteMap{})
	for text, want := range map[string]string{
		"192.0.2.1:80->172.30.0.2:80":    "",
		"80->172.30.0.3:80":              "", // unreachable, until a route is added
		"192.0.2.2:80->172.30.0.2:80":    "", // absent, until the address comes
		"192.0.2.2:80->192.0.2.2:81":     "frontend and backend have one address, 192.0.2.2",
		"172.30.0.255:80->172.30.0.2:80": "the frontend 172.30.0.255 is a broadcast address",
		"80->192.0.2.1:80":               "the backend 192.0.2.1 is this host itself",
		"80->172.30.0.255:80":            "the backend 172.30.0.255 is a broadcast address",
		"80->198.18.0.1:80":              "the routing table forbids the backend 198.18.0.1",
		"80->[fd00::1]:80":               "no luck",
		"127.0.0.1:80->198.18.0.1:80":    "the routing table forbids the backend 198.18.0.1",
		"0.0.0.0:80->172.30.0.255:80":    "the backend 172.30.0.255 is a broadcast address",
		"[2001:db8::1]:80->[::2]:8080":   "no luck",
	} {
		m := nattest.Mapping(t, text)
		if want == "" {
			require.NoError(t, c.Check(&m), text)
		} else {
			require.ErrorContains(t, c.Check(&m), want, text)
		}
	}
	require.Equal(t, 6, c.Routes.Len())
	forbidden := nattest.Mapping(t, "80->198.18.0.1:80")
	c.InNetwork = func(a netip.Addr) bool { return a == forbidden.Backend.Addr() }
	require.NoError(t, c.Check(&forbidden))
	require.Equal(t, map[netip.Addr]bool{netip.MustParseAddr("192.0.2.2"): true}, c.Absent)
	before := asked
	_, err := c.Lookup(netip.MustParseAddr("172.30.0.2"))
	require.NoError(t, err)
	require.Equal(t, before, asked)
}

func TestRouteKindString(t *testing.T) {
	require.Equal(t, "unreachable", Unreachable.String())
	require.Equal(t, "other", Other.String())
	require.Equal(t, "invalid", (Other + 1).String())
}
