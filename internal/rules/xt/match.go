// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
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

// DecodeMatch returns the value of a match.
func DecodeMatch(family rules.Family, m rules.Match) Match {
	b := &blob{data: m.Info}
	if family == unix.NFPROTO_BRIDGE {
		if v := decodeBridgeMatch(b, m.Name); v != nil && !b.short {
			return v
		}
	}
	if v := decodeMatch(b, family == unix.NFPROTO_IPV6, m.Name, m.Rev); v != nil && !b.short {
		return v
	}
	return Unknown{Name: m.Name, Rev: m.Rev, Len: len(m.Info)}
}

// decodeMatch returns nil for what it does not know.
func decodeMatch(b *blob, ip6 bool, name string, rev uint32) Match {
	switch name {
	case HeaderName:
		if len(b.data) == arpHeaderLen {
			return decodeARPHeader(b)
		}
		return decodeHeader(b, ip6)
	case "conntrack":
		return decodeConntrack(b, ip6, rev)
	case "state":
		return State{Mask: b.u32(0)}
	case "addrtype":
		return decodeAddrType(b, rev)
	case "multiport":
		return decodeMultiport(b, rev)
	case "tcp":
		inv := b.u8(11)
		return TCP{
			Src: PortRange{b.u16(0), b.u16(2)}, Dst: PortRange{b.u16(4), b.u16(6)},
			Option: b.u8(8), FlagMask: b.u8(9), Flags: b.u8(10),
			NotSrc: inv&1 != 0, NotDst: inv&2 != 0, NotFlags: inv&4 != 0, NotOption: inv&8 != 0,
		}
	case "udp", "udplite":
		inv := b.u8(8)
		return UDP{
			Src: PortRange{b.u16(0), b.u16(2)}, Dst: PortRange{b.u16(4), b.u16(6)},
			NotSrc: inv&1 != 0, NotDst: inv&2 != 0,
		}
	case "icmp", "icmp6":
		return ICMP{IP6: name == "icmp6", Type: b.u8(0), CodeMin: b.u8(1), CodeMax: b.u8(2), Not: b.u8(3)&1 != 0}
	case "comment":
		return Comment{Text: unix.ByteSliceToString(b.data)}
	case "mark", "connmark":
		if rev != 1 {
			return nil
		}
		m := Mark{Mark: b.u32(0), Mask: b.u32(4), Not: b.flag(8)}
		if name == "connmark" {
			return Connmark(m)
		}
		return m
	case "set":
		return decodeSet(b, rev)
	case "mac":
		m := MAC{Not: b.u32(8) != 0}
		copy(m.Addr[:], b.at(0, 6))
		return m
	case "iprange":
		return decodeIPRange(b, ip6, rev)
	case "owner":
		if rev != 1 {
			return nil
		}
		return Owner{
			UIDMin: b.u32(0), UIDMax: b.u32(4), GIDMin: b.u32(8), GIDMax: b.u32(12),
			Match: b.u8(16), Invert: b.u8(17),
		}
	case "physdev":
		m := PhysDev{Invert: b.u8(64), Flags: b.u8(65)}
		copy(m.In[:], b.at(0, 16))
		copy(m.InMask[:], b.at(16, 16))
		copy(m.Out[:], b.at(32, 16))
		copy(m.OutMask[:], b.at(48, 16))
		return m
	case "rpfilter":
		return RPFilter{Flags: b.u8(0)}
	case "pkttype":
		return PktType{Type: b.u32(0), Not: b.u32(4) != 0}
	case "length":
		return Length{Min: b.u16(0), Max: b.u16(2), Not: b.flag(4)}
	case "ttl", "hl":
		return TTL{IP6: name == "hl", Mode: b.u8(0), Value: b.u8(1)}
	case "devgroup":
		return DevGroup{
			Flags: b.u32(0), SrcGroup: b.u32(4), SrcMask: b.u32(8), DstGroup: b.u32(12), DstMask: b.u32(16),
		}
	case "helper":
		return Helper{Not: b.u32(0) != 0, Name: b.text(4, 30)}
	case "time":
		return Time{
			DateStart: b.u32(0), DateStop: b.u32(4), DaytimeStart: b.u32(8), DaytimeStop: b.u32(12),
			Monthdays: b.u32(16), Weekdays: b.u8(20), Flags: b.u8(21),
		}
	case "recent":
		m := Recent{
			Seconds: b.u32(0), HitCount: b.u32(4), Check: b.u8(8), Not: b.flag(9),
			Name: b.text(10, 200), Dest: b.u8(210) == 1,
		}
		if rev == 1 {
			m.Mask = b.addr(212, ip6)
		}
		return m
	case "statistic":
		return Statistic{
			Mode: b.u16(0), Flags: b.u16(2), Probability: b.u32(4), Every: b.u32(4), Packet: b.u32(8),
		}
	case "tcpmss":
		return TCPMSS{Min: b.u16(0), Max: b.u16(2), Not: b.flag(4)}
	case "dscp":
		return DSCP{Value: b.u8(0), Not: b.flag(1)}
	case "tos":
		if rev != 1 {
			return nil
		}
		return TOS{Mask: b.u8(0), Value: b.u8(1), Not: b.flag(2)}
	case "ecn":
		return ECN{Match: b.u8(0), Invert: b.u8(1), Value: b.u8(2)}
	case "nfacct":
		return Nfacct{Name: b.text(0, 32)}
	case "ipv6header":
		return IPv6Header{Match: b.u8(0), Invert: b.u8(1), Soft: b.flag(2)}
	}
	return decodeOpaque(b, ip6, name, rev)
}

func decodeConntrack(b *blob, ip6 bool, rev uint32) Match {
	if rev < 1 || rev > 3 {
		return nil
	}
	pair := func(offset int) AddrMask { return AddrMask{b.addr(offset, ip6), b.addr(offset+16, ip6)} }
	m := Conntrack{
		OrigSrc: pair(0), OrigDst: pair(32), ReplSrc: pair(64), ReplDst: pair(96),
		ExpiresMin: b.u32(128), ExpiresMax: b.u32(132), Proto: b.u16(136),
		Flags: b.u16(146), Invert: b.u16(148),
	}
	if rev == 1 {
		m.State, m.Status = uint16(b.u8(150)), uint16(b.u8(151))
	} else {
		m.State, m.Status = b.u16(150), b.u16(152)
	}
	for i, p := range []*PortRange{&m.OrigSrcPort, &m.OrigDstPort, &m.ReplSrcPort, &m.ReplDstPort} {
		if rev == 3 {
			*p = PortRange{b.u16(138 + 2*i), b.u16(154 + 2*i)}
		} else {
			*p = PortRange{b.be16(138 + 2*i), b.be16(138 + 2*i)}
		}
	}
	m.Alias = m.Flags&ctStateAlias != 0
	return m
}

// XT_CONNTRACK_*.
const (
	CTState = 1 << iota
	CTProto
	CTOrigSrc
	CTOrigDst
	CTReplSrc
	CTReplDst
	CTStatus
	CTExpires
	CTOrigSrcPort
	CTOrigDstPort
	CTReplSrcPort
	CTReplDstPort
	CTDirection
	ctStateAlias
)

func decodeAddrType(b *blob, rev uint32) Match {
	m := AddrType{Src: b.u16(0), Dst: b.u16(2)}
	switch rev {
	case 0:
		m.NotSrc, m.NotDst = b.u32(4) != 0, b.u32(8) != 0
	case 1:
		f := b.u32(4)
		m.NotSrc, m.NotDst, m.LimitIn, m.LimitOut = f&1 != 0, f&2 != 0, f&4 != 0, f&8 != 0
	default:
		return nil
	}
	return m
}

func decodeMultiport(b *blob, rev uint32) Match {
	if rev > 1 || b.u8(1) > 15 || b.u8(0) > 2 {
		return nil
	}
	m := Multiport{Side: b.u8(0)}
	n := int(b.u8(1))
	for i := 0; i < n; i++ {
		p := PortRange{b.u16(2 + 2*i), b.u16(2 + 2*i)}
		if rev == 1 && b.flag(32+i) && i+1 < n {
			i++
			p.To = b.u16(2 + 2*i)
		}
		m.Ports = append(m.Ports, p)
	}
	if rev == 1 {
		m.Not = b.flag(47)
	}
	return m
}

func decodeIPRange(b *blob, ip6 bool, rev uint32) Match {
	if rev != 1 {
		return nil
	}
	var m IPRange
	f := b.u8(64)
	if f&1 != 0 {
		m.SrcMin, m.SrcMax = b.addr(0, ip6), b.addr(16, ip6)
	}
	if f&2 != 0 {
		m.DstMin, m.DstMax = b.addr(32, ip6), b.addr(48, ip6)
	}
	m.NotSrc, m.NotDst = f&16 != 0, f&32 != 0
	return m
}

func decodeSet(b *blob, rev uint32) Match {
	if rev < 1 || rev > 4 {
		return nil
	}
	m := Set{Index: b.u16(0), Dim: b.u8(2), Flags: b.u8(3) &^ 1, Not: b.u8(3)&1 != 0}
	w := &words{}
	const returnNomatch = 1 << 7
	m.ReturnNomatch = m.Flags&returnNomatch != 0
	if rev < 3 {
		w.on(m.ReturnNomatch, "--return-nomatch")
		m.options = w.String()
		return m
	}
	// struct ip_set_counter_match0 has the operation first, struct ip_set_counter_match the value.
	op, value, size, at := 0, 8, 16, 8
	if rev == 4 {
		op, value = 8, 0
	}
	flags := b.u32(at + 2*size)
	m.ReturnNomatch = m.ReturnNomatch || flags&returnNomatch != 0
	w.on(m.ReturnNomatch, "--return-nomatch")
	if flags&(1<<3) != 0 {
		w.not(true, "--update-counters")
	}
	if flags&(1<<4) != 0 {
		w.not(true, "--update-subcounters")
	}
	for i, name := range []string{"packets", "bytes"} {
		v := b.u64(at + i*size + value)
		switch b.u8(at + i*size + op) {
		case 1:
			w.add("--"+name+"-eq", v)
		case 2:
			w.not(true, "--"+name+"-eq", v)
		case 3:
			w.add("--"+name+"-lt", v)
		case 4:
			w.add("--"+name+"-gt", v)
		default:
			continue
		}
		m.Counters = true
	}
	m.options = w.String()
	return m
}
