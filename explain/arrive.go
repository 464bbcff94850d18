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

// address checks that the host has the address that the client asks.
func (x *walk) address(w *way) []*way {
	to := w.p.Dst
	a, err := x.facts.Address(to)
	if err != nil {
		w.unread("addresses", err)
		return w.on()
	}
	if a == nil {
		if c := x.disabled6(to); c != nil {
			return w.halt(*c)
		}
		if x.isLocal(to) { // by a route of type local
			return w.on()
		}
		dev := "INTERFACE"
		for _, index := range x.links() {
			if x.device(index).onLink(to) {
				dev = x.name(index)
			}
		}
		remedy := fmt.Sprintf("ip address add %s dev %s", netip.PrefixFrom(to, to.BitLen()), dev)
		if x.mapping.Frontend.Addr() != to { // any is published, and this one is perhaps a backend's
			ask := "ask an address of this host"
			if w.in != 0 {
				if own := x.device(w.in).primary(w.p.Src); own.IsValid() {
					ask += fmt.Sprintf(", such as %s", netip.AddrPortFrom(own, w.p.DstPort))
				}
			}
			if to == x.mapping.Backend.Addr() {
				remedy = ask
			} else {
				remedy = ask + ", or " + remedy
			}
		}
		return w.halt(Cause{
			Kind: KindAddress, Thing: addr(to) + " is no address of this host", What: "no packet to it arrives", Remedy: remedy,
		})
	}
	d := x.device(a.Link)
	if why := a.Why(); why != "" {
		return w.halt(Cause{
			Kind: KindAddress, Thing: fmt.Sprintf("address %s: %s", a, why), What: "the host does not answer for it",
			Remedy: fmt.Sprintf("find who else has %s, or wait for the end of its check", to),
		})
	}
	if !x.isLocal(to) {
		return w.halt(Cause{
			Kind: KindRoute, Thing: fmt.Sprintf("table local has no route to %s", to), What: fmt.Sprintf("the host does not take packets to its address %s", a),
			Remedy: fmt.Sprintf("ip route add local %s dev %s table local", to, d.Name),
		})
	}
	return w.on()
}

// disabled6 names the setting that takes IPv6 from an interface, if to is an address of IPv6 and
// none of the host's interfaces has one there.
func (x *walk) disabled6(to netip.Addr) *Cause {
	if to.Is4() {
		return nil
	}
	for _, index := range x.links() {
		d := x.device(index)
		if d.primary(to).IsValid() || d.onLink(to) {
			continue
		}
		if v, from, err := x.facts.Setting(false, index, "disable_ipv6"); err == nil && v != 0 {
			return &Cause{Kind: KindSysctl, Thing: from + " = 1", What: fmt.Sprintf("%s has no IPv6", d.Name), Remedy: "sysctl -w " + from + "=0"}
		}
	}
	return nil
}

// arrive checks that the client, or the router before it, can find the host on their link.
func (x *walk) arrive(w *way) []*way {
	d := x.device(w.in)
	if why := d.Why(); why != "" {
		return w.halt(linkCause(d, why))
	}
	if k := d.MasterKind; k == "bridge" || k == "bond" || k == "team" {
		return w.halt(Cause{
			Kind: KindLink, Thing: fmt.Sprintf("interface %s: a port of %s", d.Name, x.name(d.Master)),
			What:   fmt.Sprintf("what comes in by it is %s's, and its own addresses are not reached", x.name(d.Master)),
			Remedy: fmt.Sprintf("ip link set %s nomaster, or give its addresses to %s", d.Name, x.name(d.Master)),
		})
	}
	is4 := w.p.Dst.Is4()
	if !is4 {
		if v, from, err := x.facts.Setting(false, d.Index, "disable_ipv6"); err == nil && v != 0 {
			return w.halt(Cause{Kind: KindSysctl, Thing: from + " = 1", What: "the interface takes no IPv6", Remedy: "sysctl -w " + from + "=0"})
		}
	}
	if !d.asks() || !d.onLink(w.p.Dst) && !d.has(w.p.Dst) && x.client.hop != x.client.addr.WithZone("") {
		return w.on() // a router sends it here, without asking for the address
	}
	asker := x.asker(d)
	c := known(x.asked, question{d.Index, w.p.Dst, asker}, func() *Cause {
		v := w.fork(w.p)
		if is4 {
			x.asked4(v, d, asker)
		} else {
			x.asked6(v, d, asker)
		}
		return v.stop
	})
	if c != nil {
		return w.halt(*c)
	}
	return w.on()
}

// asker is who asks for the host's address on a link: the client, or a router before it.
func (x *walk) asker(d *device) netip.Addr {
	client := x.client.addr.WithZone("")
	for _, a := range []netip.Addr{x.client.hop, client} {
		if a.Is6() && a != client && !a.IsLinkLocalUnicast() {
			continue // a router asks from its link-local address
		}
		if a.IsValid() && (d.onLink(a) || a.IsLinkLocalUnicast()) {
			return a
		}
	}
	if x.client.addr.Is4() {
		if a, ok := x.neighbourOf(d, true); ok {
			return a
		}
		return x.client.addr
	}
	return netip.MustParseAddr("fe80::fffe") // any router's
}

// finds reports what keeps the host from finding a neighbour that is there: what drops the
// question or the answer for certain.
func (x *walk) finds(index int, neighbour netip.Addr) *Cause {
	d := x.device(index)
	if !d.asks() {
		return nil
	}
	from := d.primary(neighbour)
	if !from.IsValid() {
		return nil
	}
	var question, answer eval.Packet
	var c *Cause
	if neighbour.Is4() {
		question, answer = arp(from, neighbour, d.MAC)
		c = x.exchange(d, neighbour, question, answer, []eval.Hook{eval.ArpOutput}, []eval.Hook{eval.ArpInput})
	} else {
		question, answer = solicitation(from, neighbour, d.MAC)
		c = x.exchange(d, neighbour, question, answer, []eval.Hook{eval.Output, eval.Postrouting}, []eval.Hook{eval.Prerouting, eval.Input})
	}
	if c != nil {
		c.What = fmt.Sprintf("keeps this host from finding its neighbour %s", neighbour)
		c.Answer = false
	}
	return c
}

// arp is an ARP request and its answer.
func arp(from, to netip.Addr, hardware []byte) (question, answer eval.Packet) {
	question = eval.Packet{EtherType: unix.ETH_P_ARP, ARPOp: 1, Src: from, Dst: to, PktType: unix.PACKET_BROADCAST, SrcMAC: hardware, DstMAC: []byte{255, 255, 255, 255, 255, 255}}
	return question, eval.Packet{EtherType: unix.ETH_P_ARP, ARPOp: 2, Src: to, Dst: from, DstMAC: hardware}
}

// solicitation is a neighbour solicitation and its answer.
func solicitation(from, to netip.Addr, hardware []byte) (question, answer eval.Packet) {
	group := to.As16()
	multicast := netip.AddrFrom16([16]byte{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, group[13], group[14], group[15]})
	question = eval.Packet{
		EtherType: unix.ETH_P_IPV6, Proto: unix.IPPROTO_ICMPV6, ICMPType: 135, Src: from, Dst: multicast, TTL: 255, Len: 72, PktType: unix.PACKET_MULTICAST,
		SrcMAC: hardware, DstMAC: []byte{0x33, 0x33, 0xff, group[13], group[14], group[15]},
	}
	return question, eval.Packet{EtherType: unix.ETH_P_IPV6, Proto: unix.IPPROTO_ICMPV6, ICMPType: 136, Src: to, Dst: from, TTL: 255, Len: 72, DstMAC: hardware}
}

// exchange sends a question out of an interface and takes the answer in, and returns what stops one of
// them for certain.
func (x *walk) exchange(d *device, neighbour netip.Addr, question, answer eval.Packet, out, in []eval.Hook) *Cause {
	w := &way{p: question}
	w.p.Local, w.p.Kernel, w.p.Out = true, true, d.asked
	var stages []stage
	for _, h := range out {
		stages = append(stages, x.discovery(d, h))
	}
	stages = append(stages, x.egress(d.Index, neighbour), func(w *way) []*way {
		w.answer, w.p = true, answer
		return w.on()
	}, x.ingress(d.Index, neighbour))
	for _, h := range in {
		stages = append(stages, x.hook(h))
	}
	return certain(run(w.on(), stages...))
}

// discovery passes a hook with a solicitation or advertisement of the host. At postrouting such a packet
// has the interface that it leaves by as the one that it came by too: the kernel takes that of the
// buffer (ip6_output in net/ipv6/ip6_output.c), and gives only these one (ndisc_alloc_skb).
func (x *walk) discovery(d *device, h eval.Hook) stage {
	return func(w *way) []*way {
		if h == eval.Postrouting {
			w.p.In = d.asked
		}
		return x.pass(w, h)
	}
}

// certain is what stops all ways; nil: one passes.
func certain(ways []*way) (stop *Cause) {
	for _, w := range ways {
		if w.stop == nil || w.lost {
			return nil
		}
		if stop == nil {
			stop = w.stop
		}
	}
	return stop
}

// askedFor is the address that a client asks for on a link: what is not on the link it sends to its router, which is
// this host.
func (x *walk) askedFor(d *device, to, asker netip.Addr) netip.Addr {
	if own := d.primary(asker); !d.onLink(to) && own.IsValid() && asker == x.client.addr.WithZone("") {
		return own
	}
	return to
}

// asked4 checks that the host answers an ARP request for the address.
func (x *walk) asked4(w *way, d *device, asker netip.Addr) []*way {
	to := x.askedFor(d, w.p.Dst, asker)
	if d.Flags&unix.IFF_NOARP != 0 {
		return w.halt(Cause{Kind: KindLink, Thing: "interface " + d.Name + ": NOARP", What: "it does not answer who asks for " + addr(to), Remedy: "ip link set dev " + d.Name + " arp on"})
	}
	if v, from, err := x.facts.Setting(true, d.Index, "arp_ignore"); err == nil {
		silent := false
		switch v {
		case 1:
			silent = !d.has(to)
		case 2:
			silent = !d.has(to) || !d.onLink(asker)
		case 8:
			silent = true
		}
		if silent {
			return w.halt(Cause{
				Kind: KindSysctl, Thing: fmt.Sprintf("%s = %d", from, v), What: fmt.Sprintf("%s does not answer ARP requests for %s", d.Name, to),
				Remedy: "sysctl -w " + from + "=0",
			})
		}
	}
	if v, from, err := x.facts.Setting(true, d.Index, "arp_filter"); err == nil && v != 0 {
		r, _, err := x.facts.FIB(host.RouteQuery{Dst: asker, Src: to})
		if err == nil && (r == nil || r.Oif != d.Index) {
			return w.halt(Cause{
				Kind: KindSysctl, Thing: fmt.Sprintf("%s = %d", from, v), What: fmt.Sprintf("%s answers no ARP requests of %s, which the routes lead to elsewhere", d.Name, asker),
				Remedy: "sysctl -w " + from + "=0",
			})
		}
	}
	request, answer := arp(asker, to, nil)
	answer.SrcMAC = d.MAC
	if c := x.aside(d, asker, request, answer, eval.ArpInput, eval.ArpOutput); c != nil {
		c.What = "drops the ARP request of " + addr(asker)
		if c.Answer {
			c.What = "drops the ARP answer to " + addr(asker)
		}
		c.Answer = false
		return w.halt(*c)
	}
	return w.on()
}

// asked6 checks that the host answers a neighbour solicitation for the address.
func (x *walk) asked6(w *way, d *device, asker netip.Addr) []*way {
	to := x.askedFor(d, w.p.Dst, asker)
	if !d.has(to) {
		proxied, err := x.facts.ProxyNeighbour(to, d.Index)
		if err == nil && !proxied && d.onLink(to) {
			return w.halt(Cause{
				Kind: KindAddress, Thing: fmt.Sprintf("%s is no address of %s", to, d.Name), What: "the host does not answer neighbour solicitations for it there",
				Remedy: fmt.Sprintf("ip address add %s dev %s", netip.PrefixFrom(to, 128), d.Name),
			})
		}
	}
	request, answer := solicitation(asker, to, nil)
	answer.SrcMAC, answer.Local, answer.Kernel = d.MAC, true, true
	if c := x.aside(d, asker, request, answer, eval.Prerouting, eval.Input, eval.Output, eval.Postrouting); c != nil {
		c.What = fmt.Sprintf("drops the neighbour solicitation of %s: it cannot find this host", asker)
		if c.Answer {
			c.What = fmt.Sprintf("drops the neighbour advertisement to %s: it cannot find this host", asker)
		}
		c.Answer = false
		return w.halt(*c)
	}
	if c := x.finds(d.Index, asker); c != nil {
		// The client's own question has made an entry, by which it is answered until that is checked.
		w.note("%s %s: after some seconds this host does not find it any more", c.Thing, c.What)
	}
	return w.on()
}

// aside takes a packet that comes before those of the client, and its answer, through what lies
// between the wire and the host, and returns what stops it for certain.
func (x *walk) aside(d *device, neighbour netip.Addr, request, answer eval.Packet, hooks ...eval.Hook) *Cause {
	w := &way{p: request}
	w.p.In = d.asked
	var in, out []stage
	for _, h := range hooks {
		if h == eval.ArpInput || h == eval.Prerouting || h == eval.Input {
			in = append(in, x.hook(h))
		} else {
			out = append(out, x.discovery(d, h))
		}
	}
	pktType := request.PktType
	ways := run(w.on(), x.ingress(d.Index, neighbour), func(w *way) []*way {
		w.p.PktType, w.p.DstMAC = pktType, request.DstMAC
		return w.on()
	})
	ways = run(ways, in...)
	ways = run(ways, func(w *way) []*way {
		w.answer = true
		w.p = answer
		w.p.Out = d.asked
		return w.on()
	})
	ways = run(ways, out...)
	return certain(run(ways, x.egress(d.Index, neighbour)))
}

// local delivers the packet to a socket of this host.
func (x *walk) local(w *way) []*way {
	w.done = true
	in := w.p.In
	if in.Index == 0 {
		in = x.device(w.in).asked
	}
	w.p.In, w.p.Out = in, eval.Interface{}
	return run(w.on(), x.hook(eval.Input), x.ipsec(host.XFRMIn), x.socket)
}

// socket finds the socket that takes the packet.
func (x *walk) socket(w *way) []*way {
	to := netip.AddrPortFrom(w.p.Dst, w.p.DstPort)
	s, err := x.facts.Listener(x.proto, to, w.p.In.Index)
	if err != nil {
		w.unread("sockets", err)
		return w.on()
	}
	if w.path == ByNetfilter { // the backend is an address of this host
		if s == nil {
			return w.halt(Cause{Kind: KindBackend, Thing: "backend " + to.String(), What: "is this host, and nothing listens on it", Remedy: "start the server"})
		}
		w.step("input", "%s", s)
		w.done = true
		return x.reverse(w)
	}
	why, by := x.lacks(w), ""
	if s == nil && !x.mapping.NoProxy {
		// Ports of ranges may have no sockets: a program of eBPF finds that of the proxy.
		switch p := x.facts.LeadsPorts(x.pid, program); {
		case p != nil && x.isClientPort(to.Port()):
			why.What += "; the port is one of ip_local_port_range, and of these the proxies of ranges serve none over UDP"
			why.Remedy = "publish UDP ports outside of net.ipv4.ip_local_port_range"
		case p != nil:
			s = &host.Socket{Proto: x.proto, Addr: to, Limit: 1, Process: p}
			by = ", by eBPF"
		}
	}
	if s == nil {
		if why.Remedy == "" {
			why.Remedy = "nftnat serve: a daemon has the proxies"
			if x.mapping.NoProxy {
				why.Remedy = fmt.Sprintf("nftnat add %s %s %s --replace", x.mapping.Proto, x.mapping.FrontendText(), x.mapping.BackendText())
			}
		}
		why.What += fmt.Sprintf("; nothing listens on %s", to)
		w.step("input", "nothing listens on %s", to)
		return w.halt(why)
	}
	if !x.proxies(s) {
		w.step("input", "%s", s)
		if x.mapping.Hold == nat.HoldShared {
			return w.halt(Cause{
				Kind: KindSocket, Thing: "socket " + s.String(), What: why.Thing + " " + why.What + "; this program has the port, which is shared with it",
				Remedy: "publish it to a backend of the client's family as well, or have the program give it up and publish it with --hold own",
			})
		}
		return w.halt(Cause{
			Kind: KindSocket, Thing: "socket " + s.String(), What: why.Thing + " " + why.What + "; this program, which is no proxy of the mapping, takes it",
			Remedy: fmt.Sprintf("end process %d, or publish another port", s.Process.PID),
		})
	}
	if x.mapping.NoProxy {
		why.What += "; the mapping has no proxy (--no-proxy)"
		why.Remedy = fmt.Sprintf("nftnat add %s %s %s --replace", x.mapping.Proto, x.mapping.FrontendText(), x.mapping.BackendText())
		w.step("input", "%s holds the port and takes nothing", s)
		return w.halt(why)
	}
	if s.Process != nil && x.facts.Stopped(s.Process.PID) {
		return w.halt(Cause{Kind: KindSocket, Thing: "socket " + s.String(), What: "its process has been stopped by a signal", Remedy: fmt.Sprintf("kill -CONT %d", s.Process.PID)})
	}
	if s.Full() {
		return w.halt(Cause{Kind: KindSocket, Thing: "socket " + s.String(), What: fmt.Sprintf("its queue is full: %d connections wait, and no more than %d may", s.Queue, s.Limit), Remedy: "see why the proxy accepts none"})
	}
	w.path, w.proxy = ByProxy, s.Process
	w.step("input", "proxy%s: %s", by, s)
	return x.proxied(w)
}

// proxies reports whether a socket is one of the proxies.
func (x *walk) proxies(s *host.Socket) bool {
	if s.Process == nil {
		return true // who has it cannot be read
	}
	if x.pid != 0 {
		return s.Process.PID == x.pid
	}
	return s.Process.Command == program
}

// program is the name of the process that has the proxies.
const program = "nftnat"

// isClientPort reports whether the kernel gives a port to sockets over UDP: what these wait for would come to the proxy, if eBPF
// led the port there.
func (x *walk) isClientPort(port uint16) bool {
	if x.proto != unix.IPPROTO_UDP {
		return false
	}
	first, last, err := x.facts.LocalPorts()
	return err == nil && first <= port && port <= last
}

// isLed reports whether programs of eBPF lead a socket of this host that asks for the client's frontend straight to
// the backend. TFTP is left to the proxies, because its servers answer from other ports.
func (x *walk) isLed(c client) bool {
	to := c.to.Addr()
	tftp := x.mapping.Proto == nat.UDP && x.backend().Port() == 69
	return c.local && to.IsLoopback() && !x.mapping.NoProxy && !x.mapping.ProxyOnly && !tftp && (to.Is6() || x.backend().Addr().Is4()) &&
		x.facts.LeadsLocalhost(x.pid, program)
}

// connect follows the connection of a socket that is led to the backend, and its answer.
func (x *walk) connect(w *way) []*way {
	w.path = ByBPF
	w.proxies = true // a connection of this host
	own := x.outward(x.backend())
	if own == nil {
		w.p.Dst, w.p.DstPort = x.backend().Addr(), x.backend().Port()
		w.p.Src = netip.Addr{}
		if x.route(w, 0); w.stop == nil {
			w.halt(Cause{Kind: KindRoute, Thing: "backend " + x.backend().String(), What: "this host has no route to it"})
		}
		return w.on()
	}
	w.p = own.p
	w.step("connect", "eBPF: the socket is led to the backend: %s", packetText(&w.p))
	return run(w.on(), x.send(x.hook(eval.Input)), func(w *way) []*way {
		if w.r.Type == unix.RTN_LOCAL {
			return w.on()
		}
		return run(w.on(), x.arrived, x.answers)
	}, func(w *way) []*way {
		w.path, w.done = ByBPF, true
		return w.on()
	})
}

// proxied follows the proxy's connection to the backend, and then its answer to the client.
func (x *walk) proxied(w *way) []*way {
	request := w.p
	own := x.outward(x.backend())
	if own == nil {
		w.p.Dst, w.p.DstPort = x.backend().Addr(), x.backend().Port()
		w.p.Src = netip.Addr{}
		w.proxies = true
		if x.route(w, 0); w.stop == nil {
			w.halt(Cause{Kind: KindRoute, Thing: "backend " + x.backend().String(), What: "the proxy has no route to it"})
		}
		return w.on()
	}
	w.p = own.p
	w.proxies = true
	x.noteOwner(w)
	w.step("proxy", "%s", packetText(&w.p))
	return run(w.on(), x.send(x.hook(eval.Input)), func(w *way) []*way {
		if w.r.Type == unix.RTN_LOCAL {
			return w.on()
		}
		return run(w.on(), x.arrived, x.answers)
	}, func(w *way) []*way {
		w.proxies = false
		w.path = ByProxy
		w.p = request
		return x.reverse(w)
	})
}

// noteOwner notes whose packet one of the proxy is.
func (x *walk) noteOwner(w *way) {
	if w.proxy == nil {
		return
	}
	uid, gid, err := x.facts.Owner(w.proxy.PID)
	w.p.UID, w.p.GID, w.p.OwnerKnown = uid, gid, err == nil
}

// reverse follows the answer of a socket of this host to the client.
func (x *walk) reverse(w *way) []*way {
	reply(w)
	x.noteOwner(w)
	w.answer, w.done = true, true
	w.in = 0
	to := x.client
	w.step("proxy", "%s", packetText(&w.p))
	return run(w.on(), x.send(x.hook(eval.Input)), func(w *way) []*way {
		if to.local {
			return w.on()
		}
		return run(x.sameWay(to.in)(w), x.furtherIn)
	})
}

// furtherIn follows the packets of a client of this host that come after the answer, as far as
// rules can stop them that let the first one pass.
func (x *walk) furtherIn(w *way) []*way {
	after, steps, in := w.p, w.steps, x.device(x.client.in)
	w.answer, w.later = false, true
	reply(w)
	if x.proto == unix.IPPROTO_TCP {
		w.p.TCPFlags = tcpACK
	}
	w.p.CT.Reply = false
	w.p.In, w.p.SrcMAC, w.p.DstMAC = in.asked, x.macOf(x.client.hop, in.Index), in.MAC
	ways := run(w.on(), x.hook(eval.Prerouting), x.hook(eval.Input))
	for _, w := range ways {
		w.p, w.answer, w.later = after, true, false
		if w.stop == nil {
			w.steps = steps
		}
	}
	return ways
}
