// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
)

// answers follows the backend's answer to a packet that has reached it.
func (x *walk) answers(w *way) []*way {
	request := w.p
	r, in, out := w.r, w.in, w.out
	reply(w)
	w.answer = true
	w.step("backend", "%s", packetText(&w.p))
	hop := nextHop(r, request.Dst)
	ways := run(w.on(), x.ingress(out, hop), x.prerouting, x.tracked(request.CT.Status))
	if in == 0 { // the host has asked
		return run(ways, x.deliver(out), x.further(request, r, 0, out))
	}
	return run(ways, x.back(in, out), x.further(request, r, in, out))
}

// tracked checks that connection tracking knows an answer as one to a packet that it may have translated, as
// the status of its connection says: nothing else translates it back.
func (x *walk) tracked(status uint32) stage {
	return func(w *way) []*way {
		if status&(eval.DstNAT|eval.SrcNAT) == 0 || w.p.CT.Reply && !w.p.CT.Untracked {
			return w.on()
		}
		c := Cause{Kind: KindConntrack, Thing: "connection tracking", What: "does not know the answer as one, which is not translated back"}
		by, what := w.zoned, "has the answer in another zone of connection tracking than the request"
		if w.p.CT.Untracked {
			by, what = w.untracked, "keeps the answer from connection tracking"
			c.What = "does not see the answer, which is not translated back"
		}
		if by != nil {
			c.Kind, c.Thing, c.Remedy = KindRule, x.ruleText(by), deleteRule(by)
			c.What = what + ": it is not translated back"
		}
		return w.halt(c)
	}
}

// reply turns a packet into its answer.
func reply(w *way) {
	p := &w.p
	p.Src, p.Dst, p.SrcPort, p.DstPort = p.Dst, p.Src, p.DstPort, p.SrcPort
	if p.Proto == unix.IPPROTO_TCP {
		p.TCPFlags = tcpSYN | tcpACK
	}
	p.In, p.Out, p.PhysIn, p.PhysOut = eval.Interface{}, eval.Interface{}, eval.Interface{}, eval.Interface{}
	p.SrcMAC, p.DstMAC, p.Mark, p.MarkUnknown, p.Priority = nil, nil, 0, false, 0
	p.TTL, p.Len, p.PktType, p.Local, p.OwnerKnown = 0, 0, unix.PACKET_HOST, false, false
	established(&p.CT)
	p.CT.Reply = true
	// Connection tracking sees it anew.
	p.CT.Seen = false
}

// established makes a connection one that was answered.
func established(c *eval.Conn) {
	if c.Untracked {
		return
	}
	c.State = eval.Established
	c.Status |= eval.SeenReply | eval.Confirmed | eval.SrcNATDone | eval.DstNATDone
}

// deliver passes the hook of input, and policies of IPsec, with an answer to the host.
func (x *walk) deliver(in int) stage {
	return func(w *way) []*way {
		r := x.route(w, in)
		if r == nil {
			return w.on()
		}
		if r.Type != unix.RTN_LOCAL {
			return w.halt(Cause{Kind: KindRoute, Thing: routeText(r), What: fmt.Sprintf("leads the answer to %s away from this host", addr(w.p.Dst))})
		}
		w.p.In, w.p.Out = x.device(in).asked, eval.Interface{}
		return run(x.pass(w, eval.Input), x.ipsec(host.XFRMIn))
	}
}

// back routes the answer to the client, which has asked by interface in.
func (x *walk) back(in, from int) stage {
	return func(w *way) []*way {
		return run(w.on(), x.forward(from, func(w *way) []*way {
			return w.halt(Cause{Kind: KindAddress, Thing: addr(w.p.Dst) + " is an address of this host", What: "the answer does not leave it"})
		}), x.sameWay(in))
	}
}

// sameWay checks where an answer has left: by the interface by which the client has asked, or
// by a way that leads to the client as well.
func (x *walk) sameWay(in int) stage {
	return func(w *way) []*way {
		if w.out == in {
			x.client4(w)
			return w.on()
		}
		if c := x.deadRouter(w); c != nil {
			return w.halt(*c)
		}
		c := x.client
		plain, _, err := x.lookup(host.RouteQuery{Dst: c.addr})
		if guessed := c.why != byNeighbours; guessed && err == nil && plain != nil && plain.Oif == w.out && plain.Gateway == w.r.Gateway {
			// It is the route to the client: the client's own interface was a guess.
			w.note("answers leave by %s, and the client has asked by %s", x.name(w.out), x.name(in))
			return w.on()
		}
		if x.leadsTo(w) {
			w.note("answers leave by %s, and the client, which has asked by %s, gets them there too", x.name(w.out), x.name(in))
			return w.on()
		}
		return w.halt(Cause{
			Kind: KindRoute, Thing: routeText(w.r),
			What:   fmt.Sprintf("leads the answer out of %s, but the client has asked by %s", x.name(w.out), x.name(in)),
			Remedy: x.sameWayRemedy(w, in),
		})
	}
}

// leadsTo reports whether the next hop of an answer is the client itself, by another of its links: it
// can be known of namespaces of this machine.
func (x *walk) leadsTo(w *way) bool {
	client := x.client.addr.WithZone("")
	if !w.r.Gateway.IsValid() {
		return x.device(w.out).onLink(client)
	}
	p, err := x.facts.Peer(w.r.Gateway)
	if err != nil || p == nil {
		return false
	}
	r, _, err := p.Lookup(host.RouteQuery{Dst: client})
	err = errors.Join(err, p.Close())
	return err == nil && r != nil && r.Type == unix.RTN_LOCAL
}

func (x *walk) sameWayRemedy(w *way, in int) string {
	return fmt.Sprintf("ip route add %s dev %s table %d", netip.PrefixFrom(x.client.addr.WithZone(""), x.client.addr.BitLen()), x.name(in), w.r.Table)
}

// client4 checks that the client can be found on its link.
func (x *walk) client4(w *way) {
	if !x.device(w.out).asks() {
		return
	}
	n, err := x.neighbour(nextHop(w.r, x.client.addr.WithZone("")), w.out)
	if err != nil || n == nil {
		return
	}
	if n.Permanent() && x.claimed(w.out, n) {
		w.halt(x.wrongNeighbour(w, n))
		return
	}
	if !n.Dead() {
		return
	}
	if c := x.deadRouter(w); c != nil {
		w.halt(*c)
	}
}

// claimed reports whether another hardware address than that of a permanent entry answers for its address.
func (x *walk) claimed(index int, n *host.Neighbour) bool {
	d := x.device(index)
	from := d.primary(n.Addr)
	if x.timeout == 0 || !from.IsValid() || !d.asks() {
		return false
	}
	mac, err := x.facts.WhoHas(n.Addr, d.Link, from, min(x.timeout, 200*time.Millisecond))
	return err == nil && mac != nil && !bytes.Equal(mac, n.MAC)
}

// deadRouter asks the router by which an answer leaves, or the client if it is said to be on another
// link than that by which it has asked, whether it is there.
func (x *walk) deadRouter(w *way) *Cause {
	d := x.device(w.out)
	if x.timeout == 0 || !d.asks() {
		return nil
	}
	hop := w.r.Gateway
	if hop.IsValid() {
		p := x.facts.Probe(x.ctx, unix.IPPROTO_UDP, netip.AddrPortFrom(hop, discard), x.timeout)
		if p.Answer != host.NoNeighbour {
			return nil
		}
	} else {
		hop = x.client.addr.WithZone("")
		from := d.primary(hop)
		if w.out == x.client.in || !from.IsValid() {
			return nil
		}
		if mac, err := x.facts.WhoHas(hop, d.Link, from, min(x.timeout, 200*time.Millisecond)); err != nil || mac != nil {
			return nil
		}
	}
	return &Cause{
		Kind: KindRoute, Thing: routeText(w.r), What: fmt.Sprintf("leads the answer to %s, which nobody on %s has", hop, x.name(w.out)),
		Remedy: "ip route get " + addr(x.client.addr) + " shows the route; correct it or its rule",
	}
}

// discard is a port that nothing listens on: no datagram is sent to it, but its host is asked for.
const discard = 9

// further follows the packet of TCP by which the client takes the answer, as far as rules can stop it
// that let the first one pass.
func (x *walk) further(request eval.Packet, r *host.Route, in, out int) stage {
	return func(w *way) []*way {
		if x.proto != unix.IPPROTO_TCP {
			return w.on()
		}
		steps := w.steps
		after := w.p
		w.answer, w.later = false, true
		w.p = request
		w.p.Src, w.p.SrcPort = x.client.addr.WithZone(""), 0
		w.p.Dst, w.p.DstPort = x.client.to.Addr().WithZone(""), x.client.to.Port()
		w.p.TCPFlags = tcpACK
		w.p.CT = after.CT
		w.p.CT.Reply, w.p.CT.Seen = false, false
		w.p.Mark, w.p.MarkUnknown, w.p.PktType = 0, false, unix.PACKET_HOST
		established(&w.p.CT)
		if !w.p.CT.Untracked {
			w.p.CT.Status |= eval.Assured // by this packet
		}
		var ways []*way
		if in == 0 {
			// The socket keeps the route to the frontend that it began with.
			first, _, err := x.lookup(host.RouteQuery{Dst: w.p.Dst, Src: w.p.Src})
			if err != nil || first == nil {
				first = r
			}
			ways = run(w.on(), func(w *way) []*way {
				w.p.Local, w.p.In, w.p.Out = true, eval.Interface{}, x.device(x.sendsBy(first)).asked
				return w.on()
			}, x.hook(eval.Output), func(w *way) []*way {
				w.p.Out = x.device(x.sendsBy(r)).asked
				return w.on()
			}, x.hook(eval.Postrouting))
		} else {
			tracked := w.p.CT
			w.p.CT = eval.Conn{} // at ingress it is not known yet
			ways = run(w.on(), x.ingress(in, x.client.hop), func(w *way) []*way {
				d := x.device(in)
				w.p.CT = tracked
				w.p.In, w.p.Out, w.p.SrcMAC, w.p.DstMAC = d.asked, eval.Interface{}, x.macOf(x.client.hop, in), d.MAC
				return w.on()
			}, x.hook(eval.Prerouting), func(w *way) []*way {
				w.p.Out = x.device(out).asked
				return w.on()
			}, x.hook(eval.Forward), x.hook(eval.Postrouting))
		}
		for _, w := range ways {
			w.p, w.later = after, false
			w.answer = true
			if w.stop == nil {
				w.steps = steps
			}
		}
		return ways
	}
}
