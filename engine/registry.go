// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import "net/netip"

// port is one published port: what the engine's decisions are made of.
type port struct {
	frontend
	target
}

// mapping is the port as callers know it.
func (p port) mapping() Mapping { return p.frontend.mapping(p.target) }

// registry holds all published ports by their frontends. Those for any address,
// which can be very many, are apart: their key is a number, which is found several
// times as fast as an address.
type registry struct {
	any   map[uint32]target // by protocol and port
	other map[frontend]target
}

// newRegistry makes one with room for a number of ports.
func newRegistry(size int) registry {
	return registry{any: make(map[uint32]target, size), other: map[frontend]target{}}
}

// anyKey is the key of a frontend for any address; ok is false for others.
func anyKey(f frontend) (key uint32, ok bool) {
	return uint32(f.proto)<<16 | uint32(f.ap.Port()), !f.ap.Addr().IsValid()
}

func (r *registry) get(f frontend) (target, bool) {
	if key, ok := anyKey(f); ok {
		t, found := r.any[key]
		return t, found
	}
	t, found := r.other[f]
	return t, found
}

func (r *registry) put(p port) {
	if key, ok := anyKey(p.frontend); ok {
		r.any[key] = p.target
		return
	}
	r.other[p.frontend] = p.target
}

func (r *registry) delete(f frontend) {
	if key, ok := anyKey(f); ok {
		delete(r.any, key)
		return
	}
	delete(r.other, f)
}

func (r *registry) len() int { return len(r.any) + len(r.other) }

// all yields the ports in no order. The registry may be changed meanwhile, as a map
// may be while it is ranged over.
func (r *registry) all(yield func(port) bool) {
	for key, t := range r.any {
		f := frontend{Proto(key >> 16), netip.AddrPortFrom(netip.Addr{}, uint16(key))}
		if !yield(port{f, t}) {
			return
		}
	}
	for f, t := range r.other {
		if !yield(port{f, t}) {
			return
		}
	}
}
