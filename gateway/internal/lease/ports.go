// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"errors"
	"net/netip"
	"time"

	"github.com/nftnat/nftnat/alloc"
	"github.com/nftnat/nftnat/nat"
)

const (
	// heldTime is for how long a port that a program of the host holds is not tried again.
	heldTime = 10 * time.Second
	// restTime is for how long a port that was released is not given to another client (RFC
	// 6887 section 15).
	restTime = 2 * time.Minute

	// Ports without a registered use (RFC 6335 section 6) are picked first.
	firstDynamic, lastDynamic = 49152, 65535
)

// frontend is a protocol with an address at which ports are published.
type frontend struct {
	proto nat.Proto
	addr  netip.Addr // zero: any
}

// ports says which numbers are free for both protocols: a number is taken if anything is published there,
// over TCP or UDP, at any address. Each frontend has the reservations of an address of its own in an allocator, and a
// port is free for a client if it is at all of them.
type ports struct {
	all       *alloc.Ports
	of        map[frontend]netip.Addr
	frontends []frontend // by the number of their address
	claims    map[uint16]*claim
	held      timed
	resting   timed
}

// claim is a port that a client is about to get. Of both protocols it may be claimed by one client.
type claim struct {
	client   netip.Addr
	protos   map[nat.Proto]bool
	reserved bool
}

// The addresses of what is not published.
var (
	addrClaims  = netip.AddrFrom4([4]byte{2, 0, 0, 0})
	addrGateway = netip.AddrFrom4([4]byte{2, 0, 0, 1})
	addrHeld    = netip.AddrFrom4([4]byte{2, 0, 0, 2})
	addrResting = netip.AddrFrom4([4]byte{2, 0, 0, 3}) // the last: of several holders the first is told
)

func newPorts() *ports {
	all, _ := alloc.NewPorts(firstDynamic, lastDynamic) // the range is valid
	p := &ports{all: all, of: map[frontend]netip.Addr{}, claims: map[uint16]*claim{}}
	p.held = timed{all: all, host: addrHeld, last: heldTime}
	p.resting = timed{all: all, host: addrResting, last: restTime}
	// The gateway's own: SSDP, and NAT-PMP and PCP (RFC 6887 section 11.3).
	for _, port := range []uint16{1900, 5350, 5351} {
		_ = all.Reserve(netip.AddrPortFrom(addrGateway, port)) // it is free
	}
	return p
}

// again returns the ports of which nothing is published, with the claims and what was learnt.
func (p *ports) again(now time.Time) *ports {
	n := newPorts()
	n.claims = p.claims
	for port, c := range p.claims {
		if c.reserved {
			_ = n.all.Reserve(netip.AddrPortFrom(addrClaims, port)) // it is free
		}
	}
	for _, e := range p.resting.live(now) {
		n.resting.add(e.port, e.client, "", e.until.Add(-restTime))
	}
	return n
}

// addr returns the address that stands for a frontend.
func (p *ports) addr(f frontend) netip.Addr {
	a, ok := p.of[f]
	if !ok {
		n := len(p.frontends)
		a = netip.AddrFrom4([4]byte{1, byte(n >> 16), byte(n >> 8), byte(n)})
		p.of[f] = a
		p.frontends = append(p.frontends, f)
	}
	return a
}

func (p *ports) publish(proto nat.Proto, addr netip.Addr, first uint16, n int) {
	at := netip.AddrPortFrom(p.addr(frontend{proto, addr}), first)
	p.all.ReleaseRun(at, n) // perhaps some of them are
	_ = p.all.ReserveRun(at, n)
}

func (p *ports) unpublish(proto nat.Proto, addr netip.Addr, first uint16, n int) {
	p.all.ReleaseRun(netip.AddrPortFrom(p.addr(frontend{proto, addr}), first), n)
}

// retire keeps a port that a client has given back from other clients.
func (p *ports) retire(port uint16, client netip.Addr, now time.Time) {
	p.resting.add(port, client, "", now)
}

// hold notes that a program of the host has a port.
func (p *ports) hold(port uint16, holder string, now time.Time) {
	p.held.add(port, netip.Addr{}, holder, now)
}

// expire frees ports whose time is over.
func (p *ports) expire(now time.Time) {
	p.held.expire(now)
	p.resting.expire(now)
}

// taken returns who has a number, of those that are neither a lease nor an operator's mapping of any address, or "".
func (p *ports) taken(port uint16, client netip.Addr, exact bool) (holder string) {
	if e, ok := p.held.at[port]; ok {
		return e.holder
	}
	if e, ok := p.resting.at[port]; ok && !exact && e.client != client {
		return "a client that had it until now"
	}
	err := p.all.Reserve(netip.AddrPortFrom(netip.IPv4Unspecified(), port))
	if err == nil {
		p.all.Release(netip.AddrPortFrom(netip.IPv4Unspecified(), port))
		return ""
	}
	var use *alloc.InUseError
	if !errors.As(err, &use) {
		return "this host"
	}
	switch a := use.Have.Addr(); a {
	case addrResting:
		return "" // of the client itself, or it does not count
	case addrGateway:
		return "the gateway"
	case addrClaims:
		return "a client that asks for it now"
	case addrHeld:
		return "a program of this host"
	default:
		b := a.As4()
		f := p.frontends[int(b[1])<<16|int(b[2])<<8|int(b[3])]
		if !f.addr.IsValid() {
			return "a mapping of " + f.proto.String()
		}
		return "a mapping of " + f.proto.String() + " " + netip.AddrPortFrom(f.addr, port).String()
	}
}

// claim takes a port for a client until it is published or given up. alone is whether the client has not got
// the number already, by the other protocol.
func (p *ports) claim(at slot, client netip.Addr, alone bool) {
	c := p.claims[at.port]
	if c == nil {
		c = &claim{client: client, protos: map[nat.Proto]bool{}}
		p.claims[at.port] = c
		if alone {
			c.reserved = p.all.Reserve(netip.AddrPortFrom(addrClaims, at.port)) == nil
		}
	}
	c.protos[at.proto] = true
}

// unclaim ends a claim.
func (p *ports) unclaim(at slot) {
	c := p.claims[at.port]
	delete(c.protos, at.proto)
	if len(c.protos) != 0 {
		return
	}
	delete(p.claims, at.port)
	if c.reserved {
		p.all.Release(netip.AddrPortFrom(addrClaims, at.port))
	}
}

// pick returns a free port of some ranges. False: there is none.
func (p *ports) pick(from []Ports) (uint16, bool) {
	for _, bounds := range []Ports{{firstDynamic, lastDynamic}, {1, 65535}} {
		for _, r := range from {
			first, last := max(r.First, bounds.First), min(r.Last, bounds.Last)
			if first > last {
				continue
			}
			if port, err := p.all.NextIn(netip.IPv4Unspecified(), first, last); err == nil {
				p.all.Release(netip.AddrPortFrom(netip.IPv4Unspecified(), port))
				return port, true
			}
		}
	}
	return 0, false
}

// timed are ports that are reserved for the same time each.
type timed struct {
	all   *alloc.Ports
	host  netip.Addr
	last  time.Duration
	at    map[uint16]timedPort
	queue []timedPort // by their ends
}

type timedPort struct {
	port   uint16
	client netip.Addr
	holder string
	until  time.Time
}

func (t *timed) add(port uint16, client netip.Addr, holder string, now time.Time) {
	e := timedPort{port, client, holder, now.Add(t.last)}
	if _, ok := t.at[port]; !ok {
		_ = t.all.Reserve(netip.AddrPortFrom(t.host, port)) // it is free at this address
	}
	if t.at == nil {
		t.at = map[uint16]timedPort{}
	}
	t.at[port] = e
	t.queue = append(t.queue, e)
}

func (t *timed) expire(now time.Time) {
	n := 0
	for n < len(t.queue) && !now.Before(t.queue[n].until) {
		e := t.queue[n]
		n++
		if t.at[e.port].until.Equal(e.until) { // else it was added again
			delete(t.at, e.port)
			t.all.Release(netip.AddrPortFrom(t.host, e.port))
		}
	}
	if t.queue = t.queue[n:]; len(t.queue) == 0 {
		t.queue = nil
	}
}

// live returns those whose time is not over.
func (t *timed) live(now time.Time) []timedPort {
	t.expire(now)
	return t.queue
}
