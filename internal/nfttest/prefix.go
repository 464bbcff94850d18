// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nfttest

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/nft"
)

// The kernel keeps a prefix as two elements, one where it begins and one where it ends,
// and compares them with the nearest of others only (net/netfilter/nft_set_rbtree.c). So does
// this file.

// bound is where a prefix begins, or the address behind it.
type bound struct {
	addr   netip.Addr
	begins bool
}

// compare orders bounds. Of two at one address the end belongs to the prefix before.
func (b bound) compare(o bound) int {
	switch c := b.addr.Compare(o.addr); {
	case c != 0 || b.begins == o.begins:
		return c
	case o.begins:
		return -1
	}
	return 1
}

// bounds are the bounds of a prefix, one if it reaches to the highest address. Other keys
// have none.
func bounds(k nft.Key) []bound {
	p, ok := k.Prefix()
	if start, isPorts := startOf(k); !ok && isPorts {
		if last := k.LastPort(); last < 65535 {
			return []bound{{start, true}, {portAddr(last + 1), false}}
		}
		return []bound{{start, true}}
	}
	if !ok {
		return nil
	}
	if end := last(p).Next(); end.IsValid() {
		return []bound{{p.Addr(), true}, {end, false}}
	}
	return []bound{{p.Addr(), true}}
}

// startOf returns where a prefix begins, or a range of ports alone, whose ports stand in the order
// of addresses; ok is false for other keys.
func startOf(k nft.Key) (a netip.Addr, ok bool) {
	if p, ok := k.Prefix(); ok {
		return p.Addr(), true
	}
	r, ok := k.Range()
	return portAddr(r.First), ok && k == nft.PortRangeKey(r.First, r.Last)
}

func portAddr(port uint16) netip.Addr {
	return netip.AddrFrom4([4]byte{0, 0, byte(port >> 8), byte(port)})
}

// storedKey is the key of an element in the map: for a prefix the address where it begins.
func storedKey(k nft.Key) nft.Key {
	if start, ok := startOf(k); ok {
		return nft.AddrKey(start)
	}
	return k
}

func (s *set) bound(b bound) (int, bool) {
	return slices.BinarySearchFunc(s.bounds, b, bound.compare)
}

func (s *set) addBound(b bound) {
	if i, ok := s.bound(b); !ok {
		s.bounds = slices.Insert(s.bounds, i, b)
	}
}

func (s *set) dropBound(b bound) {
	if i, ok := s.bound(b); ok {
		s.bounds = slices.Delete(s.bounds, i, i+1)
	}
}

// takenPrefix reports whether one bound is there already or lies within another prefix, or
// the prefix contains others, which only its end shows: one without an end may contain others
// (__nft_rbtree_insert).
func (s *set) takenPrefix(k nft.Key) bool {
	own := bounds(k)
	i, found := s.bound(own[0])
	if found || i > 0 && s.bounds[i-1].begins {
		return true
	}
	if len(own) == 1 {
		return false
	}
	j, _ := s.bound(own[1])
	return j > i && !s.bounds[j-1].begins || j < len(s.bounds) && !s.bounds[j].begins
}

// endsAlone reports whether the end of a prefix that begins there is not its own
// (nft_rbtree_deactivate_same_interval; older kernels do not ask).
func (s *set) endsAlone(k nft.Key) bool {
	own := bounds(k)
	if len(own) < 2 {
		return false
	}
	i, found := s.bound(own[1])
	return !found || i == 0 || s.bounds[i-1] != own[0]
}

// whole returns the elements of a set of prefixes as nft.Conn reads them: each with the next
// end behind its beginning.
func (s *set) whole(es []nft.Element) []nft.Element {
	byStart := map[netip.Addr]nft.Element{}
	var out []nft.Element
	for _, e := range es {
		if start, ok := startOf(e.Key); ok {
			byStart[start] = e
		} else {
			out = append(out, e) // Edit made it so
		}
	}
	for i, b := range s.bounds {
		var next bound
		if i+1 < len(s.bounds) {
			next = s.bounds[i+1]
		}
		var e nft.Element
		switch {
		case b.begins && !next.begins:
			e = byStart[b.addr]
			e.Key = s.spanning(b.addr, next.addr)
		case !b.begins && (i > 0 && s.bounds[i-1].begins || s.def.Timeout):
			continue
		}
		if e.Key == (nft.Key{}) {
			e = nft.Element{Set: s.def.Name, Foreign: fmt.Sprintf("a range from or to %s that is no prefix", b.addr)}
		}
		out = append(out, e)
	}
	return out
}

// spanning is the key of the prefix from first up to, but without, end, which is zero
// behind the highest address, or of the range of ports. It is zero where that is no prefix.
func (s *set) spanning(first, end netip.Addr) nft.Key {
	if s.def.Key[0] == nft.InetService {
		last := uint16(65535)
		if end.IsValid() {
			last = portOf(end) - 1
		}
		return nft.PortRangeKey(portOf(first), last)
	}
	for bits := range first.BitLen() + 1 {
		k := nft.PrefixKey(netip.PrefixFrom(first, bits))
		if own := bounds(k); own[0].addr == first && (len(own) == 1 && !end.IsValid() || len(own) == 2 && own[1].addr == end) {
			return k
		}
	}
	return nft.Key{}
}
