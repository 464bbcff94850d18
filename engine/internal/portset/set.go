// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"maps"
	"net/netip"

	"github.com/nftnat/nftnat/nat"
)

// Set holds ports by their frontends. Those for any address, which can be very many, are
// in pages by their number: this takes no hashing, and half the memory of a map.
type Set struct {
	any   *[2 * pages]*page // tcp, then udp
	count int               // of those in the pages
	other map[Frontend]Target
}

// page is a run of ports. A target without a backend is none. An empty page stays: a set
// of one port often changes between none and one.
type page [pagePorts]packed

// packed is a Target in 64 bytes: what is small is where an address and a port leave room.
type packed struct {
	backend                        netip.Addr
	port                           uint16
	noProxy, proxyOnly, masquerade bool
	name                           string
	expires                        int64
	from                           nat.Sources
}

func pack(t Target) packed {
	return packed{
		t.Backend.Addr(), t.Backend.Port(), t.NoProxy, t.ProxyOnly, t.Masquerade, t.Name, t.Expires, t.From,
	}
}

func (p *packed) target() Target {
	return Target{
		Backend: netip.AddrPortFrom(p.backend, p.port), Name: p.name, Expires: p.expires,
		NoProxy: p.noProxy, ProxyOnly: p.proxyOnly, Masquerade: p.masquerade, From: p.from,
	}
}

const (
	pagePorts = 64
	pages     = (1 << 16) / pagePorts // of each protocol
)

// NewSet returns an empty set.
func NewSet() Set {
	return Set{any: new([2 * pages]*page), other: map[Frontend]Target{}}
}

// pageOf returns the place of the page of a frontend for any address; ok is false for others.
func (s *Set) pageOf(f Frontend) (p **page, ok bool) {
	i := int(f.AddrPort.Port()) / pagePorts
	switch {
	case f.AddrPort.Addr().IsValid():
		return nil, false
	case f.Proto == nat.UDP:
		i += pages
	case f.Proto != nat.TCP:
		return nil, false
	}
	return &s.any[i], true
}

// Get returns the target of a frontend; ok is false if the set does not have it.
func (s *Set) Get(f Frontend) (t Target, ok bool) {
	p, ok := s.pageOf(f)
	if !ok {
		t, ok = s.other[f]
		return t, ok
	}
	if *p == nil {
		return Target{}, false
	}
	t = (*p)[f.AddrPort.Port()%pagePorts].target()
	return t, t.Backend.IsValid()
}

// Put adds a port, in place of one with the same frontend.
func (s *Set) Put(added Port) {
	p, ok := s.pageOf(added.Frontend)
	if !ok {
		s.other[added.Frontend] = added.Target
		return
	}
	if *p == nil {
		*p = new(page)
	}
	t := &(*p)[added.AddrPort.Port()%pagePorts]
	if !t.backend.IsValid() {
		s.count++
	}
	*t = pack(added.Target)
}

// Delete removes the port of a frontend, if there is one.
func (s *Set) Delete(f Frontend) {
	p, ok := s.pageOf(f)
	if !ok {
		delete(s.other, f)
		return
	}
	if *p == nil {
		return
	}
	if t := &(*p)[f.AddrPort.Port()%pagePorts]; t.backend.IsValid() {
		*t = packed{}
		s.count--
	}
}

// Clone returns a copy of the set.
func (s *Set) Clone() Set {
	c := Set{any: new([2 * pages]*page), count: s.count, other: maps.Clone(s.other)}
	for i, p := range s.any {
		if p != nil {
			copied := *p
			c.any[i] = &copied
		}
	}
	return c
}

// Len returns the number of ports.
func (s *Set) Len() int { return s.count + len(s.other) }

// All yields the ports in no order. The set may be changed meanwhile, like a map during
// range.
func (s *Set) All(yield func(Port) bool) {
	if s.count != 0 && !s.paged(yield) {
		return
	}
	for f, t := range s.other {
		if !yield(Port{f, t}) {
			return
		}
	}
}

// paged yields the ports in the pages, and reports whether yield took them all.
func (s *Set) paged(yield func(Port) bool) bool {
	for i, p := range s.any {
		if p == nil {
			continue
		}
		proto := nat.TCP
		if i >= pages {
			proto = nat.UDP
		}
		for j := range p {
			t := p[j].target()
			if !t.Backend.IsValid() {
				continue
			}
			number := uint16(i%pages*pagePorts + j)
			if !yield(Port{Frontend{proto, netip.AddrPortFrom(netip.Addr{}, number)}, t}) {
				return false
			}
		}
	}
	return true
}
