// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package segment

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/portset"
)

// some returns a prefix of few, of which many lie within others.
func some(r *rand.Rand) netip.Prefix {
	a := netip.AddrFrom4([4]byte{10, byte(r.IntN(2)), byte(r.IntN(2)), byte(r.IntN(4))})
	return netip.PrefixFrom(a, []int{0, 8, 15, 16, 24, 31, 32}[r.IntN(7)]).Masked()
}

// What Changed returns is what Of does of all ports, if no wider segment has gone: a
// narrower one comes back only with a port that is published.
func TestChanged(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 2))
		routes := map[netip.Addr]netip.Prefix{}
		onLink := func(a netip.Addr) netip.Prefix { return routes[a] }
		var networks []netip.Prefix
		for range r.IntN(2) {
			networks = append(networks, some(r))
		}
		ports := portset.Counts{}
		c := Of(networks, ports, onLink)
		for range 8 {
			before, after := portset.Counts{}, portset.Counts{}
			for a, n := range ports {
				if k := r.IntN(n + 1); k != 0 {
					before[a] = k
				}
			}
			for range r.IntN(4) {
				a := netip.AddrFrom4([4]byte{10, byte(r.IntN(2)), byte(r.IntN(2)), byte(r.IntN(4))})
				if p := netip.PrefixFrom(a, some(r).Bits()).Masked(); !routes[a].IsValid() && r.IntN(4) != 0 {
					routes[a] = p
				}
				after[a]++
			}
			c = c.Changed(ports, before, after, networks, onLink)
			ports.AddAll(before, -1)
			ports.AddAll(after, 1)
			requireSegments(t, c, networks, ports, onLink)
			requireSegments(t, Of(networks, ports, onLink), networks, ports, onLink)
		}
	}
}

// requireSegments checks what is true of segments, whatever the order they came in.
func requireSegments(t *testing.T, c Counts, networks []netip.Prefix, ports portset.Counts, onLink OnLink) {
	t.Helper()
	all := slices.Collect(maps.Keys(c))
	for p := range c {
		for q := range c {
			require.False(t, p != q && p.Overlaps(q), "%s and %s", p, q)
		}
		want := ports.In(p)
		if slices.Contains(networks, p) {
			want++
		}
		require.Equal(t, want, c[p], "%s of %v", p, all)
		require.Positive(t, c[p])
	}
	require.Subset(t, all, networks)
	for backend := range ports {
		p := onLink(backend)
		wide := slices.ContainsFunc(networks, func(n netip.Prefix) bool { return p.IsValid() && Within(n, p) })
		if _, ok := Around(c, backend); !ok && p.IsValid() && !wide {
			require.Fail(t, "no segment", "%s on %s of %v", backend, p, all)
		}
	}
}

// Around finds the same whether the prefixes are few or many.
func TestAround(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for range 300 {
		m := map[netip.Prefix]bool{}
		for range r.IntN(40) {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(r.IntN(64)), 0, 0}), 14+r.IntN(4)).Masked()
			if !slices.ContainsFunc(slices.Collect(maps.Keys(m)), p.Overlaps) {
				m[p] = true
			}
		}
		for range 20 {
			a := netip.AddrFrom4([4]byte{10, byte(r.IntN(64)), 1, 1})
			var want netip.Prefix
			for p := range m {
				if p.Contains(a) {
					want = p
				}
			}
			got, ok := Around(m, a)
			require.Equal(t, want, got)
			require.Equal(t, want.IsValid(), ok)
		}
	}
}

func TestNested(t *testing.T) {
	p := netip.MustParsePrefix
	networks := []netip.Prefix{p("172.30.0.0/24")}
	nested := Nested([]netip.Prefix{p("10.1.0.0/16"), p("172.30.0.0/24"), p("10.0.0.0/8"), p("172.30.0.8/32"), p("172.16.0.0/12"), p("fd00::/64")}, networks)
	require.Equal(t, map[netip.Prefix]bool{p("10.1.0.0/16"): true, p("172.30.0.8/32"): true, p("172.16.0.0/12"): true}, nested)
}

func TestDiff(t *testing.T) {
	p := netip.MustParsePrefix
	removed, added := Diff(Counts{p("10.0.0.0/8"): 1, p("10.0.0.0/7"): 2}, Counts{p("10.0.0.0/8"): 3, p("fd00::/64"): 1, p("11.0.0.0/8"): 1})
	require.Equal(t, []netip.Prefix{p("10.0.0.0/7")}, removed)
	require.Equal(t, []netip.Prefix{p("11.0.0.0/8"), p("fd00::/64")}, added)
}
