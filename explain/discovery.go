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
