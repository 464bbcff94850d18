// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// An interval set of one field is a tree of the addresses where ranges begin and end
// (net/netfilter/nft_set_rbtree.c): a prefix is two elements, its first address, with the
// comment and the time-out, and, flagged as an end, the address behind its last. A prefix
// that reaches to the highest address has no end.

// endAddr is the address behind a prefix; zero: none.
func endAddr(p netip.Prefix) netip.Addr { return lastAddr(p).Next() }

// appendMember appends the element to a list of elements: as one member, or as two. Newer
// kernels take two for one range only if they follow each other.
func (c *Set) appendMember(b []byte, e *Element, appendOne func(*Set, []byte, *Element) []byte) []byte {
	b, at := nlwire.OpenAttr(b, nlwire.Nested|unix.NFTA_LIST_ELEM)
	b = nlwire.CloseAttr(appendOne(c, b, e), at)
	if e.Key.kind != prefixKey {
		return b
	}
	p, _ := e.Key.Prefix()
	if !endAddr(p).IsValid() {
		return b
	}
	b, at = nlwire.OpenAttr(b, nlwire.Nested|unix.NFTA_LIST_ELEM)
	b = nlwire.AppendBE32(b, unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	end := keyOf(endKey, endAddr(p), 0)
	return nlwire.CloseAttr(c.openElement(b, &end), at)
}

// next reads the next element of a list that appendMember made: its one member, or the
// two of a range. key is nil at the end.
func (c Set) next(a *nlwire.Attrs) (key, end []byte) {
	if !a.Next() {
		return nil, nil
	}
	key = a.Payload
	if c.holds() != prefixKey {
		return key, nil
	}
	if second := *a; second.Next() && nlwire.Find(second.Payload, unix.NFTA_SET_ELEM_FLAGS) != nil {
		*a, end = second, second.Payload
	}
	return key, end
}

// decodeNext reads into e the element whose members next has returned.
func (c Set) decodeNext(e *Element, key, end []byte) error {
	if err := c.decodeElement(e, key); err != nil || e.Key.kind != startKey {
		return err
	}
	var behind Element
	if end != nil {
		if err := c.decodeElement(&behind, end); err != nil {
			return err
		}
	}
	var err error
	e.Key, err = joined(e.Key.addr(), behind.Key.addr())
	return err
}

// joined is the key of the range from first up to, but without, end; zero: to the highest
// address.
func joined(first, end netip.Addr) (Key, error) {
	last := lastAddr(netip.PrefixFrom(first, 0))
	if end.IsValid() {
		last = end.Prev()
	}
	if last.IsValid() {
		if p, ok := prefixOf(first.AsSlice(), last.AsSlice()); ok {
			return PrefixKey(p), nil
		}
	}
	return Key{}, fmt.Errorf("the range from %s to %s is no prefix", first, last)
}

// pair makes elements of prefixes from those of a whole interval set of one field, in any
// order.
func (c Set) pair(es []Element) []Element {
	slices.SortStableFunc(es, func(a, b Element) int {
		// Of two at one address the end belongs to the range before.
		return cmp.Or(a.Key.addr().Compare(b.Key.addr()), -cmp.Compare(a.Key.kind, b.Key.kind))
	})
	var ranges []Element
	var open *Element
	addForeign := func(format string, args ...any) {
		ranges = append(ranges, Element{Set: c.Name, Foreign: fmt.Sprintf(format, args...)})
	}
	finish := func(end netip.Addr) {
		key, err := joined(open.Key.addr(), end)
		if err != nil {
			addForeign("%s", err)
		} else {
			open.Key = key
			ranges = append(ranges, *open)
		}
		open = nil
	}
	for i := range es {
		switch e := &es[i]; {
		case e.Foreign != "":
			ranges = append(ranges, *e)
		case e.Key.kind == startKey:
			if open != nil {
				addForeign("the range from %s has no end before that from %s", open.Key.addr(), e.Key.addr())
			}
			open = e
		case open != nil:
			finish(e.Key.addr())
		case c.Timeout || e.Key.addr().IsUnspecified():
			// The kernel lists the end of an expired element, but not the element; and
			// nft(8) marks the lowest address as an end.
		default:
			addForeign("the range up to %s has no beginning", e.Key.addr())
		}
	}
	if open != nil {
		finish(netip.Addr{})
	}
	return ranges
}
