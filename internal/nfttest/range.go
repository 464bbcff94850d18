// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nfttest

import (
	"net/netip"

	"github.com/nftnat/nftnat/nft"
)

// portOf is the port that portAddr has made an address of.
func portOf(a netip.Addr) uint16 {
	b := a.As4()
	return uint16(b[2])<<8 | uint16(b[3])
}

// touchesPorts reports whether the first or the last of a range lies in another, as
// nft_pipapo_insert in net/netfilter/nft_set_pipapo.c does: one around others passes.
func touchesPorts(k, have nft.Key) bool {
	r, _ := k.Range()
	highest := r
	highest.First = r.Last
	if r.Addr.IsValid() {
		highest.Addr = single(last(r.Addr))
	}
	if r.Other.IsValid() {
		highest.Other = single(last(r.Other))
	}
	return hasFirst(have, k) || hasFirst(have, nft.RangeKey(highest))
}

// hasFirst reports whether a range has the first port and addresses of a key.
func hasFirst(have, k nft.Key) bool {
	h, _ := have.Range()
	r, _ := k.Range()
	return h.First <= r.First && r.First <= h.Last && h.Link == r.Link && h.Family == r.Family && h.L4Proto == r.L4Proto &&
		contains(h.Addr, r.Addr) && contains(h.Other, r.Other)
}

// contains reports whether the first address of a prefix lies in another; both may be absent.
func contains(have, p netip.Prefix) bool {
	return have == p || have.Contains(p.Addr())
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
