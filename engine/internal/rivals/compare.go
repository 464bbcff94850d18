// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rivals

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

func (s *state) compare(e rules.Cmp) error {
	op, value := e.Op, e.Data
	at, err := s.at(e.Sreg)
	if err != nil {
		return err
	}
	switch at.field {
	case opaque:
		s.restrict()
		return nil
	case unreadable, continued:
		return errUnreadable
	case protocol, port, addr4, addr6, netFamily, etherType, addrType:
	}
	first, last := make([]byte, len(value)), bytes.Repeat([]byte{0xff}, len(value))
	switch op {
	case unix.NFT_CMP_EQ:
		return s.equal(at, value, value)
	case unix.NFT_CMP_NEQ:
		return s.unequal(at, value, value)
	case unix.NFT_CMP_LTE:
		last = value
	case unix.NFT_CMP_GTE:
		first = value
	case unix.NFT_CMP_LT:
		if bytes.Equal(value, first) {
			return errUnreadable
		}
		last = before(value)
	case unix.NFT_CMP_GT:
		if bytes.Equal(value, last) {
			return errUnreadable
		}
		first = after(value)
	default:
		return errUnreadable
	}
	if at.field != port && at.field != addr4 && at.field != addr6 || at.bits != 0 {
		return errUnreadable
	}
	return s.equal(at, first, last)
}

// equal keeps the packets with a field between two values.
func (s *state) equal(at slot, low, high []byte) error {
	err := error(nil)
	s.each(func(b box) []box {
		var part box
		if part, err = b.with(at, low, high); err != nil {
			return nil
		}
		return []box{part}
	})
	return err
}

// unequal keeps the other packets.
func (s *state) unequal(at slot, low, high []byte) error {
	if at.field == addr4 || at.field == addr6 {
		s.restrict()
		return nil
	}
	err := error(nil)
	s.each(func(b box) []box {
		var part box
		if part, err = b.with(at, low, high); err != nil {
			return nil
		}
		if at.field == port {
			left, right := b, b
			if part.isEmpty() {
				left.ported = true
				return []box{left}
			}
			if part.first > 0 {
				left = left.withPorts(0, part.first-1)
			} else {
				left.protos = 0
			}
			if part.last < 1<<16-1 {
				right = right.withPorts(part.last+1, 1<<16-1)
			} else {
				right.protos = 0
			}
			return []box{left, right}
		}
		switch at.field {
		case protocol:
			b.protos &^= part.protos
		case netFamily, etherType:
			b.families &^= part.families
		case addrType:
			if !part.isEmpty() { // the host's own addresses are not meant
				return nil
			}
		case opaque, port, addr4, addr6, unreadable, continued: // see above
		}
		return []box{b}
	})
	return err
}

// with returns the packets of a box that have a field between two values.
func (b box) with(at slot, low, high []byte) (box, error) {
	if len(low) < at.len || len(high) < at.len || at.len == 0 {
		return box{}, errUnreadable
	}
	low, high = low[:at.len], high[:at.len]
	same := bytes.Equal(low, high)
	switch at.field {
	case opaque:
		b.some = true
		return b, nil
	case port:
		return b.withPorts(binary.BigEndian.Uint16(low), binary.BigEndian.Uint16(high)), nil
	case addr4, addr6:
		size := 4
		if at.field == addr6 {
			size = 16
		}
		first, okFirst := netip.AddrFromSlice(append(bytes.Clone(low), make([]byte, size-at.len)...))
		last, okLast := netip.AddrFromSlice(append(bytes.Clone(high), bytes.Repeat([]byte{0xff}, size-at.len)...))
		if !okFirst || !okLast {
			return box{}, errUnreadable
		}
		if at.bits != 0 { // of which low and high are the same
			last = lastOf(netip.PrefixFrom(first, at.bits))
		}
		return b.withAddrs(first, last), nil
	case protocol, netFamily, etherType, addrType: // of which only one value can be meant
	case unreadable, continued:
		return box{}, errUnreadable
	}
	if !same {
		return box{}, errUnreadable
	}
	switch at.field {
	case protocol:
		switch low[0] {
		case unix.IPPROTO_TCP:
			b.protos &= tcp
		case unix.IPPROTO_UDP:
			b.protos &= udp
		default:
			b.protos &= otherProtocols
		}
	case netFamily:
		b.families &= onlyFamily(low[0] == unix.NFPROTO_IPV4, low[0] == unix.NFPROTO_IPV6)
	case etherType:
		v := binary.BigEndian.Uint16(low)
		b.families &= onlyFamily(v == unix.ETH_P_IP, v == unix.ETH_P_IPV6)
	case addrType:
		if binary.NativeEndian.Uint32(low) != unix.RTN_LOCAL {
			b.protos = 0
		}
	case opaque, port, addr4, addr6, unreadable, continued: // see above
	}
	return b, nil
}

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func onlyFamily(four, six bool) families {
	switch {
	case four:
		return ipv4
	case six:
		return ipv6
	}
	return 0
}

func (s *state) inRange(e rules.Range) error {
	at, err := s.at(e.Sreg)
	switch {
	case err != nil:
		return err
	case at.field == opaque:
		s.restrict()
		return nil
	case at.field != port && at.field != addr4 && at.field != addr6:
		return errUnreadable
	}
	if e.Not {
		return s.unequal(at, e.From, e.To)
	}
	return s.equal(at, e.From, e.To)
}
