// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"bytes"
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
