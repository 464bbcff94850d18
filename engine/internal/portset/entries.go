// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"cmp"

	"github.com/nftnat/nftnat/internal/order"
)

// Do makes the change.
func (s *Set) Do(p *Plan) {
	for e := range p.Deleted {
		s.change(&e, false)
	}
	for e := range p.Added {
		s.change(&e, true)
	}
	for i := range p.Settled {
		s.change(&p.Settled[i], true)
	}
	for i := range p.Cleaned {
		s.change(&p.Cleaned[i], false)
	}
	for i := range p.Beneath {
		s.change(&p.Beneath[i], true)
	}
}

// Load adds an entry that was found in the table. A range that overlaps another of its line is
// refused.
func (s *Set) Load(e Entry) bool {
	if e.Kind == EntryRange {
		if r := s.lines[e.line()]; r != nil {
			i, _ := r.find(e.First())
			if i < len(r.spans) && r.spans[i].First() <= e.Last() {
				return false
			}
		}
	}
	s.change(&e, true)
	return true
}

// Unload removes an entry that the table does not have.
func (s *Set) Unload(e Entry) { s.change(&e, false) }

func (s *Set) change(e *Entry, add bool) {
	switch {
	case e.Kind == EntryHole:
		s.setHole(lineOfHole(e.Frontend), e.First(), add)
	case e.Kind == EntryRange && add:
		s.putRange(e.Port)
	case e.Kind == EntryRange:
		s.deleteRange(&e.Port)
	case add:
		s.putSingle(e.Port)
	default:
		s.deleteSingle(e.Frontend)
	}
}

// Entries yields what the table has: whole ranges, holes and single ports.
func (s *Set) Entries(yield func(Entry) bool) {
	if s.count != 0 && !s.paged(func(p Port) bool { return yield(Entry{EntrySingle, p}) }) {
		return
	}
	for f, t := range s.other {
		if !yield(Entry{EntrySingle, Port{Frontend: f, Target: t}}) {
			return
		}
	}
	s.RangeEntries(yield)
}

// RangeEntries yields the entries for ranges: they and the holes.
func (s *Set) RangeEntries(yield func(Entry) bool) {
	for l, r := range s.lines {
		for _, p := range r.spans {
			if !yield(Entry{EntryRange, p}) {
				return
			}
		}
		for port := r.holes.next(0, 65535); port <= 65535; port = r.holes.next(port+1, 65535) {
			if !yield(l.hole(uint16(port))) {
				return
			}
		}
	}
}

// LenEntries returns how many entries there are.
func (s *Set) LenEntries() int {
	n := s.count + len(s.other)
	for _, r := range s.lines {
		n += len(r.spans) + r.holes.n
	}
	return n
}

// Redundant returns the entries without which the set would have the same ports: holes without a
// range, and single ports that are equal to what is beneath them, with the holes between.
func (s *Set) Redundant() (es []Entry) {
	for l, r := range s.lines {
		for i := range r.spans {
			sp := &r.spans[i]
			for port := r.over.next(int(sp.First()), int(sp.Last())); port <= int(sp.Last()); port = r.over.next(port+1, int(sp.Last())) {
				if p, _ := s.singleOn(l, uint16(port)); p.AddrPort.Addr() == sp.AddrPort.Addr() && p.SameAs(sp.Part(p.First(), p.Last()).Target) {
					es = append(es, Entry{EntrySingle, p})
					if r.holes.has(uint16(port)) {
						es = append(es, l.hole(uint16(port)))
					}
				}
			}
		}
		for port := r.holes.next(0, 65535); port <= 65535; port = r.holes.next(port+1, 65535) {
			if _, within := r.find(uint16(port)); !within {
				es = append(es, l.hole(uint16(port)))
			}
		}
	}
	return es
}

// Unbacked returns the holes that single ports lack which end by themselves and have a range
// beneath.
func (s *Set) Unbacked() (es []Entry) {
	for l, r := range s.lines {
		if l.way != translated {
			continue
		}
		for port := r.over.next(0, 65535); port <= 65535; port = r.over.next(port+1, 65535) {
			if p, _ := s.singleOn(l, uint16(port)); p.Expires != 0 && !r.holes.has(uint16(port)) {
				es = append(es, l.hole(uint16(port)))
			}
		}
	}
	return es
}

// Settling returns which entries of second maps that were found are added to the first maps before
// all are deleted from the second: what the others say was not done, or is settled. The set has been
// loaded with all else. Of one address, ranges that touch are one, as they would have become.
func (s *Set) Settling(second []Entry) (es []Entry) {
	var ports []Port
	for i := range second {
		if s.unsettled(&second[i].Port) {
			ports = append(ports, second[i].Port)
		}
	}
	order.Sort(ports, func(a, b Port) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), a.AddrPort.Compare(b.AddrPort))
	})
	for i := range ports {
		p := &ports[i]
		if n := len(es); n != 0 && p.line().bounded() && p.line() == es[n-1].line() && p.follows(&es[n-1].Port) &&
			p.Target == es[n-1].shifted(uint16(es[n-1].Len())) {
			es[n-1].More = p.Last() - es[n-1].First()
			continue
		}
		es = append(es, Entry{EntryRange, *p})
	}
	return es
}

func (s *Set) unsettled(p *Port) bool {
	if r := s.lines[p.line()]; r != nil {
		i, _ := r.find(p.First())
		if i < len(r.spans) && r.spans[i].First() <= p.Last() {
			return false
		}
	}
	return s.uncovered(p)
}

// uncovered reports whether some port of a range is no single port.
func (s *Set) uncovered(p *Port) bool {
	n := 0
	for range s.singles(p.line(), p.First(), p.Last()) {
		n++
	}
	return n < p.Len()
}
