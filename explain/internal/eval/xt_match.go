// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules/xt"
)

// xtMatch is a match of iptables and the packet that comes to it.
type xtMatch struct {
	p     *Packet
	hook  uint32
	facts Facts
	now   time.Time
	name  string
	added string // what rules before have put in sets and lists
}

func (x *xtMatch) answer(m xt.Match) known {
	p := x.p
	switch m := m.(type) {
	case xt.Header:
		return x.header(m)
	case xt.ARPHeader:
		return x.arp(m)
	case xt.Conntrack:
		return x.conntrack(m)
	case xt.State:
		return yes(m.Mask&x.ctState(64) != 0)
	case xt.AddrType:
		return x.addrType(m)
	case xt.Multiport:
		return x.multiport(m)
	case xt.TCP:
		return x.tcp(m)
	case xt.UDP:
		if p.Proto != unix.IPPROTO_UDP && p.Proto != unix.IPPROTO_UDPLITE {
			return yes(false)
		}
		return all(x.port(m.Src, true).not(m.NotSrc), x.port(m.Dst, false).not(m.NotDst))
	case xt.ICMP:
		return x.icmp(m)
	case xt.Comment:
		return yes(true)
	case xt.Mark:
		if p.MarkUnknown && m.Mask != 0 {
			return maybe("the packet's mark, which is not known")
		}
		return yes(p.Mark&m.Mask == m.Mark).not(m.Not)
	case xt.Connmark:
		switch {
		case !tracked(p):
			return yes(false)
		case p.CT.MarkUnknown && m.Mask != 0:
			return maybe("the connection's mark, which is not known")
		}
		return yes(p.CT.Mark&m.Mask == m.Mark).not(m.Not)
	case xt.Set:
		return x.set(m)
	case xt.MAC:
		switch {
		case p.In.Type != unix.ARPHRD_ETHER:
			return yes(false)
		case p.SrcMAC == nil:
			return maybe("the link-layer address of who sent the packet, which is not known")
		}
		return yes(bytes.Equal(p.SrcMAC, m.Addr[:])).not(m.Not)
	case xt.IPRange:
		return all(inRange(p.Src, m.SrcMin, m.SrcMax, m.NotSrc), inRange(p.Dst, m.DstMin, m.DstMax, m.NotDst))
	case xt.Owner:
		return x.owner(m)
	case xt.PhysDev:
		return x.physdev(m)
	case xt.RPFilter:
		return x.rpfilter(m)
	case xt.PktType:
		return yes(uint32(p.PktType) == m.Type).not(m.Not)
	case xt.Length:
		return x.length(m)
	case xt.TTL:
		return x.ttl(m)
	case xt.DSCP:
		return yes(p.TOS>>2 == m.Value).not(m.Not)
	case xt.TOS:
		return yes(p.TOS&m.Mask == m.Value).not(m.Not)
	case xt.ECN:
		return x.ecn(m)
	case xt.DevGroup:
		return x.devGroup(m)
	case xt.BridgeIP:
		return x.bridgeIP(m)
	case xt.BridgeARP:
		return x.bridgeARP(m)
	case xt.BridgeMark:
		switch {
		case p.MarkUnknown && m.Mask != 0:
			return maybe("the packet's mark, which is not known")
		case m.Any:
			return yes(p.Mark&m.Mask != 0).not(m.Not)
		}
		return yes(p.Mark&m.Mask == m.Mark).not(m.Not)
	case xt.BridgeVLAN:
		return x.bridgeVLAN(m)
	case xt.BridgeFrame:
		return yes(false)
	}
	return x.beyond(m)
}

// beyond evaluates the matches that look at more than the packet.
func (x *xtMatch) beyond(m xt.Match) known {
	p := x.p
	switch m := m.(type) {
	case xt.Helper:
		switch {
		case !tracked(p):
			return yes(m.Not)
		case p.CT.Status&1 != 0: // IPS_EXPECTED
			return maybe("which helper expected the connection")
		}
		return yes(m.Not)
	case xt.Time:
		return timeMatch(m, x.now)
	case xt.Recent:
		return x.recent(m)
	case xt.Statistic:
		return statistic(m)
	case xt.ProtoOnly:
		return x.protoOnly(m)
	case xt.IPv6Header:
		return x.ipv6Header(m)
	case xt.TCPMSS:
		switch {
		case p.Proto != unix.IPPROTO_TCP:
			return yes(false)
		case p.TCPFlags&tcpSYN == 0: // it has no such option
			return yes(m.Not)
		}
		return between(newRanges(p), segmentSize, int(m.Min), int(m.Max)).not(m.Not)
	case xt.OSF:
		if p.Proto != unix.IPPROTO_TCP || p.TCPFlags&tcpSYN == 0 {
			return yes(false)
		}
		return maybe("which system the packet seems to be from (osf %s)", m.Options())
	case xt.Cgroup:
		if !x.hasSocket() {
			return yes(false)
		}
		return maybe("the control group of the packet's socket")
	case xt.Policy:
		if ipsec, err := x.facts.IPsec(); ipsec || err != nil {
			return maybe("whether IPsec protects the packet (policy %s)", m.Options())
		}
		return yes(m.Flags&xt.PolicyNone != 0)
	case xt.Rate:
		return maybe("%s", m.Text)
	case xt.Socket:
		if p.Proto != unix.IPPROTO_TCP && p.Proto != unix.IPPROTO_UDP && p.Proto != unix.IPPROTO_ICMP &&
			p.Proto != unix.IPPROTO_ICMPV6 {
			return yes(false)
		}
		return maybe("whether a local socket takes the packet")
	case xt.Nfacct:
		return maybe("whether the quota of the accounting object %s is reached", m.Name)
	case xt.Unknown:
		return maybe("a match %s that is not read", m.Name)
	}
	if text := m.Options(); text != "" {
		return maybe("the match %s %s", x.name, text)
	}
	return maybe("the match %s", x.name)
}

func (x *xtMatch) ip6() bool { return x.p.EtherType == unix.ETH_P_IPV6 }

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

// timeMatch compares the present time, as the kernel does in UTC.
func timeMatch(m xt.Time, now time.Time) known {
	if m.Flags&xt.TimeLocal != 0 {
		return maybe("the time, since the kernel's time zone is not known")
	}
	stamp := now.Unix()
	if stamp < int64(m.DateStart) || stamp > int64(m.DateStop) {
		return yes(false)
	}
	clock := uint32(stamp % 86400)
	if m.DaytimeStart < m.DaytimeStop {
		if clock < m.DaytimeStart || clock > m.DaytimeStop {
			return yes(false)
		}
	} else {
		if clock < m.DaytimeStart && clock > m.DaytimeStop {
			return yes(false)
		}
		// Past midnight, the day is the one before.
		if m.Flags&xt.TimeContiguous != 0 && clock <= m.DaytimeStop {
			stamp -= 86400
		}
	}
	day := time.Unix(stamp, 0).UTC()
	weekday := int(day.Weekday()+6)%7 + 1
	return yes(m.Weekdays&(1<<weekday) != 0 && m.Monthdays&(1<<day.Day()) != 0)
}

// statistic is known only if it is always or never.
func statistic(m xt.Statistic) known {
	not := m.Flags&1 != 0
	switch {
	case m.Mode == 0 && m.Probability == 0:
		return yes(not)
	case m.Mode == 0 && m.Probability >= 1<<31, m.Mode == 1 && m.Every == 0:
		return yes(!not)
	case m.Mode == 1:
		return maybe("a rule for one of %d packets", uint64(m.Every)+1)
	}
	return maybe("a rule for %.3g %% of the packets, at random", float64(m.Probability)/(1<<31)*100)
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
