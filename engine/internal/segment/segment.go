// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package segment

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/portset"
)

// Counts has the segments with the number of ports whose backends are on each, plus one if
// the segment is a declared network.
type Counts map[netip.Prefix]int

// OnLink returns the on-link prefix of a backend. It is not valid if there is none.
type OnLink func(backend netip.Addr) netip.Prefix

// Of returns the segments for networks and ports.
func Of(networks []netip.Prefix, ports portset.Counts, onLink OnLink) Counts {
	c := make(Counts, len(networks))
	for _, n := range networks {
		c[n] = 1
	}
	for backend := range ports {
		c.add(networks, onLink(backend))
	}
	c.Count(ports, 1)
	return c
}

// Changed returns the segments after a change of ports, by what it counts before and
// after. All counts the ports before the change.
func (c Counts) Changed(all, before, after portset.Counts, networks []netip.Prefix, onLink OnLink) Counts {
	next := maps.Clone(c)
	next.Count(before, -1)
	var added []netip.Prefix
	for backend := range after {
		if p := onLink(backend); next.add(networks, p) {
			added = append(added, p)
		}
	}
	for _, p := range added {
		if _, ok := next[p]; ok { // else a wider one was added later
			next[p] = all.In(p) - before.In(p)
		}
	}
	next.Count(after, 1)
	maps.DeleteFunc(next, func(_ netip.Prefix, n int) bool { return n <= 0 })
	return next
}

// add adds a prefix, in place of the segments within it, and reports whether it did.
func (c Counts) add(networks []netip.Prefix, p netip.Prefix) bool {
	if !p.IsValid() || c.covers(p) {
		return false
	}
	if !p.IsSingleIP() { // else nothing lies within it
		for _, n := range networks {
			// The guard lets segments pass, so that a network is one of its own.
			if Within(n, p) {
				return false
			}
		}
		maps.DeleteFunc(c, func(q netip.Prefix, _ int) bool { return Within(q, p) })
	}
	c[p] = 0
	return true
}

// Count adds ports to the segments that their backends lie on, or subtracts them: by is 1
// or -1.
func (c Counts) Count(ports portset.Counts, by int) {
	for backend, n := range ports {
		if s, ok := Around(c, backend); ok {
			c[s] += by * n
		}
	}
}

// covers reports whether all of p lies in a segment.
func (c Counts) covers(p netip.Prefix) bool {
	q, ok := Around(c, p.Addr())
	return ok && Within(p, q)
}

// Diff returns the segments that only one of the two has, in order.
func Diff(before, after Counts) (removed, added []netip.Prefix) {
	return without(before, after), without(after, before)
}

func without(c, other Counts) (ps []netip.Prefix) {
	for p := range c {
		if _, both := other[p]; !both {
			ps = append(ps, p)
		}
	}
	slices.SortFunc(ps, Compare)
	return ps
}

// few is the number of segments up to which trying each is faster than a look-up for each
// prefix length.
const few = 16

// Around returns the prefix that an address lies in. The prefixes do not overlap.
func Around[V any](prefixes map[netip.Prefix]V, a netip.Addr) (netip.Prefix, bool) {
	if len(prefixes) <= few {
		for p := range prefixes {
			if p.Contains(a) {
				return p, true
			}
		}
		return netip.Prefix{}, false
	}
	for bits := a.BitLen(); bits >= 0; bits-- {
		p := netip.PrefixFrom(a, bits).Masked()
		if _, ok := prefixes[p]; ok {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// Nested returns the prefixes that overlap another one and must be left out: they lie
// within another or around a network.
func Nested(prefixes, networks []netip.Prefix) map[netip.Prefix]bool {
	outer, nested := Counts{}, map[netip.Prefix]bool{}
	for _, n := range networks {
		outer[n] = 0
	}
	others := slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool { _, own := outer[p]; return own })
	// The widest first: the others lie within.
	slices.SortFunc(others, func(p, q netip.Prefix) int { return p.Bits() - q.Bits() })
	for _, p := range others {
		around := slices.ContainsFunc(networks, func(n netip.Prefix) bool { return Within(n, p) })
		if around || outer.covers(p) {
			nested[p] = true
		} else {
			outer[p] = 0
		}
	}
	return nested
}

// Within reports whether all of p lies in q.
func Within(p, q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }

// Compare orders prefixes by address, then by length.
func Compare(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}
