// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// invert returns the tuple of the other direction.
func (t Tuple) invert() Tuple {
	return Tuple{Src: t.Dst, Dst: t.Src, SrcPort: t.DstPort, DstPort: t.SrcPort}
}

// track is connection tracking: from here on the packet has a state.
func (r *run) track(s *state) *state {
	if s.ct.Seen || s.ct.Untracked {
		return s
	}
	own := *s
	c := &own.ct
	c.Seen = true
	if r.base.Proto == unix.IPPROTO_ICMPV6 && untracked6(r.base.ICMPType) {
		*c = Conn{Seen: true, Untracked: true}
		return &own
	}
	switch {
	case c.State == New || c.State == 0:
	case c.State == Invalid, zoneOf(c.Zone, c.ZoneDirs, c.Reply) == zoneOf(s.zone, s.zoneDirs, c.Reply):
		return &own
	default: // the connection is of another zone
		*c = Conn{Seen: true}
	}
	c.State = New
	if r.base.Proto == unix.IPPROTO_TCP && !startsTCP(s.th.val[13]) {
		c.State = Invalid
	}
	c.Reply = false
	c.Zone, c.ZoneDirs = s.zone, s.zoneDirs
	c.Original = Tuple{Src: s.addr(true), Dst: s.addr(false)}
	if hasPorts(r.base.Proto) {
		c.Original.SrcPort, c.Original.DstPort = s.port(true), s.port(false)
	}
	c.Answer = c.Original.invert()
	return &own
}

// zoneOf is the zone of packets in one direction.
func zoneOf(zone uint16, dirs uint8, reply bool) uint16 {
	if dirs != 0 && dirs&(1<<b2u(reply)) == 0 {
		return 0
	}
	return zone
}

// untracked6 reports whether connection tracking leaves out a type of ICMPv6: those of multicast groups,
// routers and neighbours (noct_valid_new in net/netfilter/nf_conntrack_proto_icmpv6.c).
func untracked6(typ uint8) bool { return typ >= 130 && typ <= 136 || typ == 143 }

// startsTCP reports whether connection tracking makes an entry for a packet of TCP with such flags:
// a SYN, or one in the midst of a connection, unless net.netfilter.nf_conntrack_tcp_loose is off.
func startsTCP(flags uint8) bool {
	switch {
	case flags&tcpRST != 0:
		return false
	case flags&tcpSYN != 0:
		return flags&tcpACK == 0
	case flags&tcpFIN != 0:
		return false
	}
	return flags&tcpACK != 0
}

// sourceHook reports whether nat changes the source at the hook, and not the destination.
func (r *run) sourceHook() bool { return r.hook == Postrouting || r.hook == Input }

// natHook calls the nat chains, until one translates, for the first packet of a connection. Others
// are translated as the first one was.
func (r *run) natHook(chains []*rules.Chain, s *state) []result {
	if !s.tracked() {
		return []result{{code: codeAccept, state: s}}
	}
	ready := uint32(DstNATDone)
	if r.sourceHook() {
		ready = SrcNATDone
	}
	if s.ct.State != New && s.ct.State != Related || s.ct.Status&ready != 0 {
		return []result{{code: codeAccept, state: r.translate(s)}}
	}
	live := []result{{code: codeAccept, state: s}}
	var done []result
	for _, c := range chains {
		var next []result
		for _, w := range live {
			if w.state.ct.Status&ready != 0 {
				next = append(next, w)
				continue
			}
			for _, x := range after(w, r.baseChain(c, w.state)) {
				if x.goesOn() {
					next = append(next, x)
				} else {
					done = append(done, x)
				}
			}
		}
		if len(next) == 0 || r.err != nil {
			return done
		}
		live, done = r.bound(next, done, c)
	}
	for i := range live {
		own := *live[i].state
		own.ct.Status |= ready
		live[i].state = r.translate(&own)
	}
	return merge(append(done, live...))
}

// translate changes the packet as its connection says.
func (r *run) translate(s *state) *state {
	source := r.sourceHook()
	bit := uint32(DstNAT)
	if source != s.ct.Reply {
		bit = SrcNAT
	}
	if s.ct.Status&bit == 0 {
		return s
	}
	to := s.ct.Answer.invert()
	if s.ct.Reply {
		to = s.ct.Original.invert()
	}
	own := *s
	addr, port := to.Dst, to.DstPort
	if source {
		addr, port = to.Src, to.SrcPort
	}
	own.setAddr(source, addr)
	if hasPorts(r.base.Proto) {
		own.setPort(source, port)
	}
	if own.net != s.net && r.hook == Output {
		own.reroute = true
	}
	return &own
}

// setup is what a nat rule does to a connection. An address that is invalid, and a port of zero,
// stay.
func (s *state) setup(source bool, addr netip.Addr, port uint16, by *rules.Rule) {
	old := s.ct.Answer.invert()
	to := old
	changed, ready := uint32(DstNAT), uint32(DstNATDone)
	if source {
		changed, ready = SrcNAT, SrcNATDone
		if addr.IsValid() {
			to.Src = addr
		}
		if port != 0 {
			to.SrcPort = port
		}
	} else {
		if addr.IsValid() {
			to.Dst = addr
		}
		if port != 0 {
			to.DstPort = port
		}
	}
	s.ct.Status |= ready
	if to != old {
		s.ct.Status |= changed
		s.ct.Answer = to.invert()
		s.translated = by
	}
}
