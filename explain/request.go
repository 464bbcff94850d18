// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
	"github.com/nftnat/nftnat/nat"
)

// ephemeral are the ports that clients use (RFC 6335, and ip_local_port_range of Linux).
var ephemeral = eval.PortRange{First: 32768, Last: 65535}

// first is the client's first packet.
func (x *walk) first(c client) *way {
	w := &way{in: c.in, p: eval.Packet{
		EtherType: unix.ETH_P_IP, Proto: x.proto,
		Src: c.addr.WithZone(""), Dst: c.to.Addr().WithZone(""), DstPort: c.to.Port(), Ports: ephemeral,
	}}
	if c.addr.Is6() {
		w.p.EtherType = unix.ETH_P_IPV6
	}
	if x.proto == unix.IPPROTO_TCP {
		w.p.TCPFlags = tcpSYN
	}
	return w
}

// ways follows the packet of a client and its answer.
func (x *walk) ways(c client) []*way {
	x.client = c
	x.choose(c)
	w := x.first(c)
	if c.local {
		w.step("this host", "%s", packetText(&w.p))
		if x.isLed(c) {
			return x.connect(w)
		}
		return run(w.on(), x.address, x.send(x.local), x.fromHost)
	}
	w.step(x.name(c.in), "%s", packetText(&w.p))
	return run(w.on(), x.address, x.arrive, x.ingress(c.in, c.hop), x.prerouting, x.translated)
}

// choose takes the mapping by which a client's packet goes: one of its address before one of any.
func (x *walk) choose(c client) {
	to := c.to.Addr().WithZone("")
	for _, exact := range []bool{true, false} {
		for _, m := range x.found {
			a := m.Frontend.Addr()
			if exact && a == to || !exact && (!a.IsValid() || a.IsUnspecified() && a.Is4() == to.Is4()) {
				x.mapping = m
				return
			}
		}
	}
}

// prerouting passes the hook, and connection tracking in it.
func (x *walk) prerouting(w *way) []*way {
	if w.prerouted {
		w.prerouted = false
		return w.on()
	}
	ct, err := x.conntrack()
	if err != nil {
		w.unread("connection tracking", err)
	}
	// Where entries come and go, a table that is full now and then has some room at this moment.
	scarce := err == nil && ct != nil && ct.Max != 0 && (ct.Full() || ct.Drop > 0 && ct.Count >= ct.Max-ct.Max/100)
	return run(x.pass(w, eval.Prerouting), func(w *way) []*way {
		if !scarce || w.answer || w.p.CT.Untracked {
			return w.on()
		}
		c := Cause{
			Kind: KindConntrack, Thing: fmt.Sprintf("connection tracking: %d of %d entries", ct.Count, ct.Max),
			What: fmt.Sprintf("has no room for %s; it has dropped %d", x.describe(w), ct.Drop), Remedy: fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", 2*ct.Max),
		}
		switch {
		case !ct.Full():
			c.What = fmt.Sprintf("has hardly any room for new connections; it has dropped %d", ct.Drop)
			fallthrough
		case ct.Drop == 0: // it may push out entries that are not assured
			w.maybe(c)
			return w.on()
		}
		w.step("conntrack", "%s", c.Thing)
		return w.halt(c)
	})
}

// translated decides by what the rules have made of the packet where it goes.
func (x *walk) translated(w *way) []*way {
	backend := x.backend()
	to := netip.AddrPortFrom(w.p.Dst, w.p.DstPort)
	switch {
	case to == backend: // by a rule of others if nftnat has a proxy alone
		w.path = ByNetfilter
		if w.switched {
			return x.bridge(w)
		}
		return run(w.on(), x.forward(w.in, x.local), x.arrived, x.answers)
	case w.p.Dst != x.client.to.Addr().WithZone("") || w.p.DstPort != x.client.to.Port():
		return w.halt(x.rival(w, to))
	}
	return run(w.on(), x.forward(w.in, x.local))
}

// backend is the address and port to which the frontend's port leads.
func (x *walk) backend() netip.AddrPort {
	m := x.mapping
	return netip.AddrPortFrom(m.Backend.Addr(), m.Backend.Port()+x.client.to.Port()-m.Frontend.Port())
}

// rival names another rule that translates the packet.
func (x *walk) rival(w *way, to netip.AddrPort) Cause {
	c := Cause{Kind: KindRival, Thing: "a translation to " + to.String(), What: fmt.Sprintf("leads %s to %s, and not to %s", x.describe(w), to, x.backend())}
	if t := w.translated; t != nil {
		c.Thing = x.ruleText(t)
		c.Remedy = deleteRule(t)
		if t.Chain.Table.Name == x.table && t.Chain.Table.Family == unix.NFPROTO_INET {
			c.Kind, c.Remedy = KindTable, ""
			c.What += ": another mapping is looked up first"
		}
	}
	return c
}

// bridged reports whether netfilter sees the packet as a frame on its way through a bridge, and
// leads it to another port of the same bridge.
func (x *walk) bridged(w *way) bool {
	if netip.AddrPortFrom(w.p.Dst, w.p.DstPort) != x.backend() {
		return false
	}
	r, _, err := x.lookup(host.RouteQuery{Src: w.p.Src, Dst: w.p.Dst, Iif: w.in, Mark: w.p.Mark, Proto: w.p.Proto, SrcPort: w.p.SrcPort, DstPort: w.p.DstPort})
	return err == nil && r != nil && r.Oif == w.in && r.Type == unix.RTN_UNICAST
}

// bridgeCalls reports whether a bridge sends its frames through the hooks of IP.
func (x *walk) bridgeCalls(d *device, is4 bool) bool {
	name := "net/bridge/bridge-nf-call-ip6tables"
	if is4 {
		name = "net/bridge/bridge-nf-call-iptables"
	}
	if v, err := x.facts.SysctlInt(name); err == nil && v != 0 {
		return true
	}
	b := d.Bridge
	return b != nil && (is4 && b.CallIPTables || !is4 && b.CallIP6Tables)
}

// bridge takes a frame through a bridge, whose hooks call those of IP.
func (x *walk) bridge(w *way) []*way {
	bridge := x.device(w.in)
	r := x.route(w, w.in)
	if r == nil {
		return w.on()
	}
	w.r, w.out = r, r.Oif
	hop := nextHop(r, w.p.Dst)
	x.meet(w)
	index := x.port(bridge, hop)
	in := x.port(bridge, x.client.hop)
	ports := func(w *way) []*way {
		w.p.In, w.p.Out = bridge.asked, bridge.asked
		w.p.PhysIn, w.p.PhysOut = eval.Interface{}, eval.Interface{}
		if in != 0 {
			w.p.PhysIn = x.device(in).asked
		}
		if index != 0 {
			w.p.PhysOut = x.device(index).asked
		}
		return w.on()
	}
	frames := func(h eval.Hook) stage {
		return func(w *way) []*way {
			if index == 0 {
				return w.on()
			}
			ip := w.p
			w.p.In, w.p.Out = w.p.PhysIn, w.p.PhysOut
			if h == eval.BridgePostrouting {
				w.p.In = eval.Interface{}
			}
			return run(x.pass(w, h), func(w *way) []*way {
				w.p.In, w.p.Out = ip.In, ip.Out
				return w.on()
			})
		}
	}
	return run(w.on(), func(w *way) []*way {
		if index == 0 {
			return w.on()
		}
		d := x.device(index)
		switch {
		case d.Port == nil:
		case d.Port.State != brForwarding:
			return w.halt(portCause(d, bridge))
		case index == in && !d.Port.Hairpin:
			return w.halt(Cause{
				Kind: KindBridge, Thing: fmt.Sprintf("bridge port %s of %s: hairpin off", d.Name, bridge.Name),
				What: "does not send a frame back by the port that it came by", Remedy: "bridge link set dev " + d.Name + " hairpin on",
			})
		case in != 0 && d.Port.Isolated && x.device(in).Port != nil && x.device(in).Port.Isolated:
			return w.halt(Cause{
				Kind: KindBridge, Thing: fmt.Sprintf("bridge ports %s and %s of %s: isolated", x.name(in), d.Name, bridge.Name),
				What: "isolated ports pass nothing to one another", Remedy: "bridge link set dev " + d.Name + " isolated off",
			})
		}
		return w.on()
	}, ports, frames(eval.BridgeForward), x.hook(eval.Forward), frames(eval.BridgePostrouting), func(w *way) []*way {
		w.p.In = eval.Interface{}
		return w.on()
	}, x.hook(eval.Postrouting), func(w *way) []*way {
		if index == 0 {
			return w.on()
		}
		return x.leave(w, x.device(index), nil)
	}, x.arrived, x.answers)
}

// fromHost follows a packet of the host that has left it for a backend.
func (x *walk) fromHost(w *way) []*way {
	if w.done {
		return w.on()
	}
	to := netip.AddrPortFrom(w.p.Dst, w.p.DstPort)
	if to != x.backend() {
		return w.halt(x.rival(w, to))
	}
	w.path = ByNetfilter
	return run(w.on(), x.arrived, x.answers)
}

// lacks says why netfilter does not lead the packet to the backend.
func (x *walk) lacks(w *way) Cause {
	m := x.mapping
	client := x.client
	c := Cause{Kind: KindTable, Thing: "table inet " + x.table, What: "does not lead " + x.describe(w) + " to " + x.backend().String()}
	switch {
	case w.untracked != nil:
		c.Kind, c.Thing = KindRule, x.ruleText(w.untracked)
		c.What = "keeps " + x.describe(w) + " from connection tracking, so that nothing translates it"
		c.Remedy = deleteRule(w.untracked)
	case m.ProxyOnly:
		c.What = "the mapping is for proxies only (--proxy-only)"
	case client.to.Addr().Is4() != m.Backend.Addr().Is4():
		c.What = fmt.Sprintf("leads no %s client to an %s backend: only a proxy can", family(client.to.Addr()), family(m.Backend.Addr()))
	case client.to.Addr().IsLoopback() || client.addr.IsLoopback():
		c.What = "translates nothing to or from loopback addresses: only a proxy serves those"
	case client.addr.IsLinkLocalUnicast() && client.addr.Is6():
		c.What = "translates no link-local source: only a proxy serves those"
	case client.local:
		c.What = "leaves this source of the host to the proxy"
	default:
		c.What += ": has it been removed, or changed?"
		c.Remedy = fmt.Sprintf("nftnat add %s %s %s", m.Proto, m.FrontendText(), m.BackendText())
	}
	return c
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// protoOf is the kernel's number of a protocol.
func protoOf(p nat.Proto) uint8 { return uint8(p) }
