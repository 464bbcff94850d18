// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/binary"
	"maps"
	"math/bits"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/internal/rules/xt"
)

// telling follows what a rule does with ports and addresses.
type telling struct {
	*apart
	regs     map[rules.Register][]span
	families []int // of network headers: which the rule may be about
	elements func(*rules.Set) (list []rules.Element, whole bool)
}

// rule takes over what a rule tells packets apart by.
func (t *telling) rule(r *rules.Rule) {
	t.regs = map[rules.Register][]span{}
	switch r.Chain.Table.Family {
	case unix.NFPROTO_IPV4:
		t.families = []int{spanNetwork4}
	case unix.NFPROTO_IPV6:
		t.families = []int{spanNetwork6}
	default:
		t.families = []int{spanNetwork4, spanNetwork6}
	}
	if t.never(r) {
		return
	}
	for _, e := range r.Exprs {
		t.expr(r, e)
	}
}

func zero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

func (t *telling) set(r rules.Register, s ...span) { t.regs[r] = s }

func (t *telling) expr(r *rules.Rule, e rules.Expr) {
	switch e := e.(type) {
	case rules.Payload:
		t.payload(e)
	case rules.Meta:
		switch {
		case e.Set:
			t.taken(e.Sreg)
		case e.Key == unix.NFT_META_NFPROTO, e.Key == unix.NFT_META_PROTOCOL:
			t.set(e.Dreg, span{layer: spanFamily})
		default:
			t.set(e.Dreg)
		}
	case rules.CT:
		t.ct(e)
	case rules.Cmp:
		t.within(e.Sreg)
		for _, s := range t.regs[e.Sreg] {
			if s.layer == spanFamily {
				t.family(e)
			}
			t.constants(s, e.Data, e.Data)
		}
	case rules.Range:
		for _, s := range t.regs[e.Sreg] {
			t.constants(s, e.From, e.To)
		}
	case rules.Bitwise:
		t.bitwise(e)
	case rules.Byteorder:
		t.taken(e.Sreg)
		t.set(e.Dreg)
	case rules.Lookup:
		t.lookup(r, e.Set, e.Sreg)
		if e.Map {
			t.set(e.Dreg)
		}
	case rules.Objref:
		if e.Map != "" {
			t.lookup(r, e.Map, e.Sreg)
		}
	case rules.Dynset:
		t.dynset(r, e)
	case rules.Immediate:
		t.set(e.Dreg)
	case rules.Nat:
		for _, reg := range []rules.Register{e.AddrMin, e.AddrMax, e.PortMin, e.PortMax} {
			t.taken(reg)
		}
	case rules.Redir:
		t.taken(e.PortMin)
		t.taken(e.PortMax)
	case rules.Masq:
		t.taken(e.PortMin)
		t.taken(e.PortMax)
	case rules.Queue:
		t.taken(e.Sreg)
	case rules.Exthdr:
		t.set(e.Dreg)
	case rules.Fib:
		t.set(e.Dreg) // routes tell addresses apart anyway
	case rules.Rt:
		t.set(e.Dreg)
	case rules.Socket:
		t.set(e.Dreg)
	case rules.Numgen:
		t.set(e.Dreg)
	case rules.Hash: // it is not known of any packet
		t.set(e.Dreg)
	case rules.OSF:
		t.set(e.Dreg)
	case rules.Xfrm:
		t.set(e.Dreg)
	case rules.Tunnel:
		t.set(e.Dreg)
	case rules.Match:
		t.match(r.Chain.Table.Family, e)
	case rules.Target:
		if n, ok := xt.DecodeTarget(r.Chain.Table.Family, e).(xt.Nat); ok && n.Kind == "NETMAP" {
			t.eachAddr = true
		}
	}
}

// within gives up on data of which a register has not the first bytes.
func (t *telling) within(r rules.Register) {
	for back := 1; back < 4; back++ {
		for _, s := range t.regs[r-rules.Register(back)] {
			if _, own := t.regs[r]; !own && s.length > 4*back {
				t.opaque(s)
			}
		}
	}
}

// taken gives up on what a register has, whatever is done with it.
func (t *telling) taken(r rules.Register) {
	for _, s := range t.regs[r] {
		t.opaque(s)
	}
}

func (t *telling) payload(e rules.Payload) {
	if e.Set {
		t.taken(e.Sreg)
		return
	}
	var spans []span
	switch e.Base {
	case unix.NFT_PAYLOAD_NETWORK_HEADER:
		for _, f := range t.families {
			spans = append(spans, span{layer: f, offset: e.Offset, length: e.Len})
		}
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		spans = []span{{layer: spanTransport, offset: e.Offset, length: e.Len}}
	case unix.NFT_PAYLOAD_LL_HEADER:
	default:
		t.eachPort, t.eachAddr = true, true
	}
	t.set(e.Dreg, spans...)
}

// family notes which family the rest of a rule is about.
func (t *telling) family(e rules.Cmp) {
	if e.Op != unix.NFT_CMP_EQ {
		return
	}
	switch len(e.Data) {
	case 1:
		switch e.Data[0] {
		case unix.NFPROTO_IPV4:
			t.families = []int{spanNetwork4}
		case unix.NFPROTO_IPV6:
			t.families = []int{spanNetwork6}
		}
	case 2:
		switch binary.BigEndian.Uint16(e.Data) {
		case unix.ETH_P_IP:
			t.families = []int{spanNetwork4}
		case unix.ETH_P_IPV6:
			t.families = []int{spanNetwork6}
		}
	}
}

func (t *telling) ct(e rules.CT) {
	if e.Set {
		t.taken(e.Sreg)
		return
	}
	switch e.Key {
	case unix.NFT_CT_SRC, unix.NFT_CT_DST:
		t.set(e.Dreg, span{layer: spanAddr, length: 4}, span{layer: spanAddr, length: 16})
	case unix.NFT_CT_SRC_IP, unix.NFT_CT_DST_IP:
		t.set(e.Dreg, span{layer: spanAddr, length: 4})
	case unix.NFT_CT_SRC_IP6, unix.NFT_CT_DST_IP6:
		t.set(e.Dreg, span{layer: spanAddr, length: 16})
	case unix.NFT_CT_PROTO_SRC, unix.NFT_CT_PROTO_DST:
		t.set(e.Dreg, span{layer: spanPort, length: 2})
	default:
		t.set(e.Dreg)
	}
}

func (t *telling) bitwise(e rules.Bitwise) {
	spans := t.regs[e.Sreg]
	if len(t.regs[e.Sreg2]) > 0 && e.Sreg2 != 0 {
		t.taken(e.Sreg2)
	}
	if e.Op != unix.NFT_BITWISE_BOOL || !zero(e.Xor) {
		t.taken(e.Sreg)
		t.set(e.Dreg)
		return
	}
	var masked []span
	for _, s := range spans {
		if s.mask != nil {
			t.opaque(s)
			continue
		}
		s.mask = e.Mask
		masked = append(masked, s)
	}
	t.set(e.Dreg, masked...)
}

// lookup tells packets apart by the elements of a set.
func (t *telling) lookup(r *rules.Rule, name string, reg rules.Register) {
	set := r.Chain.Table.Sets[name]
	keys := t.keys(set, reg)
	if len(keys) == 0 {
		return
	}
	var list []rules.Element
	whole := false
	if set != nil {
		list, whole = t.elements(set)
	}
	if !whole {
		for _, k := range keys {
			t.opaque(k.span)
		}
		return
	}
	for _, e := range list {
		if e.CatchAll {
			continue
		}
		end := e.End
		if end == nil {
			end = e.Key
		}
		for _, k := range keys {
			if len(e.Key) > k.at && len(end) > k.at {
				t.constants(k.span, e.Key[k.at:], end[k.at:])
			}
		}
	}
}

// keyPart is a part of a key that is of interest.
type keyPart struct {
	span
	at int // in the key
}

// keys are the parts of a key in registers from reg on.
func (t *telling) keys(set *rules.Set, reg rules.Register) (keys []keyPart) {
	length := 64
	if set != nil {
		length = int(set.KeyLen)
	}
	for at := 0; at < length; at += 4 {
		for _, s := range t.regs[reg+rules.Register(at/4)] {
			if s.layer != spanFamily {
				keys = append(keys, keyPart{s, at})
			}
		}
	}
	return keys
}

// dynset gives up on what is a key: what a set has of late is not what it will have.
func (t *telling) dynset(r *rules.Rule, e rules.Dynset) {
	for _, k := range t.keys(r.Chain.Table.Sets[e.Set], e.KeyReg) {
		t.opaque(k.span)
	}
}

// match takes over what a match of iptables tells packets apart by.
func (t *telling) match(family rules.Family, m rules.Match) {
	switch v := xt.DecodeMatch(family, m).(type) {
	case xt.TCP:
		t.portRange(v.Src.From, v.Src.To)
		t.portRange(v.Dst.From, v.Dst.To)
	case xt.UDP:
		t.portRange(v.Src.From, v.Src.To)
		t.portRange(v.Dst.From, v.Dst.To)
	case xt.Multiport:
		for _, p := range v.Ports {
			t.portRange(p.From, p.To)
		}
	case xt.Conntrack:
		for _, p := range []xt.PortRange{v.OrigSrcPort, v.OrigDstPort, v.ReplSrcPort, v.ReplDstPort} {
			t.portRange(p.From, p.To)
		}
		for _, a := range []xt.AddrMask{v.OrigSrc, v.OrigDst, v.ReplSrc, v.ReplDst} {
			t.masked(a)
		}
	case xt.Header:
		t.masked(v.Src)
		t.masked(v.Dst)
	case xt.IPRange:
		for _, p := range [][2]netip.Addr{{v.SrcMin, v.SrcMax}, {v.DstMin, v.DstMax}} {
			if p[0].IsValid() && p[1].IsValid() {
				t.addrRange(p[0], p[1])
			}
		}
	case xt.Set:
		t.eachPort, t.eachAddr = true, true
	case xt.Recent:
		t.eachAddr = true
	}
}

// masked tells the addresses of a network from others.
func (t *telling) masked(a xt.AddrMask) {
	if p, ok := prefixOf(a); ok {
		t.prefix(p)
	} else {
		t.eachAddr = true
	}
}

// prefixOf returns an address with a mask as a prefix; invalid: any. It is false if the mask is none of a
// prefix.
func prefixOf(a xt.AddrMask) (p netip.Prefix, ok bool) {
	if !a.Addr.IsValid() || !a.Mask.IsValid() {
		return p, true
	}
	mask := a.Mask.AsSlice()
	if !contiguous(mask) || a.Addr.BitLen() != a.Mask.BitLen() {
		return p, false
	}
	n := 0
	for _, b := range mask {
		n += bits.OnesCount8(b)
	}
	return netip.PrefixFrom(a.Addr, n), true
}

// tells collects what rules of other tables than ours tell packets apart by.
func (r *ruleset) tells(a *apart, ours string, met map[netip.Addr]bool) {
	t := &telling{apart: a, elements: func(s *rules.Set) ([]rules.Element, bool) {
		list, more, err := r.Elements(s, allKeys)
		return list, err == nil && !more
	}}
	var all []*rules.Rule
	known := met != nil
	for _, table := range r.all.Tables {
		if table.Dormant() || table.Family == unix.NFPROTO_ARP || table.Family == unix.NFPROTO_INET && table.Name == ours {
			continue
		}
		for _, c := range table.Chains {
			list := c.Rules
			if !table.Legacy {
				var err error
				if list, err = r.Rules(c); err != nil {
					a.eachPort, a.eachAddr = true, true
					continue
				}
			}
			all = append(all, list...)
		}
	}
	for _, rule := range all {
		known = known && !translatesTo(rule)
	}
	if a.met = nil; known {
		met = maps.Clone(met)
		for _, rule := range all {
			translations(rule, met)
		}
		a.meets(met)
	}
	for _, rule := range all {
		t.rule(rule)
	}
	a.met = nil
}
