// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Flow is one entry of the conntrack table. It is comparable.
//
// With DNAT, Dst is where the client sent to (the frontend) and ReplySrc where the packets
// went (the backend). With masquerading, Src is the true source and ReplyDst the address that
// replaced it. Without NAT the reply direction is the original one reversed.
//
// Protocols without ports (ICMP, IGMP, ESP...) have ports 0; for GRE they are
// the keys of the tunnel. Addresses carry no zone: conntrack knows no
// interfaces.
type Flow struct {
	// Proto is the IANA protocol number: 6 TCP, 17 UDP.
	Proto uint8
	// Zone is the conntrack zone of the original direction; 0: the default
	// one, which is where flows are unless a rule says otherwise.
	Zone uint16
	// ID distinguishes the entry from others, such as a later one of the same
	// addresses and ports. It has no order, and may be used again.
	ID uint32
	// Status holds the kernel's IPS_* bits.
	Status Status
	// Src and Dst are source and destination of the original direction, as
	// the first packet had them before any NAT.
	Src, Dst netip.AddrPort
	// ReplySrc and ReplyDst are those of the answers, before NAT is undone on them.
	ReplySrc, ReplyDst netip.AddrPort
}

// Status are the kernel's status bits of a flow: enum ip_conntrack_status in
// include/uapi/linux/netfilter/nf_conntrack_common.h, those without a name here included.
type Status uint32

// Status bits.
const (
	StatusExpected  Status = 1 << 0  // IPS_EXPECTED: another flow has announced it (RELATED)
	StatusSeenReply Status = 1 << 1  // IPS_SEEN_REPLY: packets went both ways
	StatusAssured   Status = 1 << 2  // IPS_ASSURED: never evicted early to make room
	StatusConfirmed Status = 1 << 3  // IPS_CONFIRMED: the first packet has left the host
	StatusSNAT      Status = 1 << 4  // IPS_SRC_NAT: the source is translated
	StatusDNAT      Status = 1 << 5  // IPS_DST_NAT: the destination is translated
	StatusDying     Status = 1 << 9  // IPS_DYING: on its way out of the table
	StatusOffload   Status = 1 << 14 // IPS_OFFLOAD: in a flow table; its packets bypass the ruleset
)

// String returns the names of the bits, those without one as a number: "assured,dnat,0x400".
// No bit is "none".
func (s Status) String() string {
	var words []string
	for _, bit := range []struct {
		is   Status
		name string
	}{
		{StatusExpected, "expected"}, {StatusSeenReply, "seen-reply"}, {StatusAssured, "assured"}, {StatusConfirmed, "confirmed"},
		{StatusSNAT, "snat"}, {StatusDNAT, "dnat"}, {StatusDying, "dying"}, {StatusOffload, "offload"},
	} {
		if s&bit.is != 0 {
			words = append(words, bit.name)
			s &^= bit.is
		}
	}
	switch {
	case s != 0:
		words = append(words, fmt.Sprintf("%#x", uint32(s)))
	case words == nil:
		return "none"
	}
	return strings.Join(words, ",")
}

// String returns "udp 192.0.2.9:4000->192.0.2.1:53, reply 172.17.0.2:53->192.0.2.9:4000".
func (f Flow) String() string {
	return protoName(f.Proto) + " " + f.Src.String() + "->" + f.Dst.String() +
		", reply " + f.ReplySrc.String() + "->" + f.ReplyDst.String()
}

// protoNames are the names of /etc/protocols and nft(8).
var protoNames = map[uint8]string{
	unix.IPPROTO_ICMP: "icmp", unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_DCCP: "dccp",
	unix.IPPROTO_GRE: "gre", unix.IPPROTO_ICMPV6: "ipv6-icmp", unix.IPPROTO_SCTP: "sctp", unix.IPPROTO_UDPLITE: "udplite",
}

// protoName returns the name of a protocol, or its number.
func protoName(proto uint8) string {
	if name, ok := protoNames[proto]; ok {
		return name
	}
	return strconv.Itoa(int(proto))
}
