// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"iter"
	"net/netip"

	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/nat"
)

// All yields the single ports, and the ranges without the ports that were taken out of them, in
// no order. The set may be changed meanwhile, like a map during range.
func (s *Set) All(yield func(Port) bool) {
	if s.count != 0 && !s.paged(yield) {
		return
	}
	for f, t := range s.other {
		if !yield(Port{Frontend: f, Target: t}) {
			return
		}
	}
	for l := range s.lines {
		for _, p := range s.pieces(l) {
			for q := range s.In(p) { // what is left of it by now
				if q.Target == p.Part(q.First(), q.Last()).Target && !yield(q) {
					return
				}
			}
		}
	}
}

// Served yields what a range of the set serves: without the ports that were taken out.
func (s *Set) Served(e Entry) iter.Seq[Port] {
	return func(yield func(Port) bool) {
		if r := s.lines[e.line()]; r != nil {
			r.runs(e.First(), e.Last(), func(first, last uint16) bool { return yield(e.Part(first, last)) })
		}
	}
}

// Unserved yields what a range of the set does not serve: the ports that were taken out, as runs.
func (s *Set) Unserved(e Entry) iter.Seq[Port] {
	return func(yield func(Port) bool) {
		next := int(e.First())
		for p := range s.Served(e) {
			if first := int(p.First()); next < first && !yield(e.Part(uint16(next), uint16(first-1))) {
				return
			}
			next = int(p.Last()) + 1
		}
		if next <= int(e.Last()) {
			yield(e.Part(uint16(next), e.Last()))
		}
	}
}

// pieces returns what the ranges of a line serve.
func (s *Set) pieces(l line) (all []Port) {
	r := s.lines[l]
	for i := range r.spans {
		p := &r.spans[i]
		r.runs(p.First(), p.Last(), func(first, last uint16) bool {
			all = append(all, p.Part(first, last))
			return true
		})
	}
	return all
}

// In yields what has the frontends of a port or a range, in order.
func (s *Set) In(p Port) iter.Seq[Port] {
	return func(yield func(Port) bool) {
		if len(s.lines) == 0 && p.More == 0 {
			if t, ok := s.single(p.Frontend); ok {
				yield(Port{Frontend: p.Frontend, Target: t})
			}
			return
		}
		for _, have := range s.in(p) {
			if !yield(have) {
				return
			}
		}
	}
}

func (s *Set) in(p Port) (found []Port) {
	first, last := p.First(), p.Last()
	for single := range s.singlesOf(p.Frontend, first, last) {
		found = append(found, single)
	}
	for _, l := range linesOf(p.Frontend) {
		r := s.lines[l]
		if r == nil {
			continue
		}
		i, _ := r.find(first)
		for ; i < len(r.spans) && r.spans[i].First() <= last; i++ {
			sp := &r.spans[i]
			if sp.AddrPort.Addr() != p.AddrPort.Addr() {
				continue
			}
			r.runs(max(first, sp.First()), min(last, sp.Last()), func(first, last uint16) bool {
				found = append(found, sp.Part(first, last))
				return true
			})
		}
	}
	order.Sort(found, byFirst)
	return found
}

// Without yields the parts of a port or a range whose frontends the set does not have, in order.
func (s *Set) Without(p Port) iter.Seq[Port] {
	return func(yield func(Port) bool) {
		for part, have := range s.Split(p) {
			if have == nil && !yield(part) {
				return
			}
		}
	}
}

// Split yields the parts of a port or a range, in order: with what the set has at their
// frontends, or nil.
func (s *Set) Split(p Port) iter.Seq2[Port, *Target] {
	return func(yield func(Port, *Target) bool) {
		if p.More == 0 {
			if t, ok := s.Get(p.Frontend); ok {
				yield(p, &t)
			} else {
				yield(p, nil)
			}
			return
		}
		next := int(p.First())
		for have := range s.In(p) {
			if at := int(have.First()); next < at && !yield(p.Part(uint16(next), uint16(at-1)), nil) {
				return
			}
			if !yield(p.Part(have.First(), have.Last()), &have.Target) {
				return
			}
			next = int(have.Last()) + 1
		}
		if next <= int(p.Last()) {
			yield(p.Part(uint16(next), p.Last()), nil)
		}
	}
}

// singles yields the single ports of a line from first to last, in no order.
func (s *Set) singles(l line, first, last uint16) iter.Seq[Port] {
	return func(yield func(Port) bool) {
		for _, f := range l.frontends(first) {
			if f.Proto == 0 {
				continue
			}
			for p := range s.singlesOf(f, first, last) {
				if p.line() == l && !yield(p) {
					return
				}
			}
		}
	}
}

// singlesOf yields the single ports of an address from first to last, in no order.
func (s *Set) singlesOf(f Frontend, first, last uint16) iter.Seq[Port] {
	return func(yield func(Port) bool) {
		if f.AddrPort.Addr().IsValid() {
			s.othersOf(f, first, last, yield)
			return
		}
		for port := int(first); port <= int(last) && s.count != 0; port++ {
			at := f.at(uint16(port))
			p, _ := s.pageOf(at)
			if p == nil {
				port |= pagePorts - 1
				continue
			}
			if t := &p[port%pagePorts]; t.backend.IsValid() && !yield(Port{Frontend: at, Target: t.target()}) {
				return
			}
		}
	}
}

func (s *Set) othersOf(f Frontend, first, last uint16, yield func(Port) bool) {
	if len(s.other) < int(last)-int(first)+1 {
		for have, t := range s.other {
			at := have.AddrPort.Port()
			if have.Proto == f.Proto && have.AddrPort.Addr() == f.AddrPort.Addr() && at >= first && at <= last && !yield(Port{Frontend: have, Target: t}) {
				return
			}
		}
		return
	}
	for port := int(first); port <= int(last); port++ {
		at := f.at(uint16(port))
		if t, ok := s.other[at]; ok && !yield(Port{Frontend: at, Target: t}) {
			return
		}
	}
}

// paged yields the single ports in the pages, and reports whether yield took them all.
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
			if !yield(Port{Frontend: Frontend{proto, netip.AddrPortFrom(netip.Addr{}, number)}, Target: t}) {
				return false
			}
		}
	}
	return true
}
