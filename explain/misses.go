// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/internal/rules/xt"
)

// never reports whether no packet passes the comparisons of addresses with which a rule begins, so
// that it does nothing to any.
func (t *telling) never(r *rules.Rule) bool {
	if t.met == nil {
		return false
	}
	defer func() { clear(t.regs) }()
	families := t.families
	defer func() { t.families = families }()
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case rules.Payload:
			if e.Set {
				return false
			}
			t.payload(e)
		case rules.Meta:
			if e.Set {
				return false
			}
			t.expr(r, e)
		case rules.CT:
			if e.Set {
				return false
			}
			t.set(e.Dreg)
		case rules.Bitwise:
			spans := t.regs[e.Sreg]
			t.set(e.Dreg)
			if len(spans) == 1 && spans[0].mask == nil && e.Op == unix.NFT_BITWISE_BOOL && zero(e.Xor) && (e.Sreg2 == 0 || t.regs[e.Sreg2] == nil) {
				s := spans[0]
				s.mask = e.Mask
				t.set(e.Dreg, s)
			}
		case rules.Cmp:
			for _, s := range t.regs[e.Sreg] {
				if s.layer == spanFamily {
					t.family(e)
				}
			}
			if e.Op == unix.NFT_CMP_EQ && t.missesAll(e.Sreg, e.Data, e.Data) {
				return true
			}
		case rules.Range:
			if !e.Not && t.missesAll(e.Sreg, e.From, e.To) {
				return true
			}
		case rules.Lookup:
			if e.Map {
				t.set(e.Dreg)
			}
		case rules.Counter:
		case rules.Match:
			if h, ok := xt.DecodeMatch(r.Chain.Table.Family, e).(xt.Header); ok && t.missesHeader(h) {
				return true
			}
			if recent(e) {
				return false
			}
		default:
			return false
		}
	}
	return false
}

// recent reports whether a match changes something by itself.
func recent(m rules.Match) bool {
	return m.Name == "recent" || m.Name == "limit" || m.Name == "hashlimit" || m.Name == "quota" || m.Name == "statistic" || m.Name == "connlimit"
}

// missesAll reports whether data that a register must be within is no address of any packet.
func (t *telling) missesAll(r rules.Register, from, to []byte) bool {
	spans := t.regs[r]
	if len(spans) != 1 { // of several families
		return false
	}
	s := spans[0]
	for _, f := range s.fields() {
		begin, end := max(f.offset, s.offset), min(f.offset+f.length, s.offset+s.length)
		if f.port || begin != f.offset || begin >= end {
			continue
		}
		at, n := begin-s.offset, end-begin
		if len(from) < at+n || len(to) < at+n || s.mask != nil && len(s.mask) < at+n || at != 0 && !slices.Equal(from, to) {
			continue
		}
		low, high := make([]byte, f.length), make([]byte, f.length)
		mask := make([]byte, f.length)
		for i := range n {
			if mask[i] = 0xff; s.mask != nil {
				mask[i] = s.mask[at+i]
			}
			low[i], high[i] = from[at+i], to[at+i]
		}
		if !contiguous(mask) {
			continue
		}
		for i := range high {
			high[i] |= ^mask[i]
		}
		first, _ := netip.AddrFromSlice(low)
		end2, _ := netip.AddrFromSlice(high)
		if t.misses(first, end2) {
			return true
		}
	}
	return false
}

// missesHeader reports whether what iptables-legacy compares itself is an address of no packet.
func (t *telling) missesHeader(h xt.Header) bool {
	for _, m := range []struct {
		addr xt.AddrMask
		not  bool
	}{{h.Src, h.NotSrc}, {h.Dst, h.NotDst}} {
		p, ok := prefixOf(m.addr)
		if !m.not && ok && p.Bits() > 0 && t.misses(p.Masked().Addr(), last(p)) {
			return true
		}
	}
	return false
}

// translations adds the addresses that rules translate to, which packets then have.
func translations(r *rules.Rule, met map[netip.Addr]bool) {
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case rules.Immediate:
			if a, ok := netip.AddrFromSlice(e.Data); ok {
				met[a] = true
			}
		case rules.Target:
			if n, ok := xt.DecodeTarget(r.Chain.Table.Family, e).(xt.Nat); ok {
				met[n.Min], met[n.Max] = true, true
			}
		}
	}
}

// translatesTo reports whether a rule gives packets addresses that are not written in it: those of a map or
// a network.
func translatesTo(r *rules.Rule) bool {
	immediate := map[rules.Register]bool{}
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case rules.Immediate:
			immediate[e.Dreg] = true
		case rules.Nat:
			if e.AddrMin != 0 && !immediate[e.AddrMin] || e.AddrMax != 0 && (e.AddrMax != e.AddrMin || !immediate[e.AddrMax]) {
				return true
			}
		case rules.Payload:
			if e.Set && e.Base == unix.NFT_PAYLOAD_NETWORK_HEADER {
				return true
			}
		case rules.Target:
			if n, ok := xt.DecodeTarget(r.Chain.Table.Family, e).(xt.Nat); ok && (n.Kind == "NETMAP" || n.Min != n.Max) {
				return true
			}
		}
	}
	return false
}
