// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"slices"

	"github.com/nftnat/nftnat/engine/internal/segment"
	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/nft"
)

// SegmentElement returns the element of a segment.
func SegmentElement(s segment.Segment) nft.Element {
	return nft.Element{Set: setSegments + familyDigit(s.Prefix.Addr()), Key: nft.SegmentKey(s.Link, s.Prefix), Comment: commentOnLink}
}

// CanName reports whether there can be segments of an interface of that name: nft(8) has no
// way to write some names.
func CanName(link string) bool { return nft.InterfaceKey(link) != nft.Key{} }

// readSegments decodes the segments. Those of one link do not overlap.
func (c *Contents) readSegments(elements []nft.Element) {
	var all []nft.Element
	for _, el := range elements {
		if _, p, ok := el.Key.Segment(); ok && p.Bits() != 0 && el.Comment == commentOnLink {
			all = append(all, el)
		} else {
			c.keep(el, false)
		}
	}
	// The widest first: the others lie within.
	order.Sort(all, func(a, b nft.Element) int {
		_, p, _ := a.Key.Segment()
		_, q, _ := b.Key.Segment()
		return p.Bits() - q.Bits()
	})
	byLink := map[string][]segment.Segment{}
	for _, el := range all {
		var s segment.Segment
		s.Link, s.Prefix, _ = el.Key.Segment()
		nested := slices.ContainsFunc(byLink[s.Link], func(o segment.Segment) bool { return o.Prefix.Overlaps(s.Prefix) })
		if c.keep(el, !nested) {
			byLink[s.Link] = append(byLink[s.Link], s)
			c.Segments = append(c.Segments, s)
		}
	}
}

// SetSegments makes the segments of the contents these, for a table that is about to be
// written.
func (c *Contents) SetSegments(want []segment.Segment) {
	wanted := make(map[nft.Element]bool, len(want))
	for _, s := range want {
		wanted[SegmentElement(s)] = true
	}
	c.Elements = slices.DeleteFunc(c.Elements, func(el nft.Element) bool {
		if _, _, ok := el.Key.Segment(); !ok {
			return false
		}
		there := wanted[el]
		if !there {
			c.stale = append(c.stale, el)
		}
		delete(wanted, el)
		return !there
	})
	for _, s := range want {
		if el := SegmentElement(s); wanted[el] {
			c.Missing = append(c.Missing, el)
		}
	}
	c.Segments = want
}

// WasSegment reports whether an element is a segment of schema 2, in which the pairs had
// those of backends outside of declared networks too.
func WasSegment(el nft.Element) bool {
	_, ok := el.Key.Pair()
	return ok && el.Comment == commentOnLink
}
