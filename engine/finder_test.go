// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// openFinder opens an engine without proxies, and a finder, in a namespace that has addresses.
func openFinder(tb testing.TB, table string, addrs ...string) (*Engine, *Finder, *lab.NS) {
	tb.Helper()
	ns := labtest.NewNS(tb, "host")
	h, err := ns.Handle()
	require.NoError(tb, err)
	defer h.Close()
	lo, err := h.LinkByName("lo")
	require.NoError(tb, err)
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		require.NoError(tb, err)
		require.NoError(tb, h.AddrAdd(lo, addr))
	}
	e, err := Open(tb.Context(), Options{NetNS: ns.Path(), NoProxies: true, Table: table})
	require.NoError(tb, err)
	f, err := OpenFinder(FinderOptions{NetNS: ns.Path(), Table: table})
	require.NoError(tb, err)
	tb.Cleanup(func() {
		require.NoError(tb, f.Close())
		require.NoError(tb, e.Close())
	})
	return e, f, ns
}

func addAll(t *testing.T, e *Engine, texts ...string) {
	t.Helper()
	for _, text := range texts {
		_, err := e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, text))
		require.NoError(t, err, text)
	}
}

// Each mapping of many random ones, with all options, is found by its frontend as Mappings lists
// it, and nothing else is.
func TestFindRandom(t *testing.T) {
	e, f, _ := openFinder(t, "", "192.0.2.1/32", "192.0.2.2/32", "2001:db8::1/128", "2001:db8::2/128")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		m := nattest.Random(r)
		if !m.Expires.IsZero() {
			m.Expires = time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
		}
		_, _ = e.Publish(t.Context(), nat.PublishOptions{}, m) // those that conflict are left out
	}
	all, err := e.Mappings(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, all)
	near := map[netip.AddrPort]bool{}
	for _, m := range all {
		near[m.Frontend] = true
		near[netip.AddrPortFrom(m.Frontend.Addr(), m.Frontend.Port()-1)] = true
		for _, a := range []netip.Addr{
			{}, netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::2"),
			netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::ffff:192.0.2.2"), netip.MustParseAddr("fe80::1%eth0"),
		} {
			near[netip.AddrPortFrom(a, m.Frontend.Port())] = true
		}
	}
	for at := range near {
		for _, proto := range []nat.Proto{nat.TCP, nat.UDP} {
			want := slices.DeleteFunc(slices.Clone(all), func(m nat.Mapping) bool {
				return m.Proto != proto || m.Frontend.Port() != at.Port() || !servesAddr(m.Frontend.Addr(), at.Addr().Unmap())
			})
			got, err := f.Find(t.Context(), proto, at)
			require.NoError(t, err)
			requireFound(t, fmt.Sprint(proto, " ", at), want, got)
		}
	}
}

// servesAddr reports whether a frontend is for an address.
func servesAddr(frontend, addr netip.Addr) bool {
	switch {
	case !frontend.IsValid(), frontend == addr:
		return true
	case !addr.IsValid():
		return frontend.IsUnspecified()
	}
	return frontend.IsUnspecified() && frontend.Is4() == addr.Is4()
}

func requireFound(t *testing.T, what string, want, got []nat.Mapping) {
	t.Helper()
	for _, ms := range [][]nat.Mapping{want, got} {
		slices.SortFunc(ms, nat.Compare)
	}
	require.Len(t, got, len(want), what)
	for i := range got {
		if !want[i].Expires.IsZero() {
			require.WithinDuration(t, want[i].Expires, got[i].Expires, time.Second, what)
			got[i].Expires = want[i].Expires
		}
	}
	require.Equal(t, want, got, what)
}

func TestFindWithoutTable(t *testing.T) {
	_, f, ns := openFinder(t, "other")
	found, err := f.Find(t.Context(), nat.TCP, netip.MustParseAddrPort("192.0.2.1:80"))
	require.NoError(t, err)
	require.Empty(t, found)
	near, err := f.Near(t.Context(), nat.TCP, netip.MustParseAddrPort("192.0.2.1:80"))
	require.NoError(t, err)
	require.Empty(t, near)
	require.Empty(t, labtest.Exec(t, ns, "nft", "list", "tables"), "none was made")
	found, err = f.Find(t.Context(), nat.TCP, netip.AddrPort{})
	require.NoError(t, err)
	require.Empty(t, found)
	near, err = f.Near(t.Context(), nat.TCP, netip.AddrPort{})
	require.NoError(t, err)
	require.Empty(t, near)
}

func TestFindOtherTable(t *testing.T) {
	e, f, ns := openFinder(t, "other")
	addAll(t, e, "80->172.30.0.2:80")
	at := netip.AddrPortFrom(netip.Addr{}, 80)
	found, err := f.Find(t.Context(), nat.TCP, at)
	require.NoError(t, err)
	require.Equal(t, []nat.Mapping{nattest.Mapping(t, "80->172.30.0.2:80")}, found)

	mine, err := OpenFinder(FinderOptions{NetNS: ns.Path()})
	require.NoError(t, err)
	defer func() { require.NoError(t, mine.Close()) }()
	found, err = mine.Find(t.Context(), nat.TCP, at)
	require.NoError(t, err)
	require.Empty(t, found)
	for name, err := range map[string]error{"8": nat.ErrForeign, "nftnat schema 999": nat.ErrNewer} {
		labtest.Exec(t, ns, "nft", "add", "table", "inet", "nftnat", "{", "comment", `"`+name+`"`, ";", "}")
		_, findErr := mine.Find(t.Context(), nat.TCP, at)
		require.ErrorIs(t, findErr, err)
		_, nearErr := mine.Near(t.Context(), nat.TCP, at)
		require.ErrorIs(t, nearErr, err)
		labtest.Exec(t, ns, "nft", "delete", "table", "inet", "nftnat")
	}
}

func TestFinderRefuses(t *testing.T) {
	_, err := OpenFinder(FinderOptions{Table: "no name"})
	require.ErrorIs(t, err, nat.ErrInvalid)
	_, err = OpenFinder(FinderOptions{NetNS: "/nothing"})
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, f, _ := openFinder(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = f.Find(ctx, nat.TCP, netip.MustParseAddrPort("192.0.2.1:80"))
	require.ErrorIs(t, err, context.Canceled)
	_, err = f.Near(ctx, nat.TCP, netip.MustParseAddrPort("192.0.2.1:80"))
	require.ErrorIs(t, err, context.Canceled)
}

// near is what is near to a frontend, as text.
func nearTo(t *testing.T, f *Finder, proto nat.Proto, frontend string) []string {
	t.Helper()
	at, _, err := nat.ParseFrontend(frontend)
	require.NoError(t, err)
	near, err := f.Near(t.Context(), proto, at)
	require.NoError(t, err)
	var lines []string
	for _, n := range near {
		lines = append(lines, n.Mapping.String()+": "+n.Why)
	}
	return lines
}

func TestNear(t *testing.T) {
	e, f, _ := openFinder(t, "", "192.0.2.1/32", "192.0.2.2/32", "2001:db8::1/128")
	addAll(t, e, "53->172.30.0.2:53/udp", "[::]:81->[fd00::2]:81", "192.0.2.1:90->172.30.0.2:90", "[2001:db8::1]:90->[fd00::2]:80",
		"0.0.0.0:100->[fd00::3]:7000", "8000-8009->172.30.0.4:9000-9009", "192.0.2.2:60->172.30.0.3:7001")
	for _, c := range []struct {
		proto    nat.Proto
		frontend string
		want     []string
	}{
		{nat.TCP, "53", []string{"53->172.30.0.2:53/udp: over udp"}},
		{nat.TCP, "192.0.2.1:53", []string{"53->172.30.0.2:53/udp: over udp"}},
		{nat.UDP, "100", []string{"0.0.0.0:100->[fd00::3]:7000: over tcp"}},
		{nat.TCP, "192.0.2.1:81", []string{"[::]:81->[fd00::2]:81: for IPv6 alone"}},
		{nat.TCP, "[2001:db8::1]:100", []string{"0.0.0.0:100->[fd00::3]:7000: for IPv4 alone"}},
		{nat.TCP, "90", []string{
			"192.0.2.1:90->172.30.0.2:90: on one address alone", "[2001:db8::1]:90->[fd00::2]:80: on one address alone",
		}},
		{nat.TCP, "192.0.2.2:90", []string{
			"192.0.2.1:90->172.30.0.2:90: on another address", "[2001:db8::1]:90->[fd00::2]:80: on another address",
		}},
		{nat.TCP, "[fd00::3]:7000", []string{"0.0.0.0:100->[fd00::3]:7000: leads there"}},
		{nat.TCP, "7001", []string{"192.0.2.2:60->172.30.0.3:7001: leads to port 7001"}},
		{nat.TCP, "8010", []string{
			"8009->172.30.0.4:9009: a port beside it", "8008->172.30.0.4:9008: a port beside it", "8007->172.30.0.4:9007: a port beside it",
		}},
		{nat.TCP, "65535", nil},
		{nat.UDP, "1", nil},
	} {
		require.Equal(t, c.want, nearTo(t, f, c.proto, c.frontend), "%s %s", c.proto, c.frontend)
	}
}

// A mapping that the kernel has removed is remembered until an engine forgets it.
func TestNearEnded(t *testing.T) {
	e, f, _ := openFinder(t, "")
	m := nattest.Mapping(t, "80->172.30.0.2:8080")
	m.Expires = time.Now().Add(200 * time.Millisecond)
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, m)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		found, err := f.Find(t.Context(), nat.TCP, m.Frontend)
		require.NoError(t, err)
		return len(found) == 0
	}, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, []string{"80->172.30.0.2:8080: it has ended"}, nearTo(t, f, nat.TCP, "80"))
}

// With more mappings than are looked at, those at the host's own addresses are found.
func TestNearAmongMany(t *testing.T) {
	e, f, _ := openFinder(t, "", "192.0.2.1/32", "192.0.2.2/32")
	var many []nat.Mapping
	for port := range 3000 {
		m := nattest.Mapping(t, "192.0.2.1:1000->172.30.0.2:80")
		m.Frontend = netip.AddrPortFrom(m.Frontend.Addr(), uint16(port+1000))
		many = append(many, m)
	}
	m := nattest.Mapping(t, "192.0.2.2:500->172.30.0.2:81")
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, append(many, m)...)
	require.NoError(t, err)
	require.Equal(t, []string{"192.0.2.2:500->172.30.0.2:81: on one address alone"}, nearTo(t, f, nat.TCP, "500"))
}

// What finding costs is the same with one mapping and with many.
func BenchmarkFind(b *testing.B) {
	for _, beside := range []int{0, crowd} {
		for _, what := range []string{"Find", "Near"} {
			b.Run(fmt.Sprintf("%s/beside=%d", what, beside), func(b *testing.B) {
				e, f, _ := openFinder(b, "")
				ms := manyMappings(beside + 1)
				_, err := e.Apply(b.Context(), ms...)
				require.NoError(b, err)
				at := ms[0].Frontend
				b.ReportAllocs()
				for b.Loop() {
					if what == "Near" {
						_, err = f.Near(b.Context(), nat.UDP, netip.AddrPortFrom(at.Addr(), 1))
					} else {
						_, err = f.Find(b.Context(), ms[0].Proto, at)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
