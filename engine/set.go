// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"maps"
	"net/netip"

	"github.com/nftnat/nftnat/nat"
)

// port is one published port: what the engine's decisions are made of.
type port struct {
	frontend
	target
}

// mapping is the port as callers know it.
func (p port) mapping() nat.Mapping { return p.frontend.mapping(p.target) }

// registry holds all published ports by their frontends. Those for any address, which
// can be very many, are apart, in pages by their number: such a one is found without
// hashing, and takes half the memory that it takes in a map.
type registry struct {
	any   *[2 * pages]*page // tcp, then udp
	count int               // of those in the pages
	other map[frontend]target
}

// page is a run of ports. A target without a backend is none. A page that has become
// empty stays: whoever has one port often goes between none and one.
type page [pagePorts]target

const (
	pagePorts = 64
	pages     = (1 << 16) / pagePorts // of each protocol
)

func newRegistry() registry {
	return registry{any: new([2 * pages]*page), other: map[frontend]target{}}
}

// pageOf is the place of the page of a frontend for any address; ok is false for others.
func (r *registry) pageOf(f frontend) (p **page, ok bool) {
	i := int(f.ap.Port()) / pagePorts
	switch {
	case f.ap.Addr().IsValid():
		return nil, false
	case f.proto == nat.UDP:
		i += pages
	case f.proto != nat.TCP:
		return nil, false
	}
	return &r.any[i], true
}

func (r *registry) get(f frontend) (t target, ok bool) {
	p, ok := r.pageOf(f)
	if !ok {
		t, ok = r.other[f]
		return t, ok
	}
	if *p == nil {
		return target{}, false
	}
	t = (*p)[f.ap.Port()%pagePorts]
	return t, t.backend.IsValid()
}

func (r *registry) put(added port) {
	p, ok := r.pageOf(added.frontend)
	if !ok {
		r.other[added.frontend] = added.target
		return
	}
	if *p == nil {
		*p = new(page)
	}
	t := &(*p)[added.ap.Port()%pagePorts]
	if !t.backend.IsValid() {
		r.count++
	}
	*t = added.target
}

func (r *registry) delete(f frontend) {
	p, ok := r.pageOf(f)
	if !ok {
		delete(r.other, f)
		return
	}
	if *p == nil {
		return
	}
	if t := &(*p)[f.ap.Port()%pagePorts]; t.backend.IsValid() {
		*t = target{}
		r.count--
	}
}

// clone is a registry of its own with the same ports.
func (r *registry) clone() registry {
	c := registry{any: new([2 * pages]*page), count: r.count, other: maps.Clone(r.other)}
	for i, p := range r.any {
		if p != nil {
			copied := *p
			c.any[i] = &copied
		}
	}
	return c
}

func (r *registry) len() int { return r.count + len(r.other) }

// all yields the ports in no order. The registry may be changed meanwhile, as a map
// may be while it is ranged over.
func (r *registry) all(yield func(port) bool) {
	if r.count != 0 && !r.paged(yield) {
		return
	}
	for f, t := range r.other {
		if !yield(port{f, t}) {
			return
		}
	}
}

// paged yields the ports in the pages, and reports whether that was to the end.
func (r *registry) paged(yield func(port) bool) bool {
	for i, p := range r.any {
		if p == nil {
			continue
		}
		proto := nat.TCP
		if i >= pages {
			proto = nat.UDP
		}
		for j := range p {
			t := p[j]
			if !t.backend.IsValid() {
				continue
			}
			number := uint16(i%pages*pagePorts + j)
			if !yield(port{frontend{proto, netip.AddrPortFrom(netip.Addr{}, number)}, t}) {
				return false
			}
		}
	}
	return true
}
