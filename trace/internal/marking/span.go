// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package marking

import (
	"net/netip"

	"github.com/nftnat/nftnat/internal/order"
)

// span is a range of addresses of one family.
type span struct{ first, last netip.Addr }

// mergeSpans returns the ranges of the prefixes of IPv4 and of IPv6, sorted, without those that touch.
func mergeSpans(prefixes []netip.Prefix) (spans [2][]span) {
	var all []span
	for _, p := range prefixes {
		p = netip.PrefixFrom(p.Addr().WithZone(""), p.Bits()).Masked()
		all = append(all, span{p.Addr(), lastOf(p)})
	}
	order.Sort(all, func(a, b span) int { return a.first.Compare(b.first) })
	for _, s := range all {
		i := 0
		if s.first.Is6() {
			i = 1
		}
		list := spans[i]
		if n := len(list); n != 0 && (!list[n-1].last.Less(s.first) || list[n-1].last.Next() == s.first) {
			if list[n-1].last.Less(s.last) {
				list[n-1].last = s.last
			}
			continue
		}
		spans[i] = append(list, s)
	}
	return spans
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// elementsOf returns the begin of each range and the address behind it, if there is one.
func elementsOf(spans []span) (es []element) {
	for _, s := range spans {
		es = append(es, element{key: s.first.AsSlice()})
		if behind := s.last.Next(); behind.IsValid() {
			es = append(es, element{key: behind.AsSlice(), end: true})
		}
	}
	return es
}
