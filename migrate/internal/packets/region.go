// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package packets

import (
	"slices"
	"sort"
)

// Part is packets to some ports of a class.
type Part struct {
	Dst, Src Span
	Links    Links
	// If are conditions that the packets meet, and that a box does not have.
	If []string
	// Doubt is a rule that may have taken some of the packets before; empty: none.
	Doubt string
	// Mark is a rule that has marked the packets before, or some of them; empty: none.
	Mark string
}

// Piece is a part with its class and ports.
type Piece struct {
	Class       Class
	First, Last uint16
	Part
}

// Box returns the packets of a piece.
func (p Piece) Box() Box {
	return Box{Classes: 1 << p.Class, First: p.First, Last: p.Last, Dst: p.Dst, Src: p.Src, Links: p.Links}
}

// restOf is what is left of a part.
type restOf struct {
	Part
	classes Classes
}

// minus returns what is left of a part without another one that is within it. Without ends of
// addresses there are rests for each family.
func (p Part) minus(o Part, c Classes) (rest []restOf) {
	add := func(p Part, c Classes) {
		if c != 0 {
			rest = append(rest, restOf{p, c})
		}
	}
	each := func(s, part Span, with func(Span) Part) {
		for _, six := range []bool{false, true} {
			family := IPv4
			if six {
				family = IPv6
			}
			if c&family == 0 {
				continue
			}
			for _, left := range s.minus(part, six) {
				add(with(left), c&family)
			}
		}
	}
	each(p.Dst, o.Dst, func(s Span) Part { q := p; q.Dst = s; return q })
	p.Dst = o.Dst
	each(p.Src, o.Src, func(s Span) Part { q := p; q.Src = s; return q })
	p.Src = o.Src
	if left := p.Links.intersect(o.Links.inverse()); !left.isEmpty() && !o.Links.Any() {
		q := p
		q.Links = left
		add(q, c)
	}
	return rest
}

func (p Part) intersect(b Box) (Part, bool) {
	var ok bool
	if p.Dst, ok = p.Dst.intersect(b.Dst); !ok {
		return p, false
	}
	if p.Src, ok = p.Src.intersect(b.Src); !ok {
		return p, false
	}
	p.Links = p.Links.intersect(b.Links)
	return p, !p.Links.isEmpty()
}

// segment is the parts of some ports.
type segment struct {
	first, last uint16
	parts       []Part
}

// Region is a set of packets. The zero value is empty.
type Region struct {
	// segments of each class are sorted and disjoint.
	segments [classes][]segment
}

// NewRegion returns the region of all packets of some classes.
func NewRegion(c Classes) *Region {
	r := &Region{}
	for class := range Class(classes) {
		if c.Has(class) {
			r.segments[class] = []segment{{0, 1<<16 - 1, []Part{{}}}}
		}
	}
	return r
}

// Clone returns a copy.
func (r *Region) Clone() *Region {
	c := &Region{}
	for i, list := range r.segments {
		c.segments[i] = slices.Clone(list)
		for j := range list {
			c.segments[i][j].parts = slices.Clone(list[j].parts)
		}
	}
	return c
}

// IsEmpty reports whether the region has no packets.
func (r *Region) IsEmpty() bool {
	for _, list := range r.segments {
		if len(list) != 0 {
			return false
		}
	}
	return true
}

// Len returns how many segments there are.
func (r *Region) Len() (n int) {
	for _, list := range r.segments {
		n += len(list)
	}
	return n
}

// split makes a border before a port, and returns the index of the first segment from there on.
func (r *Region) split(c Class, port int) int {
	list := r.segments[c]
	i := sort.Search(len(list), func(i int) bool { return int(list[i].last) >= port })
	if i == len(list) || int(list[i].first) >= port {
		return i
	}
	low := segment{list[i].first, uint16(port - 1), slices.Clone(list[i].parts)}
	list[i].first = uint16(port)
	r.segments[c] = slices.Insert(list, i, low)
	return i + 1
}

// TakeOut removes the packets of a box from the region, and returns them.
func (r *Region) TakeOut(b Box) (taken []Piece) {
	b.Classes &= b.Dst.family() & b.Src.family()
	for c := range Class(classes) {
		if !b.Classes.Has(c) || len(r.segments[c]) == 0 {
			continue
		}
		from := r.split(c, int(b.First))
		to := r.split(c, int(b.Last)+1)
		list := r.segments[c]
		kept := from
		for i := from; i < to; i++ {
			s := list[i]
			var left []Part
			for _, p := range s.parts {
				both, ok := p.intersect(b)
				if !ok {
					left = append(left, p)
					continue
				}
				taken = append(taken, Piece{c, s.first, s.last, both})
				for _, rest := range p.minus(both, 1<<c) {
					left = append(left, rest.Part)
				}
			}
			if s.parts = left; len(left) != 0 {
				list[kept] = s
				kept++
			}
		}
		r.segments[c] = slices.Delete(list, kept, to)
	}
	return taken
}

// Add adds packets that the region does not have.
func (r *Region) Add(pieces ...Piece) {
	for _, p := range pieces {
		r.split(p.Class, int(p.First))
		r.split(p.Class, int(p.Last)+1)
		list := r.segments[p.Class]
		i := sort.Search(len(list), func(i int) bool { return list[i].first >= p.First })
		for at := int(p.First); at <= int(p.Last); {
			switch {
			case i < len(list) && int(list[i].first) == at:
				list[i].parts = append(list[i].parts, p.Part)
			case i < len(list) && list[i].first <= p.Last:
				list = slices.Insert(list, i, segment{uint16(at), list[i].first - 1, []Part{p.Part}})
			default:
				list = slices.Insert(list, i, segment{uint16(at), p.Last, []Part{p.Part}})
			}
			at = int(list[i].last) + 1
			i++
		}
		r.segments[p.Class] = list
	}
}

// Pieces returns all packets of the region.
func (r *Region) Pieces() (all []Piece) {
	for c, list := range r.segments {
		for _, s := range list {
			for _, p := range s.parts {
				all = append(all, Piece{Class(c), s.first, s.last, p})
			}
		}
	}
	return all
}

// Empty removes all packets from the region, and returns them.
func (r *Region) Empty() []Piece {
	all := r.Pieces()
	*r = Region{}
	return all
}
