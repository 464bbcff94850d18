// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
)

// arrived asks the backend whether it takes the packet, which has left the host for it.
func (x *walk) arrived(w *way) []*way {
	if w.r.Type == unix.RTN_LOCAL {
		return w.on()
	}
	w.source = w.p.Src
	backend := netip.AddrPortFrom(w.p.Dst, w.p.DstPort)
	hop := nextHop(w.r, w.p.Dst)
	var permanent *host.Neighbour
	if n, err := x.neighbour(hop, w.out); err == nil && n != nil && n.Permanent() {
		permanent = n
	}
	p := x.probe(backend, w.r)
	c := Cause{Kind: KindBackend, Thing: "backend " + backend.String()}
	if d := x.device(w.out); (p.Answer == host.NoNeighbour || p.Answer == host.Silent) && d.asks() && d.Flags&unix.IFF_NOARP != 0 {
		return w.halt(Cause{Kind: KindLink, Thing: "interface " + d.Name + ": NOARP", What: "the host does not ask for its neighbours there", Remedy: "ip link set dev " + d.Name + " arp on"})
	}
	switch p.Answer {
	case host.Answers:
		w.step("backend", "%s answers", backend)
		return x.wayBack(w, backend, true, p.Source)
	case host.Refused:
		c.What = "nothing listens on it: it refuses the connection"
		if x.proto == unix.IPPROTO_UDP {
			c.What = "nothing listens on it"
		}
		c.Remedy = fmt.Sprintf("start the server on %s, or publish the port that it listens on", backend)
	case host.NoNeighbour:
		w.source = netip.Addr{}
		if c := x.astray(w, backend.Addr(), true); c != nil {
			return w.halt(*c)
		}
		if c := x.finds(w.out, hop); c != nil {
			return w.halt(*c)
		}
		if c := x.cutOff(w.out, hop); c != nil {
			return w.halt(*c)
		}
		c.Kind, c.Thing = KindNeighbour, fmt.Sprintf("neighbour %s dev %s: no answer", hop, x.name(w.out))
		if p.Neighbour != nil {
			c.Thing = "neighbour " + p.Neighbour.String()
		}
		c.What = fmt.Sprintf("nobody on %s says that it has the address %s", x.name(w.out), hop)
		c.Remedy = fmt.Sprintf("start the backend, or give it the address %s", hop)
		if permanent != nil {
			return w.halt(x.wrongNeighbour(w, permanent))
		}
	case host.Unreachable:
		if c := x.astray(w, backend.Addr(), true); c != nil {
			return w.halt(*c)
		}
		c.What = "cannot be reached: " + p.Text
	case host.Silent:
		if c := x.astray(w, backend.Addr(), x.proto == unix.IPPROTO_TCP); c != nil {
			return w.halt(*c)
		}
		if permanent != nil && (x.unknownMAC(w, permanent) || x.claimed(w.out, permanent)) {
			return w.halt(x.wrongNeighbour(w, permanent))
		}
		if c := x.asksNobody(w.out, hop); c != nil {
			return w.halt(*c)
		}
		if x.proto == unix.IPPROTO_UDP {
			w.step("backend", "%s was not asked: a datagram may do harm", backend)
			return x.wayBack(w, backend, false, netip.Addr{})
		}
		if c := x.within(w, backend); c != nil {
			return w.halt(*c)
		}
		c.What = "does not answer"
		if p.Source.IsValid() {
			c.What += fmt.Sprintf(": asked from %s", p.Source)
		}
		c.Remedy = "look at the firewall and the routes of the backend"
	case host.Unasked:
		if c := x.astray(w, backend.Addr(), false); c != nil {
			return w.halt(*c)
		}
		if permanent != nil && (x.unknownMAC(w, permanent) || x.claimed(w.out, permanent)) {
			return w.halt(x.wrongNeighbour(w, permanent))
		}
		if c := x.asksNobody(w.out, hop); c != nil {
			return w.halt(*c)
		}
		if p.Text != "" {
			w.step("backend", "%s was not asked: %s", backend, p.Text)
		}
		if w.r.Gateway.IsValid() && !x.sameRoute(backend, w.r) {
			w.maybe(Cause{
				Kind: KindRoute, Thing: routeText(w.r), What: fmt.Sprintf("may lead %s astray: the host's own packets to the backend go another way", x.describe(w)),
				Remedy: "ip route get " + addr(backend.Addr()) + " shows that way",
			})
		}
		if d := x.device(w.out); x.timeout != 0 && d.asks() && x.finds(w.out, hop) == nil {
			// That it is there can be known.
			from := d.primary(hop)
			mac, err := x.facts.WhoHas(hop, d.Link, from, min(x.timeout, 200*time.Millisecond))
			if from.IsValid() && err == nil && mac == nil {
				w.source = netip.Addr{}
				return w.halt(Cause{
					Kind: KindNeighbour, Thing: fmt.Sprintf("neighbour %s dev %s: no answer", hop, x.name(w.out)),
					What:   fmt.Sprintf("nobody on %s says that it has the address %s", x.name(w.out), hop),
					Remedy: fmt.Sprintf("start the backend, or give it the address %s", hop),
				})
			}
		}
		return x.wayBack(w, backend, false, netip.Addr{})
	}
	w.step("backend", "%s: %s", c.Thing, c.What)
	return w.halt(c)
}

// astray names the route by which packets for a backend go to another link than the one that the backend's
// address is of. Where it is not known to be silent there, a more specific route may well be right, and
// is not named.
func (x *walk) astray(w *way, backend netip.Addr, silent bool) *Cause {
	for _, index := range x.links() {
		d := x.device(index)
		bits := d.linkBits(backend)
		if index == w.out || bits < 0 {
			continue
		}
		missing := w.r.Dst.Bits() < bits
		switch {
		case missing && !d.Up():
			c := linkCause(d, d.Why())
			c.What = fmt.Sprintf("the route to %s is gone with it", backend)
			return &c
		case missing:
			return &Cause{
				Kind: KindRoute, Thing: routeText(w.r), What: fmt.Sprintf("leads to %s, which is on the link of %s: that route is gone", backend, d.Name),
				Remedy: fmt.Sprintf("ip route add %s dev %s", netip.PrefixFrom(backend, bits).Masked(), d.Name) + inTable(w.r),
			}
		case silent:
			return &Cause{
				Kind: KindRoute, Thing: routeText(w.r), What: fmt.Sprintf("leads to %s past %s, which has an address of its link; the way of the route does not answer", backend, d.Name),
				Remedy: routeDel(w.r),
			}
		}
	}
	return nil
}

// routeDel is a command that removes a route.
func routeDel(r *host.Route) string {
	tool := "ip route del "
	if r.Dst.Addr().Is6() {
		tool = "ip -6 route del "
	}
	if r.NextHop != 0 { // ip-route(8) refuses what its nexthop says
		return tool + r.Dst.String() + fmt.Sprintf(" nhid %d", r.NextHop) + inTable(r)
	}
	return tool + strings.TrimSuffix(strings.Replace(r.Text, " in table ", " table ", 1), " table main")
}

// inTable is the end of a command for routes of the table of one.
func inTable(r *host.Route) string {
	if r.Table == unix.RT_TABLE_MAIN || r.Table == unix.RT_TABLE_UNSPEC {
		return ""
	}
	return fmt.Sprintf(" table %d", r.Table)
}

// asksNobody reports that an interface does not ask for the hardware address of a neighbour, and has made
// up one.
func (x *walk) asksNobody(index int, neighbour netip.Addr) *Cause {
	d := x.device(index)
	n, err := x.neighbour(neighbour, index)
	if err != nil || n == nil || n.State&unix.NUD_NOARP == 0 || !d.asks() || d.Flags&unix.IFF_NOARP == 0 {
		return nil
	}
	return &Cause{
		Kind: KindLink, Thing: "interface " + d.Name + ": NOARP", What: fmt.Sprintf("it asks for no hardware address, and does not know the one of %s", neighbour),
		Remedy: "ip link set dev " + d.Name + " arp on",
	}
}

// cutOff names the port of a bridge that keeps it from a neighbour, if the other end of the port
// shows that the neighbour is there, or if all ports are so.
func (x *walk) cutOff(bridge int, neighbour netip.Addr) *Cause {
	if x.device(bridge).Kind != "bridge" {
		return nil
	}
	ports, err := x.facts.Ports(bridge)
	if err != nil {
		return nil
	}
	known := false
	if n, err := x.neighbour(neighbour, bridge); err == nil && n != nil && n.MAC != nil {
		f, err := x.facts.FDB(bridge, n.MAC)
		known = err != nil || f != nil
	}
	var idle []*host.Link
	for _, p := range ports {
		closed := closedPort(p, known)
		if p.Why() == "" && closed == "" {
			continue
		}
		if p.Why() != "" {
			idle = append(idle, p)
		}
		peer, err := x.facts.PeerOf(p)
		if err != nil || peer == nil {
			continue
		}
		a, err := peer.Address(neighbour)
		if errors.Join(err, peer.Close()) == nil && a != nil {
			if p.Why() == "" {
				return &Cause{
					Kind: KindBridge, Thing: fmt.Sprintf("bridge port %s of %s: %s", p.Name, x.name(bridge), closed),
					What: fmt.Sprintf("%s is behind it, and %s does not know that", neighbour, x.name(bridge)), Remedy: opened(p, closed),
				}
			}
			return x.idle(p)
		}
	}
	if len(idle) > 0 && len(idle) == len(ports) {
		return x.idle(idle[0])
	}
	return nil
}

// closedPort says in words of bridge(8) what keeps a port from neighbours that its bridge does not know;
// empty: nothing does, or it knows this one.
func closedPort(l *host.Link, known bool) string {
	switch p := l.Port; {
	case p == nil || known:
		return ""
	case p.Locked:
		return "locked on"
	case !p.Flood:
		return "flood off"
	case !p.FloodAll:
		return "bcast_flood off"
	}
	return ""
}

// opened is a command that turns round what closedPort has named.
func opened(l *host.Link, closed string) string {
	what, value, _ := strings.Cut(closed, " ")
	return fmt.Sprintf("bridge link set dev %s %s %s", l.Name, what, map[string]string{"on": "off", "off": "on"}[value])
}

func (x *walk) idle(p *host.Link) *Cause {
	d := x.device(p.Index)
	c := linkCause(d, d.Why())
	if d.Port != nil && d.Up() && d.Carrier {
		c = portCause(d, x.device(d.Master))
	}
	return &c
}

// unknownMAC reports whether a bridge does not know the hardware address of an entry.
func (x *walk) unknownMAC(w *way, n *host.Neighbour) bool {
	if x.device(w.out).Kind != "bridge" {
		return true
	}
	f, err := x.facts.FDB(w.out, n.MAC)
	return err == nil && f == nil
}

func (x *walk) wrongNeighbour(w *way, n *host.Neighbour) Cause {
	return Cause{
		Kind: KindNeighbour, Thing: "neighbour " + n.String(), What: "somebody has set this hardware address, and it is not the one of " + addr(n.Addr),
		Remedy: fmt.Sprintf("ip neigh del %s dev %s", n.Addr, x.name(w.out)),
	}
}

// meet asks the backend to which a packet is on its way, so that the bridge's port to it is known.
func (x *walk) meet(w *way) []*way {
	if to := netip.AddrPortFrom(w.p.Dst, w.p.DstPort); to == x.backend() && !w.trial {
		x.probe(to, nil)
	}
	return w.on()
}

// probe asks a backend, once, if what the host sends to it passes the rules and routes of the
// host.
// The answer tells nothing if the host's own packets go another way than those of the client, by route
// r; nil: any.
func (x *walk) probe(backend netip.AddrPort, r0 *host.Route) host.ProbeResult {
	if r0 != nil && x.timeout != 0 && !x.sameRoute(backend, r0) {
		return host.ProbeResult{Text: "the host's own packets to it go another way"}
	}
	key := probedKey{x.proto, backend}
	if r, ok := x.probed[key]; ok {
		return r
	}
	r := host.ProbeResult{Text: "the host's own packets to it may be stopped"}
	if x.timeout == 0 {
		r.Text = "asking was turned off"
	} else if sees, sure := x.sees(backend); sees {
		asked := x.facts.Probe(x.ctx, x.proto, backend, x.timeout)
		x.resolved()
		if sure || asked.Answer == host.Answers || asked.Answer == host.Refused {
			r = asked
		}
	}
	x.probed[key] = r
	return r
}

// sameRoute reports whether the host's own packets to a backend go by the next hop of a route.
func (x *walk) sameRoute(backend netip.AddrPort, r *host.Route) bool {
	own, _, err := x.lookup(host.RouteQuery{Dst: backend.Addr(), Proto: x.proto, DstPort: backend.Port()})
	return err == nil && own != nil && own.Oif == r.Oif && own.Gateway == r.Gateway
}

// sees reports whether a packet of the host reaches a backend, and the answer the host, as far
// as the host's own rules and routes decide, and whether that is sure.
func (x *walk) sees(backend netip.AddrPort) (sees, sure bool) {
	w := x.outward(backend)
	if w == nil {
		return false, false
	}
	w.trial = true
	ways := run(w.on(), x.send(func(w *way) []*way { w.done = true; return w.on() }), func(w *way) []*way {
		if w.p.Dst != backend.Addr() || w.p.DstPort != backend.Port() || !x.isLocal(w.p.Src) {
			return w.halt(Cause{}) // it is translated, and another one would answer
		}
		if w.done {
			return w.on()
		}
		out, hop := w.out, nextHop(w.r, w.p.Dst)
		reply(w)
		w.answer = true
		return run(w.on(), x.ingress(out, hop), x.prerouting, x.deliver(out))
	})
	sure = true
	for _, w := range ways {
		if w.stop != nil {
			return false, false
		}
		if len(w.may) > 0 {
			sure = false
		}
	}
	return true, sure
}

// outward is the first packet of a connection of the host to a backend; nil: no route leads there.
func (x *walk) outward(backend netip.AddrPort) *way {
	r, _, err := x.lookup(host.RouteQuery{Dst: backend.Addr(), Proto: x.proto, DstPort: backend.Port()})
	if err != nil || r == nil {
		return nil
	}
	w := &way{proxies: true, p: eval.Packet{
		EtherType: unix.ETH_P_IP, Proto: x.proto, Src: x.sourceOf(r, backend.Addr()), Dst: backend.Addr(), DstPort: backend.Port(), Ports: ephemeral,
	}}
	if backend.Addr().Is6() {
		w.p.EtherType = unix.ETH_P_IPV6
	}
	if x.proto == unix.IPPROTO_TCP {
		w.p.TCPFlags = tcpSYN
	}
	if !w.p.Src.IsValid() {
		return nil
	}
	return w
}

// sourceOf is the address from which the host sends by a route.
func (x *walk) sourceOf(r *host.Route, to netip.Addr) netip.Addr {
	if r.PrefSrc.IsValid() {
		return r.PrefSrc
	}
	if a := x.device(r.Oif).primary(to); a.IsValid() {
		return a
	}
	return x.anyAddress(to.Is4())
}

// wayBack looks at the way of the backend's answer as far as the backend decides it.
// Asked is the address from which the host has asked the backend, if it has.
func (x *walk) wayBack(w *way, backend netip.AddrPort, answers bool, asked netip.Addr) []*way {
	to := w.source
	if x.direct(w, to) {
		return w.halt(Cause{
			Kind: KindBackend, Thing: "backend " + backend.String(), What: fmt.Sprintf("answers %s past this host, from an address that the client has not called", to),
			Remedy: fmt.Sprintf("nftnat add %s %s %s --replace --masquerade", x.mapping.Proto, x.mapping.FrontendText(), x.mapping.BackendText()),
		})
	}
	if answers && asked == to && x.isLocal(to) { // it was seen to answer
		return w.on()
	}
	masquerade := fmt.Sprintf("nftnat add %s %s %s --replace --masquerade", x.mapping.Proto, x.mapping.FrontendText(), x.mapping.BackendText())
	remedy := fmt.Sprintf("in the backend: ip route add default via %s, or here: %s", x.device(w.out).primary(backend.Addr()), masquerade)
	if w.r.Gateway.IsValid() {
		remedy = fmt.Sprintf("route %s back to this host on %s and on the routers before it, or here: %s", to, backend.Addr(), masquerade)
	}
	home := x.homeRoute(backend.Addr(), to)
	r, fault := home.route, home.fault
	if wrong := home.wrong(); wrong != nil && !w.r.Gateway.IsValid() {
		prefix := "default"
		if wrong.Dst.Bits() > 0 {
			prefix = wrong.Dst.String()
		}
		remedy = fmt.Sprintf("in the backend: ip route replace %s via %s, or here: %s", prefix, x.device(w.out).primary(backend.Addr()), masquerade)
	}
	if !home.known {
		return x.remembered(w, backend, answers, remedy)
	}
	if c := x.within(w, backend); c != nil {
		return w.halt(*c)
	}
	if fault == nil && x.isLocal(to) {
		return w.on()
	}
	if fault != nil {
		return w.halt(Cause{
			Kind: KindBackend, Thing: fmt.Sprintf("backend %s: %s", backend.Addr(), fault.Thing), What: fmt.Sprintf("it has no way back to %s, and does not answer it", to), Remedy: remedy,
		})
	}
	via := r.Gateway
	switch {
	case !via.IsValid() && !x.proxiesNeighbour(to, w.out):
		return w.halt(Cause{
			Kind: KindBackend, Thing: fmt.Sprintf("backend %s: %s", backend.Addr(), r.Text), What: fmt.Sprintf("it looks for %s on its own link, and does not send the answer to this host", to), Remedy: remedy,
		})
	case via.IsValid() && !x.isLocal(via) && (!via.IsLinkLocalUnicast() || !x.device(w.out).has(via)) && !x.proxiesNeighbour(via, w.out):
		return w.halt(Cause{
			Kind: KindBackend, Thing: fmt.Sprintf("backend %s: %s", backend.Addr(), r.Text), What: fmt.Sprintf("it answers %s by another router, which does not translate the answer back", to), Remedy: remedy,
		})
	}
	return w.on()
}

// proxiesNeighbour reports whether the host answers who asks for an address on a link that is not its own.
func (x *walk) proxiesNeighbour(a netip.Addr, link int) bool {
	if a.Is4() {
		if v, _, err := x.facts.Setting(true, link, "proxy_arp"); err != nil || v != 0 {
			return true
		}
	}
	proxied, err := x.facts.ProxyNeighbour(a, link)
	return err != nil || proxied
}

// within follows the packet in the namespace of the backend, and its answer until it leaves that, and returns
// what stops them for certain. What the backend itself forwards or translates is not followed.
func (x *walk) within(w *way, backend netip.AddrPort) *Cause {
	if x.timeout == 0 {
		return nil
	}
	p, err := x.facts.Peer(backend.Addr())
	if err != nil || p == nil {
		return nil
	}
	there := &walk{
		Snapshot: newSnapshot(x.options, p, p), ctx: x.ctx, mapping: x.mapping, proto: x.proto,
		client: client{addr: w.source, to: backend, in: p.in()},
	}
	v := there.first(there.client)
	elsewhere := false
	ways := run(v.on(), there.ingress(p.in(), netip.Addr{}), there.prerouting, func(v *way) []*way {
		elsewhere = elsewhere || v.p.Dst != backend.Addr() || v.p.DstPort != backend.Port()
		return there.deliver(p.in())(v)
	}, func(v *way) []*way {
		reply(v)
		v.answer = true
		return v.on()
	}, there.send(there.hook(eval.Input)))
	if err := p.Close(); err != nil || elsewhere {
		return nil
	}
	c := certain(ways)
	if c == nil || c.Kind == KindRoute && c.Answer { // of its routes more is said
		return nil
	}
	c.Thing = fmt.Sprintf("backend %s: %s", backend.Addr(), c.Thing)
	if c.Remedy != "" {
		c.Remedy = "in the backend: " + c.Remedy
	}
	return c
}

// lately is how long ago, in seconds, a client's packets say something about the present.
const lately = 30

// remembered looks at what connection tracking remembers of the client: if the backend answers the
// host, and has not answered the client, its answers take another way.
func (x *walk) remembered(w *way, backend netip.AddrPort, answers bool, remedy string) []*way {
	if !answers || x.proto != unix.IPPROTO_TCP || x.guessed {
		return w.on()
	}
	entries, err := x.facts.EntriesOf(x.proto, x.client.addr.WithZone(""), x.client.to)
	if err != nil {
		return w.on()
	}
	var unanswered *host.Entry
	last := lately + 1
	for _, e := range entries {
		if e.Reply.Src != backend.Addr() || e.Reply.SrcPort != backend.Port() {
			continue
		}
		// Ages are whole seconds: of two that are the same, the answered connection counts.
		answered := e.Status&eval.SeenReply != 0
		if age := x.age(e); age < last || age == last && answered {
			last, unanswered = age, nil
			if e.State == "SYN_SENT" && !answered {
				unanswered = e
			}
		}
	}
	if unanswered == nil {
		return w.on()
	}
	w.step("backend", "%s", unanswered)
	return w.halt(Cause{
		Kind: KindBackend, Thing: fmt.Sprintf("backend %s: no way back to %s", backend, w.source),
		What:   fmt.Sprintf("it answers this host, but it has not answered %s a moment ago", w.source),
		Remedy: remedy,
	})
}

// age is how many seconds ago the last packet of a connection came, as far as its time-out tells.
func (x *walk) age(e *host.Entry) int {
	full, err := x.facts.SysctlInt("net/netfilter/nf_conntrack_tcp_timeout_" + strings.ToLower(e.State))
	if err != nil {
		return lately + 1
	}
	return max(0, full-int(e.Timeout))
}
