// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
)

// narrows notes on a way whose packet is forwarded from one interface to another of a smaller MTU
// if the sender does not learn it: small packets pass, and large ones are lost.
func (x *walk) narrows(w *way, in, out int, r *host.Route) {
	from, to := x.device(in), x.device(out)
	mtu := to.MTU
	if r.MTU != 0 && r.MTU < mtu {
		mtu = r.MTU
	}
	if w.narrow != nil || from.MTU <= mtu || mtu == 0 {
		return
	}
	sender := w.p.Src
	q := host.RouteQuery{Dst: sender}
	back, _, err := x.lookup(q)
	if err != nil || back == nil {
		return
	}
	e := &way{p: eval.Packet{
		EtherType: w.p.EtherType, Proto: unix.IPPROTO_ICMP, ICMPType: 3, ICMPCode: 4, Src: from.primary(sender), Dst: sender, Local: true, Kernel: true,
		Out: x.device(back.Oif).asked, CT: w.p.CT,
	}}
	if sender.Is6() {
		e.p.Proto, e.p.ICMPType, e.p.ICMPCode = unix.IPPROTO_ICMPV6, 2, 0
	}
	if !e.p.Src.IsValid() {
		e.p.Src = x.sourceOf(back, sender)
	}
	if !e.p.CT.Untracked {
		established(&e.p.CT)
		e.p.CT.State, e.p.CT.Reply, e.p.CT.Seen = eval.Related, !w.p.CT.Reply, true
	}
	var stop *Cause
	for _, e := range run(e.on(), x.hook(eval.Output), x.hook(eval.Postrouting), x.egress(back.Oif, nextHop(back, sender))) {
		if e.stop == nil {
			return
		}
		stop = e.stop
	}
	who := "the client"
	if w.answer {
		who = "the backend"
	}
	w.narrow = &Cause{
		Kind: KindMTU, Thing: fmt.Sprintf("interface %s: mtu %d, below %d of %s; and %s", to.Name, mtu, from.MTU, from.Name, stop.Thing),
		What:   fmt.Sprintf("small packets of %s pass; larger ones are lost, because the ICMP errors that say so are dropped", who),
		Remedy: stop.Remedy, Answer: w.answer,
	}
}

// wide ends a way on which large packets are lost, though small ones have passed.
func (x *walk) wide(w *way) []*way {
	if w.narrow == nil || x.proto == unix.IPPROTO_TCP && x.eval.clamps() {
		return w.on()
	}
	answer := w.answer
	w.answer = w.narrow.Answer
	w.halt(*w.narrow)
	w.answer = answer
	return w.on()
}

// direct reports whether the backend sends its answer to an address by its own link, past this
// host, which then does not translate it.
func (x *walk) direct(w *way, to netip.Addr) bool {
	d := x.device(w.out)
	if x.isLocal(to) {
		return false
	}
	// The host's own route says whether the address is on the backend's link: a prefix of that may hold others.
	r, _, err := x.lookup(host.RouteQuery{Dst: to})
	if !d.onLink(to) || err != nil || r == nil || r.Oif != w.out || r.Gateway.IsValid() {
		// A router before both sends the answer to the client itself.
		return w.in == w.out && w.r.Gateway.IsValid() && w.r.Gateway == x.client.hop
	}
	return d.Kind != "bridge" || !x.bridgeCalls(d, to.Is4())
}
