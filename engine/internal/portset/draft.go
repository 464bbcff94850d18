// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"github.com/nftnat/nftnat/nat"
)

// lineMap identifies the map that the ranges of one address are in.
type lineMap struct {
	proto nat.Proto
	is4   bool
}

func (l line) lineMap() lineMap { return lineMap{l.proto, l.is4} }

// bounded reports whether the number of ranges is bounded.
func (l line) bounded() bool { return l.host.IsValid() && l.way == translated }

// draft is a plan in the making.
type draft struct {
	Plan
	set   *Set
	lines map[line][]assignment
	room  map[lineMap]int // how many ranges there are, without those that go
	wide  map[lineMap]int // how many are to come that cannot be single ports
	most  limits
}

func (d *draft) assign(l line, a assignment) { d.lines[l] = append(d.lines[l], a) }

// isWide reports whether ports become a range for which there has to be room.
func (d *draft) isWide(l line, a *assignment) bool {
	return l.bounded() && a.to != nil && a.to.Len() > d.most.singles
}

// planLine plans the assignments of one line, which are in order.
func (d *draft) planLine(l line, as []assignment) error {
	r := d.set.lines[l]
	if r == nil {
		r = &ranges{}
	}
	next := 0 // the first span that is not planned
	for i := range as {
		a := as[i]
		if d.isWide(l, &a) {
			d.wide[l.lineMap()]--
		}
		for at := int(a.first); at <= int(a.last); {
			j, within := r.find(uint16(at))
			if within {
				sp := &r.spans[j]
				if j >= next {
					next = j + 1
					if err := d.planSpan(l, r, sp, clip(as[i:], sp)); err != nil {
						return err
					}
				}
				at = int(sp.Last()) + 1
				continue
			}
			end := int(a.last)
			if j < len(r.spans) {
				end = min(end, int(r.spans[j].First())-1)
			}
			if err := d.outside(l, r, &a, uint16(at), uint16(end)); err != nil {
				return err
			}
			at = end + 1
		}
	}
	return nil
}

// outside plans ports that no range is around.
func (d *draft) outside(l line, r *ranges, a *assignment, first, last uint16) error {
	if a.to == nil {
		d.deleteSingles(l, first, last)
		return nil
	}
	p := a.part(first, last)
	if p.More == 0 {
		d.single(l, p)
		return nil
	}
	full := func(wide int) bool { return l.bounded() && d.room[l.lineMap()]+wide >= d.most.ranges }
	switch {
	case p.Len() > d.most.singles:
		if full(0) {
			return &nat.RangesError{Want: p.Mapping(), Most: d.most.ranges}
		}
	case full(d.wide[l.lineMap()]):
		for single := range p.Singles {
			d.single(l, single)
		}
		return nil
	}
	if l.way != translated {
		d.deleteSingles(l, first, last)
	} else {
		for single := range d.set.singles(l, first, last) {
			d.cover(l, p.Part(single.First(), single.First()))
		}
		for port := r.holes.next(int(first), int(last)); port <= int(last); port = r.holes.next(port+1, int(last)) {
			if _, ok := d.set.singleOn(l, uint16(port)); !ok { // else it is done
				d.cover(l, p.Part(uint16(port), uint16(port)))
			}
			d.clean(l.hole(uint16(port))) // of a range that has expired
		}
	}
	d.addRange(l, p)
	return nil
}

// cover makes a port that a new range will serve a single port until it does.
func (d *draft) cover(l line, p Port) {
	have, ok := d.set.singleOn(l, p.First())
	if !ok || have != p {
		d.single(l, p)
	}
	d.clean(Entry{EntrySingle, p})
}

func (d *draft) clean(e Entry) { d.Cleaned = append(d.Cleaned, e) }

// single plans that a port is a single one.
func (d *draft) single(l line, p Port) {
	if have, ok := d.set.singleOn(l, p.First()); ok {
		d.delete(EntrySingle, have)
	}
	d.add(EntrySingle, p)
}

func (d *draft) deleteSingles(l line, first, last uint16) {
	if first == last {
		if have, ok := d.set.singleOn(l, first); ok {
			d.delete(EntrySingle, have)
		}
		return
	}
	for p := range d.set.singles(l, first, last) {
		d.delete(EntrySingle, p)
	}
}

func (d *draft) deleteHoles(l line, r *ranges, first, last uint16) {
	for port := r.holes.next(int(first), int(last)); port <= int(last); port = r.holes.next(port+1, int(last)) {
		d.deleted = append(d.deleted, l.hole(uint16(port)))
	}
}

func (d *draft) addRange(l line, p Port) {
	d.add(EntryRange, p)
	if l.bounded() {
		d.room[l.lineMap()]++
	}
}

func (d *draft) delete(k EntryKind, p Port) { d.deleted = append(d.deleted, Entry{k, p}) }

func (d *draft) add(k EntryKind, p Port) { d.added = append(d.added, Entry{k, p}) }

// fits reports whether a port or range is a part of the span, with equal fields.
func fits(p, sp *Port) bool {
	return p.AddrPort.Addr() == sp.AddrPort.Addr() && p.Target == sp.Part(p.First(), p.Last()).Target
}

// planSpan plans the assignments within a span.
func (d *draft) planSpan(l line, r *ranges, sp *Port, as []assignment) error {
	if d.replaces(l, r, sp, as) {
		return d.replace(l, r, sp, as)
	}
	for i := range as {
		a := &as[i]
		switch {
		case a.to == nil:
			d.takeOut(l, r, a.first, a.last)
		case fits(a.to, sp): // back to the range
			d.deleteSingles(l, a.first, a.last)
			d.deleteHoles(l, r, a.first, a.last)
		default:
			d.single(l, *a.to)
			switch {
			case l.way != translated || r.holes.has(a.first):
			case r.over.has(a.first):
				d.Waits = true
				d.added = append(d.added, l.hole(a.first))
			case a.to.Expires != 0:
				d.Beneath = append(d.Beneath, l.hole(a.first))
			}
		}
	}
	return nil
}

// takeOut makes holes of ports.
func (d *draft) takeOut(l line, r *ranges, first, last uint16) {
	for at := int(first); at <= int(last); at++ {
		port := uint16(at)
		if r.over.has(port) {
			d.deleteSingles(l, port, port)
		}
		if !r.holes.has(port) {
			d.added = append(d.added, l.hole(port))
		}
	}
}
