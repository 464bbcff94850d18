// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/explain/internal/host"
	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/nat"
)

// group is mappings that nothing tells apart.
type group struct {
	mapping  nat.Mapping // one of them
	count    int
	ordinals []int // of the first few
	again    bool  // another group differs from it by the backend alone
}

// kind is what tells groups apart.
type kind struct {
	proto                          nat.Proto
	port, toPort, toAddr           int
	front, back                    netip.Addr
	to4                            bool
	noProxy, proxyOnly, masquerade bool
	from                           nat.Sources
	hold                           nat.Hold
	others, sockets                string
	answer                         host.ProbeAnswer
	failing                        netip.Addr // all of its ports are one finding
	// Of a backend that is taken together with others: the port of a bridge behind which it is, and its
	// neighbour if somebody has set it.
	behind int
	set    string
}

// groups sorts the mappings into groups, those first that differ by more than the backend.
func (d *doctor) groups() []*group {
	byKind := map[kind]*group{}
	coarse := map[kind]bool{}
	var list []*group
	for i, m := range d.all {
		k := d.kindOf(m)
		g := byKind[k]
		if g == nil {
			g = &group{mapping: m}
			byKind[k] = g
			list = append(list, g)
			k.back, k.failing = netip.Addr{}, netip.Addr{}
			g.again = coarse[k]
			coarse[k] = true
		}
		g.count += int(d.more[i]) + 1
		if len(g.ordinals) < firstMappings {
			g.ordinals = append(g.ordinals, i)
		}
	}
	order.Sort(list, func(a, b *group) int {
		switch {
		case a.again == b.again:
			return 0
		case b.again:
			return -1
		}
		return 1
	})
	return list
}

func (d *doctor) kindOf(m nat.Mapping) kind {
	k := kind{
		proto: m.Proto, port: d.apart.port(m.Frontend.Port()), toPort: d.apart.port(m.Backend.Port()), toAddr: d.apart.addr(m.Backend.Addr()), to4: m.Backend.Addr().Is4(),
		front: m.Frontend.Addr(), noProxy: m.NoProxy, proxyOnly: m.ProxyOnly, masquerade: m.Masquerade, from: m.From, hold: m.Hold,
	}
	if len(d.backends) <= maxApart || d.apart.eachAddr {
		k.back = m.Backend.Addr()
	} else {
		d.together(&k, m)
	}
	key := protoPort{m.Proto, m.Frontend.Port()}
	if others := d.served[key]; others != nil {
		var b strings.Builder
		for _, o := range others {
			b.WriteString(o.Frontend.Addr().String() + " ")
		}
		k.others = b.String()
	}
	if r := d.probed[probedKey{protoOf(m.Proto), m.Backend}]; r.Answer != host.Unasked {
		k.answer = r.Answer
		if r.Answer != host.Answers {
			k.failing = m.Backend.Addr()
		}
	}
	if d.Proxies || m.ProxyOnly {
		k.sockets = d.socketsOf(key)
	}
	return k
}

// together notes what tells a backend's address apart besides rules and routes.
func (d *doctor) together(k *kind, m nat.Mapping) {
	x := d.walk(m)
	r, _, err := x.lookup(host.RouteQuery{Dst: m.Backend.Addr()})
	if err != nil || r == nil {
		k.back = m.Backend.Addr()
		return
	}
	hop := nextHop(r, m.Backend.Addr())
	if n, err := x.neighbour(hop, r.Oif); err == nil && n != nil && n.Permanent() {
		k.set = n.String()
	}
	ds := x.layers(r.Oif, hop)
	k.behind = ds[len(ds)-1].Index
}

// socketsOf describes the sockets of a port, so that equal ones are alike.
func (d *doctor) socketsOf(key protoPort) string {
	var b strings.Builder
	for _, s := range d.sockets[key] {
		b.WriteString(s.Addr.Addr().String())
		for _, is := range []bool{s.V6Only, s.Full(), s.Link != 0} {
			b.WriteString(map[bool]string{true: "1", false: "0"}[is])
		}
		if !d.ours(s) {
			b.WriteString(s.String())
		}
		b.WriteByte(' ')
	}
	return b.String()
}

// ours reports whether a socket is one of the proxies', or may be.
func (d *doctor) ours(s *host.Socket) bool {
	if d.proxies[s.Inode] || s.Inode == 0 {
		return true
	}
	if d.options.PID == os.Getpid() { // it may be unable to see whose it is
		return false
	}
	if s.Process == nil && !d.looked[s] && len(d.looked) < maxLooked {
		d.looked[s] = true
		d.facts.FindProcess(s)
	}
	return d.walk(nat.Mapping{}).proxies(s)
}

// clients are those by which a mapping is examined.
func (d *doctor) clients(m nat.Mapping) (list []netip.Addr) {
	front := m.Frontend.Addr()
	if front.IsValid() && !front.IsUnspecified() {
		if front.Is4() == m.Backend.Addr().Is4() && !front.IsLoopback() && !front.IsLinkLocalUnicast() || d.Proxies || m.ProxyOnly {
			list = append(list, d.allowed(m, netip.Addr{}, front.Is4())...)
		}
		if d.Proxies && !m.NoProxy && !front.IsLoopback() && d.walk(m).isLocal(front) {
			list = append(list, front)
		}
		return list
	}
	for _, is4 := range []bool{m.Backend.Addr().Is4(), !m.Backend.Addr().Is4()} {
		if front.IsValid() && front.Is4() != is4 || is4 != m.Backend.Addr().Is4() && (!d.Proxies || m.NoProxy || m.Hold == nat.HoldShared) && !m.ProxyOnly {
			continue
		}
		for _, a := range d.uplinks[is4] {
			list = append(list, d.allowed(m, a, is4)...)
		}
		if len(d.uplinks[is4]) == 0 && is4 == m.Backend.Addr().Is4() {
			list = append(list, d.allowed(m, netip.Addr{}, is4)...)
		}
	}
	if d.Proxies && !m.NoProxy {
		for _, a := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
			if (!front.IsValid() || front.Is4() == a.Is4()) && d.walk(m).isLocal(a) {
				list = append(list, a)
			}
		}
	}
	return list
}

// allowed is a client if a mapping is for it, or else one that it is for. An invalid one is typical.
func (d *doctor) allowed(m nat.Mapping, a netip.Addr, is4 bool) []netip.Addr {
	if m.From.IsZero() || a.IsValid() && m.From.Allow(a) {
		return []netip.Addr{a}
	}
	for _, p := range m.From.Prefixes() {
		if p.Addr().Is4() != is4 {
			continue
		}
		c := p.Masked().Addr()
		if p.Bits() < c.BitLen() {
			c = c.Next()
		}
		for range 4 {
			if p.Contains(c) && !d.walk(m).isLocal(c) && !c.IsLinkLocalUnicast() {
				return []netip.Addr{c}
			}
			c = c.Next()
		}
	}
	return nil
}

// servers are the mappings that a packet to the port of one may go by.
func (d *doctor) servers(m nat.Mapping) []nat.Mapping {
	if list := d.served[protoPort{m.Proto, m.Frontend.Port()}]; list != nil {
		return list
	}
	return []nat.Mapping{m}
}

// examine explains one of a group, for all of its clients.
func (d *doctor) examine(g *group) {
	if d.late() {
		d.result.Skipped += g.count
		return
	}
	d.result.Mappings += g.count
	m := g.mapping
	hit := map[*finding]bool{}
	for i, a := range d.clients(m) {
		r := d.Explain(d.ctx, Query{Proto: m.Proto, Frontend: m.Frontend, From: a}, d.servers(m)...)
		if r.Mapping != m || r.Cause == nil || r.Cause.Kind == KindClient {
			continue
		}
		f := d.note(r)
		f.typical = f.typical || i == 0
		f.from = append(f.from, r.Client)
		if !hit[f] {
			hit[f] = true
			d.about(f, g)
		}
	}
}

// note returns the finding of a report.
func (d *doctor) note(r Report) *finding {
	c := *r.Cause
	f := &finding{Finding: Finding{Severity: SeverityStops, Kind: c.Kind, Thing: c.Thing, What: c.What, Remedy: c.Remedy, Answer: c.Answer}}
	if r.Verdict != Stopped {
		f.Severity = SeverityMayStop
	}
	key := f.Key()
	if own := "backend " + r.Mapping.Backend.String(); c.Kind == KindBackend && c.Thing == own { // one line for all ports of it
		f.backend = true
		key = f.Kind + r.Mapping.Backend.Addr().String() + c.What
	}
	if have := d.found[key]; have != nil {
		return have
	}
	d.found[key] = f
	d.order = append(d.order, key)
	return f
}

// about adds the mappings of a group to a finding, of which the first few are named.
func (d *doctor) about(f *finding, g *group) {
	f.Count += g.count
	f.ordinals = append(f.ordinals, g.ordinals...)
	slices.Sort(f.ordinals)
	f.ordinals = f.ordinals[:min(len(f.ordinals), firstMappings)]
	f.Mappings = f.Mappings[:0]
	for _, i := range f.ordinals {
		f.Mappings = append(f.Mappings, d.published(i))
	}
}
