// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules/xt"
)

// header compares what iptables-legacy compares itself.
func (x *xtMatch) header(h xt.Header) known {
	p := x.p
	if h.IP6 != x.ip6() || p.EtherType == unix.ETH_P_ARP {
		return yes(false)
	}
	return all(
		masked(h.Src, p.Src, "source").not(h.NotSrc),
		masked(h.Dst, p.Dst, "destination").not(h.NotDst),
		yes(xt.IfaceMatches(p.In.Name, h.In, h.InMask)).not(h.NotIn),
		yes(xt.IfaceMatches(p.Out.Name, h.Out, h.OutMask)).not(h.NotOut),
		yes(h.Proto == 0 || uint16(p.Proto) == h.Proto).not(h.Proto != 0 && h.NotProto),
		yes(!h.Fragment).not(h.NotFragment), // it is not a fragment
	)
}

// masked reports whether an address is of a network.
func masked(m xt.AddrMask, a netip.Addr, which string) known {
	if !a.IsValid() && !m.Mask.IsUnspecified() {
		return maybe("the %s address, which is not known", which)
	}
	return yes(!a.IsValid() || m.In(a.WithZone("")))
}

// arp compares what arptables-legacy compares itself.
func (x *xtMatch) arp(h xt.ARPHeader) known {
	p := x.p
	mac := func(d xt.DeviceAddr, have []byte) known {
		switch {
		case !d.Set():
			return yes(true)
		case len(have) != 6:
			return maybe("a link-layer address in the ARP packet, which is not known")
		}
		return yes(d.Is(have))
	}
	op := yes(h.OpMask == 0 || p.ARPOp&h.OpMask == h.Op)
	if p.ARPOp == 0 && h.OpMask != 0 {
		op = maybe("whether the ARP packet is a request or an answer")
	}
	return all(
		masked(h.Src, p.Src, "source").not(h.NotSrc),
		masked(h.Dst, p.Dst, "destination").not(h.NotDst),
		yes(xt.IfaceMatches(p.In.Name, h.In, h.InMask)).not(h.NotIn),
		yes(xt.IfaceMatches(p.Out.Name, h.Out, h.OutMask)).not(h.NotOut),
		mac(h.SrcDevice, p.SrcMAC).not(h.NotSrcDevice),
		mac(h.DstDevice, p.DstMAC).not(h.NotDstDevice),
		op.not(h.NotOp),
		yes(h.LenMask == 0 || 6&h.LenMask == h.Len).not(h.NotLen),
		yes(h.TypeMask == 0 || 1&h.TypeMask == h.Type).not(h.NotType),
		yes(h.ProtoMask == 0 || unix.ETH_P_IP&h.ProtoMask == h.Proto).not(h.NotProto),
	)
}

// port compares a port of the packet.
func (x *xtMatch) port(want xt.PortRange, source bool) known {
	if source {
		return x.portIs(want, x.p.SrcPort)
	}
	return x.portIs(want, x.p.DstPort)
}

// portIs compares a port, which is the client's if it is zero.
func (x *xtMatch) portIs(want xt.PortRange, have uint16) known {
	first, last := have, have
	if have == 0 {
		client := x.p.Ports
		if client == (PortRange{}) {
			client = PortRange{1024, 65535}
		}
		first, last = client.First, client.Last
	}
	switch {
	case want.From <= first && last <= want.To:
		return yes(true)
	case last < want.From || want.To < first:
		return yes(false)
	}
	return maybe("the port that the client uses, which is not known")
}

func (x *xtMatch) multiport(m xt.Multiport) known {
	switch x.p.Proto {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP:
	default:
		return yes(false)
	}
	var list []known
	for _, p := range m.Ports {
		if m.Side != 1 {
			list = append(list, x.port(p, true))
		}
		if m.Side != 0 {
			list = append(list, x.port(p, false))
		}
	}
	return either(list...).not(m.Not)
}

func (x *xtMatch) tcp(m xt.TCP) known {
	if x.p.Proto != unix.IPPROTO_TCP {
		return yes(false)
	}
	option := yes(true)
	if m.Option != 0 {
		option = maybe("whether the packet has the TCP option %d", m.Option)
	}
	return all(
		x.port(m.Src, true).not(m.NotSrc),
		x.port(m.Dst, false).not(m.NotDst),
		yes(x.p.TCPFlags&m.FlagMask == m.Flags).not(m.NotFlags),
		option,
	)
}

func (x *xtMatch) icmp(m xt.ICMP) known {
	want := uint8(unix.IPPROTO_ICMP)
	if m.IP6 {
		want = unix.IPPROTO_ICMPV6
	}
	if x.p.Proto != want {
		return yes(false)
	}
	t, c := x.p.ICMPType, x.p.ICMPCode
	return yes(m.Any() || t == m.Type && c >= m.CodeMin && c <= m.CodeMax).not(m.Not)
}

// inRange compares an address with a range; without one it is any.
func inRange(a, first, last netip.Addr, not bool) known {
	switch {
	case !first.IsValid():
		return yes(true)
	case !a.IsValid():
		return maybe("an address, which is not known")
	}
	a = a.WithZone("")
	return yes(a.Compare(first) >= 0 && a.Compare(last) <= 0).not(not)
}

func (x *xtMatch) physdev(m xt.PhysDev) known {
	in, out := x.p.PhysIn.Name, x.p.PhysOut.Name
	holds := map[uint8]bool{
		xt.PhysBridged: out != "",
		xt.PhysIsIn:    in != "",
		xt.PhysIsOut:   out != "",
		xt.PhysIn:      in != "" && xt.IfaceMatches(in, m.In, m.InMask),
		xt.PhysOut:     out != "" && xt.IfaceMatches(out, m.Out, m.OutMask),
	}
	for flag, ok := range holds {
		if m.Flags&flag != 0 && ok == (m.Invert&flag != 0) {
			return yes(false)
		}
	}
	return yes(true)
}

func (x *xtMatch) length(m xt.Length) known {
	return between(newRanges(x.p), packetLen, int(m.Min), int(m.Max)).not(m.Not)
}

// between says whether a number of the packet is in a range.
func between(r ranges, n number, first, last int) known {
	from, to := int(r[n].First), int(r[n].Last)
	switch {
	case from >= first && to <= last:
		return yes(true)
	case to < first || from > last:
		return yes(false)
	}
	return maybe("%s, which is not known", n)
}

func (x *xtMatch) ttl(m xt.TTL) known {
	r, n := newRanges(x.p), int(m.Value)
	switch m.Mode {
	case 0, 1:
		return between(r, hops, n, n).not(m.Mode == 1)
	case 2:
		return between(r, hops, 0, n-1)
	case 3:
		return between(r, hops, n+1, 255)
	}
	return yes(false)
}

func (x *xtMatch) ecn(m xt.ECN) known {
	list := []known{yes(true)}
	if m.Match&1 != 0 {
		list = append(list, yes(x.p.TOS&3 == m.Value).not(m.Invert&1 != 0))
	}
	const ece, cwr = 0x40, 0x80
	for _, f := range []struct{ bit, flag uint8 }{{0x10, ece}, {0x20, cwr}} {
		if m.Match&f.bit != 0 {
			tcp := x.p.Proto == unix.IPPROTO_TCP
			list = append(list, yes(tcp), yes(x.p.TCPFlags&f.flag != 0).not(m.Invert&f.bit != 0))
		}
	}
	return all(list...)
}

func (x *xtMatch) devGroup(m xt.DevGroup) known {
	list := []known{yes(true)}
	if m.Flags&1 != 0 {
		list = append(list, yes((m.SrcGroup^x.p.In.Group)&m.SrcMask == 0).not(m.Flags&2 != 0))
	}
	if m.Flags&4 != 0 {
		list = append(list, yes((m.DstGroup^x.p.Out.Group)&m.DstMask == 0).not(m.Flags&8 != 0))
	}
	return all(list...)
}

// protoOnly is for protocols and extension headers that the packet does not have.
func (x *xtMatch) protoOnly(m xt.ProtoOnly) known {
	switch p := x.p.Proto; {
	case x.name == "sctp" && p == unix.IPPROTO_SCTP, x.name == "dccp" && p == unix.IPPROTO_DCCP,
		x.name == "esp" && p == unix.IPPROTO_ESP, x.name == "ah" && p == unix.IPPROTO_AH,
		x.name == "ipcomp" && p == unix.IPPROTO_COMP:
		return maybe("the match %s %s", x.name, m.Options())
	}
	return yes(false)
}

// ipv6Header: the packet has no extension headers.
func (x *xtMatch) ipv6Header(m xt.IPv6Header) known {
	const protocol = 1
	if m.Soft {
		return yes((protocol^m.Match^m.Invert)&m.Match == 0)
	}
	return yes(protocol == m.Match).not(m.Invert != 0)
}
