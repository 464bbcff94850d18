// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"fmt"
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
	// A port of zero is the client's, which is not known: SrcPort of a packet in the direction of the
	// request and DstPort of an answer. Ports says which it may be.
	SrcPort, DstPort uint16
	Ports            PortRange
	TCPFlags         uint8
	ICMPType         uint8
	ICMPCode         uint8
	ARPOp            uint16 // zero: not known
	TOS              uint8
	TTL              uint8 // zero: not known
	Len              int   // of the IP packet, in bytes; zero: not known
	In, Out          Interface
	// PhysIn and PhysOut are the ports of bridges, for physdev. In hooks of bridges In and Out are
	// the ports.
	PhysIn, PhysOut Interface
	SrcMAC, DstMAC  []byte // nil: not known
	VLAN            uint16 // the tag that the frame has; zero: none
	PktType         uint8  // PACKET_HOST and so on
	Mark            uint32
	// MarkUnknown is set behind a rule that gave the packet a mark that is not known.
	MarkUnknown bool
	Priority    uint32
	// Local is set for what a process of the host sends; UID and GID are its owner's, if they are known.
	Local      bool
	UID, GID   uint32
	OwnerKnown bool
	// Kernel is set for what the kernel sends of itself, as in neighbour discovery: it has no owner.
	Kernel bool
	CT     Conn
}

// PortRange is a range of ports. The zero value is those that clients use, from 1024 on.
type PortRange struct{ First, Last uint16 }

// Interface is an interface as rules ask for it. Index zero: none, at this hook.
type Interface struct {
	Index     int
	Name      string
	Type      uint16 // ARPHRD_*
	Kind      string // as of IFLA_INFO_KIND
	Group     uint32
	Bridge    string // the bridge that it is a port of
	Addresses []netip.Prefix
}

// Conn is what connection tracking knows of a packet. The zero value is that of the first packet
// of a connection before connection tracking has seen it.
type Conn struct {
	// Untracked is set by notrack, and before connection tracking has seen the packet Seen is false.
	// What else is here before counts from then on.
	Untracked, Seen bool
	State           uint32 // a bit of NF_CT_STATE_*: New, Established, Related or Invalid; zero: New
	Status          uint32 // IPS_*
	Reply           bool   // the packet goes in the direction of the answers
	// Original and Answer are the tuples of both directions. Those of a new connection are made of
	// the packet.
	Original, Answer Tuple
	Mark             uint32
	MarkUnknown      bool
	Zone             uint16
	// ZoneDirs says of which packets the zone is: bit 0 of those in the original direction, bit 1 of
	// answers; others are of zone 0. Zero: it is of all.
	ZoneDirs uint8
}

// States of a connection.
const (
	Invalid     = 1
	Established = 1 << 1
	Related     = 1 << 2
	New         = 1 << 3
)

// Tuple is one direction of a connection.
type Tuple struct {
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
}

// Bits of Conn.Status.
const (
	SeenReply = 1 << 1
	Assured   = 1 << 2
	Confirmed = 1 << 3
	SrcNAT    = 1 << 4
	DstNAT    = 1 << 5
	// SrcNATDone and DstNATDone say that nothing translates any more.
	SrcNATDone = 1 << 7
	DstNATDone = 1 << 8
)

// End is how a packet's way through a hook ends.
type End int

// The ends.
const (
	Accepted End = iota // it goes on
	Dropped             // by a rule or a policy; Rejected: with an answer
	Rejected            //
	Queued              // to a program, which decides
	Stolen              // forwarded or taken by something else
	Unclear             // an expression may do anything with it, or there are too many ways
)

func (e End) String() string {
	switch e {
	case Accepted:
		return "accepted"
	case Dropped:
		return "dropped"
	case Rejected:
		return "rejected"
	case Queued:
		return "queued"
	case Stolen:
		return "stolen"
	case Unclear:
		return "unclear"
	}
	return fmt.Sprintf("End(%d)", int(e))
}

// Outcome is one thing that may become of a packet at a hook.
type Outcome struct {
	End    End
	Packet Packet // as it leaves the hook: translated, marked
	// By is the rule that decided; nil: the policy of Chain, or nothing did.
	By    *rules.Rule
	Chain *rules.Chain
	// Translated is the rule that translated the packet's address or port, if one did.
	Translated *rules.Rule
	// Reroute is set if the kernel looks up the route of a packet of the host again, because a nat
	// or route chain changed it.
	Reroute bool
	// Steps are the rules that decided, jumped or changed the packet, and the policies that counted.
	Steps []Step
	// If lists what this outcome depends on that cannot be known; empty: it is certain.
	If []Unknown
}

// Step is a rule that did something, or the policy of a chain.
type Step struct {
	Chain *rules.Chain
	Rule  *rules.Rule // nil: the policy
}

// Unknown is why a rule's outcome cannot be known.
type Unknown struct {
	Rule   *rules.Rule
	Reason string // "a limit", "an expression xfrm that is not read"
}

// ClientPort is the Reason of what depends on the client's port alone.
const ClientPort = "the client's port"

// Answer is whether something holds.
type Answer int

// The answers.
const (
	No Answer = iota
	Yes
	Maybe // it cannot be known
)

func (a Answer) String() string {
	switch a {
	case No:
		return "no"
	case Yes:
		return "yes"
	case Maybe:
		return "maybe"
	}
	return fmt.Sprintf("Answer(%d)", int(a))
}

// Facts is what the evaluation asks of the host.
type Facts interface {
	// Rules returns the rules of a chain, which are read when a packet comes to it.
	Rules(chain *rules.Chain) ([]*rules.Rule, error)
	// Get looks one key up in a set.
	Get(set *rules.Set, key []byte) (rules.Element, bool, error)
	// Elements lists the elements of a set, at most so many, and reports whether there are more.
	Elements(set *rules.Set, limit int) (elements []rules.Element, more bool, err error)
	// Object returns a named object, by its type NFT_OBJECT_*.
	Object(table *rules.Table, typ uint32, name string) (rules.Object, error)
	// Fib answers a fib expression: flags are NFTA_FIB_F_*, result NFT_FIB_RESULT_*. The data is that of
	// the register.
	Fib(p *Packet, hook uint32, flags, result uint32) (data []byte, err error)
	// IPSet reports whether a set of ipset, by its number, has an element for a packet.
	IPSet(set uint16, q xt.SetQuery) (bool, error)
	// IPsec reports whether packets may be protected by IPsec: the host has policies for that.
	IPsec() (bool, error)
	// Recent returns the addresses in a list of the match recent.
	Recent(list string) ([]xt.RecentEntry, error)
}
