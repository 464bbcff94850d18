// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Selector is a field of the packet which a rule compares or looks up.
type Selector uint8

// The selectors. Their names are those of nft(8), "PAYLOAD EXPRESSIONS".
const (
	IPSaddr Selector = iota + 1
	IPDaddr
	IP6Saddr
	IP6Daddr
	TCPDport
	UDPDport
	TCPSport
	UDPSport
	// THDport and THSport are the ports of a packet of any protocol.
	THDport
	THSport
	// NFProto and L4Proto are the protocols of a packet. A rule with NFProto, L4Proto or those
	// has no field of a certain protocol of that layer before it, and for the latter three none
	// after it: nft(8) would list it otherwise.
	NFProto
	L4Proto
	// MetaMark is the mark of the packet, and CTOriginalIPDaddr and CTOriginalIP6Daddr the
	// address that the first packet of its flow was sent to.
	MetaMark
	CTOriginalIPDaddr
	CTOriginalIP6Daddr
	// IIFName and OIFName are the names of the interfaces that the packet came in by and
	// leaves by. The first is known at postrouting since Linux 5.7.
	IIFName
	OIFName
)

// selectors holds, once for the whole package, where each field stands in the
// packet, and what must be known of the packet before the field may be read there. Those
// from NFProto on do not stand in the packet.
var selectors = [...]struct {
	name   string
	typ    DataType
	base   expr.PayloadBase
	offset uint32
	// nfproto and l4proto are the protocols that the packet must have, zero where
	// the field does not depend on it.
	nfproto, l4proto byte
}{
	// Offsets of source and destination address: RFC 791 section 3.1, RFC 8200 section 3.
	IPSaddr:  {"ip saddr", IPv4Addr, expr.PayloadBaseNetworkHeader, 12, unix.NFPROTO_IPV4, 0},
	IPDaddr:  {"ip daddr", IPv4Addr, expr.PayloadBaseNetworkHeader, 16, unix.NFPROTO_IPV4, 0},
	IP6Saddr: {"ip6 saddr", IPv6Addr, expr.PayloadBaseNetworkHeader, 8, unix.NFPROTO_IPV6, 0},
	IP6Daddr: {"ip6 daddr", IPv6Addr, expr.PayloadBaseNetworkHeader, 24, unix.NFPROTO_IPV6, 0},
	// The destination port follows the source port: RFC 9293 section 3.1, RFC 768.
	TCPDport: {"tcp dport", InetService, expr.PayloadBaseTransportHeader, 2, 0, unix.IPPROTO_TCP},
	UDPDport: {"udp dport", InetService, expr.PayloadBaseTransportHeader, 2, 0, unix.IPPROTO_UDP},
	TCPSport: {"tcp sport", InetService, expr.PayloadBaseTransportHeader, 0, 0, unix.IPPROTO_TCP},
	UDPSport: {"udp sport", InetService, expr.PayloadBaseTransportHeader, 0, 0, unix.IPPROTO_UDP},
	THDport:  {"th dport", InetService, expr.PayloadBaseTransportHeader, 2, 0, 0},
	THSport:  {"th sport", InetService, expr.PayloadBaseTransportHeader, 0, 0, 0},
	NFProto:  {name: "meta nfproto", typ: NfProto},
	L4Proto:  {name: "meta l4proto", typ: InetProto},
	// A flow of the other family has no such address: the rule does not match its packets.
	MetaMark:           {name: "meta mark", typ: Mark},
	CTOriginalIPDaddr:  {name: "ct original ip daddr", typ: IPv4Addr},
	CTOriginalIP6Daddr: {name: "ct original ip6 daddr", typ: IPv6Addr},
	IIFName:            {name: "iifname", typ: IfName},
	OIFName:            {name: "oifname", typ: IfName},
}

// String returns the selector as nft(8) spells it.
func (s Selector) String() string {
	if !s.valid() {
		return "invalid"
	}
	return selectors[s].name
}

// inPacket reports whether the field stands in the packet.
func (s Selector) inPacket() bool { return s < NFProto }

func (s Selector) valid() bool { return s != 0 && int(s) < len(selectors) }

// concatenation is one selector, or several as the fields of one key.
type concatenation []Selector

func (c concatenation) String() string {
	names := make([]string, len(c))
	for i, s := range c {
		names[i] = s.String()
	}
	return strings.Join(names, " . ")
}

// keyType is the type of the key that the selectors make, so that a rule and the
// set it looks in can be checked against each other.
func (c concatenation) keyType() Type {
	t := make(Type, len(c))
	for i, s := range c {
		if s.valid() {
			t[i] = selectors[s].typ
		}
	}
	return t
}
