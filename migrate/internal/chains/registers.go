// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package chains

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
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
		switch {
		case !e.Set:
			s.meta(e)
		case e.Key != unix.NFT_META_NFTRACE:
			c.emit(s, Mark, nil)
		}
		return true
	case rules.CT:
		switch {
		case e.Set:
			c.emit(s, Mark, nil)
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
