// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/internal/rules"
)

// hook returns the stage of a hook of netfilter.
func (x *walk) hook(h eval.Hook) stage { return func(w *way) []*way { return x.pass(w, h) } }

// pass takes a packet through the chains of a hook.
func (x *walk) pass(w *way, h eval.Hook) []*way {
	x.programs(w, h)
	outcomes, err := x.eval.run(h, &w.p)
	if err != nil {
		w.unread("rules of hook "+h.String(), err)
		w.lost = w.lost || len(outcomes) == 0 && redirects(h)
	}
	if len(outcomes) == 0 {
		return w.on()
	}
	before := w.p
	var ways []*way
	var ended []eval.Outcome
	for i := range outcomes {
		o := &outcomes[i]
		switch o.End {
		case eval.Accepted:
		case eval.Queued:
			w.maybe(x.ruleCause(w, h, o))
			if len(outcomes) > 1 {
				continue // another outcome says what becomes of what the program lets pass
			}
		case eval.Unclear:
			w.maybe(x.ruleCause(w, h, o))
		case eval.Dropped, eval.Rejected, eval.Stolen:
			ended = append(ended, *o)
			continue
		}
		if slices.ContainsFunc(ways, func(w *way) bool { return same(&w.p, &o.Packet) }) {
			continue
		}
		on := w.fork(o.Packet)
		on.lost = w.lost || o.End == eval.Unclear && redirects(h)
		on.outcome(h, &before, o)
		ways = append(ways, on)
	}
	if len(ways) == 0 {
		stop := ended[0]
		for i := range ended {
			if len(ended[i].If) < len(stop.If) {
				stop = ended[i]
			}
		}
		for i := range ended {
			if c := x.ruleCause(w, h, &ended[i]); len(ended[i].If) > 0 && (ended[i].By != stop.By || ended[i].Chain != stop.Chain) {
				w.maybe(c)
			}
		}
		c := x.ruleCause(w, h, &stop)
		w.step(h.String(), "%s", c.Thing)
		return w.halt(c)
	}
	for i := range ended {
		c := x.ruleCause(w, h, &ended[i])
		for _, on := range ways {
			if fewPorts(&ended[i]) {
				on.note("%s %s", c.Thing, c.What)
				continue
			}
			on.maybe(c)
		}
	}
	if len(w.may) > 0 {
		for _, on := range ways {
			for _, c := range w.may {
				if !slices.Contains(on.may, c) {
					on.may = append(on.may, c)
				}
			}
		}
	}
	return ways
}

// redirects reports whether rules at a hook may lead a packet elsewhere.
func redirects(h eval.Hook) bool { return h == eval.Prerouting || h == eval.Output }

// fewPorts reports whether an outcome is that of clients with one of few ports, which hardly any client
// has: rules for the port of a service name such a port where an answer carries the client's.
func fewPorts(o *eval.Outcome) bool {
	p := o.Packet.Ports
	return p != (eval.PortRange{}) && int(p.Last)-int(p.First) < 1024 && len(o.If) > 0 &&
		!slices.ContainsFunc(o.If, func(u eval.Unknown) bool { return u.Reason != eval.ClientPort })
}

// outcome takes over what a hook has made of the packet.
func (w *way) outcome(h eval.Hook, before *eval.Packet, o *eval.Outcome) {
	if before.Dst != o.Packet.Dst || before.DstPort != o.Packet.DstPort {
		w.translated = o.Translated
	}
	w.reroute = o.Reroute
	for _, s := range o.Steps {
		if s.Rule != nil && slices.ContainsFunc(s.Rule.Exprs, untracks) && o.Packet.CT.Untracked {
			w.untracked = s.Rule
		}
	}
	for _, s := range o.Steps {
		if s.Rule != nil && slices.ContainsFunc(s.Rule.Exprs, zones) {
			w.zoned = s.Rule
		}
	}
	if before.TTL != o.Packet.TTL && o.Packet.TTL != 0 {
		for _, s := range o.Steps {
			if s.Rule != nil && slices.ContainsFunc(s.Rule.Exprs, ages) {
				w.aged = s.Rule
			}
		}
	}
	if t := o.Translated; t != nil {
		what := "dnat to " + port(o.Packet.Dst, o.Packet.DstPort)
		if before.Src != o.Packet.Src || before.SrcPort != o.Packet.SrcPort {
			what = "source becomes " + addr(o.Packet.Src)
		}
		w.step(h.String(), "%s: %s", tableText(t.Chain.Table), what)
	}
	if before.Mark != o.Packet.Mark {
		w.step(h.String(), "mark %#x", o.Packet.Mark)
	}
}

// same reports whether two packets meet the same from here on.
func same(a, b *eval.Packet) bool {
	return a.Src == b.Src && a.Dst == b.Dst && a.SrcPort == b.SrcPort && a.DstPort == b.DstPort && a.Ports == b.Ports &&
		a.TOS == b.TOS && a.TTL == b.TTL && a.Mark == b.Mark && a.MarkUnknown == b.MarkUnknown && a.Priority == b.Priority &&
		a.PktType == b.PktType && a.CT == b.CT && slices.Equal(a.SrcMAC, b.SrcMAC) && slices.Equal(a.DstMAC, b.DstMAC)
}

// untracks reports whether an expression keeps a packet from connection tracking.
func untracks(e rules.Expr) bool {
	switch e := e.(type) {
	case rules.Notrack:
		return true
	case rules.Target:
		return e.Name == "NOTRACK" || e.Name == "CT"
	}
	return false
}

// zones reports whether an expression sets the zone of a packet in connection tracking.
func zones(e rules.Expr) bool {
	switch e := e.(type) {
	case rules.CT:
		return e.Set && e.Key == unix.NFT_CT_ZONE
	case rules.Target:
		return e.Name == "CT"
	}
	return false
}

// ages reports whether an expression may set a packet's TTL.
func ages(e rules.Expr) bool {
	switch e := e.(type) {
	case rules.Payload:
		return e.Set
	case rules.Target:
		return e.Name == "TTL" || e.Name == "HL"
	}
	return false
}

// describe says what packet a rule or policy stops.
func (x *walk) describe(w *way) string {
	what := "a new connection"
	switch {
	case w.answer:
		what = "the answer"
	case w.later:
		what = "the client's further packets"
	case w.proxies && w.path == ByBPF:
		what = "the connection of this host"
	case w.proxies:
		what = "the proxy's connection"
	case x.proto == unix.IPPROTO_UDP:
		what = "a datagram"
	}
	if in := w.p.In.Name; in != "" {
		what += " from " + in
	}
	if out := w.p.Out.Name; out != "" {
		what += " to " + out
	}
	return what
}

// ruleCause names the rule or policy at which a packet ended.
func (x *walk) ruleCause(w *way, h eval.Hook, o *eval.Outcome) Cause {
	c := Cause{Kind: KindRule}
	chain := o.Chain
	if o.By != nil {
		chain = o.By.Chain
		c.Thing = x.ruleText(o.By)
		switch o.End {
		case eval.Dropped:
			c.What = "drops " + x.describe(w)
		case eval.Rejected:
			c.What = "rejects " + x.describe(w)
		case eval.Queued:
			c.What = "gives " + x.describe(w) + " to a program, which decides"
		case eval.Stolen:
			c.What = "takes " + x.describe(w) + " elsewhere"
		case eval.Accepted, eval.Unclear:
			c.What = "may do anything with " + x.describe(w)
		}
	} else if chain != nil {
		c.Kind = KindPolicy
		c.Thing = chainText(chain) + ": policy drop"
		if chain.Table.Legacy {
			c.Thing = chainText(chain) + ": policy DROP"
		}
		c.What = "no rule of it accepts " + x.describe(w)
	} else {
		c.What = "drops " + x.describe(w)
		c.Thing = "hook " + h.String()
	}
	for _, u := range o.If {
		if u.Reason != "" {
			c.What += ", depending on " + u.Reason
			break
		}
	}
	if chain != nil {
		at := w.fork(o.Packet) // other chains of the hook may have translated it
		c.Remedy = x.remedy(at, h, chain)
	}
	if chain != nil && chain.Table.Family == unix.NFPROTO_INET && chain.Table.Name == x.table {
		x.ourCause(w, &c)
	}
	return c
}
