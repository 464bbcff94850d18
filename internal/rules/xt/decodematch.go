// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

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
