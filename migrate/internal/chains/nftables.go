// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package chains

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/migrate/internal/packets"
)

// field is what a register holds.
type field int

const (
	unknown      field = iota
	constant           // data
	header             // bytes of the network or transport header
	protocol           // of transport
	family             // NFPROTO_*
	etherType          //
	link               // the name of the interface that the packet came in by
	linkIndex          //
	outLink            // the interface that it leaves by
	outLinkIndex       //
	addrType           // of the destination
	connState          //
	continued          // of a field in a register before
)

// slot is 4 bytes of the registers.
type slot struct {
	field field
	len   int
	// base and off are those of header.
	base uint32
	off  int
	mask []byte // that has been applied; nil: none
	data []byte // of constant
	text string // of what is not known
}

// compiler reads the expressions of a rule.
type compiler struct {
	reader
	rule  *rules.Rule
	chain *Chain
	// out are the rules so far. Each element of a map is one.
	out []*Rule
}

// state is what is known behind some expressions.
type state struct {
	*condition
	slots    [16]slot
	mapName  string
	mapNamed bool
	key, end []byte
	endIn    bool
	left     uint64 // milliseconds, of the element
}

// compile returns a rule of the kernel as rules of this package.
func (r reader) compile(t *Table, chain *Chain, rule *rules.Rule) ([]*Rule, error) {
	c := &compiler{reader: r, rule: rule, chain: chain}
	s := &state{condition: newCondition(t.classes() & translated(rule.Exprs))}
	if err := c.exprs(s, rule.Exprs); err != nil {
		return nil, err
	}
	if len(c.out) == 0 {
		return nil, nil
	}
	text := r.printer.Rule(rule)
	for _, o := range c.out {
		o.Chain, o.Handle, o.Text, o.Siblings = chain, rule.Handle, text, len(c.out)
	}
	return c.out, nil
}

// translated returns the packets that a rule can translate: with a family, a rule of an inet table does
// nothing to others, and may read addresses without having asked for the family.
func translated(list []rules.Expr) packets.Classes {
	for _, e := range list {
		if e, ok := e.(rules.Nat); ok {
			switch e.Family {
			case unix.NFPROTO_IPV4:
				return packets.IPv4
			case unix.NFPROTO_IPV6:
				return packets.IPv6
			}
		}
	}
	return packets.All
}

func (c *compiler) emit(s *state, action Action, set func(*Rule)) {
	r := &Rule{
		Match: s.boxes, If: s.ifs, Action: action, Map: s.mapName, Key: s.key, KeyEnd: s.end, Left: s.left, mapNamed: s.mapNamed, keyEndInElement: s.endIn,
	}
	if set != nil {
		set(r)
	}
	c.out = append(c.out, r)
}

// exprs reads expressions, and for each element of a map those behind it.
func (c *compiler) exprs(s *state, list []rules.Expr) error {
	for i, e := range list {
		switch e := e.(type) {
		case rules.Counter, rules.Log, rules.Last, rules.Notrack:
		case rules.Limit:
			s.only("a limit")
		case rules.Quota:
			s.only("a quota")
		case rules.ConnLimit:
			s.only("a number of connections")
		case rules.Dynset:
			s.only("what the set " + e.Set + " takes")
		case rules.Objref:
			if e.Map != "" {
				s.only("an object of the map " + e.Map)
			}
			if e.Type != unix.NFT_OBJECT_COUNTER {
				s.only("the object " + e.Name)
			}
		case rules.Immediate:
			if e.Decision == nil {
				s.load(e.Dreg, slot{field: constant, len: max(len(e.Data), 1), data: e.Data})
				continue
			}
			c.decide(s, e.Decision)
			return nil
		case rules.Lookup:
			if done, err := c.lookup(s, e, list[i+1:]); done || err != nil {
				return err
			}
		case rules.Nat:
			c.nat(s, e)
			return nil
		case rules.Redir:
			c.emit(s, Redirect, nil)
			return nil
		case rules.Masq:
			c.emit(s, Hide, nil)
			return nil
		case rules.Match:
			s.match(c.rule.Chain.Table.Family, e)
		case rules.Target:
			c.target(s, e)
			return nil
		default:
			if !s.expr(c, e) {
				s.only("an expression that is not known")
				c.emit(s, Unknown, nil)
				return nil
			}
		}
	}
	return nil
}

func (s *state) load(register rules.Register, v slot) {
	at := int(register) - 4
	if at < 0 || v.len <= 0 || at+(v.len+3)/4 > len(s.slots) {
		s.only("a register that is not known")
		return
	}
	s.slots[at] = v
	for i := 1; i < (v.len+3)/4; i++ {
		s.slots[at+i] = slot{field: continued}
	}
}

func (s *state) at(register rules.Register) slot {
	at := int(register) - 4
	if at < 0 || at >= len(s.slots) {
		return slot{text: "a register that is not known"}
	}
	return s.slots[at]
}

// expr reads an expression that loads, changes or compares a register; false: it is not known.
func (s *state) expr(c *compiler, e rules.Expr) bool {
	something := func(dreg rules.Register, n int, text string) bool {
		s.load(dreg, slot{len: n, text: text})
		return true
	}
	switch e := e.(type) {
	case rules.Meta:
		if !e.Set {
			s.meta(e)
		}
		return true
	case rules.CT:
		switch {
		case e.Set:
		case e.Key == unix.NFT_CT_STATE:
			s.load(e.Dreg, slot{field: connState, len: 4})
		default:
			something(e.Dreg, 4, ctText(e.Key))
		}
		return true
	case rules.Payload:
		if e.Set {
			return false
		}
		if e.Base != unix.NFT_PAYLOAD_NETWORK_HEADER && e.Base != unix.NFT_PAYLOAD_TRANSPORT_HEADER {
			return something(e.Dreg, e.Len, "bytes of the packet")
		}
		s.load(e.Dreg, slot{field: header, len: e.Len, base: e.Base, off: e.Offset})
		return true
	case rules.Fib:
		if e.Result == unix.NFT_FIB_RESULT_ADDRTYPE && e.Flags&unix.NFTA_FIB_F_DADDR != 0 && e.Flags&^(unix.NFTA_FIB_F_DADDR) == 0 {
			s.load(e.Dreg, slot{field: addrType, len: 4})
			return true
		}
		return something(e.Dreg, 4, "a look-up of the route")
	case rules.Rt:
		return something(e.Dreg, 4, "the route")
	case rules.Socket:
		return something(e.Dreg, 4, "the socket")
	case rules.Numgen:
		return something(e.Dreg, 4, "a random or counted number")
	case rules.Hash:
		return something(e.Dreg, 4, "a hash")
	case rules.Exthdr:
		if e.Set {
			return false
		}
		return something(e.Dreg, max(e.Len, 1), "an option of the header")
	case rules.OSF:
		return something(e.Dreg, 16, "the client's system")
	case rules.Xfrm:
		return something(e.Dreg, 16, "IPsec")
	case rules.Bitwise:
		s.bitwise(e)
		return true
	case rules.Byteorder:
		from := s.at(e.Sreg)
		if e.Len < e.Size && e.Sreg == e.Dreg { // nft(8) asks for it in keys of intervals; it swaps nothing
			return true
		}
		return something(e.Dreg, max(e.Len, 1), from.name())
	case rules.Cmp:
		s.cmp(c, e)
		return true
	case rules.Range:
		s.between(c, s.at(e.Sreg), e.Not, e.From, e.To)
		return true
	}
	return false
}

func (s *state) meta(e rules.Meta) {
	v := slot{len: 4}
	switch e.Key {
	case unix.NFT_META_L4PROTO:
		v = slot{field: protocol, len: 1}
	case unix.NFT_META_NFPROTO:
		v = slot{field: family, len: 1}
	case unix.NFT_META_PROTOCOL:
		v = slot{field: etherType, len: 2}
	case unix.NFT_META_IIFNAME:
		v = slot{field: link, len: unix.IFNAMSIZ}
	case unix.NFT_META_IIF:
		v = slot{field: linkIndex, len: 4}
	case unix.NFT_META_OIFNAME:
		v = slot{field: outLink, len: unix.IFNAMSIZ}
	case unix.NFT_META_OIF:
		v = slot{field: outLinkIndex, len: 4}
	case unix.NFT_META_MARK:
		v.text = "the packet's mark"
	case unix.NFT_META_IIFGROUP:
		v.text = "the group of the interface"
	case unix.NFT_META_SKUID, unix.NFT_META_SKGID:
		v.text = "the socket's owner"
	default:
		v.text = fmt.Sprintf("meta %d", e.Key)
	}
	s.load(e.Dreg, v)
}

func ctText(key uint32) string {
	switch key {
	case unix.NFT_CT_MARK:
		return "the connection's mark"
	case unix.NFT_CT_STATUS:
		return "the connection's status"
	case unix.NFT_CT_ZONE:
		return "the connection's zone"
	}
	return fmt.Sprintf("ct %d", key)
}

// name says what a register holds that is not understood as it is.
func (v slot) name() string {
	switch {
	case v.text != "":
		return v.text
	case v.field == link, v.field == linkIndex:
		return "the interface"
	case v.field == outLink, v.field == outLinkIndex:
		return "the outgoing interface"
	case v.field == header && v.base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && v.off == 0:
		return "the source port"
	}
	return "a part of the packet"
}

func (s *state) bitwise(e rules.Bitwise) {
	from := s.at(e.Sreg)
	if e.Op != rules.BitwiseMaskXor || e.Sreg2 != 0 || len(bytes.Trim(e.Xor, "\x00")) != 0 || from.mask != nil || len(e.Mask) != from.len ||
		from.field != header && from.field != connState {
		s.load(e.Dreg, slot{len: max(e.Len, 1), text: from.name()})
		return
	}
	from.mask = e.Mask
	s.load(e.Dreg, from)
}

func (s *state) cmp(c *compiler, e rules.Cmp) {
	v := s.at(e.Sreg)
	if v.field == connState {
		s.connState(v, e)
		return
	}
	low, high := bytes.Repeat([]byte{0}, len(e.Data)), bytes.Repeat([]byte{0xff}, len(e.Data))
	switch e.Op {
	case unix.NFT_CMP_EQ, unix.NFT_CMP_NEQ:
		s.between(c, v, e.Op == unix.NFT_CMP_NEQ, e.Data, e.Data)
	case unix.NFT_CMP_LTE:
		s.between(c, v, false, low, e.Data)
	case unix.NFT_CMP_GTE:
		s.between(c, v, false, e.Data, high)
	case unix.NFT_CMP_LT:
		s.between(c, v, true, e.Data, high)
	case unix.NFT_CMP_GT:
		s.between(c, v, true, low, e.Data)
	default:
		s.only(v.name())
	}
}

// stateNew is NF_CT_STATE_BIT(IP_CT_NEW).
const stateNew = 1 << 3

// connState compares the connection's state, which nft(8) does by a mask and "not zero".
func (s *state) connState(v slot, e rules.Cmp) {
	if len(e.Data) != 4 {
		s.only("the connection's state")
		return
	}
	value, equal := binary.NativeEndian.Uint32(e.Data), e.Op == unix.NFT_CMP_EQ
	if e.Op != unix.NFT_CMP_EQ && e.Op != unix.NFT_CMP_NEQ {
		s.only("the connection's state")
		return
	}
	if v.mask == nil {
		s.state(!equal, value&stateNew != 0)
		return
	}
	mask := binary.NativeEndian.Uint32(v.mask)
	s.state(!equal, mask&stateNew == value&stateNew && (value != 0 || mask&stateNew == 0))
}

// between keeps the packets of which a register is between two values; not: the others.
func (s *state) between(c *compiler, v slot, not bool, low, high []byte) {
	boxes, ifs, ok := s.boxesOf(c, v, low, high)
	if !ok || not && len(ifs) != 0 && len(boxes) != 0 {
		s.only(negated(not, v.name()))
		return
	}
	for _, text := range ifs {
		s.only(negated(not, text))
	}
	if len(boxes) != 0 {
		s.keep(not, boxes...)
	}
}

// boxesOf returns the packets of which a register is between two values, and what else has to be
// so. Without boxes it is all that has to be. False: it is not understood.
func (s *state) boxesOf(c *compiler, v slot, low, high []byte) (boxes []packets.Box, ifs []string, ok bool) {
	same := bytes.Equal(low, high)
	if v.mask != nil && !same {
		return nil, nil, false
	}
	first := func() byte {
		if len(low) == 0 {
			return 0
		}
		return low[0]
	}
	condition := newCondition(packets.All)
	switch v.field {
	case header:
		return s.headerBoxes(v, low, high)
	case protocol:
		if !same || len(low) < 1 {
			return nil, nil, false
		}
		condition.proto(false, first())
		if n := first(); n != unix.IPPROTO_TCP && n != unix.IPPROTO_UDP {
			return condition.boxes, nil, true
		}
	case family:
		switch {
		case !same || len(low) < 1:
			return nil, nil, false
		case first() == unix.NFPROTO_IPV4:
			condition.keep(false, packets.Of(packets.IPv4))
		case first() == unix.NFPROTO_IPV6:
			condition.keep(false, packets.Of(packets.IPv6))
		default:
			return nil, nil, false
		}
	case etherType:
		switch {
		case !same || len(low) < 2:
			return nil, nil, false
		case binary.BigEndian.Uint16(low) == unix.ETH_P_IP:
			condition.keep(false, packets.Of(packets.IPv4))
		case binary.BigEndian.Uint16(low) == unix.ETH_P_IPV6:
			condition.keep(false, packets.Of(packets.IPv6))
		default:
			return nil, nil, false
		}
	case link, linkIndex, outLink, outLinkIndex:
		name, whole := c.linkName(v.field, low)
		switch {
		case !same || name == "":
			return nil, nil, false
		case v.field == outLink, v.field == outLinkIndex:
			return nil, []string{outgoing(name)}, true
		case !whole:
			return nil, []string{"interface " + name}, true
		}
		condition.link(false, name)
	case addrType:
		if !same || len(low) != 4 {
			return nil, nil, false
		}
		if binary.NativeEndian.Uint32(low) != unix.RTN_LOCAL {
			return []packets.Box{{}}, nil, true // no packet to a published port
		}
	case unknown, constant, connState, continued, portField, addrField:
		return nil, []string{v.name()}, true
	}
	return condition.boxes, nil, true
}

// linkName returns the name of an interface that a register is compared with; not whole: it is the begin of
// names, with "*" behind it.
func (c *compiler) linkName(f field, value []byte) (name string, whole bool) {
	if f == linkIndex || f == outLinkIndex {
		if len(value) != 4 {
			return "", false
		}
		return c.printer.Link(binary.NativeEndian.Uint32(value)), true
	}
	text, _, whole := bytes.Cut(value, []byte{0})
	if !whole {
		return string(text) + "*", false
	}
	return string(text), true
}

// headerField is a field of a header that a box has.
type headerField struct {
	off, len int
	kind     field
	source   bool
}

// Kinds of header fields beside protocol.
const (
	portField field = 100 + iota
	addrField
)

// fieldsOf returns the fields of a header; false: the packets have different ones.
func (s *state) fieldsOf(base uint32) ([]headerField, bool) {
	if base == unix.NFT_PAYLOAD_TRANSPORT_HEADER {
		return []headerField{{0, 2, portField, true}, {2, 2, portField, false}}, true
	}
	switch c := s.classes(); {
	case c&packets.IPv6 == 0:
		return []headerField{{9, 1, protocol, false}, {12, 4, addrField, true}, {16, 4, addrField, false}}, true
	case c&packets.IPv4 == 0:
		return []headerField{{6, 1, protocol, false}, {8, 16, addrField, true}, {24, 16, addrField, false}}, true
	}
	return nil, false
}

// headerBoxes is boxesOf for bytes of a header, which may be those of several fields.
func (s *state) headerBoxes(v slot, low, high []byte) (boxes []packets.Box, ifs []string, ok bool) {
	fields, ok := s.fieldsOf(v.base)
	if !ok || len(low) < v.len || len(high) < v.len {
		return nil, nil, false
	}
	low, high = low[:v.len], high[:v.len]
	all, asked, covered := newCondition(packets.All), false, 0
	for _, f := range fields {
		from, to := max(f.off, v.off), min(f.off+f.len, v.off+v.len)
		if from >= to {
			continue
		}
		covered += to - from
		asked = asked || !f.source || f.kind != portField
		whole := from == f.off && to == f.off+f.len
		a, b := low[from-v.off:to-v.off], high[from-v.off:to-v.off]
		var mask []byte
		if v.mask != nil {
			mask = v.mask[from-v.off : to-v.off]
		}
		if v.len != f.len && !bytes.Equal(low, high) && v.len > to-from {
			return nil, nil, false // a range of several fields
		}
		switch {
		case f.kind == portField && whole && mask == nil:
			first, last := binary.BigEndian.Uint16(a), binary.BigEndian.Uint16(b)
			if f.source {
				ifs = append(ifs, "source port "+ports(first, last))
			} else {
				all.ports(false, [2]uint16{first, last})
			}
		case f.kind == protocol && mask == nil && bytes.Equal(a, b):
			all.proto(false, a[0])
		case f.kind == addrField && from == f.off: // the first bytes of an address
			span, ok := spanOf(a, b, mask, f.len)
			if !ok {
				return nil, nil, false
			}
			all.addr(f.source, false, span)
		default:
			return nil, nil, false
		}
	}
	if covered < v.len {
		ifs = append(ifs, v.name())
	}
	if !asked {
		return nil, ifs, true
	}
	return all.boxes, ifs, true
}

// spanOf returns addresses from the first bytes of two of them, or of one under a mask.
func spanOf(low, high, mask []byte, size int) (packets.Span, bool) {
	first, okFirst := netip.AddrFromSlice(append(bytes.Clone(low), make([]byte, size-len(low))...))
	last, okLast := netip.AddrFromSlice(append(bytes.Clone(high), bytes.Repeat([]byte{0xff}, size-len(high))...))
	if mask == nil {
		return packets.Span{First: first, Last: last}, okFirst && okLast
	}
	bits, ok := prefixBits(mask)
	if !ok || !okFirst {
		return packets.Span{}, false
	}
	return packets.SpanOf(netip.PrefixFrom(first, bits)), true
}

func (c *compiler) decide(s *state, d *rules.Decision) {
	switch d.Code {
	case nfAccept:
		c.emit(s, Accept, nil)
	case nfDrop:
		c.emit(s, Drop, nil)
	case unix.NFT_RETURN:
		c.emit(s, Return, nil)
	case unix.NFT_JUMP, unix.NFT_GOTO:
		action := Jump
		if d.Code == unix.NFT_GOTO {
			action = Goto
		}
		c.emit(s, action, func(r *Rule) { r.Target = d.Chain })
	case unix.NFT_CONTINUE, unix.NFT_BREAK:
	default:
		c.emit(s, Unknown, nil)
	}
}

// data returns the bytes that a register holds, up to n.
func (s *state) data(register rules.Register, n int) []byte {
	at := int(register) - 4
	for back := 0; at-back >= 0 && at < len(s.slots); back++ {
		v := s.slots[at-back]
		if v.field == continued {
			continue
		}
		if v.field != constant || len(v.data) < 4*back+n {
			return nil
		}
		return v.data[4*back : 4*back+n]
	}
	return nil
}

func (c *compiler) nat(s *state, e rules.Nat) {
	if e.Type != unix.NFT_NAT_DNAT {
		c.emit(s, Hide, nil)
		return
	}
	var to Target
	size := 0
	switch e.Family {
	case unix.NFPROTO_IPV4:
		size = 4
		s.keep(false, packets.Of(packets.IPv4))
	case unix.NFPROTO_IPV6:
		size = 16
		s.keep(false, packets.Of(packets.IPv6))
	}
	addr := func(r rules.Register) (a netip.Addr) {
		a, ok := netip.AddrFromSlice(s.data(r, size))
		if !ok {
			to.Fault = "its address is not in the rule"
		}
		return a
	}
	port := func(r rules.Register) uint16 {
		b := s.data(r, 2)
		if b == nil {
			to.Fault = "its port is not in the rule"
			return 0
		}
		return binary.BigEndian.Uint16(b)
	}
	if e.AddrMin != 0 {
		to.Addr = addr(e.AddrMin)
	}
	if e.PortMin != 0 {
		to.First = port(e.PortMin)
		to.Last = to.First
	}
	if e.PortMax != 0 {
		to.Last = port(e.PortMax)
	}
	if e.AddrMax != 0 && to.Fault == "" && addr(e.AddrMax) != to.Addr {
		to.Fault = "it goes to any of several addresses"
	}
	to.flags(e.Flags)
	c.emit(s, Translate, func(r *Rule) { r.To = to })
}

// flags notes those of NF_NAT_RANGE_* that a published port cannot have.
func (t *Target) flags(flags uint32) {
	const random = unix.NF_NAT_RANGE_PROTO_RANDOM | unix.NF_NAT_RANGE_PROTO_RANDOM_FULLY
	switch {
	case t.Fault != "":
	case flags&unix.NF_NAT_RANGE_NETMAP != 0:
		t.Fault = "it translates a network to another one"
	case flags&random != 0 && t.First != t.Last:
		t.Fault = "it goes to random ports"
	case !t.Addr.IsValid():
		t.Fault = "it has no address: it goes to this host itself"
	}
}
