// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"net/netip"
	"time"
)

// Event is what a Tracer tells: a Begin, a Step, a Packet, a Later or a Note.
type Event interface{ event() }

// Begin is a packet that has come: before its first step.
type Begin struct {
	Time   time.Time `json:"time"`
	Number uint64    `json:"packet"`
	// Proto is "tcp", "udp", "icmp" or "icmpv6". Flags are those of TCP, as "syn,ack", or "type 3 code 1"
	// of ICMP.
	Proto string `json:"proto"`
	Flags string `json:"flags,omitempty"`
	// Src and Dst are as the packet came. The ports of ICMP are zero.
	Src netip.AddrPort `json:"src"`
	Dst netip.AddrPort `json:"dst"`
	// In is the interface that it came by; empty: the host has sent it.
	In string `json:"in,omitempty"`
	// Answer is set if it goes to the client.
	Answer bool `json:"answer"`
}

// Step is a rule or policy that a packet has come to.
type Step struct {
	Time   time.Time `json:"time"`
	Number uint64    `json:"packet"`
	// Hook is "ingress", "prerouting", "input", "forward", "output", "postrouting" or "egress".
	Hook string `json:"hook"`
	// Family, Table and Chain are as nft(8) names them.
	Family string `json:"family"`
	Table  string `json:"table"`
	Chain  string `json:"chain"`
	// Handle is that of the rule; zero: it is the policy of the chain.
	Handle uint64 `json:"handle,omitempty"`
	// Text is the rule as nft(8) lists it, or "policy drop".
	Text string `json:"text"`
	// Verdict is "continue", "accept", "drop", "jump CHAIN", "goto CHAIN", "return", "queue" or "stolen".
	Verdict string `json:"verdict"`
}

// Fate is what became of a packet.
type Fate string

// The fates.
const (
	Left      Fate = "left"      // it has left the host by an interface
	Delivered Fate = "delivered" // it has come to a socket of the host
	Dropped   Fate = "dropped"   // by a rule, a policy or the kernel
	Queued    Fate = "queued"    // to a program
	Lost      Fate = "lost"      // nothing more was seen of it
)

// Packet is the summary of a packet.
type Packet struct {
	Begin
	// SrcAfter and DstAfter are as it was seen last: translated.
	SrcAfter netip.AddrPort `json:"src_after"`
	DstAfter netip.AddrPort `json:"dst_after"`
	// Out is the interface that it was to leave by; empty: none was chosen.
	Out  string `json:"out,omitempty"`
	Fate Fate   `json:"fate"`
	// Hook is where it was seen last; empty: at none.
	Hook string `json:"hook,omitempty"`
	// By is the rule or policy that dropped or queued it: "inet corpwall passing: policy drop".
	By string `json:"by,omitempty"`
	// Reason and Function are why and where in the kernel it was dropped: "IP_RPFILTER", "ip_rcv_finish_core";
	// empty: not known. Dev is the interface that it belonged to then.
	Reason   string `json:"reason,omitempty"`
	Function string `json:"function,omitempty"`
	Dev      string `json:"dev,omitempty"`
	// Text says all of that in one line.
	Text string `json:"text"`
	// More is how many steps were left out.
	More int `json:"more,omitempty"`
}

// Later is what became of a packet when its summary had been told: it was dropped, as one that waited for a
// neighbour, or no answer has come.
type Later struct {
	Time     time.Time `json:"time"`
	Number   uint64    `json:"packet"`
	Reason   string    `json:"reason,omitempty"`
	Function string    `json:"function,omitempty"`
	Dev      string    `json:"dev,omitempty"`
	Text     string    `json:"text"`
}

// Note is something to know about the trace.
type Note struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

func (Begin) event()  {}
func (Step) event()   {}
func (Packet) event() {}
func (Later) event()  {}
func (Note) event()   {}
