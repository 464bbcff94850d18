// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"iter"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/nat"
)

// Space is the ports of one protocol at one address.
type Space struct {
	Proto nat.Proto
	// Addr is an address of the host; 0.0.0.0 and :: are all of their family.
	Addr netip.Addr
}

// entry is what the maps have: a range, or one port, which counts before the range that it is in.
type entry[T comparable] struct {
	Space
	first, last uint16
	// isRange tells a range from one port.
	isRange bool
	// target is where the ports lead; the zero T: nowhere.
	target T
	// gone says that there is no entry.
	gone bool
}

// run is ports of a space that lead to one target; the zero T: nowhere.
type run[T comparable] struct {
	Space
	first, last uint16
	target      T
}

// mirror is what the maps hold: ranges, and ports within them that lead elsewhere. Ports outside of ranges
// have an entry each, and are not remembered.
type mirror[T comparable] struct{ spaces map[Space]*spaceMirror[T] }

type spaceMirror[T comparable] struct {
	ranges []span[T] // in order, of two ports at least; none overlaps another
	// ports are those within ranges that have an entry, which is true for one that leads nowhere.
	ports map[uint16]bool
}

// span is a range of a space.
type span[T comparable] struct {
	first, last uint16
	target      T
}

// narrow is how many ports of a range can lead elsewhere by an entry each. More change the range.
const narrow = 256

func newMirror[T comparable]() mirror[T] { return mirror[T]{map[Space]*spaceMirror[T]{}} }

// plan returns the entries that change if the runs do, one after the other.
func (m *mirror[T]) plan(runs iter.Seq[run[T]]) []entry[T] {
	p := planner[T]{at: map[key]int{}}
	for r := range runs {
		s := m.spaces[r.Space]
		if s == nil {
			s = &spaceMirror[T]{ports: map[uint16]bool{}}
			m.spaces[r.Space] = s
		}
		p.space = r.Space
		s.change(&p, span[T]{r.first, r.last, r.target})
		if len(s.ranges) == 0 {
			delete(m.spaces, r.Space)
		}
	}
	return p.entries
}

// planner collects entries, the last one for each key.
type planner[T comparable] struct {
	space   Space
	entries []entry[T]
	at      map[key]int
}

// key tells entries apart.
type key struct {
	Space
	first, last uint16
	isRange     bool
}

func (e *entry[T]) key() key { return key{e.Space, e.first, e.last, e.isRange} }

func (p *planner[T]) put(port uint16, target T) {
	p.add(entry[T]{Space: p.space, first: port, last: port, target: target})
}

func (p *planner[T]) remove(port uint16) {
	p.add(entry[T]{Space: p.space, first: port, last: port, gone: true})
}

func (p *planner[T]) span(r span[T], gone bool) {
	p.add(entry[T]{Space: p.space, first: r.first, last: r.last, isRange: true, target: r.target, gone: gone})
}

func (p *planner[T]) add(e entry[T]) {
	k := e.key()
	if i, ok := p.at[k]; ok {
		p.entries[i] = e
		return
	}
	p.at[k] = len(p.entries)
	p.entries = append(p.entries, e)
}

// has reports whether a port is in a range.
func (s *spaceMirror[T]) has(port uint16) bool {
	_, ok := s.find(port)
	return ok
}

// find returns the first range that ends at the port or after, and whether the port is in it.
func (s *spaceMirror[T]) find(port uint16) (i int, ok bool) {
	i, _ = slices.BinarySearchFunc(s.ranges, port, func(r span[T], port uint16) int { return int(r.last) - int(port) })
	return i, i < len(s.ranges) && s.ranges[i].first <= port
}

// change makes ports lead elsewhere.
func (s *spaceMirror[T]) change(p *planner[T], to span[T]) {
	i, _ := s.find(to.first)
	if i == len(s.ranges) || s.ranges[i].first > to.last { // it meets none
		s.insert(p, i, to)
		return
	}
	r := s.ranges[i]
	if r.first > to.first || to.last > r.last || to.last-to.first >= narrow || r.first == to.first && r.last == to.last {
		s.replace(p, i, to)
		return
	}
	for port := int(to.first); port <= int(to.last); port++ {
		s.port(p, uint16(port), to.target, r.target)
	}
}

// insert adds a range that overlaps none, before range i.
func (s *spaceMirror[T]) insert(p *planner[T], i int, to span[T]) {
	var nowhere T
	switch {
	case to.first == to.last && to.target == nowhere:
		p.remove(to.first)
	case to.first == to.last:
		p.put(to.first, to.target)
	case to.target != nowhere:
		s.ranges = slices.Insert(s.ranges, i, to)
		p.span(to, false)
	}
}

// port makes a port of a range lead elsewhere.
func (s *spaceMirror[T]) port(p *planner[T], port uint16, target, ofRange T) {
	var nowhere T
	if target == ofRange {
		if _, ok := s.ports[port]; ok {
			delete(s.ports, port)
			p.remove(port)
		}
		return
	}
	s.ports[port] = target == nowhere
	p.put(port, target)
}

// replace removes the ports from range i on, and adds them as a range.
func (s *spaceMirror[T]) replace(p *planner[T], i int, to span[T]) {
	end := i
	for end < len(s.ranges) && s.ranges[end].first <= to.last {
		end++
	}
	old := slices.Clone(s.ranges[i:end])
	s.ranges = slices.Delete(s.ranges, i, end)
	for _, r := range old {
		p.span(r, true)
	}
	for port := range s.ports {
		if to.first <= port && port <= to.last {
			delete(s.ports, port)
			p.remove(port)
		}
	}
	if r := old[0]; r.first < to.first {
		i = s.keep(p, i, span[T]{r.first, to.first - 1, r.target})
	}
	before := len(s.ranges)
	s.insert(p, i, to)
	i += len(s.ranges) - before
	if r := old[len(old)-1]; r.last > to.last {
		s.keep(p, i, span[T]{to.last + 1, r.last, r.target})
	}
}

// keep adds what is left of a range before range i, and returns where the next range goes.
func (s *spaceMirror[T]) keep(p *planner[T], i int, r span[T]) int {
	if r.first != r.last {
		s.insert(p, i, r)
		return i + 1
	}
	// One port is no range: the entry that it may have is the last word.
	if hole, ok := s.ports[r.first]; !ok {
		p.put(r.first, r.target)
	} else if delete(s.ports, r.first); hole {
		p.remove(r.first)
	}
	return i
}
