// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rivals

import (
	"bytes"
	"math/bits"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// field is a part of a packet that a register holds.
type field int

const (
	opaque     field = iota // whatever is not in a box: a condition on it is for some packets
	protocol                // the number of the transport protocol
	port                    // the destination port
	addr4                   // the destination address, or its first bytes
	addr6                   //
	netFamily               // NFPROTO_IPV4 or NFPROTO_IPV6
	etherType               // ETH_P_IP or ETH_P_IPV6
	addrType                // of the destination: RTN_LOCAL
	unreadable              // something of the above, but not as it is
	continued               // of a field that began in a register before
)

// slot is 4 bytes of the registers.
type slot struct {
	field field
	len   int // of the field, in bytes
	bits  int // of an address that has been masked; zero: it has not
}

// state is what is known behind the expressions of a rule so far.
type state struct {
	*walk
	packets  []box
	slots    [20]slot
	outcomes []outcome
	done     bool
}

// slotOf returns the index of a register in 4 bytes; negative: there is none.
func slotOf(register uint32) int {
	switch {
	case register >= unix.NFT_REG_1 && register <= unix.NFT_REG_4:
		return int(register-unix.NFT_REG_1) * 4
	case register >= unix.NFT_REG32_00 && register <= unix.NFT_REG32_15:
		return int(register - unix.NFT_REG32_00)
	}
	return -1
}

func (s *state) load(register uint32, f slot) error {
	at := slotOf(register)
	if at < 0 || f.len <= 0 || at+(f.len+3)/4 > len(s.slots) {
		return errUnreadable
	}
	s.slots[at] = f
	for i := 1; i < (f.len+3)/4; i++ {
		s.slots[at+i] = slot{field: continued}
	}
	return nil
}

func (s *state) at(register uint32) (slot, error) {
	at := slotOf(register)
	if at < 0 {
		return slot{}, errUnreadable
	}
	return s.slots[at], nil
}

// number returns an attribute that is a number; zero if it is absent.
func number(b []byte, typ uint16) uint32 {
	n, _ := nlwire.FindBE32(b, typ)
	return n
}

func data(b []byte, typ uint16) []byte { return nlwire.Find(nlwire.Find(b, typ), unix.NFTA_DATA_VALUE) }

// expression applies one expression to the packets.
func (s *state) expression(name string, b []byte) error {
	switch name {
	case "counter", "log", "last", "notrack":
	case "limit", "quota", "connlimit", "dynset":
		s.restrict()
	case "objref":
		if nlwire.Find(b, unix.NFTA_OBJREF_SET_SREG) != nil {
			s.restrict()
		}
	case "meta":
		return s.meta(b)
	case "payload":
		return s.payload(b)
	case "fib":
		return s.fib(b)
	case "ct":
		if nlwire.Find(b, unix.NFTA_CT_DREG) != nil {
			return s.load(number(b, unix.NFTA_CT_DREG), slot{len: 16})
		}
	case "rt":
		return s.load(number(b, unix.NFTA_RT_DREG), slot{len: 16})
	case "socket":
		return s.load(number(b, nftaSocketDreg), slot{len: 4})
	case "numgen":
		return s.load(number(b, unix.NFTA_NG_DREG), slot{len: 4})
	case "hash":
		return s.load(number(b, unix.NFTA_HASH_DREG), slot{len: 4})
	case "bitwise":
		return s.bitwise(b)
	case "byteorder":
		return s.byteorder(b)
	case "cmp":
		return s.compare(number(b, unix.NFTA_CMP_SREG), number(b, unix.NFTA_CMP_OP), data(b, unix.NFTA_CMP_DATA))
	case "range":
		return s.inRange(b)
	case "lookup":
		return s.lookup(b)
	case "immediate":
		return s.immediate(b)
	case "nat":
		return s.nat(b)
	case "redir":
		s.finish(translates, s.packets)
	case "masq":
		s.finish(ends, s.packets)
	case "match":
		return s.match(nlwire.FindString(b, unix.NFTA_MATCH_NAME), number(b, unix.NFTA_MATCH_REV), nlwire.Find(b, unix.NFTA_MATCH_INFO))
	case "target":
		return s.target(nlwire.FindString(b, unix.NFTA_TARGET_NAME))
	default:
		return errUnreadable
	}
	return nil
}

const nftaSocketDreg = 2

func (s *state) finish(what effect, packets []box) {
	s.outcomes, s.done = append(s.outcomes, outcome{what: what, packets: packets}), true
}

// restrict notes that a condition holds for some of the packets.
func (s *state) restrict() {
	s.each(func(b box) []box {
		b.some = true
		return []box{b}
	})
}

// each replaces each box by others. Those without packets go.
func (s *state) each(f func(box) []box) {
	var after []box
	for _, b := range s.packets {
		for _, part := range f(b) {
			if !part.isEmpty() {
				after = append(after, part)
			}
		}
	}
	s.packets = after
}

func (s *state) meta(b []byte) error {
	if nlwire.Find(b, unix.NFTA_META_DREG) == nil {
		return nil // it sets something
	}
	f, n := opaque, 16
	switch number(b, unix.NFTA_META_KEY) {
	case unix.NFT_META_L4PROTO:
		f, n = protocol, 1
	case unix.NFT_META_NFPROTO:
		f, n = netFamily, 1
	case unix.NFT_META_PROTOCOL:
		f, n = etherType, 2
	case unix.NFT_META_IIF, unix.NFT_META_OIF, unix.NFT_META_MARK:
		n = 4
	}
	return s.load(number(b, unix.NFTA_META_DREG), slot{field: f, len: n})
}

func (s *state) payload(b []byte) error {
	if nlwire.Find(b, unix.NFTA_PAYLOAD_DREG) == nil {
		return errUnreadable // it changes the packet
	}
	offset, n := int(number(b, unix.NFTA_PAYLOAD_OFFSET)), int(number(b, unix.NFTA_PAYLOAD_LEN))
	f := opaque
	switch number(b, unix.NFTA_PAYLOAD_BASE) {
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		switch {
		case offset == 2 && n == 2:
			f = port
		case offset < 4 && offset+n > 2: // with the source port, for example
			f = unreadable
		}
	case unix.NFT_PAYLOAD_NETWORK_HEADER:
		switch s.base.family {
		case unix.NFPROTO_IPV4, unix.NFPROTO_INET: // behind a condition on the family
			switch {
			case offset == 16 && n <= 4:
				f = addr4
			case offset == 9 && n == 1:
				f = protocol
			}
		}
		switch s.base.family {
		case unix.NFPROTO_IPV6, unix.NFPROTO_INET:
			switch {
			case offset == 24 && n <= 16:
				f = addr6
			case offset == 6 && n == 1 && s.onlyIPv6():
				f = protocol
			}
		}
	default:
		f = unreadable
	}
	return s.load(number(b, unix.NFTA_PAYLOAD_DREG), slot{field: f, len: n})
}

func (s *state) onlyIPv6() bool {
	return !slices.ContainsFunc(s.packets, func(b box) bool { return b.families&ipv4 != 0 })
}

func (s *state) fib(b []byte) error {
	f, flags := opaque, number(b, unix.NFTA_FIB_FLAGS)
	if number(b, unix.NFTA_FIB_RESULT) == unix.NFT_FIB_RESULT_ADDRTYPE && flags&unix.NFTA_FIB_F_DADDR != 0 {
		f = addrType
	}
	return s.load(number(b, unix.NFTA_FIB_DREG), slot{field: f, len: 4})
}

// bitwise understands the mask of an address, as of a prefix: what is compared then is the
// masked address.
func (s *state) bitwise(b []byte) error {
	from, err := s.at(number(b, unix.NFTA_BITWISE_SREG))
	if err != nil {
		return err
	}
	to := slot{unreadable, max(int(number(b, unix.NFTA_BITWISE_LEN)), 1), 0}
	mask, xor := data(b, unix.NFTA_BITWISE_MASK), data(b, unix.NFTA_BITWISE_XOR)
	switch {
	case from.field == opaque:
		to.field = opaque
	case (from.field == addr4 || from.field == addr6) && len(mask) == from.len && len(bytes.Trim(xor, "\x00")) == 0:
		if ones := leadingOnes(mask); ones > 0 {
			to = slot{from.field, from.len, ones}
		}
	}
	return s.load(number(b, unix.NFTA_BITWISE_DREG), to)
}

// leadingOnes returns how many bits a mask begins with; negative: it has others as well.
func leadingOnes(mask []byte) (n int) {
	for i, b := range mask {
		ones := bits.LeadingZeros8(^b)
		n += ones
		if ones == 8 {
			continue
		}
		if b<<ones != 0 || len(bytes.Trim(mask[i+1:], "\x00")) != 0 {
			return -1
		}
		break
	}
	return n
}

func (s *state) byteorder(b []byte) error {
	from, err := s.at(number(b, unix.NFTA_BYTEORDER_SREG))
	if err != nil {
		return err
	}
	f := unreadable
	if from.field == opaque {
		f = opaque
	}
	return s.load(number(b, unix.NFTA_BYTEORDER_DREG), slot{field: f, len: max(int(number(b, unix.NFTA_BYTEORDER_LEN)), 1)})
}

func (s *state) immediate(b []byte) error {
	register := number(b, unix.NFTA_IMMEDIATE_DREG)
	if register != unix.NFT_REG_VERDICT {
		return s.load(register, slot{len: max(len(data(b, unix.NFTA_IMMEDIATE_DATA)), 1)})
	}
	v := readVerdict(nlwire.Find(nlwire.Find(b, unix.NFTA_IMMEDIATE_DATA), unix.NFTA_DATA_VERDICT))
	if !v.known {
		return errUnreadable
	}
	s.done = true
	return s.decide(v, s.packets)
}

func (s *state) nat(b []byte) error {
	if number(b, unix.NFTA_NAT_TYPE) != unix.NFT_NAT_DNAT {
		s.finish(ends, s.packets)
		return nil
	}
	switch family := uint8(number(b, unix.NFTA_NAT_FAMILY)); family {
	case unix.NFPROTO_IPV4, unix.NFPROTO_IPV6:
		s.each(func(b box) []box {
			b.families &= familiesOf(family)
			return []box{b}
		})
	}
	s.finish(translates, s.packets)
	return nil
}
