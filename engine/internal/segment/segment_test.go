// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package segment

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// host is what a host says, of backends 10.0.0.0 to 10.0.0.9 and fd00:: to fd00::9.
type host struct {
	links  map[netip.Addr][]string
	onLink map[Link][]netip.Prefix
}

func backend(r *rand.Rand) netip.Addr {
	if r.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(10))})
	}
	return netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(r.IntN(10))})
}

// change changes what the host says.
func (h *host) change(r *rand.Rand) {
	a := backend(r)
	var links []string
	for range r.IntN(3) {
		if name := fmt.Sprint("eth", r.IntN(4)); !slices.Contains(links, name) {
			links = append(links, name)
		}
	}
	h.links[a] = links
	l := Link{fmt.Sprint("eth", r.IntN(4)), r.IntN(2) == 0}
	h.onLink[l] = nil
	for range r.IntN(3) {
		p := netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: byte(r.IntN(100))}), 16)
		if l.Is4 {
			p = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(r.IntN(100))}), 16)
		}
		if !slices.Contains(h.onLink[l], p) {
			h.onLink[l] = append(h.onLink[l], p)
		}
	}
}

// facts are what the host says of these backends, and of links unless they are known.
func (h *host) facts(backends map[netip.Addr]int, known func(Link) bool) Facts {
	f := Facts{OnLink: map[Link][]netip.Prefix{}}
	for a := range backends {
		names := slices.Clone(h.links[a])
		f.Set(a, &names)
		for _, name := range h.links[a] {
			if l := (Link{name, a.Is4()}); !known(l) {
				f.OnLink[l] = slices.Clone(h.onLink[l])
			}
		}
	}
	return f
}

// Whatever the history, the segments are those that the facts have now.
func TestState(t *testing.T) {
	none := func(Link) bool { return false }
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 44))
		h := &host{map[netip.Addr][]string{}, map[Link][]netip.Prefix{}}
		for range 20 {
			h.change(r)
		}
		ports := map[netip.Addr]int{}
		s := New(nil, 0)
		require.True(t, s.Current())
		table := map[Segment]bool{}
		made := func(p *Plan) {
			require.True(t, slices.IsSortedFunc(p.Removed, Segment.Compare) && slices.IsSortedFunc(p.Added, Segment.Compare))
			after := s.After(p)
			for _, one := range p.Removed {
				require.True(t, table[one])
				delete(table, one)
			}
			for _, one := range p.Added {
				require.False(t, table[one])
				table[one] = true
			}
			require.ElementsMatch(t, slices.Collect(maps.Keys(table)), after)
			s.Apply(p)
			require.ElementsMatch(t, after, s.Table())
			require.Equal(t, len(after), s.Len())
		}
		for range 60 {
			switch r.IntN(8) {
			case 0: // the host changes, and is followed
				h.change(r)
				made(s.Replace(h.facts(ports, none)))
			case 1: // the next engine
				s = New(s.Table(), len(ports))
				require.Equal(t, len(ports)+len(table) == 0, s.Current())
				if r.IntN(2) == 0 && !s.Current() {
					made(s.Plan(Change{Left: func(a netip.Addr) int { return ports[a] }}))
					require.False(t, s.Current())
				}
				made(s.Replace(h.facts(ports, none)))
			case 2: // a port expires
				for a := range ports {
					ports[a]--
					if ports[a] == 0 {
						delete(ports, a)
						s.Expire(a)
					}
					break
				}
				made(s.Plan(Change{Left: func(a netip.Addr) int { return ports[a] }}))
			default:
				added := map[netip.Addr]int{}
				var touched []netip.Addr
				for a, n := range ports {
					if r.IntN(3) == 0 {
						touched = append(touched, a)
						if ports[a] -= 1 + r.IntN(n); ports[a] == 0 {
							delete(ports, a)
						}
					}
				}
				for range r.IntN(3) {
					a := backend(r)
					added[a]++
					ports[a]++
				}
				made(s.Plan(Change{Touched: touched, Left: func(a netip.Addr) int { return ports[a] }, Facts: h.facts(added, s.Knows)}))
			}
			want := h.facts(ports, none)
			require.Equal(t, want.Segments(), s.Table())
			for _, l := range s.Links() {
				require.True(t, s.Knows(l))
			}
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

func TestCompare(t *testing.T) {
	p := netip.MustParsePrefix
	ss := []Segment{{"b", p("10.0.0.0/8")}, {"a", p("10.0.0.0/9")}, {"a", p("fd00::/8")}, {"a", p("10.0.0.0/8")}}
	slices.SortFunc(ss, Segment.Compare)
	require.Equal(t, []Segment{{"a", p("10.0.0.0/8")}, {"b", p("10.0.0.0/8")}, {"a", p("10.0.0.0/9")}, {"a", p("fd00::/8")}}, ss)
}
