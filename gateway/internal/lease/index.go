// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// slot is a port of the WAN.
type slot struct {
	proto nat.Proto
	port  uint16
}

// companion is the port of the same number of the other protocol.
func (s slot) companion() slot {
	if s.proto == nat.TCP {
		return slot{nat.UDP, s.port}
	}
	return slot{nat.TCP, s.port}
}

// target is a port of a client.
type target struct {
	client netip.Addr
	proto  nat.Proto
	port   uint16
}

// entry is a lease, or a port of an operator's mapping.
type entry struct {
	Lease
	next *entry // of the same target
}

func (e *entry) slot() slot     { return slot{e.Proto, e.External} }
func (e *entry) target() target { return target{e.Client, e.Proto, e.Internal} }

// renewedBy reports whether a lease differs from that of the entry in its expiry only.
func (e *entry) renewedBy(l *Lease) bool {
	return e.Kind == l.Kind && e.Key == l.Key && e.Text == l.Text && e.Client == l.Client && e.Internal == l.Internal && slices.Equal(e.From, l.From)
}

// maxStatic is the most ports of an operator's mapping of which it is known where each leads: a
// client that has one of them is told so. Of wider ones it is only known that they are taken.
const maxStatic = 256

// index is what is published, as the daemon's mappings say it.
type index struct {
	entries map[slot]*entry
	clients map[netip.Addr]*client
	ports   *ports
	leases  int
	ordered []*entry // the leases by protocol and port; nil: to be made
	changes uint32   // of leases: those that came, went, or differ
}

// client is what leads to a client.
type client struct {
	leases  int
	targets map[target]*entry
}

func newIndex(p *ports) *index {
	return &index{entries: map[slot]*entry{}, clients: map[netip.Addr]*client{}, ports: p}
}

// count returns how many leases a client has.
func (x *index) count(a netip.Addr) int {
	if c := x.clients[a]; c != nil {
		return c.leases
	}
	return 0
}

// put has a mapping published. What was at its ports before is replaced.
func (x *index) put(m *nat.Mapping) {
	addr := m.Frontend.Addr()
	if addr.Is6() { // no lease can be in conflict with it
		return
	}
	x.ports.publish(m.Proto, addr, m.Frontend.Port(), int(m.More)+1)
	if addr.IsValid() && addr != netip.IPv4Unspecified() {
		return
	}
	if int(m.More) >= maxStatic {
		x.clear(m)
		return
	}
	for single := range nat.Expand(*m) {
		at := slot{single.Proto, single.Frontend.Port()}
		l, ok := leaseOf(&single)
		if !ok {
			l = Lease{Key: single.Name, Proto: single.Proto, External: at.port}
		}
		if e := x.entries[at]; e != nil && e.renewedBy(&l) {
			e.Expires = l.Expires
			continue
		}
		x.remove(at)
		x.insert(&entry{Lease: l})
	}
}

// drop has a mapping no longer published.
func (x *index) drop(m *nat.Mapping, now time.Time) {
	addr := m.Frontend.Addr()
	if addr.Is6() {
		return
	}
	x.ports.unpublish(m.Proto, addr, m.Frontend.Port(), int(m.More)+1)
	if !addr.IsValid() || addr == netip.IPv4Unspecified() {
		for _, e := range x.clear(m) {
			if e.Kind != 0 {
				x.ports.retire(e.External, e.Client, now)
			}
		}
	}
}

// clear removes the entries of the ports of a mapping, and returns them.
func (x *index) clear(m *nat.Mapping) (removed []*entry) {
	first := int(m.Frontend.Port())
	for port := first; port <= first+int(m.More); port++ {
		if e := x.remove(slot{m.Proto, uint16(port)}); e != nil {
			removed = append(removed, e)
		}
	}
	return removed
}

func (x *index) insert(e *entry) {
	x.entries[e.slot()] = e
	if !e.Client.IsValid() {
		return
	}
	c := x.clients[e.Client]
	if c == nil {
		c = &client{targets: map[target]*entry{}}
		x.clients[e.Client] = c
	}
	e.next = c.targets[e.target()]
	c.targets[e.target()] = e
	if e.Kind != 0 {
		c.leases++
		x.leases++
		x.changes++
		x.ordered = nil
	}
}

func (x *index) remove(at slot) *entry {
	e := x.entries[at]
	if e == nil {
		return nil
	}
	delete(x.entries, at)
	c := x.clients[e.Client]
	if c == nil {
		return e
	}
	c.unlink(e)
	if e.Kind != 0 {
		c.leases--
		x.leases--
		x.changes++
		x.ordered = nil
	}
	if len(c.targets) == 0 {
		delete(x.clients, e.Client)
	}
	return e
}

// unlink removes an entry from those of its target.
func (c *client) unlink(e *entry) {
	t := e.target()
	at := c.targets[t]
	if at == e {
		if e.next == nil {
			delete(c.targets, t)
		} else {
			c.targets[t] = e.next
		}
		return
	}
	for at.next != e {
		at = at.next
	}
	at.next = e.next
}

// find returns what leads to a port of a client: a lease of NAT-PMP or PCP, or else one of IGD, or
// else an operator's mapping.
func (x *index) find(t target) (best *entry) {
	c := x.clients[t.client]
	if c == nil {
		return nil
	}
	weight := func(e *entry) int {
		switch {
		case e == nil:
			return 0
		case e.Kind == 0:
			return 1
		case e.Kind == IGD:
			return 2
		}
		return 3
	}
	for e := c.targets[t]; e != nil; e = e.next {
		if weight(e) > weight(best) {
			best = e
		}
	}
	return best
}

// same returns the lease of IGD that differs from a request in its port of the WAN and its expiry at most. Nil: there is none.
func (x *index) same(t target, r *Request) *entry {
	c := x.clients[t.client]
	if c == nil {
		return nil
	}
	for e := c.targets[t]; e != nil; e = e.next {
		if e.Kind == IGD && e.Key == r.Key && slices.Equal(e.From, r.From) {
			return e
		}
	}
	return nil
}

// order returns the leases by protocol and port.
func (x *index) order() []*entry {
	if x.ordered == nil {
		x.ordered = make([]*entry, 0, x.leases)
		for _, e := range x.entries {
			if e.Kind != 0 {
				x.ordered = append(x.ordered, e)
			}
		}
		slices.SortFunc(x.ordered, func(a, b *entry) int {
			return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.External, b.External))
		})
	}
	return x.ordered
}
