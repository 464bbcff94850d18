// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// state is what rules can change of a packet, and of what is known of it. States are compared: rules
// that make no difference make no ways.
type state struct {
	link, net, th header
	// client says which port is the one of the client that is not known, if it still is.
	client portOf
	ports  PortRange
	proto  uint8
	ranges ranges // never changed
	// written is set once a rule has written bytes that are not known.
	written         bool
	mark, priority  uint32
	markUnknown     bool
	priorityUnknown bool
	pktType         uint8
	ct              Conn
	labels          bool   // labels were set
	zone            uint16 // that rules gave the packet before connection tracking
	zoneDirs        uint8
	translated      *rules.Rule
	reroute         bool
	// added are the elements that rules have added to sets.
	added string
}

// header is the start of a header of the packet: bits that are not in known may have any value.
type header struct {
	val, known [40]byte
	len        uint8
}

// portOf is a port of the packet.
type portOf uint8

const (
	portsKnown portOf = iota
	clientIsSource
	clientIsDestination
)

func (h *header) set(at int, b ...byte) {
	for i, v := range b {
		h.val[at+i], h.known[at+i] = v, 0xff
	}
}

func (h *header) set16(at int, v uint16) { h.set(at, byte(v>>8), byte(v)) }

func (r PortRange) or1024() PortRange {
	if r == (PortRange{}) {
		return PortRange{1024, 65535}
	}
	return r
}

func hasPorts(proto uint8) bool {
	switch proto {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP, unix.IPPROTO_UDPLITE:
		return true
	}
	return false
}

// newState makes the headers of a packet.
func newState(p *Packet) *state {
	s := &state{
		ports: p.Ports.or1024(), mark: p.Mark, markUnknown: p.MarkUnknown, priority: p.Priority,
		pktType: p.PktType, ct: p.CT, proto: p.Proto, ranges: newRanges(p),
	}
	s.link.len = 14
	if len(p.DstMAC) == 6 {
		s.link.set(0, p.DstMAC...)
	}
	if len(p.SrcMAC) == 6 {
		s.link.set(6, p.SrcMAC...)
	}
	if p.VLAN != 0 {
		s.link.len = 18
		s.link.set16(12, unix.ETH_P_8021Q)
		s.link.set16(14, p.VLAN)
		s.link.set16(16, p.EtherType)
	} else {
		s.link.set16(12, p.EtherType)
	}
	switch p.EtherType {
	case unix.ETH_P_IP:
		s.newIPv4(p)
	case unix.ETH_P_IPV6:
		s.newIPv6(p)
	case unix.ETH_P_ARP:
		s.newARP(p)
		return s
	default:
		return s
	}
	s.newTransport(p)
	return s
}

func (s *state) newIPv4(p *Packet) {
	s.net.len = 20
	s.net.set(0, 0x45, p.TOS)
	if p.Len > 0 {
		s.net.set16(2, uint16(p.Len))
	}
	s.net.val[6], s.net.known[6] = 0, 0xbf // not a fragment; whether it may be one is not known
	s.net.set(7, 0)
	if p.TTL > 0 {
		s.net.set(8, p.TTL)
	}
	s.net.set(9, p.Proto)
	s.setAddr(false, p.Dst)
	s.setAddr(true, p.Src)
}

func (s *state) newIPv6(p *Packet) {
	s.net.len = 40
	s.net.set(0, 0x60|p.TOS>>4)
	s.net.val[1], s.net.known[1] = p.TOS<<4, 0xf0 // the flow label is not known
	if p.Len >= 40 {
		s.net.set16(4, uint16(p.Len-40))
	}
	s.net.set(6, p.Proto)
	if p.TTL > 0 {
		s.net.set(7, p.TTL)
	}
	s.setAddr(false, p.Dst)
	s.setAddr(true, p.Src)
}

func (s *state) newARP(p *Packet) {
	s.net.len = 28
	s.net.set(0, 0, 1, 8, 0, 6, 4)
	if p.ARPOp != 0 {
		s.net.set16(6, p.ARPOp)
	}
	if len(p.SrcMAC) == 6 {
		s.net.set(8, p.SrcMAC...)
	}
	if p.Src.Is4() {
		s.net.set(14, p.Src.AsSlice()...)
	}
	if p.Dst.Is4() {
		s.net.set(24, p.Dst.AsSlice()...)
	}
}

func (s *state) newTransport(p *Packet) {
	ipLen := int(s.net.len)
	switch p.Proto {
	case unix.IPPROTO_TCP:
		s.th.len = 20
		if p.TCPFlags&tcpACK == 0 {
			s.th.set(8, 0, 0, 0, 0)
		}
		s.th.val[12], s.th.known[12] = 0, 0x0f // how long the header is is not known
		s.th.set(13, p.TCPFlags)
		if p.TCPFlags&tcpURG == 0 {
			s.th.set(18, 0, 0)
		}
	case unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE:
		s.th.len = 8
		if p.Proto == unix.IPPROTO_UDP && p.Len > ipLen {
			s.th.set16(4, uint16(p.Len-ipLen))
		}
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		s.th.len = 8
		s.th.set(0, p.ICMPType, p.ICMPCode)
	case unix.IPPROTO_SCTP, unix.IPPROTO_DCCP:
		s.th.len = 12
	}
	if hasPorts(p.Proto) {
		s.setPort(true, p.SrcPort)
		s.setPort(false, p.DstPort)
	}
}

const (
	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpACK = 0x10
	tcpURG = 0x20
)

// packet returns the packet that the state is of, with base for what does not change.
func (s *state) packet(base *Packet) Packet {
	p := *base
	p.Mark, p.MarkUnknown, p.Priority, p.PktType = s.mark, s.markUnknown, s.priority, s.pktType
	p.CT = s.ct
	p.Ports = s.ports
	if p.Ports == (PortRange{1024, 65535}) {
		p.Ports = PortRange{}
	}
	switch p.EtherType {
	case unix.ETH_P_IP:
		p.Src, p.Dst = s.addr(true), s.addr(false)
		p.TOS, p.TTL = s.net.val[1], s.net.val[8]&s.net.known[8]
	case unix.ETH_P_IPV6:
		p.Src, p.Dst = s.addr(true), s.addr(false)
		p.TOS, p.TTL = s.net.val[0]<<4|s.net.val[1]>>4, s.net.val[7]&s.net.known[7]
	}
	if hasPorts(p.Proto) {
		p.SrcPort, p.DstPort = s.port(true), s.port(false)
	}
	if p.Proto == unix.IPPROTO_TCP {
		p.TCPFlags = s.th.val[13]
	}
	p.DstMAC, p.SrcMAC = s.mac(0), s.mac(6)
	return p
}

func (s *state) mac(at int) []byte {
	for _, k := range s.link.known[at : at+6] {
		if k != 0xff {
			return nil
		}
	}
	b := s.link.val
	return b[at : at+6]
}

// addrAt says where an address is in the network header.
func (s *state) addrAt(source bool) (at, n int) {
	switch {
	case s.net.len == 20 && source:
		return 12, 4
	case s.net.len == 20:
		return 16, 4
	case s.net.len == 40 && source:
		return 8, 16
	case s.net.len == 40:
		return 24, 16
	}
	return 0, 0
}

// addr returns an address, or an invalid one if it is not known.
func (s *state) addr(source bool) netip.Addr {
	at, n := s.addrAt(source)
	for _, k := range s.net.known[at : at+n] {
		if k != 0xff {
			return netip.Addr{}
		}
	}
	a, _ := netip.AddrFromSlice(s.net.val[at : at+n])
	return a
}

func (s *state) setAddr(source bool, a netip.Addr) {
	at, n := s.addrAt(source)
	b := a.AsSlice()
	if len(b) != n {
		clear(s.net.known[at : at+n])
		return
	}
	s.net.set(at, b...)
}

func portAt(source bool) int {
	if source {
		return 0
	}
	return 2
}

// port returns a port; zero if it is not known.
func (s *state) port(source bool) uint16 {
	at := portAt(source)
	if s.th.known[at] != 0xff || s.th.known[at+1] != 0xff {
		return 0
	}
	return binary.BigEndian.Uint16(s.th.val[at:])
}

// setPort sets a port; zero: it is that of the client.
func (s *state) setPort(source bool, port uint16) {
	at := portAt(source)
	which := clientIsDestination
	if source {
		which = clientIsSource
	}
	if port != 0 {
		s.th.set16(at, port)
		if s.client == which {
			s.client = portsKnown
		}
		return
	}
	clear(s.th.known[at : at+2])
	clear(s.th.val[at : at+2])
	s.client = which
}

// tracked reports whether the packet has an entry of connection tracking.
func (s *state) tracked() bool { return s.ct.Seen && !s.ct.Untracked && s.ct.State != Invalid }
