// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
)

// route looks up where a packet goes that came in by an interface; zero: the host sends it. A
// fault stops it: then nil is returned.
func (x *walk) route(w *way, in int) *host.Route {
	p := &w.p
	q := host.RouteQuery{Src: p.Src, Dst: p.Dst, Iif: in, Mark: p.Mark, Proto: p.Proto, SrcPort: p.SrcPort, DstPort: p.DstPort, TOS: p.TOS}
	if p.Dst.IsLinkLocalUnicast() {
		q.Oif = x.client.in
	}
	if p.MarkUnknown && x.byMark(p.Dst.Is4()) {
		w.maybe(Cause{Kind: KindRoute, Thing: "the mark of the packet", What: "is set to what cannot be known, and routes may depend on it"})
	}
	r, fault, err := x.lookup(q)
	switch {
	case err != nil:
		w.unread("the route to "+addr(p.Dst), err)
		return nil
	case fault != nil:
		c := x.faultCause(fault, p.Dst)
		w.step("route", "%s", c.Thing)
		w.halt(c)
		return nil
	case r == nil:
		return nil
	}
	w.step("route", "%s", routeText(r))
	return r
}

// routeText leaves out the table of a route that nobody asks for.
func routeText(r *host.Route) string {
	text := strings.TrimSuffix(strings.TrimSuffix(r.Text, " in table main"), " in table local")
	return strings.TrimSuffix(text, " table local")
}

// faultCause is a fault of routing. Routes go with the interface that they are by.
func (x *walk) faultCause(f *host.RouteFault, to netip.Addr) Cause {
	if f.Kind == host.FaultNoRoute {
		for _, index := range x.links() {
			if d := x.device(index); d.onLink(to) && !d.Up() {
				c := linkCause(d, d.Why())
				c.What = fmt.Sprintf("the route to %s is gone with it", to)
				return c
			}
		}
		if c := x.disabled6(to); c != nil {
			return *c
		}
	}
	c := Cause{Kind: KindRoute, Thing: f.Thing, What: f.What, Remedy: f.Remedy}
	if f.Kind == host.FaultForwarding || f.Kind == host.FaultRPFilter {
		c.Kind = KindSysctl
	}
	return c
}

// nextHop is the neighbour to which a packet goes by a route.
func nextHop(r *host.Route, dst netip.Addr) netip.Addr {
	if r.Gateway.IsValid() {
		return r.Gateway
	}
	return dst
}

// forward routes a packet that came in by an interface, and passes the hooks of forwarding. A packet
// for the host itself goes by local.
func (x *walk) forward(in int, local stage) stage {
	return func(w *way) []*way {
		r := x.route(w, in)
		if r == nil {
			return w.on()
		}
		if r.Type == unix.RTN_LOCAL {
			return local(w)
		}
		if r.Type != unix.RTN_UNICAST {
			return w.halt(Cause{Kind: KindRoute, Thing: routeText(r), What: addr(w.p.Dst) + " is no address of one host"})
		}
		if w.p.TTL == 1 {
			c := Cause{Kind: KindRule, Thing: "a TTL of 1", What: "is not forwarded"}
			if w.aged != nil {
				c.Thing = x.ruleText(w.aged)
				c.What = "leaves " + x.describe(w) + " a TTL of 1, with which it is not forwarded"
				c.Remedy = deleteRule(w.aged)
			}
			return w.halt(c)
		}
		out := x.device(r.Oif)
		w.r, w.out = r, r.Oif
		w.p.In, w.p.Out = x.device(in).asked, out.asked
		hop := nextHop(r, w.p.Dst)
		x.narrows(w, in, r.Oif, r)
		return run(w.on(), x.ipsec(host.XFRMForward), x.hook(eval.Forward), x.ipsec(host.XFRMOut), x.meet, x.hook(eval.Postrouting), x.egress(r.Oif, hop))
	}
}

// send routes a packet of the host, and passes the hooks of output. The route may change with what
// the rules do. What the host sends to itself goes by local, after it has come in again.
func (x *walk) send(local stage) stage {
	return func(w *way) []*way {
		r := x.route(w, 0)
		if r == nil {
			return w.on()
		}
		w.p.In, w.p.PhysIn, w.p.Out = eval.Interface{}, eval.Interface{}, x.device(x.sendsBy(r)).asked
		w.p.Local, w.p.PktType = true, unix.PACKET_HOST
		before := w.p
		return run(x.pass(w, eval.Output), func(w *way) []*way {
			r := r
			if w.reroute || w.p.Dst != before.Dst {
				if r = x.route(w, 0); r == nil {
					return w.on()
				}
			}
			w.r, w.out = r, x.sendsBy(r)
			w.p.Out = x.device(w.out).asked
			w.in = 0
			if r.Type != unix.RTN_LOCAL {
				return run(w.on(), x.ipsec(host.XFRMOut), x.meet, x.hook(eval.Postrouting), x.egress(r.Oif, nextHop(r, w.p.Dst)), func(w *way) []*way {
					w.p.Local = false
					return w.on()
				})
			}
			return run(w.on(), x.hook(eval.Postrouting), x.egress(w.out, netip.Addr{}), func(w *way) []*way {
				w.p.Local = false
				return w.on()
			}, x.ingress(w.out, netip.Addr{}), x.prerouting, local)
		})
	}
}

// sendsBy is the interface by which the host sends a packet of its own: lo to itself, whatever
// interface has the address.
func (x *walk) sendsBy(r *host.Route) int {
	if r.Type != unix.RTN_LOCAL {
		return r.Oif
	}
	const lo = 1 // in every namespace (LOOPBACK_IFINDEX)
	return lo
}
