// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rivals

import (
	"bytes"
	"math/bits"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
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
	slots    [16]slot
	outcomes []outcome
	done     bool
}

// slotOf returns the index of a register for data; negative: there is none.
func slotOf(register rules.Register) int {
	if register >= 20 {
		return -1
	}
	return int(register) - 4
}

func (s *state) load(register rules.Register, f slot) error {
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

func (s *state) at(register rules.Register) (slot, error) {
	at := slotOf(register)
	if at < 0 {
		return slot{}, errUnreadable
	}
	return s.slots[at], nil
}

// expression applies one expression to the packets.
func (s *state) expression(e rules.Expr) error {
	switch e := e.(type) {
	case rules.Counter, rules.Log, rules.Last, rules.Notrack:
	case rules.Limit, rules.Quota, rules.ConnLimit, rules.Dynset:
		s.restrict()
	case rules.Objref:
		if e.Map != "" {
			s.restrict()
		}
	case rules.Meta:
		return s.meta(e)
	case rules.Payload:
		return s.payload(e)
	case rules.Fib:
		return s.fib(e)
	case rules.CT:
		if !e.Set {
			return s.load(e.Dreg, slot{len: 16})
		}
	case rules.Rt:
		return s.load(e.Dreg, slot{len: 16})
	case rules.Socket:
		return s.load(e.Dreg, slot{len: 4})
	case rules.Numgen:
		return s.load(e.Dreg, slot{len: 4})
	case rules.Hash:
		return s.load(e.Dreg, slot{len: 4})
	case rules.Bitwise:
		return s.bitwise(e)
	case rules.Byteorder:
		return s.byteorder(e)
	case rules.Cmp:
		return s.compare(e)
	case rules.Range:
		return s.inRange(e)
	case rules.Lookup:
		return s.lookup(e)
	case rules.Immediate:
		if e.Decision == nil {
			return s.load(e.Dreg, slot{len: max(len(e.Data), 1)})
		}
		s.done = true
		return s.decide(e.Decision, s.packets)
	case rules.Nat:
		s.nat(e)
	case rules.Redir:
		s.finish(translates, s.packets)
	case rules.Masq:
		s.finish(ends, s.packets)
	case rules.Match:
		return s.match(e.Name, e.Rev, e.Info)
	case rules.Target:
		return s.target(e.Name)
	default:
		return errUnreadable
	}
	return nil
}

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

func (s *state) meta(e rules.Meta) error {
	if e.Set {
		return nil
	}
	f, n := opaque, 16
	switch e.Key {
	case unix.NFT_META_L4PROTO:
		f, n = protocol, 1
	case unix.NFT_META_NFPROTO:
		f, n = netFamily, 1
	case unix.NFT_META_PROTOCOL:
		f, n = etherType, 2
	case unix.NFT_META_IIF, unix.NFT_META_OIF, unix.NFT_META_MARK:
		n = 4
	}
	return s.load(e.Dreg, slot{field: f, len: n})
}

func (s *state) payload(e rules.Payload) error {
	if e.Set {
		return errUnreadable // it changes the packet
	}
	f := opaque
	switch e.Base {
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		switch {
		case e.Offset == 2 && e.Len == 2:
			f = port
		case e.Offset < 4 && e.Offset+e.Len > 2: // with the source port, for example
			f = unreadable
		}
	case unix.NFT_PAYLOAD_NETWORK_HEADER:
		switch s.base.Table.Family {
		case unix.NFPROTO_IPV4, unix.NFPROTO_INET: // behind a condition on the family
			switch {
			case e.Offset == 16 && e.Len <= 4:
				f = addr4
			case e.Offset == 9 && e.Len == 1:
				f = protocol
			}
		}
		switch s.base.Table.Family {
		case unix.NFPROTO_IPV6, unix.NFPROTO_INET:
			switch {
			case e.Offset == 24 && e.Len <= 16:
				f = addr6
			case e.Offset == 6 && e.Len == 1 && s.onlyIPv6():
				f = protocol
			}
		}
	default:
		f = unreadable
	}
	return s.load(e.Dreg, slot{field: f, len: e.Len})
}

func (s *state) onlyIPv6() bool {
	return !slices.ContainsFunc(s.packets, func(b box) bool { return b.families&ipv4 != 0 })
}

func (s *state) fib(e rules.Fib) error {
	f := opaque
	if e.Result == unix.NFT_FIB_RESULT_ADDRTYPE && e.Flags&unix.NFTA_FIB_F_DADDR != 0 {
		f = addrType
	}
	return s.load(e.Dreg, slot{field: f, len: 4})
}

// bitwise understands the mask of an address, as of a prefix: what is compared then is the
// masked address.
func (s *state) bitwise(e rules.Bitwise) error {
	from, err := s.at(e.Sreg)
	if err != nil {
		return err
	}
	to := slot{unreadable, max(e.Len, 1), 0}
	switch {
	case from.field == opaque:
		to.field = opaque
	case (from.field == addr4 || from.field == addr6) && len(e.Mask) == from.len && len(bytes.Trim(e.Xor, "\x00")) == 0:
		if ones := leadingOnes(e.Mask); ones > 0 {
			to = slot{from.field, from.len, ones}
		}
	}
	return s.load(e.Dreg, to)
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

func (s *state) byteorder(e rules.Byteorder) error {
	from, err := s.at(e.Sreg)
	if err != nil {
		return err
	}
	f := unreadable
	if from.field == opaque {
		f = opaque
	}
	return s.load(e.Dreg, slot{field: f, len: max(e.Len, 1)})
}

func (s *state) nat(e rules.Nat) {
	if e.Type != unix.NFT_NAT_DNAT {
		s.finish(ends, s.packets)
		return
	}
	switch e.Family {
	case unix.NFPROTO_IPV4, unix.NFPROTO_IPV6:
		s.each(func(b box) []box {
			b.families &= familiesOf(rules.Family(e.Family))
			return []box{b}
		})
	}
	s.finish(translates, s.packets)
}
