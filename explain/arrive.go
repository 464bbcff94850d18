// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
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
