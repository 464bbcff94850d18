// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"slices"
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

func payloadOperand(base uint32, off, bits int) *operand {
	o := &operand{isPayload: true, base: base, layer: min(layerOf(base), inner), off: off, bits: bits, kind: kindHex}
	o.unresolved()
	return o
}

// unresolved names bytes of a packet of which the protocol is not known.
func (o *operand) unresolved() {
	bases := [...]string{"ll", "nh", "th", "ih", "tun"}
	base := fmt.Sprint(o.base)
	if int(o.base) < len(bases) {
		base = bases[o.base]
	}
	o.text = fmt.Sprintf("@%s,%d,%d", base, o.off, o.bits)
	if o.base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && o.bits == 16 && (o.off == 0 || o.off == 16) {
		o.resolve(headerTH, &headerTH.fields[o.off/16])
	}
}

func (o *operand) resolve(h *header, f *field) {
	o.header, o.field, o.kind, o.text, o.host = h, f, f.kind, h.name+" "+f.name, false
	if o.says = noLayer; f.name == h.key {
		o.says = h.layer
	}
}

// headerAt returns the header that an offset of a layer is in, and where it begins.
func (s *printing) headerAt(l layer, off int) (h *header, begin int) {
	h = s.headers[l]
	if l != link || len(s.stacked) == 0 {
		return h, 0
	}
	for _, below := range s.stacked {
		if off < begin+below.bits {
			return below, begin
		}
		begin += below.bits
	}
	return h, begin
}

// fieldAt returns the field at an offset of so many bits, or one that is longer, or else a shorter one.
func (s *printing) fieldAt(h *header, off, bits int, exact bool) *field {
	if h == nil {
		return nil
	}
	for i := range h.fields {
		f := &h.fields[i]
		if f.off != off || exact && f.bits != bits || f.icmp != 0 && s.icmp != 0 && s.icmp != f.icmp {
			continue
		}
		return f
	}
	return nil
}

// complete finds the field that bytes of a packet are.
func (s *printing) complete(o *operand) {
	h, begin := s.headerAt(o.layer, o.off)
	if f := s.fieldAt(h, o.off-begin, o.bits, true); f != nil && o.base <= unix.NFT_PAYLOAD_TRANSPORT_HEADER {
		o.resolve(h, f)
	}
}

// kill removes the match of a protocol that a field of it implies.
func (s *printing) kill(o *operand) {
	if o.header == nil {
		return
	}
	at := o.layer
	if s.deps[at] == nil && at == transport {
		at = inner
	}
	if d := s.deps[at]; d != nil && s.implies(o, d) {
		s.remove(at)
	}
}

func (s *printing) remove(at layer) {
	s.statements[s.deps[at].statement].removed = true
	s.deps[at] = nil
}

func (s *printing) implies(o *operand, d *dependency) bool {
	h := d.operand.header
	switch s.table.Family {
	case unix.NFPROTO_INET, unix.NFPROTO_BRIDGE, unix.NFPROTO_NETDEV:
		if (h == headerIP || h == headerIP6) && o.layer == transport {
			return false // it says the family as well
		}
		if h != nil && d.equal && o.layer == d.operand.layer {
			switch {
			case o.says != noLayer:
				return false
			case o.layer == link && h == headerVLAN:
				return false
			case o.layer == link && h == headerEther:
				return toNumber(d.value) == unix.ETH_P_8021Q
			}
		}
	}
	if o.layer != transport || h == nil || h.layer != transport || h != headerICMP && h != headerICMPv6 {
		return true
	}
	return o.field.icmp != 0 && h == o.header && len(d.value) == 1 && d.value[0] == o.field.icmp
}

// killBelow is kill for options.
func (s *printing) killBelow(e *Exthdr) {
	at := network
	switch e.Op {
	case exthdrTCP:
		if at = transport; s.deps[at] == nil {
			at = inner
		}
	case exthdrIPv4, exthdrIPv6:
	default:
		return
	}
	if s.deps[at] != nil {
		s.remove(at)
	}
}

// learn notes the protocol that a match says.
func (s *printing) learn(o *operand, at int, value []byte) {
	if o.meta == unix.NFT_META_IIFTYPE && len(o.ops) == 0 {
		s.learnLink(o, at, value)
		return
	}
	if o.says == noLayer || len(o.ops) != 0 {
		return
	}
	n := toNumber(value)
	if o.isPayload {
		s.learnField(o, at, n, value)
		return
	}
	above := headerUnknown
	switch {
	case o.says == network:
		if h := transportOf(n); h != nil {
			above = h
		}
		s.headers[transport] = above
	case o.meta == unix.NFT_META_PROTOCOL:
		if s.table.Family == unix.NFPROTO_BRIDGE || s.table.Family == unix.NFPROTO_NETDEV {
			if h := networkOf(n); h != nil {
				above = h
			}
			s.headers[network] = above
		}
	default:
		switch n {
		case unix.NFPROTO_IPV4:
			above = headerIP
		case unix.NFPROTO_IPV6:
			above = headerIP6
		}
		s.headers[network] = above
	}
	s.killProtocol(o, n)
	s.deps[o.says+1] = &dependency{at, o, true, value}
}

// learnLink is learn for the type of the interface.
func (s *printing) learnLink(o *operand, at int, value []byte) {
	if s.table.Family != unix.NFPROTO_BRIDGE {
		s.headers[link] = headerUnknown
		if toNumber(value) == unix.ARPHRD_ETHER {
			s.headers[link] = headerEther
		}
	}
	s.deps[link] = &dependency{at, o, true, value}
}

// fieldOf returns an operand whose mask leaves one field as that field, and how many bits follow it.
func (s *printing) fieldOf(o *operand) (part *operand, shift int) {
	if part, shift = s.trimmed(o); part == o {
		part, shift = optionBits(o)
	}
	return part, shift
}

var headerUnknown = &header{name: "unknown"}

// killProtocol removes a match of the family that one of the protocol implies.
func (s *printing) killProtocol(o *operand, proto uint64) {
	d := s.deps[o.says]
	if d == nil {
		return
	}
	family := uint64(0)
	switch d.operand.kind {
	case kindNFProto:
		family = toNumber(d.value)
	case kindEtherType:
		families := map[uint64]uint64{unix.ETH_P_IP: unix.NFPROTO_IPV4, unix.ETH_P_IPV6: unix.NFPROTO_IPV6}
		family = families[toNumber(d.value)]
	default:
		s.remove(o.says)
		return
	}
	switch s.table.Family {
	case unix.NFPROTO_IPV4, unix.NFPROTO_IPV6:
		if uint64(s.table.Family) != family {
			return
		}
	case unix.NFPROTO_INET, unix.NFPROTO_BRIDGE, unix.NFPROTO_NETDEV:
		if o.meta == unix.NFT_META_L4PROTO && (proto != unix.IPPROTO_ICMP || family == unix.NFPROTO_IPV6) && (proto != unix.IPPROTO_ICMPV6 || family == unix.NFPROTO_IPV4) {
			return
		}
	}
	s.remove(o.says)
}

// learnField is learn for a field of a header.
func (s *printing) learnField(o *operand, at int, n uint64, value []byte) {
	says := o.says
	switch o.header {
	case headerICMP:
		if s.icmp = uint8(n); n == 0 {
			s.icmp = icmpEcho
		}
		if s.icmp == icmpEcho {
			return
		}
	case headerICMPv6:
		if s.icmp = uint8(n); n == icmpv6EchoReply {
			s.icmp = icmpv6Echo
		}
		if s.icmp == icmpv6Echo {
			return
		}
	case headerEther, headerVLAN:
		if h := networkOf(n); h == headerVLAN {
			s.stacked = append(s.stacked, s.headers[link])
			s.headers[link] = headerVLAN
			says--
		} else if h != nil {
			s.headers[network] = h
		}
	default:
		if h := transportOf(n); h != nil {
			s.headers[transport] = h
		}
	}
	s.kill(o)
	s.deps[says+1] = &dependency{at, o, true, value}
}

// expand prints a comparison of bytes of a packet as those of the fields in them.
func (s *printing) expand(o *operand, op uint32, data []byte) {
	h, begin := s.headerAt(o.layer, o.off)
	off, bits := o.off, min(o.bits, 8*len(data))
	if o.base > unix.NFT_PAYLOAD_TRANSPORT_HEADER || h == headerUnknown {
		h = nil
	}
	s.expandBits(o, h, begin, off, bits, op, data, 0)
}

// expandBits is expand from an offset in the packet and one in the data on.
func (s *printing) expandBits(o *operand, h *header, begin, off, bits int, op uint32, data []byte, at int) {
	for bits > 0 {
		f := s.fieldAt(h, off-begin, bits, false)
		if f == nil {
			rest := payloadOperand(o.base, off, bits)
			value := extract(data, at, bits)
			s.kill(rest)
			s.match(relation(rest.text, op, rest.kind.format(s, value, false), false))
			return
		}
		n := min(f.bits, bits)
		part := payloadOperand(o.base, off, n)
		part.resolve(h, f)
		value := extract(data, at, n)
		if n < f.bits { // the begin of an address
			whole := make([]byte, (f.bits+7)/8)
			copy(whole, value)
			s.match(relation(part.text, op, fmt.Sprintf("%s/%d", f.kind.format(s, whole, false), n), false))
			s.kill(part)
			return
		}
		stmt := s.match(relation(part.text, op, s.value(value, f.kind, false), f.kind.bitmask && one(value)))
		s.kill(part)
		if op == unix.NFT_CMP_EQ {
			s.learn(part, stmt, value)
		}
		off, bits, at = off+n, bits-n, at+n
	}
}

// cmpField prints a comparison of bytes with a mask as that of the fields that the mask leaves.
func (s *printing) cmpField(o *operand, e Cmp) bool {
	off, bits, ok := s.trim(o, o.ops[0].data)
	if !ok {
		return false
	}
	h, begin := s.headerAt(o.layer, off)
	s.expandBits(o, h, begin, off, bits, e.Op, e.Data, off-o.off)
	return true
}

// trim returns the bits that a mask leaves, if they are fields.
func (s *printing) trim(o *operand, mask []byte) (off, bits int, ok bool) {
	if o.base > unix.NFT_PAYLOAD_TRANSPORT_HEADER || 8*len(mask) != o.bits {
		return 0, 0, false
	}
	first, last := -1, -1
	for i := range o.bits {
		if mask[i/8]&(0x80>>(i%8)) == 0 {
			continue
		}
		if first < 0 {
			first = i
		} else if last != i-1 {
			return 0, 0, false
		}
		last = i
	}
	if first < 0 {
		return 0, 0, false
	}
	off, bits = o.off+first, last-first+1
	h, begin := s.headerAt(o.layer, off)
	if bits == o.bits || h == nil {
		return 0, 0, false
	}
	for n := 0; n < bits; {
		i := slices.IndexFunc(h.fields, func(f field) bool { return f.off == off-begin+n })
		if i < 0 || n+h.fields[i].bits > bits {
			return 0, 0, false
		}
		n += h.fields[i].bits
	}
	return off, bits, true
}

// trimmed returns an operand whose mask leaves one field as that field, and how far values are to be shifted.
func (s *printing) trimmed(o *operand) (field *operand, shift int) {
	ops := o.ops
	shifted := 0
	if len(ops) == 2 && ops[1].symbol == ">>" {
		if _, err := fmt.Sscan(ops[1].text, &shifted); err != nil {
			return o, 0
		}
		ops = ops[:1]
	}
	if !o.isPayload || len(ops) != 1 || ops[0].symbol != "&" || ops[0].text != "" {
		return o, 0
	}
	off, bits, ok := s.trim(o, ops[0].data)
	if !ok {
		return o, 0
	}
	part := payloadOperand(o.base, off, bits)
	if s.complete(part); part.header == nil {
		return o, 0
	}
	shift = o.off + o.bits - off - bits
	if shift -= shifted; shift < 0 {
		return o, 0
	}
	part.bits = o.bits // of the register
	return part, shift
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
