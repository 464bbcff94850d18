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
