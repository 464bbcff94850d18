// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package chains

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/migrate/internal/packets"
)

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
