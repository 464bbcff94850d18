// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// operand is what a register holds.
type operand struct {
	text string
	kind *kind
	host bool // the register has it in the order of the host
	bits int
	// says is the layer above which it names the protocol, noLayer: none.
	says layer
	meta uint32 // the key, if says is set and it is no payload
	ct   bool
	key  uint32 // of ct

	constant bool
	data     []byte

	// isPayload is set for bytes of the packet.
	isPayload bool
	layer     layer
	off       int // in bits
	header    *header
	field     *field
	base      uint32

	option *Exthdr
	set    *Set // of which it is the data, by that key
	from   []*operand
	ops    []operation
	raw    *Bitwise // the only operation so far
}

// operation is one on an operand, with data, or with a text.
type operation struct {
	symbol     string
	precedence int
	data       []byte
	text       string
}

const (
	precedenceShift = 1 + iota
	precedenceAnd
	precedenceXor
	precedenceOr
)

func (s *printing) bitwise(e Bitwise) {
	o := s.at(e.Sreg)
	if o == nil {
		s.unreadable("bitwise reg %d", e.Sreg)
		return
	}
	c := *o
	c.ops = append([]operation(nil), o.ops...)
	c.raw = nil
	switch e.Op {
	case BitwiseMaskXor:
		if len(o.ops) == 0 {
			c.raw = &e
		}
		c.mask(e.Mask, e.Xor)
	case BitwiseLshift:
		c.ops = append(c.ops, operation{symbol: "<<", precedence: precedenceShift, text: fmt.Sprint(e.Shift)})
	case BitwiseRshift:
		c.ops = append(c.ops, operation{symbol: ">>", precedence: precedenceShift, text: fmt.Sprint(e.Shift)})
	default:
		symbols := map[uint32]operation{
			BitwiseAnd: {symbol: "&", precedence: precedenceAnd}, BitwiseOr: {symbol: "|", precedence: precedenceOr}, BitwiseXor: {symbol: "^", precedence: precedenceXor},
		}
		op := symbols[e.Op]
		if op.data = e.Data; e.Sreg2 != 0 {
			right := s.at(e.Sreg2)
			if right == nil {
				s.unreadable("bitwise reg %d", e.Sreg2)
				return
			}
			op.text = s.text(s.used(right))
			if len(right.ops) != 0 && right.ops[len(right.ops)-1].precedence > op.precedence {
				op.text = "(" + op.text + ")"
			}
		}
		c.ops = append(c.ops, op)
	}
	if c.constant && len(c.ops) != 0 { // of which the result is not worked out
		c = operand{text: s.text(&operand{text: s.value(o.data, o.kind, o.host), kind: o.kind, ops: c.ops}), kind: o.kind, bits: o.bits, host: o.host}
	}
	s.load(e.Dreg, &c)
}

// mask adds (x & mask) ^ xor, as an and, xor, and or.
func (o *operand) mask(mask, xor []byte) {
	and, flip, or := make([]byte, len(mask)), make([]byte, len(mask)), make([]byte, len(mask))
	full := true
	for i := range mask {
		or[i] = xor[i] &^ mask[i]
		flip[i] = xor[i] & mask[i]
		and[i] = mask[i] | or[i]
		full = full && and[i] == 0xff
	}
	if !full {
		o.ops = append(o.ops, operation{symbol: "&", precedence: precedenceAnd, data: and})
	}
	if !isZero(flip) {
		o.ops = append(o.ops, operation{symbol: "^", precedence: precedenceXor, data: flip})
	}
	if !isZero(or) {
		o.ops = append(o.ops, operation{symbol: "|", precedence: precedenceOr, data: or})
	}
}

func metaOperand(key uint32) *operand {
	type meta struct {
		name string
		kind *kind
		bits int
	}
	known := [...]meta{
		unix.NFT_META_LEN: {"length", kindInteger, 32}, unix.NFT_META_PROTOCOL: {"protocol", kindEtherType, 16}, unix.NFT_META_PRIORITY: {"priority", kindClass, 32},
		unix.NFT_META_MARK: {"mark", kindMark, 32}, unix.NFT_META_IIF: {"iif", kindIfindex, 32}, unix.NFT_META_OIF: {"oif", kindIfindex, 32},
		unix.NFT_META_IIFNAME: {"iifname", kindIfname, 128}, unix.NFT_META_OIFNAME: {"oifname", kindIfname, 128}, unix.NFT_META_IIFTYPE: {"iiftype", kindARPHRD, 16},
		unix.NFT_META_OIFTYPE: {"oiftype", kindARPHRD, 16}, unix.NFT_META_SKUID: {"skuid", kindUID, 32}, unix.NFT_META_SKGID: {"skgid", kindUID, 32},
		unix.NFT_META_NFTRACE: {"nftrace", kindInteger, 8}, unix.NFT_META_RTCLASSID: {"rtclassid", kindRealm, 32}, unix.NFT_META_SECMARK: {"secmark", kindInteger, 32},
		unix.NFT_META_NFPROTO: {"nfproto", kindNFProto, 8}, unix.NFT_META_L4PROTO: {"l4proto", kindProto, 8}, unix.NFT_META_BRI_IIFNAME: {"ibrname", kindIfname, 128},
		unix.NFT_META_BRI_OIFNAME: {"obrname", kindIfname, 128}, unix.NFT_META_PKTTYPE: {"pkttype", kindPktType, 8}, unix.NFT_META_CPU: {"cpu", kindInteger, 32},
		unix.NFT_META_IIFGROUP: {"iifgroup", kindDevgroup, 32}, unix.NFT_META_OIFGROUP: {"oifgroup", kindDevgroup, 32}, unix.NFT_META_CGROUP: {"cgroup", kindInteger, 32},
		unix.NFT_META_PRANDOM: {"random", kindInteger, 32}, 25: {"ipsec", kindBoolean, 8}, 26: {"iifkind", kindIfname, 128}, 27: {"oifkind", kindIfname, 128},
		28: {"ibrpvid", kindInteger, 16}, 29: {"ibrvproto", kindEtherType, 16}, metaTime: {"time", kindDate, 64}, metaDay: {"day", kindDay, 8},
		metaHour: {"hour", kindHour, 32}, 33: {"sdif", kindIfindex, 32}, 34: {"sdifname", kindIfname, 128}, 35: {"broute", kindInteger, 8}, 36: {"ibrhwaddr", kindEther, 48},
	}
	if int(key) >= len(known) || known[key].kind == nil {
		return &operand{text: fmt.Sprintf("meta %d", key), kind: kindInteger, bits: 32, host: true}
	}
	m := known[key]
	o := &operand{text: m.name, kind: m.kind, bits: m.bits, host: m.kind.isHost()}
	switch key {
	case unix.NFT_META_IIF, unix.NFT_META_OIF, unix.NFT_META_IIFNAME, unix.NFT_META_OIFNAME, unix.NFT_META_IIFGROUP, unix.NFT_META_OIFGROUP:
	default:
		o.text = "meta " + m.name
	}
	switch o.meta = key; key {
	case unix.NFT_META_NFPROTO, unix.NFT_META_PROTOCOL:
		o.says = link
	case unix.NFT_META_L4PROTO:
		o.says = network
	case unix.NFT_META_PRANDOM:
		o.host = false
	}
	return o
}

const (
	metaTime = 30
	metaDay  = 31
	metaHour = 32
)

func ctOperand(e CT) *operand {
	type ct struct {
		name string
		kind *kind
		bits int
	}
	known := [...]ct{
		unix.NFT_CT_STATE: {"state", kindCTState, 32}, unix.NFT_CT_DIRECTION: {"direction", kindCTDir, 8}, unix.NFT_CT_STATUS: {"status", kindCTStatus, 32},
		unix.NFT_CT_MARK: {"mark", kindMark, 32}, unix.NFT_CT_SECMARK: {"secmark", kindInteger, 32}, unix.NFT_CT_EXPIRATION: {"expiration", kindTime, 32},
		unix.NFT_CT_HELPER: {"helper", kindString, 128}, unix.NFT_CT_L3PROTOCOL: {"l3proto", kindNFProto, 8}, unix.NFT_CT_SRC: {"saddr", kindInteger, 32},
		unix.NFT_CT_DST: {"daddr", kindInteger, 32}, unix.NFT_CT_PROTOCOL: {"protocol", kindProto, 8}, unix.NFT_CT_PROTO_SRC: {"proto-src", kindPort, 16},
		unix.NFT_CT_PROTO_DST: {"proto-dst", kindPort, 16}, unix.NFT_CT_LABELS: {"label", kindLabel, 128}, unix.NFT_CT_PKTS: {"packets", kindInteger, 64},
		unix.NFT_CT_BYTES: {"bytes", kindInteger, 64}, unix.NFT_CT_AVGPKT: {"avgpkt", kindInteger, 64}, unix.NFT_CT_ZONE: {"zone", kindInteger, 16},
		unix.NFT_CT_EVENTMASK: {"event", kindCTEvent, 32}, unix.NFT_CT_SRC_IP: {"ip saddr", kindIPv4, 32}, unix.NFT_CT_DST_IP: {"ip daddr", kindIPv4, 32},
		unix.NFT_CT_SRC_IP6: {"ip6 saddr", kindIPv6, 128}, unix.NFT_CT_DST_IP6: {"ip6 daddr", kindIPv6, 128}, unix.NFT_CT_ID: {"id", kindInteger, 32},
	}
	if int(e.Key) >= len(known) || known[e.Key].kind == nil {
		return &operand{text: fmt.Sprintf("ct %d", e.Key), kind: kindInteger, bits: 32, host: true}
	}
	k := known[e.Key]
	directions := map[int]string{0: "original ", 1: "reply "}
	o := &operand{text: "ct " + directions[e.Direction] + k.name, kind: k.kind, bits: k.bits, host: k.kind.isHost(), ct: true, key: e.Key}
	switch e.Key {
	case unix.NFT_CT_SRC, unix.NFT_CT_DST, unix.NFT_CT_ID:
		o.host = false
	case unix.NFT_CT_L3PROTOCOL:
		o.says = link
	case unix.NFT_CT_PROTOCOL:
		o.says = network
	}
	return o
}

// completeCT finds the kind of an address whose family is not said.
func (s *printing) completeCT(o *operand) {
	if o.key != unix.NFT_CT_SRC && o.key != unix.NFT_CT_DST {
		return
	}
	direction, name, _ := strings.Cut(strings.TrimPrefix(o.text, "ct "), " ")
	switch s.headers[network] {
	case headerIP:
		o.kind, o.bits, o.text = kindIPv4, 32, "ct "+direction+" ip "+name
	case headerIP6:
		o.kind, o.bits, o.text = kindIPv6, 128, "ct "+direction+" ip6 "+name
	}
}

func fibOperand(e Fib) *operand {
	var keys []string
	for _, f := range [...]name{
		{unix.NFTA_FIB_F_SADDR, "saddr"}, {unix.NFTA_FIB_F_DADDR, "daddr"}, {unix.NFTA_FIB_F_MARK, "mark"}, {unix.NFTA_FIB_F_IIF, "iif"}, {unix.NFTA_FIB_F_OIF, "oif"},
	} {
		if uint64(e.Flags)&f.value != 0 {
			keys = append(keys, f.name)
		}
	}
	o := &operand{text: "fib " + strings.Join(keys, " . "), kind: kindInteger, bits: 32, host: true}
	switch e.Result {
	case unix.NFT_FIB_RESULT_OIF:
		o.text, o.kind = o.text+" oif", kindIfindex
	case unix.NFT_FIB_RESULT_OIFNAME:
		o.text, o.kind, o.bits = o.text+" oifname", kindIfname, 128
	case unix.NFT_FIB_RESULT_ADDRTYPE:
		o.text, o.kind = o.text+" type", kindAddrType
	default:
		o.text += fmt.Sprintf(" result %d", e.Result)
	}
	if e.Flags&unix.NFTA_FIB_F_PRESENT != 0 {
		o.kind, o.bits, o.host = kindBoolean, 8, false
	}
	return o
}

func rtOperand(key uint32) *operand {
	known := [...]operand{
		unix.NFT_RT_CLASSID: {text: "rt classid", kind: kindRealm, bits: 32, host: true}, unix.NFT_RT_NEXTHOP4: {text: "rt ip nexthop", kind: kindIPv4, bits: 32},
		unix.NFT_RT_NEXTHOP6: {text: "rt ip6 nexthop", kind: kindIPv6, bits: 128}, unix.NFT_RT_TCPMSS: {text: "rt mtu", kind: kindInteger, bits: 16, host: true},
		4: {text: "rt ipsec", kind: kindBoolean, bits: 8},
	}
	if int(key) < len(known) {
		return &known[key]
	}
	return &operand{text: fmt.Sprintf("rt %d", key), kind: kindInteger, bits: 32, host: true}
}

func socketOperand(e Socket) *operand {
	switch e.Key {
	case 0:
		return &operand{text: "socket transparent", kind: kindInteger, bits: 8}
	case 1:
		return &operand{text: "socket mark", kind: kindMark, bits: 32, host: true}
	case 2:
		return &operand{text: "socket wildcard", kind: kindInteger, bits: 8}
	case 3:
		return &operand{text: fmt.Sprintf("socket cgroupv2 level %d", e.Level), kind: kindInteger, bits: 64, host: true}
	}
	return &operand{text: fmt.Sprintf("socket %d", e.Key), kind: kindInteger, bits: 32, host: true}
}

func offset(n uint32) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" offset %d", n)
}

func numgenOperand(e Numgen) *operand {
	types := map[uint32]string{unix.NFT_NG_INCREMENTAL: "inc", unix.NFT_NG_RANDOM: "random"}
	return &operand{text: fmt.Sprintf("numgen %s mod %d", types[e.Type], e.Modulus) + offset(e.Offset), kind: kindInteger, bits: 32, host: true}
}

func (s *printing) hashOperand(e Hash) *operand {
	text := "symhash"
	if e.Type == unix.NFT_HASH_JENKINS {
		var parts []*operand
		for _, o := range s.key(e.Sreg, e.Len) {
			parts = append(parts, s.used(o))
		}
		text = "jhash " + s.concat(parts)
	}
	text += fmt.Sprintf(" mod %d", e.Modulus)
	if e.Seeded {
		text += fmt.Sprintf(" seed 0x%x", e.Seed)
	}
	return &operand{text: text + offset(e.Offset), kind: kindInteger, bits: 32, host: true}
}

func osfOperand(e OSF) *operand {
	const version = 1
	ttl := map[uint8]string{1: "ttl loose ", 2: "ttl skip "}
	return &operand{text: "osf " + ttl[e.TTL] + choose(e.Flags&version != 0, "version", "name"), kind: kindString, bits: 128}
}

func xfrmOperand(e Xfrm) *operand {
	known := [...]operand{
		1: {text: "ip daddr", kind: kindIPv4, bits: 32}, 2: {text: "ip6 daddr", kind: kindIPv6, bits: 128}, 3: {text: "ip saddr", kind: kindIPv4, bits: 32},
		4: {text: "ip6 saddr", kind: kindIPv6, bits: 128}, 5: {text: "reqid", kind: kindInteger, bits: 32, host: true}, 6: {text: "spi", kind: kindInteger, bits: 32},
	}
	o := operand{text: fmt.Sprintf("key %d", e.Key), kind: kindInteger, bits: 32}
	if e.Key > 0 && int(e.Key) < len(known) {
		o = known[e.Key]
	}
	number := ""
	if e.Number != 0 {
		number = fmt.Sprintf(" spnum %d", e.Number)
	}
	o.text = "ipsec " + choose(e.Dir == 0, "in", "out") + number + " " + o.text
	return &o
}
