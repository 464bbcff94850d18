// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"cmp"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
	"github.com/nftnat/nftnat/internal/order"
)

// An interval set of one field is a tree of the places where ranges begin and end
// (net/netfilter/nft_set_rbtree.c): a prefix, or a range of ports, is two elements, its first
// address or port, with the value, the comment and the time-out, and, flagged as an end, the one
// behind its last. What reaches to the highest address or port has no end.

// endAddr is the address behind a prefix; zero: none.
func endAddr(p netip.Prefix) netip.Addr { return lastAddr(p).Next() }

// endOf returns the key of the end of a prefix or a range of ports in a tree; false: it has none.
func (k *Key) endOf() (Key, bool) {
	if k.kind == rangeKey {
		return Key{kind: endKey, port: k.last + 1}, k.last != lastPort
	}
	p, _ := k.Prefix()
	end := keyOf(endKey, endAddr(p), 0)
	return end, end != Key{}
}

// appendMember appends the element to a list of elements: as one member, or as two. Newer
// kernels take two for one range only if they follow each other.
func (c *Set) appendMember(b []byte, e *Element, appendOne func(*Set, []byte, *Element) []byte) []byte {
	b, at := nlwire.OpenAttr(b, nlwire.Nested|unix.NFTA_LIST_ELEM)
	b = nlwire.CloseAttr(appendOne(c, b, e), at)
	if !c.isTree() {
		return b
	}
	end, ok := e.Key.endOf()
	if !ok {
		return b
	}
	b, at = nlwire.OpenAttr(b, nlwire.Nested|unix.NFTA_LIST_ELEM)
	return nlwire.CloseAttr(c.appendEnd(b, &end), at)
}

// appendEnd appends the key of an end.
func (c *Set) appendEnd(b []byte, end *Key) []byte {
	return c.openElement(nlwire.AppendBE32(b, unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END), end)
}

// next reads the next element of a list that appendMember made: its one member, or the
// two of a range. key is nil at the end.
func (c Set) next(a *nlwire.Attrs) (key, end []byte) {
	if !a.Next() {
		return nil, nil
	}
	key = a.Payload
	if !c.isTree() {
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
	e.Key, err = joined(&e.Key, &behind.Key)
	return err
}

// joined is the key of what begins at first up to, but without, end; zero: to the highest
// address or port.
func joined(first, end *Key) (Key, error) {
	if first.family == 0 {
		last := uint16(lastPort)
		if *end != (Key{}) {
			last = end.port - 1
		}
		if k := PortRangeKey(first.port, last); k != (Key{}) {
			return k, nil
		}
		return Key{}, fmt.Errorf("the range from %d to %d is empty", first.port, last)
	}
	last := lastAddr(netip.PrefixFrom(first.addr(), 0))
	if *end != (Key{}) {
		last = end.addr().Prev()
	}
	if last.IsValid() {
		if p, ok := prefixOf(first.addr().AsSlice(), last.AsSlice()); ok {
			return PrefixKey(p), nil
		}
	}
	return Key{}, fmt.Errorf("the range from %s to %s is no prefix", first, last)
}

// lowest reports whether a start or an end is at the lowest address or port.
func (k *Key) lowest() bool { return k.port == 0 && k.bytes == [16]byte{} }

// pair makes elements of prefixes, or of ranges of ports, from those of a whole tree, in any
// order.
func (c Set) pair(es []Element) []Element {
	order.Sort(es, func(a, b Element) int {
		// Of two at one place the end belongs to the range before.
		return cmp.Or(a.Key.Compare(b.Key), -cmp.Compare(a.Key.kind, b.Key.kind))
	})
	var ranges []Element
	var open *Element
	addForeign := func(format string, args ...any) {
		ranges = append(ranges, Element{Set: c.Name, Foreign: fmt.Sprintf(format, args...)})
	}
	finish := func(end *Key) {
		key, err := joined(&open.Key, end)
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
				addForeign("the range from %s has no end before that from %s", open.Key, e.Key)
			}
			open = e
		case open != nil:
			finish(&e.Key)
		case c.Timeout || e.Key.lowest():
			// The kernel lists the end of an expired element, but not the element; and
			// nft(8) marks the lowest address or port as an end.
		default:
			addForeign("the range up to %s has no beginning", e.Key)
		}
	}
	if open != nil {
		finish(&Key{})
	}
	return ranges
}
