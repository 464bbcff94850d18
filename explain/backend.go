// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
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
