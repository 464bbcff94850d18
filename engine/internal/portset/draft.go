// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"slices"

	"github.com/nftnat/nftnat/internal/order"
)

// draft is a plan in the making.
type draft struct {
	Plan
	set   *Set
	lines map[line][]assignment
	apart map[line]*bitmap // see [Change.Apart]
	most  limits
	spare spare
	room  room
}

func (d *draft) assign(l line, a assignment) { d.lines[l] = append(d.lines[l], a) }

func (d *draft) plan(c *Change) {
	for i := range c.Removed {
		p := &c.Removed[i]
		d.assign(p.line(), assignment{first: p.First(), last: p.Last()})
	}
	for i := range c.Moved {
		before, after := c.Moved[i].Before(), c.Moved[i].After()
		if l := before.line(); l != after.line() {
			d.assign(l, assignment{first: before.First(), last: before.Last()})
		}
		d.assign(after.line(), assignment{after.First(), after.Last(), &after})
	}
	for i := range c.Added {
		p := &c.Added[i]
		d.assign(p.line(), assignment{p.First(), p.Last(), p})
	}
	for i := range c.Apart {
		d.separate(&c.Apart[i])
	}
	for _, l := range order.Sorted(mapKeys(d.lines), compareLines) {
		d.planLine(l, disjoint(d.lines[l]))
	}
}

func (d *draft) separate(p *Port) {
	l := p.line()
	if d.apart == nil {
		d.apart = map[line]*bitmap{}
	}
	if d.apart[l] == nil {
		d.apart[l] = &bitmap{}
		if _, ok := d.lines[l]; !ok {
			d.lines[l] = nil
		}
	}
	d.apart[l].set(p.First())
}

// isApart reports whether a range of a line must not reach across one of the ports.
func (d *draft) isApart(l line, first, last uint16) bool {
	ports := d.apart[l]
	return ports != nil && ports.count(first, last) != 0
}

// stretch is a span with what is assigned in it, or ports between spans that are assigned alike.
type stretch struct {
	span     *Port // nil: no range is around them
	as       []assignment
	replaced bool // the span is
	ranged   bool // the ports between spans are of a range, of which they may be one port
}

func (s *stretch) first() uint16 {
	if s.span != nil {
		return s.span.First()
	}
	return s.as[0].first
}

func (s *stretch) last() uint16 {
	if s.span != nil {
		return s.span.Last()
	}
	return s.as[0].last
}

// planLine plans the assignments of one line, which are in order.
func (d *draft) planLine(l line, as []assignment) {
	r := d.set.lines[l]
	if r == nil {
		r = &ranges{}
	}
	for all := d.stretches(l, r, as); len(all) != 0; {
		n := together(l, all)
		switch s := &all[0]; {
		case n != 0:
			d.replace(l, r, all[:n])
		case s.span == nil:
			d.outside(l, r, &s.as[0])
		default:
			d.within(l, r, s)
		}
		all = all[max(n, 1):]
	}
}

func (d *draft) stretches(l line, r *ranges, as []assignment) (all []stretch) {
	next := 0 // the first span that is not there yet
	for i := range as {
		a := &as[i]
		for at := int(a.first); at <= int(a.last); {
			j, within := r.find(uint16(at))
			if within {
				sp := &r.spans[j]
				if j >= next {
					next = j + 1
					in := d.oneByOne(l, clip(as[i:], sp))
					all = append(all, stretch{span: sp, as: in, replaced: d.replaces(l, r, sp, in)})
				}
				at = int(sp.Last()) + 1
				continue
			}
			end := int(a.last)
			if j < len(r.spans) {
				end = min(end, int(r.spans[j].First())-1)
			}
			between := assignment{first: uint16(at), last: uint16(end)}
			if a.to != nil {
				p := a.part(between.first, between.last)
				between.to = &p
			}
			all = append(all, stretch{as: []assignment{between}, ranged: a.to != nil && a.to.More != 0})
			at = end + 1
		}
	}
	for i := range r.spans {
		if sp := &r.spans[i]; d.isApart(l, sp.First(), sp.Last()) || d.spare.joined[beginning{l, sp.First()}] {
			all = replacing(all, sp)
		}
	}
	if l.bounded() {
		d.mayJoin(l, r, all)
	}
	return all
}

// replacing returns stretches, in order, with one for a span that is replaced.
func replacing(all []stretch, sp *Port) []stretch {
	at := 0
	for at < len(all) && all[at].first() < sp.First() {
		at++
	}
	if at == len(all) || all[at].span != sp {
		all = slices.Insert(all, at, stretch{span: sp})
	}
	all[at].replaced = true
	return all
}

// mayJoin notes spans that new ranges beside them go on, which can be one with them.
func (d *draft) mayJoin(l line, r *ranges, all []stretch) {
	for i := range all {
		s := &all[i]
		if s.span != nil || !s.ranged {
			continue
		}
		for _, port := range [2]uint16{s.first() - 1, s.last() + 1} {
			if j, ok := r.find(port); ok && fits(s.as[0].to, &r.spans[j]) {
				d.room.mayJoin(l, &r.spans[j])
			}
		}
	}
}

// oneByOne returns assignments with those as single ports for which there is no room.
func (d *draft) oneByOne(l line, as []assignment) []assignment {
	spared := func(a assignment) bool {
		return a.to != nil && a.to.More != 0 && d.spare.singles[beginning{l, a.first}]
	}
	for i := slices.IndexFunc(as, spared); i >= 0; i = slices.IndexFunc(as, spared) {
		var ones []assignment
		for p := range as[i].to.Singles {
			ones = append(ones, assignment{p.First(), p.First(), &p})
		}
		as = slices.Replace(as, i, i+1, ones...)
	}
	return as
}

// together returns how many stretches are replaced at once, from the first on: a span, or of one
// address several that touch, with new ranges between them; zero: the first is not replaced.
func together(l line, all []stretch) int {
	if !l.bounded() {
		if all[0].replaced {
			return 1
		}
		return 0
	}
	n, spans := 0, 0
	for n < len(all) && (all[n].replaced || all[n].ranged) && (n == 0 || int(all[n-1].last())+1 == int(all[n].first())) {
		if all[n].span != nil {
			spans++
		}
		n++
	}
	if spans == 0 {
		return 0
	}
	return n
}

// outside plans ports that no range is around.
func (d *draft) outside(l line, r *ranges, a *assignment) {
	switch p := a.to; {
	case p == nil:
		d.deleteSingles(l, a.first, a.last)
	case p.More == 0:
		d.single(l, *p)
	case d.spare.singles[beginning{l, p.First()}]:
		for single := range p.Singles {
			d.single(l, single)
		}
	default:
		if l.way != translated {
			d.deleteSingles(l, p.First(), p.Last())
		} else {
			d.claim(l, r, p)
		}
		d.add(EntryRange, *p)
		d.room.comes(l, *p, true)
	}
}

// claim makes ports that no range was around, and one will serve, single ports until it does, where
// there are single ports or holes of a range that has expired.
func (d *draft) claim(l line, r *ranges, p *Port) {
	for single := range d.set.singles(l, p.First(), p.Last()) {
		d.cover(l, p.Part(single.First(), single.First()))
	}
	for port := r.holes.next(int(p.First()), int(p.Last())); port <= int(p.Last()); port = r.holes.next(port+1, int(p.Last())) {
		if _, ok := d.set.singleOn(l, uint16(port)); !ok { // else it is done
			d.cover(l, p.Part(uint16(port), uint16(port)))
		}
		d.clean(l.hole(uint16(port)))
	}
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

func (d *draft) delete(k EntryKind, p Port) { d.deleted = append(d.deleted, Entry{k, p}) }

func (d *draft) add(k EntryKind, p Port) { d.added = append(d.added, Entry{k, p}) }

// fits reports whether a port or range is a part of the span, with equal fields.
func fits(p, sp *Port) bool {
	return p.AddrPort.Addr() == sp.AddrPort.Addr() && p.Target == sp.Part(p.First(), p.Last()).Target
}

// within plans the assignments within a span that stays.
func (d *draft) within(l line, r *ranges, s *stretch) {
	for i := range s.as {
		a := &s.as[i]
		switch {
		case a.to == nil:
			d.takeOut(l, r, a.first, a.last)
		case fits(a.to, s.span): // back to the range
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
