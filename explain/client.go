// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/host"
)

// client is whose packet is followed, and by which way it asks.
type client struct {
	addr netip.Addr
	// in is the interface by which it asks; zero: it is on this host.
	in    int
	local bool
	// hop is the neighbour that sends its packets: it, or a router; invalid: not known.
	hop netip.Addr
	// to is what it asks.
	to netip.AddrPort
	// why says how in is known.
	why string
	// sure is set if the client is on that link, or has been seen on it.
	sure bool
	// doubt is set if it is only known that some packets have been dropped there.
	doubt bool
}

// byNeighbours is why a client is taken to be on a link where it was seen.
const byNeighbours = "the neighbour table"

// Clients that stand for all that are elsewhere. They are addresses of the public Internet,
// because rules for addresses of documentation or of private networks are about such.
var (
	elsewhere4 = netip.AddrFrom4([4]byte{45, 83, 64, 10})
	elsewhere6 = netip.MustParseAddr("2a0e:b107::10")
)

// clients returns the clients of a query, and by which ways they may ask: the likeliest first.
func (x *walk) clients(q Query) (cs []client, typical string, stop *Cause) {
	from := q.From
	frontend := x.mapping.Frontend.Addr()
	if q.Frontend.Addr().IsValid() && !q.Frontend.Addr().IsUnspecified() {
		frontend = q.Frontend.Addr()
	}
	if frontend.IsValid() && frontend.IsUnspecified() {
		if from.IsValid() && from.Is4() != frontend.Is4() {
			return nil, "", familyCause(from, frontend)
		}
	}
	if frontend.IsValid() && from.IsValid() && from.Is4() != frontend.Is4() {
		return nil, "", familyCause(from, frontend)
	}
	if from.IsValid() {
		return x.given(from, frontend, q.Frontend.Port())
	}
	return x.typical(frontend, q.Frontend.Port())
}

func familyCause(from, frontend netip.Addr) *Cause {
	return &Cause{
		Kind: KindClient, Thing: fmt.Sprintf("%s is an %s address", from, family(from)), Certain: true,
		What: fmt.Sprintf("it sends no packet to the %s address %s", family(frontend), frontend),
	}
}

// given returns the ways by which a client of a known address may ask.
func (x *walk) given(from, frontend netip.Addr, number uint16) (cs []client, typical string, stop *Cause) {
	bare := from.WithZone("")
	one := frontend.IsValid() && !frontend.IsUnspecified()
	if bare.IsLoopback() || x.isLocal(bare) && from.Zone() == "" {
		to := bare
		if one {
			to = frontend
		}
		return []client{{addr: bare, local: true, to: netip.AddrPortFrom(to, number)}}, "", nil
	}
	add := func(index int, hop netip.Addr, why string) {
		if index == 0 || slices.ContainsFunc(cs, func(c client) bool { return c.in == index }) || x.device(index).loopback() {
			return
		}
		to := frontend
		if !one {
			to = x.device(index).primary(from)
			if !to.IsValid() {
				to = x.anyAddress(from.Is4())
			}
			if len(cs) > 0 && !x.device(index).has(cs[0].to.Addr()) {
				return
			}
		}
		if !to.IsValid() {
			return
		}
		cs = append(cs, client{addr: from, in: index, hop: hop, to: netip.AddrPortFrom(to, number), why: why, sure: hop == bare})
	}
	if zone := from.Zone(); zone != "" {
		links, err := x.facts.Links()
		if err != nil {
			x.failed("interfaces", err)
		}
		for _, l := range links {
			if l.Name == zone || fmt.Sprint(l.Index) == zone {
				add(l.Index, bare, "its zone")
			}
		}
		if cs == nil {
			return nil, "", &Cause{Kind: KindLink, Thing: "interface " + zone, What: "there is none of this name, and the client is on it", Certain: true}
		}
		return cs, "", nil
	}
	// The neighbour table remembers by which interface it was seen.
	for _, index := range x.links() {
		if n, err := x.neighbour(bare, index); err == nil && n != nil && (n.Permanent() || !n.Dead() && n.MAC != nil) {
			add(index, bare, byNeighbours)
		}
	}
	q := host.RouteQuery{Dst: bare}
	if one && x.isLocal(frontend) {
		q.Src = frontend
	}
	r, fault, err := x.lookup(q)
	if err != nil {
		x.failed("route to "+addr(bare), err)
	}
	if fault != nil && q.Src.IsValid() {
		q.Src = netip.Addr{}
		r, _, _ = x.lookup(q)
	}
	if r != nil && !r.Gateway.IsValid() {
		add(r.Oif, bare, "the route to it")
	}
	toFrontend := func() {}
	if one {
		if a, err := x.facts.Address(frontend); err == nil && a != nil {
			toFrontend = func() { add(a.Link, x.router(r, a.Link, bare), "the frontend's address") }
			// A client behind a router rarely asks by the backends' own link.
			if r == nil || a.Link != x.backendLink() {
				toFrontend()
			}
		}
	}
	if r != nil {
		add(r.Oif, nextHop(r, bare), "the route to it")
	}
	toFrontend()
	if !one && r != nil && r.Gateway.IsValid() && from.Is4() {
		cs = append(cs, x.filtered(cs, from, number, r)...)
	}
	if cs == nil {
		if c := x.disabled6(bare); c != nil {
			c.Certain = true
			return nil, "", c
		}
		for _, index := range x.links() {
			if x.device(index).primary(bare).IsValid() {
				add(index, netip.Addr{}, "no route leads to it")
			}
		}
	}
	if cs == nil {
		return nil, "", &Cause{Kind: KindAddress, Thing: "this host", What: fmt.Sprintf("has no %s address that the client could ask", family(bare)), Certain: true}
	}
	return cs, "", nil
}

// filtered returns the ways of a client behind a router by other interfaces than the one of the route
// to it, if reverse path filters have dropped packets: they may have been the client's.
func (x *walk) filtered(cs []client, from netip.Addr, number uint16, r *host.Route) (more []client) {
	if n, err := x.facts.Counter("TcpExt", "IPReversePathFilter"); err != nil || n == 0 {
		return nil
	}
	toBackend := x.backendLink()
	for _, index := range x.links() {
		to := x.device(index).primary(from)
		if index == r.Oif || !to.IsValid() || toBackend == index || slices.ContainsFunc(cs, func(c client) bool { return c.in == index }) {
			continue
		}
		if v, _, err := x.facts.Setting(true, index, "rp_filter"); err == nil && v != 0 {
			more = append(more, client{addr: from, in: index, to: netip.AddrPortFrom(to, number), why: "packets dropped by the reverse path filter", doubt: true})
		}
	}
	return more
}

// backendLink is the interface towards the backend. Zero: none is known.
func (x *walk) backendLink() int {
	r, _, err := x.facts.FIB(host.RouteQuery{Dst: x.mapping.Backend.Addr()})
	if err != nil || r == nil {
		return 0
	}
	return r.Oif
}

// router is the neighbour that sends a client's packets by an interface, if a route says so.
func (x *walk) router(r *host.Route, index int, client netip.Addr) netip.Addr {
	if r != nil && r.Oif == index {
		return nextHop(r, client)
	}
	return netip.Addr{}
}

// links are the interfaces that have an address and are not lo.
func (x *walk) links() (indexes []int) {
	links, err := x.facts.Links()
	if err != nil {
		x.failed("interfaces", err)
	}
	for _, l := range links {
		if d := x.device(l.Index); len(d.addrs) > 0 && !d.loopback() {
			indexes = append(indexes, l.Index)
		}
	}
	return indexes
}

// isLocal reports whether packets to an address are for this host.
func (x *walk) isLocal(a netip.Addr) bool {
	return known(x.locals, a, func() bool {
		t, err := x.facts.AddressType(a, 0)
		if err != nil {
			x.failed("type of "+addr(a), err)
		}
		return err == nil && t == unix.RTN_LOCAL
	})
}

// typical chooses a client that stands for those that the frontend is for: one behind the default
// route, else one on the link of the frontend's address, else one on an uplink.
func (x *walk) typical(frontend netip.Addr, number uint16) (cs []client, typical string, stop *Cause) {
	one := frontend.IsValid() && !frontend.IsUnspecified()
	if one && frontend.IsLoopback() {
		return []client{{addr: frontend, local: true, to: netip.AddrPortFrom(frontend, number)}}, "this host, by the same loopback address", nil
	}
	is4 := x.mapping.Backend.Addr().Is4()
	if frontend.IsValid() {
		is4 = frontend.Is4()
	}
	from := elsewhere6
	if is4 {
		from = elsewhere4
	}
	home := 0
	if one {
		if a, err := x.facts.Address(frontend); err == nil && a != nil && !x.device(a.Link).loopback() {
			home = a.Link
		}
	}
	q := host.RouteQuery{Dst: from}
	if one && x.isLocal(frontend) {
		q.Src = frontend
	}
	r, _, err := x.lookup(q)
	if err != nil {
		x.failed("route to "+addr(from), err)
	}
	if r != nil && r.Type == unix.RTN_UNICAST && (home == 0 || home == r.Oif) {
		to := frontend
		if !one {
			to = x.sourceOf(r, from)
		}
		if to.IsValid() {
			return []client{{addr: from, in: r.Oif, hop: nextHop(r, from), to: netip.AddrPortFrom(to, number)}}, "one behind the default route", nil
		}
	}
	candidates := x.links()
	if home != 0 {
		candidates = []int{home}
	}
	toBackend, _, _ := x.facts.FIB(host.RouteQuery{Dst: x.mapping.Backend.Addr()})
	for _, backends := range []bool{false, true} { // the backends' link is the last that is tried
		for _, index := range candidates {
			d := x.device(index)
			if (toBackend != nil && toBackend.Oif == index && home == 0) != backends {
				continue
			}
			if c, ok := x.neighbourOf(d, is4); ok {
				to := frontend
				if !one {
					to = d.primary(c)
				}
				if to.IsValid() {
					return []client{{addr: c, in: index, hop: c, to: netip.AddrPortFrom(to, number)}}, "one on " + d.Name, nil
				}
			}
		}
	}
	if one && home == 0 {
		remedy := "add it to the interface by which clients ask: ip address add " + netip.PrefixFrom(frontend, frontend.BitLen()).String() + " dev INTERFACE"
		if x.mapping.Frontend.Addr() != frontend { // any is published: this one may be another machine's
			remedy = "ask an address of this host"
		}
		return nil, "", &Cause{
			Kind: KindAddress, Thing: fmt.Sprintf("%s is no address of this host", frontend), Certain: true,
			What: "no packet to it arrives", Remedy: remedy,
		}
	}
	return nil, "", &Cause{Kind: KindAddress, Thing: "this host", What: fmt.Sprintf("has no %s address that a client could ask", map[bool]string{true: "IPv4", false: "IPv6"}[is4]), Certain: true}
}

// neighbourOf returns an address on a link that is not the host's.
func (x *walk) neighbourOf(d *device, is4 bool) (netip.Addr, bool) {
	for _, a := range d.addrs {
		p := a.Prefix
		if p.Addr().Is4() != is4 || p.Addr().IsLinkLocalUnicast() || p.Bits() == p.Addr().BitLen() {
			continue
		}
		c := p.Masked().Addr()
		for range 8 {
			if c = c.Next(); p.Contains(c) && !x.isLocal(c) {
				return c, true
			}
		}
	}
	return netip.Addr{}, false
}

// primary is the address of an interface that a client of it would use.
func (d *device) primary(client netip.Addr) netip.Addr {
	var best netip.Addr
	for _, a := range d.addrs {
		o := a.Prefix.Addr()
		if o.Is4() != client.Is4() || a.Why() != "" {
			continue
		}
		if o.Is6() && o.IsLinkLocalUnicast() != client.IsLinkLocalUnicast() {
			continue
		}
		if a.Prefix.Contains(client.WithZone("")) {
			return o
		}
		if !best.IsValid() {
			best = o
		}
	}
	return best
}

// anyAddress is an address of the host that clients elsewhere may use; invalid: none.
func (x *walk) anyAddress(is4 bool) netip.Addr {
	for _, index := range x.links() {
		for _, a := range x.device(index).addrs {
			if o := a.Prefix.Addr(); o.Is4() == is4 && !o.IsLinkLocalUnicast() && !o.IsLoopback() && a.Why() == "" {
				return o
			}
		}
	}
	return netip.Addr{}
}
