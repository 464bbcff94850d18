// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"slices"

	"github.com/nftnat/nftnat/nat"
)

// Whether there is room for the ranges of one address that a change brings is known when all of it
// is planned: what goes makes room, whichever comes first. Where there is none, the change is
// planned again with some of them as single ports, or with ranges that keep their bounds.

// lineMap identifies the map that the ranges of one address are in.
type lineMap struct {
	proto nat.Proto
	is4   bool
}

// bounded reports whether the number of ranges is bounded.
func (l line) bounded() bool { return l.host.IsValid() && l.way == translated }

// beginning is where a range begins.
type beginning struct {
	line
	first uint16
}

// spare is how a plan does with fewer ranges.
type spare struct {
	joined  map[beginning]bool // ranges that are replaced, as one with those beside them that go on the same way
	singles map[beginning]bool // ranges that are stored as single ports
	whole   map[beginning]bool // ranges that are not replaced by what is left of them
}

// saving is a range that there need not be.
type saving struct {
	beginning
	cost  int // in elements
	whole bool
}

// coming is a range that a plan adds.
type coming struct {
	line
	Port
	assigned bool // it is not only what is left of another
}

// room counts the ranges of one address in a plan.
type room struct {
	more    map[lineMap]int // how many more there are after the change
	come    []coming
	savings []saving
	joins   []beginning
}

func (r *room) count(l line, n int) {
	if !l.bounded() {
		return
	}
	if r.more == nil {
		r.more = map[lineMap]int{}
	}
	r.more[lineMap{l.proto, l.is4}] += n
}

func (r *room) comes(l line, p Port, assigned bool) {
	if r.count(l, 1); l.bounded() {
		r.come = append(r.come, coming{l, p, assigned})
	}
}

// mayStay notes that a range is replaced only because many ports are taken out of it.
func (r *room) mayStay(l line, p *Port, holes int) {
	if l.bounded() {
		r.savings = append(r.savings, saving{beginning{l, p.First()}, holes, true})
	}
}

func (r *room) mayJoin(l line, p *Port) { r.joins = append(r.joins, beginning{l, p.First()}) }

// spareMore reports whether there is room for all ranges of a plan. If there is not, it adds to what
// is spared, for another attempt. The error is a [*nat.RangesError] if nothing can be.
func (d *draft) spareMore(s *spare) (enough bool, err error) {
	for _, of := range []lineMap{{nat.TCP, true}, {nat.TCP, false}, {nat.UDP, true}, {nat.UDP, false}} {
		if d.room.more[of] <= 0 {
			continue
		}
		have := 0
		for l, r := range d.set.lines {
			if l.bounded() && (lineMap{l.proto, l.is4}) == of {
				have += len(r.spans)
			}
		}
		if over := have + d.room.more[of] - max(d.most.ranges, have); over > 0 {
			return false, d.save(of, over, s)
		}
	}
	return true, nil
}

// save spares ranges of a map, the cheapest first.
func (d *draft) save(of lineMap, n int, s *spare) error {
	is := func(l line) bool { return (lineMap{l.proto, l.is4}) == of }
	if s.singles == nil {
		s.joined, s.singles, s.whole = map[beginning]bool{}, map[beginning]bool{}, map[beginning]bool{}
	}
	before := len(s.joined)
	for _, at := range d.room.joins {
		if is(at.line) {
			s.joined[at] = true
		}
	}
	if len(s.joined) != before {
		return nil
	}
	options := slices.DeleteFunc(d.room.savings, func(o saving) bool { return !is(o.line) })
	var want nat.Mapping
	wanted := false // want is of the change
	for _, c := range d.room.come {
		switch {
		case !is(c.line):
		case c.Len() <= d.most.singles:
			options = append(options, saving{beginning{c.line, c.First()}, c.Len(), false})
		case c.assigned || !wanted:
			want, wanted = c.Mapping(), c.assigned
		}
	}
	if len(options) == 0 {
		return &nat.RangesError{Want: want, Most: d.most.ranges}
	}
	for range min(n, len(options)) {
		at := 0
		for i := range options {
			if options[i].cost < options[at].cost {
				at = i
			}
		}
		o := options[at]
		options = slices.Delete(options, at, at+1)
		if o.whole {
			s.whole[o.beginning] = true
		} else {
			s.singles[o.beginning] = true
		}
	}
	return nil
}
