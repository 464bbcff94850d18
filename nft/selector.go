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
)

// selectors holds, once for the whole package, where each field stands in the
// packet, and what must be known of the packet before the field may be read there.
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
}

// String returns the selector as nft(8) spells it.
func (s Selector) String() string {
	if !s.valid() {
		return "invalid"
	}
	return selectors[s].name
}

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
