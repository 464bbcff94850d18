// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"github.com/nftnat/nftnat/engine/internal/portset"

	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/nft"
)

// Segments are the prefixes on whose link a backend lies. A client on the same
// segment would get the backend's answer directly, from an address that it did not
// send to; the inside sets have such flows masqueraded (hairpin). A segment is there
// as long as a port is published to a backend on it.

// segmentChange is what a change does to the segments.
type segmentChange struct {
	added, removed []netip.Prefix
	// counts are those of all segments after the change.
	counts map[netip.Prefix]int
}

// segmentChange works out which segments come and go with a change. Segments never
// overlap, for the kernel refuses some that do and, asked to delete one, may delete
// another that holds its first address (nft_pipapo_deactivate): one that lies within
// another is left out, and a wider one takes the place of those within it.
//
// A declared network is a segment too, whatever the routing table says of it.
func (e *Engine) segmentChange(c change) segmentChange {
	var counts map[netip.Prefix]int
	if c.rearranged {
		after := e.mappingsAfter(c)
		counts = segmentsOf(c.networks, after.All, c.routes)
	} else {
		counts = e.segmentsAfter(c)
	}
	maps.DeleteFunc(counts, func(_ netip.Prefix, n int) bool { return n <= 0 })
	s := segmentChange{counts: counts}
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

// segmentsAfter are the segments after a change of ports alone.
func (e *Engine) segmentsAfter(c change) map[netip.Prefix]int {
	counts := maps.Clone(e.segments)
	countOn(counts, c.countsBefore, -1)
	for backend := range c.countsAfter {
		addSegment(counts, e.networks, backend, c.routes)
	}
	countOn(counts, c.countsAfter, 1)
	return counts
}

// segmentsOf are the segments for a set of networks and ports, and how many ports are
// published to backends on each, one more for the network that a segment is of.
func segmentsOf(networks map[string]*network, ports iter.Seq[portset.Port], routes map[netip.Addr]hostnet.Route) map[netip.Prefix]int {
	counts := make(map[netip.Prefix]int, len(networks))
	for _, n := range networks {
		counts[n.Prefix] = 1
	}
	led := portset.Count(ports)
	for backend := range led {
		addSegment(counts, networks, backend, routes)
	}
	countOn(counts, led, 1)
	return counts
}

// addSegment adds the on-link prefix of a backend, if it is to be one of the segments,
// in the place of those within it.
func addSegment(counts map[netip.Prefix]int, networks map[string]*network, backend netip.Addr, routes map[netip.Addr]hostnet.Route) {
	segment := routes[backend].OnLink
	if !segment.IsValid() || covered(counts, segment) {
		return
	}
	if !segment.IsSingleIP() { // else nothing lies within it
		for _, n := range networks {
			// The guard lets segments pass, so that a network is one of its own.
			if within(n.Prefix, segment) {
				return
			}
		}
		maps.DeleteFunc(counts, func(q netip.Prefix, _ int) bool { return within(q, segment) })
	}
	counts[segment] = 0
}

// countOn counts ports in or out of the segments that their backends lie on.
func countOn(segments map[netip.Prefix]int, ports portset.Counts, by int) {
	for backend, n := range ports {
		if s, ok := around(segments, backend); ok {
			segments[s] += by * n
		}
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
func around[V any](segments map[netip.Prefix]V, a netip.Addr) (netip.Prefix, bool) {
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
