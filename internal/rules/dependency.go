// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import "golang.org/x/sys/unix"

// dependency is a match of a protocol, which fields of that protocol imply.
type dependency struct {
	statement int
	operand   *operand
	equal     bool
	value     []byte
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
