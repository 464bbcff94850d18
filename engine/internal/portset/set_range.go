// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"slices"
)

// recount counts a port of a span whose state has changed.
func (s *Set) recount(r *ranges, port uint16, served bool) {
	switch now := r.serves(port); {
	case now && !served:
		s.ranged++
	case !now && served:
		s.ranged--
	}
}

// line returns the ranges of a line.
func (s *Set) line(l line) *ranges {
	r := s.lines[l]
	if r == nil {
		if s.lines == nil {
			s.lines = map[line]*ranges{}
		}
		r = &ranges{}
		s.lines[l] = r
	}
	return r
}

// putRange adds a range, which overlaps no other of its line. Holes and single ports stay.
func (s *Set) putRange(p Port) {
	l := p.line()
	r := s.line(l)
	i, _ := slices.BinarySearchFunc(r.spans, p, byFirst)
	r.spans = slices.Insert(r.spans, i, p)
	for single := range s.singles(l, p.First(), p.Last()) {
		r.over.set(single.First())
	}
	s.ranged += r.live(p.First(), p.Last())
}

// deleteRange removes the range that begins at a port.
func (s *Set) deleteRange(p *Port) {
	r := s.line(p.line())
	i, ok := r.find(p.First())
	if !ok {
		return
	}
	gone := r.spans[i]
	s.ranged -= r.live(gone.First(), gone.Last())
	for port := int(gone.First()); port <= int(gone.Last()); port++ {
		if port = r.over.next(port, int(gone.Last())); port <= int(gone.Last()) {
			r.over.clear(uint16(port))
		}
	}
	r.spans = slices.Delete(r.spans, i, i+1)
	s.tidy(p.line(), r)
}

// tidy forgets a line that has nothing.
func (s *Set) tidy(l line, r *ranges) {
	if len(r.spans) == 0 && r.holes.n == 0 {
		delete(s.lines, l)
	}
}

func (s *Set) setHole(l line, port uint16, is bool) {
	r := s.line(l)
	_, within := r.find(port)
	served := r.serves(port)
	if is {
		r.holes.set(port)
	} else {
		r.holes.clear(port)
	}
	if within {
		s.recount(r, port, served)
	}
	s.tidy(l, r)
}
