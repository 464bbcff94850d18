// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Match is the value of a match. Options are its options as `iptables -S` prints them.
type Match interface{ Options() string }

// Unknown is a match or target that is not read.
type Unknown struct {
	Name string
	Rev  uint32
	Len  int
}

// Options says what it is.
func (u Unknown) Options() string { return fmt.Sprintf("[revision %d, %d bytes]", u.Rev, u.Len) }

// Opaque is a match or target of which no more is known than what iptables prints.
type Opaque string

// Options returns them.
func (o Opaque) Options() string { return string(o) }

// The matches that look at the packet and its connection. Names are those of the kernel's structs.
// Numbers are of include/uapi/linux/netfilter.
type (
	// Header is what iptables-legacy compares itself: addresses, interfaces, protocol.
	Header struct {
		IP6                           bool
		Src, Dst                      AddrMask
		In, InMask, Out, OutMask      [unix.IFNAMSIZ]byte
		Proto                         uint16 // zero: any
		Fragment                      bool
		TOS                           uint8 // of IPv6
		TOSSet                        bool
		Goto                          bool
		NotIn, NotOut, NotSrc, NotDst bool
		NotFragment, NotProto, NotTOS bool
	}
	// Conntrack is the match conntrack, and the match state by its alias.
	Conntrack struct {
		Flags, Invert                      uint16 // XT_CONNTRACK_*
		State, Status                      uint16
		Alias                              bool
		OrigSrc, OrigDst, ReplSrc, ReplDst AddrMask
		Proto                              uint16
		OrigSrcPort, OrigDstPort           PortRange
		ReplSrcPort, ReplDstPort           PortRange
		ExpiresMin, ExpiresMax             uint32
	}
	// State is the match state of a kernel.
	State struct{ Mask uint32 }
	// AddrType asks for the type of an address; Src and Dst are bits XT_ADDRTYPE_*, zero: any.
	AddrType struct {
		Src, Dst          uint16
		NotSrc, NotDst    bool
		LimitIn, LimitOut bool
	}
	// Multiport compares ports with a list.
	Multiport struct {
		Side  uint8 // XT_MULTIPORT_*
		Ports []PortRange
		Not   bool
	}
	// TCP is the match tcp.
	TCP struct {
		Src, Dst            PortRange
		Option              uint8
		FlagMask, Flags     uint8
		NotSrc, NotDst      bool
		NotFlags, NotOption bool
	}
	// UDP is the matches udp and udplite, and the ports of sctp and dccp.
	UDP struct {
		Src, Dst       PortRange
		NotSrc, NotDst bool
	}
	// ICMP is the matches icmp and icmp6; of icmp, Type 255 is any.
	ICMP struct {
		IP6              bool
		Type             uint8
		CodeMin, CodeMax uint8
		Not              bool
	}
	// Comment always matches.
	Comment struct{ Text string }
	// Mark compares the packet's mark, Connmark the connection's.
	Mark struct {
		Mark, Mask uint32
		Not        bool
	}
	// Connmark compares the mark of the connection.
	Connmark Mark
	// Set asks a set of ipset.
	Set struct {
		Index      uint16
		Dim, Flags uint8
		Not        bool
		// ReturnNomatch inverts elements: one with the flag nomatch is in the set, and others are not.
		ReturnNomatch bool
		// Counters is set if counters decide as well.
		Counters bool
		options  string
	}
	// MAC compares the source's link-layer address.
	MAC struct {
		Addr [6]byte
		Not  bool
	}
	// IPRange compares addresses with ranges; an invalid one is any.
	IPRange struct {
		SrcMin, SrcMax, DstMin, DstMax netip.Addr
		NotSrc, NotDst                 bool
	}
	// Owner compares the owner of the socket that sent the packet.
	Owner struct {
		UIDMin, UIDMax, GIDMin, GIDMax uint32
		Match, Invert                  uint8 // XT_OWNER_*
	}
	// PhysDev compares the ports of a bridge.
	PhysDev struct {
		In, InMask, Out, OutMask [unix.IFNAMSIZ]byte
		Invert, Flags            uint8 // XT_PHYSDEV_OP_*
	}
	// RPFilter asks whether the way back to the source is the way that the packet came.
	RPFilter struct{ Flags uint8 } // XT_RPFILTER_*
	// PktType compares the packet's type (PACKET_HOST and so on).
	PktType struct {
		Type uint32
		Not  bool
	}
	// Length compares the length of the IP packet.
	Length struct {
		Min, Max uint16
		Not      bool
	}
	// TTL compares the TTL, or the hop limit of IPv6. Mode: 0 equal, 1 not equal, 2 less, 3 greater.
	TTL struct {
		IP6   bool
		Mode  uint8
		Value uint8
	}
	// DevGroup compares the groups of interfaces.
	DevGroup struct {
		Flags                                uint32 // XT_DEVGROUP_*
		SrcGroup, SrcMask, DstGroup, DstMask uint32
	}
	// Helper asks for the helper of the connection that this one belongs to; empty: any.
	Helper struct {
		Name string
		Not  bool
	}
	// Policy asks for IPsec.
	Policy struct {
		Flags   uint16 // XT_POLICY_MATCH_*
		options string
	}
	// Time compares the time of day and the date, in seconds.
	Time struct {
		DateStart, DateStop       uint32
		DaytimeStart, DaytimeStop uint32
		Monthdays                 uint32 // bits 1 to 31
		Weekdays                  uint8  // bits 1 (Monday) to 7
		Flags                     uint8  // XT_TIME_*
	}
	// Recent asks and changes a list of addresses.
	Recent struct {
		Seconds, HitCount uint32
		Check             uint8 // XT_RECENT_*
		Not               bool
		Name              string
		Dest              bool
		Mask              netip.Addr
	}
	// Statistic takes every so many packets, or some at random; Probability is of 2^31.
	Statistic struct {
		Mode, Flags   uint16
		Probability   uint32
		Every, Packet uint32
	}
	// Cgroup asks for the control group of the socket.
	Cgroup struct{ options string }
	// ProtoOnly is a match of a protocol that is not TCP, UDP or ICMP (sctp, dccp, ah, esp, ipcomp, mh,
	// l2tp), or of an extension header of IPv6 (frag, rt, hbh, dst, srh).
	ProtoOnly struct{ options string }
	// IPv6Header asks which extension headers are there.
	IPv6Header struct {
		Match, Invert uint8
		Soft          bool
	}
	// Rate is a match that lets some packets pass (limit, hashlimit, quota, connlimit): Text says how many.
	Rate struct {
		Text    string
		options string
	}
	// TCPMSS compares the option MSS of TCP.
	TCPMSS struct {
		Min, Max uint16
		Not      bool
	}
	// OSF guesses the client's system from a SYN of TCP.
	OSF struct{ options string }
	// DSCP compares the upper 6 bits of the TOS byte, or of the traffic class.
	DSCP struct {
		Value uint8
		Not   bool
	}
	// TOS compares bits of that byte.
	TOS struct {
		Value, Mask uint8
		Not         bool
	}
	// ECN compares its lower 2 bits, and flags of TCP. Match and Invert: 1, 0x10 (ECE), 0x20 (CWR).
	ECN struct{ Match, Invert, Value uint8 }
	// Nfacct counts, and does not match before an object's quota is reached.
	Nfacct struct{ Name string }
	// Socket asks for a local socket that takes the packet.
	Socket struct{ options string }
)

// AddrMask is an address with a mask.
type AddrMask struct{ Addr, Mask netip.Addr }

// PortRange is a range of ports, ends included.
type PortRange struct{ From, To uint16 }

// All reports whether the range has every port.
func (p PortRange) All() bool { return p.From == 0 && p.To == 1<<16-1 }

// String is one port or both.
func (p PortRange) String() string { return span(p.From, p.To) }
