// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/nft"
)

// Segments are the prefixes on whose link a backend lies. A client on the same
// segment would get the backend's answer directly, from an address that it did not
// send to; the inside sets have such flows masqueraded (hairpin). A segment is there
// as long as a port is published to a backend on it.

// segmentChange is what a change does to the segments.
type segmentChange struct{ added, removed []netip.Prefix }

// segmentChange works out which segments come and go with a change. Segments never
// overlap, for the kernel refuses some that do and, asked to delete one, may delete
// another that holds its first address (nft_pipapo_deactivate): one that lies within
// another is left out, and a wider one takes the place of those within it.
func (e *Engine) segmentChange(c change) segmentChange {
	counts := maps.Clone(e.segments)
	for p := range c.gone {
		countPort(counts, p, -1)
	}
	for p := range c.come {
		segment := c.routes[p.backend.Addr()].onLink
		if !segment.IsValid() || p.loopback() || covered(counts, segment) {
			continue
		}
		if !segment.IsSingleIP() { // else nothing lies within it
			maps.DeleteFunc(counts, func(q netip.Prefix, _ int) bool { return within(q, segment) })
		}
		counts[segment] = 0
	}
	for p := range c.come {
		countPort(counts, p, 1)
	}
	maps.DeleteFunc(counts, func(_ netip.Prefix, n int) bool { return n <= 0 })
	var s segmentChange
	for p := range counts {
		if _, known := e.segments[p]; !known {
			s.added = append(s.added, p)
		}
	}
	for p := range e.segments {
		if _, kept := counts[p]; !kept {
			s.removed = append(s.removed, p)
		}
	}
	slices.SortFunc(s.added, comparePrefixes)
	slices.SortFunc(s.removed, comparePrefixes)
	return s
}

// countPort counts a port in or out of the segment that its backend lies on, if there
// is one. Frontends on loopback addresses are not translated and make no hairpin.
func countPort(segments map[netip.Prefix]int, p port, by int) {
	if p.loopback() {
		return
	}
	if s, ok := around(segments, p.backend.Addr()); ok {
		segments[s] += by
	}
}

// covered reports whether all of p lies in a segment.
func covered(segments map[netip.Prefix]int, p netip.Prefix) bool {
	q, ok := around(segments, p.Addr())
	return ok && within(p, q)
}

// fewSegments is up to how many it is faster to look at each than to look for one of
// each length that a prefix can have.
const fewSegments = 16

// around finds the segment that an address lies on. There is one at most.
func around(segments map[netip.Prefix]int, a netip.Addr) (netip.Prefix, bool) {
	if len(segments) <= fewSegments {
		for s := range segments {
			if s.Contains(a) {
				return s, true
			}
		}
		return netip.Prefix{}, false
	}
	for bits := a.BitLen(); bits >= 0; bits-- {
		s := netip.PrefixFrom(a, bits).Masked()
		if _, ok := segments[s]; ok {
			return s, true
		}
	}
	return netip.Prefix{}, false
}

// within reports whether all of p lies in q.
func within(p, q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }

func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

func segmentElement(p netip.Prefix) nft.Element {
	return nft.Element{Set: insideSet(p.Addr().Is4()), Key: nft.SegmentKey(p), Comment: "on-link"}
}
