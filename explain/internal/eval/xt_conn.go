// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules/xt"
)

// ctState is the packet's state as a bit of xtables, of which NF_CT_STATE_UNTRACKED has another one.
func (x *xtMatch) ctState(untracked uint32) uint32 {
	c := &x.p.CT
	switch {
	case c.Untracked:
		return untracked
	case !c.Seen:
		return Invalid
	case c.State == 0:
		return New
	}
	return c.State
}

func (x *xtMatch) conntrack(m xt.Conntrack) known {
	c := &x.p.CT
	asks := func(flag uint16) bool { return m.Flags&flag != 0 }
	not := func(flag uint16) bool { return m.Invert&flag != 0 }
	if asks(xt.CTState) {
		state := x.ctState(256)
		if tracked(x.p) {
			if c.Status&0x10 != 0 { // IPS_SRC_NAT
				state |= 64
			}
			if c.Status&0x20 != 0 { // IPS_DST_NAT
				state |= 128
			}
		}
		if (uint32(m.State)&state != 0) == not(xt.CTState) {
			return yes(false)
		}
	}
	if !tracked(x.p) {
		return yes(asks(xt.CTState))
	}
	if asks(xt.CTDirection) && c.Reply != not(xt.CTDirection) {
		return yes(false)
	}
	list := []known{yes(true)}
	for _, a := range []struct {
		flag uint16
		want xt.AddrMask
		have netip.Addr
	}{
		{xt.CTOrigSrc, m.OrigSrc, c.Original.Src},
		{xt.CTOrigDst, m.OrigDst, c.Original.Dst},
		{xt.CTReplSrc, m.ReplSrc, c.Answer.Src},
		{xt.CTReplDst, m.ReplDst, c.Answer.Dst},
	} {
		if asks(a.flag) {
			list = append(list, masked(a.want, a.have, "connection's").not(not(a.flag)))
		}
	}
	for _, a := range []struct {
		flag uint16
		want xt.PortRange
		have uint16
	}{
		{xt.CTOrigSrcPort, m.OrigSrcPort, c.Original.SrcPort},
		{xt.CTOrigDstPort, m.OrigDstPort, c.Original.DstPort},
		{xt.CTReplSrcPort, m.ReplSrcPort, c.Answer.SrcPort},
		{xt.CTReplDstPort, m.ReplDstPort, c.Answer.DstPort},
	} {
		if asks(a.flag) {
			list = append(list, x.tuplePort(a.want, a.have, a.flag == xt.CTOrigDstPort).not(not(a.flag)))
		}
	}
	if asks(xt.CTProto) {
		list = append(list, yes(uint16(x.p.Proto) == m.Proto).not(not(xt.CTProto)))
	}
	if asks(xt.CTStatus) {
		list = append(list, yes(uint32(m.Status)&c.Status != 0).not(not(xt.CTStatus)))
	}
	if asks(xt.CTExpires) {
		list = append(list, maybe("when the connection expires"))
	}
	return all(list...)
}

// tuplePort compares a port of a connection. ICMP has an identifier in the place of a source, which is not known,
// and type and code in that of a destination.
func (x *xtMatch) tuplePort(want xt.PortRange, have uint16, originalDestination bool) known {
	if x.p.Proto != unix.IPPROTO_ICMP && x.p.Proto != unix.IPPROTO_ICMPV6 {
		return x.portIs(want, have)
	}
	if !originalDestination || x.p.CT.Reply {
		return maybe("the identifier of an ICMP packet")
	}
	have = uint16(x.p.ICMPType)<<8 | uint16(x.p.ICMPCode)
	return yes(have >= want.From && have <= want.To)
}
