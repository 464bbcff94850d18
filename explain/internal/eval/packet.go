// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"net/netip"

	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/internal/rules/xt"
)

// Packet is a packet made up for the purpose, the first of its connection or an answer to it. What
// is not known of it is said in its fields; a rule that asks for such a thing cannot be known.
type Packet struct {
	// EtherType is ETH_P_IP, ETH_P_IPV6 or ETH_P_ARP.
	EtherType uint16
	Proto     uint8 // IPPROTO_TCP, UDP, ICMP or ICMPV6
	Src, Dst  netip.Addr
	// SrcPort is zero if it is any of those from 1024 on, which clients use.
	SrcPort, DstPort uint16
	TCPFlags         uint8
	ICMPType         uint8
	ICMPCode         uint8
	TTL              uint8 // zero: not known
	Len              int   // of the IP packet, in bytes; zero: not known
	In, Out          Interface
	// PhysIn and PhysOut are the ports of bridges, for bridge tables and physdev.
	PhysIn, PhysOut Interface
	SrcMAC, DstMAC  []byte // nil: not known
	PktType         uint8  // PACKET_HOST and so on
	Mark            uint32
	// MarkKnown is false behind a rule that may have changed the mark.
	MarkUnknown bool
	Priority    uint32
	// Local is set for what a process of the host sends; UID and GID are its owner's, if they are known.
	Local      bool
	UID, GID   uint32
	OwnerKnown bool
	CT         Conn
}

// Interface is an interface as rules ask for it. Index zero: none, at this hook.
type Interface struct {
	Index     int
	Name      string
	Type      uint16 // ARPHRD_*
	Kind      string // as of IFLA_INFO_KIND
	Group     uint32
	Addresses []netip.Prefix
}

// Conn is what connection tracking knows of a packet.
type Conn struct {
	// Untracked is set by notrack, and before connection tracking has seen the packet Seen is false.
	Untracked, Seen bool
	State           uint32 // a bit of NF_CT_STATE_*: new, established, related, invalid, untracked
	Status          uint32 // IPS_*
	Reply           bool   // the packet goes in the direction of the answers
	// Original and Answer are the tuples of both directions.
	Original, Answer Tuple
	Mark             uint32
	MarkUnknown      bool
	Zone             uint16
}

// Tuple is one direction of a connection.
type Tuple struct {
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
}

// End is how a packet's way through a hook ends.
type End int

// The ends.
const (
	Accepted End = iota // it goes on
	Dropped             // by a rule or a policy; Rejected: with an answer
	Rejected            //
	Queued              // to a program, which decides
	Stolen              // forwarded, duplicated or taken by something else
)

// Outcome is one thing that may become of a packet at a hook.
type Outcome struct {
	End    End
	Packet Packet // as it leaves the hook: translated, marked
	// By is the rule that decided; nil: a policy of the chain, or nothing did.
	By    *rules.Rule
	Chain *rules.Chain
	// Translated is the rule that translated the packet's address or port, if one did.
	Translated *rules.Rule
	// If lists what this outcome depends on that cannot be known; empty: it is certain.
	If []Unknown
}

// Unknown is why a rule's outcome cannot be known.
type Unknown struct {
	Rule   *rules.Rule
	Reason string // "a limit", "an expression xfrm that is not read"
}

// Answer is whether something holds.
type Answer int

// The answers.
const (
	No Answer = iota
	Yes
	Maybe // it cannot be known
)

// Facts is what the evaluation asks of the host.
type Facts interface {
	// Rules returns the rules of a chain, which are read when a packet comes to it.
	Rules(chain *rules.Chain) ([]*rules.Rule, error)
	// Get looks one key up in a set.
	Get(set *rules.Set, key []byte) (rules.Element, bool, error)
	// Fib answers a fib expression: flags are NFTA_FIB_F_*, result NFT_FIB_RESULT_*. The data is that of
	// the register.
	Fib(p *Packet, hook uint32, flags, result uint32) (data []byte, err error)
	// IPSet reports whether a set of ipset, by its number, has an element for a packet.
	IPSet(set uint16, q xt.SetQuery) (bool, error)
	// Recent returns the addresses in a list of the match recent.
	Recent(list string) ([]xt.RecentEntry, error)
}
