// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules/xt"
)

func (x *xtMatch) addrType(m xt.AddrType) known {
	flags := uint32(0)
	if m.LimitIn {
		flags = unix.NFTA_FIB_F_IIF
	} else if m.LimitOut {
		flags = unix.NFTA_FIB_F_OIF
	}
	side := func(want uint16, which uint32, a netip.Addr, not bool) known {
		if want == 0 {
			return yes(true)
		}
		return x.addrTypeOf(want, flags|which, a).not(not)
	}
	return all(
		side(m.Src, unix.NFTA_FIB_F_SADDR, x.p.Src, m.NotSrc),
		side(m.Dst, unix.NFTA_FIB_F_DADDR, x.p.Dst, m.NotDst),
	)
}

// Types of addresses, RTN_*.
const (
	rtnLocal       = 2
	rtnAnycast     = 4
	rtnBlackhole   = 6
	rtnUnreachable = 7
)

func (x *xtMatch) addrTypeOf(want uint16, flags uint32, a netip.Addr) known {
	if x.ip6() {
		// For IPv6 some types are properties of the address alone, and all of them count.
		switch {
		case want&(1<<unix.RTN_MULTICAST) != 0 && !a.IsMulticast(),
			want&(1<<unix.RTN_UNICAST) != 0 && (a.IsMulticast() || a.IsUnspecified()),
			want&(1<<unix.RTN_UNSPEC) != 0 && !a.IsUnspecified():
			return yes(false)
		}
		const looked = 1<<rtnLocal | 1<<rtnAnycast | 1<<rtnUnreachable
		if want&looked == 0 {
			return yes(true)
		}
		want &= looked
	}
	typ, err := x.fib(flags, unix.NFT_FIB_RESULT_ADDRTYPE)
	if err != nil {
		return maybe("the type of the address %s, which cannot be looked up: %v", a, err)
	}
	if x.ip6() && typ >= rtnBlackhole { // each route that refuses is one that is unreachable
		typ = rtnUnreachable
	}
	return yes(typ < 16 && want&(1<<typ) != 0)
}

// fib asks for a number.
func (x *xtMatch) fib(flags, result uint32) (uint32, error) {
	data, err := x.facts.Fib(x.p, x.hook, flags, result)
	if err != nil {
		return 0, err
	}
	var b [4]byte
	copy(b[:], data)
	return binary.NativeEndian.Uint32(b[:]), nil
}

func (x *xtMatch) set(m xt.Set) known {
	if m.Counters {
		return maybe("counters of a set of ipset")
	}
	p := x.p
	q := xt.SetQuery{
		Dim: m.Dim, Flags: m.Flags, ReturnNomatch: m.ReturnNomatch, Proto: p.Proto, Src: p.Src, Dst: p.Dst, SrcPort: p.SrcPort, DstPort: p.DstPort,
		SrcMAC: p.SrcMAC, DstMAC: p.DstMAC, In: p.In.Name, Out: p.Out.Name, Mark: p.Mark, MarkUnknown: p.MarkUnknown,
	}
	if p.Proto == unix.IPPROTO_ICMP || p.Proto == unix.IPPROTO_ICMPV6 {
		q.SrcPort = uint16(p.ICMPType)<<8 | uint16(p.ICMPCode)
		q.DstPort = q.SrcPort
	}
	in, err := x.facts.IPSet(m.Index, q)
	if err != nil {
		return maybe("a set of ipset: %v", err)
	}
	return yes(in).not(m.Not)
}

// hasSocket reports whether the packet may have a socket: if this host sends or receives it.
func (x *xtMatch) hasSocket() bool {
	return x.p.Local || x.hook == unix.NF_INET_LOCAL_IN
}

func (x *xtMatch) owner(m xt.Owner) known {
	p := x.p
	if !p.Local || p.Kernel { // it has no socket, or one of no file
		return yes(m.Match == m.Invert&m.Match)
	}
	list := []known{yes(m.Match&xt.OwnerSocket == 0 || m.Invert&xt.OwnerSocket == 0)}
	who := func(flag uint8, id, from, to uint32) {
		if m.Match&flag == 0 {
			return
		}
		if !p.OwnerKnown {
			list = append(list, maybe("which user's process sends the packet"))
			return
		}
		list = append(list, yes(id >= from && id <= to).not(m.Invert&flag != 0))
	}
	who(xt.OwnerUID, p.UID, m.UIDMin, m.UIDMax)
	if m.Match&xt.OwnerSupplGroups != 0 && m.Match&xt.OwnerGID != 0 && (p.GID < m.GIDMin || p.GID > m.GIDMax) {
		list = append(list, maybe("the groups of the process that sends the packet"))
	} else {
		who(xt.OwnerGID, p.GID, m.GIDMin, m.GIDMax)
	}
	return all(list...)
}

func (x *xtMatch) rpfilter(m xt.RPFilter) known {
	p := x.p
	not := m.Flags&xt.RPFInvert != 0
	switch {
	case p.In.Type == unix.ARPHRD_LOOPBACK, x.ip6() && p.Src.IsUnspecified():
		return yes(!not)
	case !x.ip6() && p.Dst.IsMulticast() && p.Src.IsUnspecified():
		return yes(p.Dst.IsLinkLocalMulticast()).not(not)
	}
	flags := uint32(unix.NFTA_FIB_F_SADDR)
	if m.Flags&xt.RPFLoose == 0 {
		flags |= unix.NFTA_FIB_F_IIF
	}
	if m.Flags&xt.RPFValidMark != 0 {
		if p.MarkUnknown {
			return maybe("the packet's mark, which is not known")
		}
		flags |= unix.NFTA_FIB_F_MARK
	}
	oif, err := x.fib(flags, unix.NFT_FIB_RESULT_OIF)
	if err != nil {
		return maybe("the way back to %s, which cannot be looked up: %v", p.Src, err)
	}
	if oif == 0 && m.Flags&xt.RPFAcceptLocal != 0 {
		typ, err := x.fib(unix.NFTA_FIB_F_SADDR, unix.NFT_FIB_RESULT_ADDRTYPE)
		if err != nil || typ == rtnLocal {
			return maybe("whether the source %s is an address of this host on this interface", p.Src)
		}
	}
	return yes(oif != 0).not(not)
}

// recent is known unless a packet came just as long ago as the rule asks for.
func (x *xtMatch) recent(m xt.Recent) known {
	if m.Check&xt.RecentSet != 0 {
		return yes(!m.Not)
	}
	list, err := x.facts.Recent(m.Name)
	if err != nil {
		return maybe("the list %s of the match recent, which cannot be read: %v", m.Name, err)
	}
	a := recentAddr(m, x.p)
	now := 0 // packets that rules before have put in: this one
	if strings.Contains(x.added, recentKey(m, x.p)) {
		now = 1
	}
	least, most := now, now // in time, as far as that can be known
	all := now
	const tolerance = 2 * time.Second
	limit := time.Duration(m.Seconds) * time.Second
	for _, e := range list {
		if e.Addr != a {
			continue
		}
		for _, age := range e.Ages {
			all++
			if m.Seconds == 0 || age < limit-tolerance {
				least++
			}
			if m.Seconds == 0 || age < limit+tolerance {
				most++
			}
		}
	}
	need := max(int(m.HitCount), 1)
	switch {
	case all == 0:
		return yes(m.Not)
	case m.Check&xt.RecentTTL != 0 && now == 0:
	case m.Check&xt.RecentRemove != 0, least >= need:
		return yes(!m.Not)
	case most < need:
		return yes(m.Not)
	}
	return maybe("how often %s came lately, in the list %s of the match recent", a, m.Name)
}

// recentAddr is the address that a list is asked for.
func recentAddr(m xt.Recent, p *Packet) netip.Addr {
	a := p.Src
	if m.Dest {
		a = p.Dst
	}
	return maskedAddr(a.WithZone(""), m.Mask)
}

// recentKey is how a state notes that an address was put in a list.
func recentKey(m xt.Recent, p *Packet) string {
	return "\x00recent\x00" + m.Name + "\x00" + recentAddr(m, p).String() + "\x00"
}

// maskedAddr is the network of an address; without a mask it is the address.
func maskedAddr(a, mask netip.Addr) netip.Addr {
	x, m := a.AsSlice(), mask.AsSlice()
	if len(x) != len(m) {
		return a
	}
	for i := range x {
		x[i] &= m[i]
	}
	out, _ := netip.AddrFromSlice(x)
	return out
}
