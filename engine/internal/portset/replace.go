// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import "slices"

// replaces reports whether a span has to be replaced.
func (d *draft) replaces(l line, r *ranges, sp *Port, as []assignment) bool {
	var cut, back bitmap
	left := r.live(sp.First(), sp.Last())
	for i := range as {
		a := &as[i]
		if a.to == nil || !fits(a.to, sp) {
			left -= r.live(a.first, a.last)
		} else {
			left++ // at least
		}
		switch {
		case a.to == nil:
			if l.way != translated {
				return true
			}
			for port := int(a.first); port <= int(a.last); port++ {
				if !r.holes.has(uint16(port)) {
					cut.set(uint16(port))
				}
			}
		case fits(a.to, sp):
			for port := int(a.first); port <= int(a.last) && r.holes.n != 0; port++ {
				back.set(uint16(port))
			}
		case a.to.More != 0, l.way != translated && a.to.Expires != 0:
			return true
		}
	}
	if left == 0 || d.isApart(l, sp.First(), sp.Last()) {
		return true
	}
	if cut.n == 0 || d.spare.whole[beginning{l, sp.First()}] {
		return false
	}
	if cut.n > d.most.cut {
		d.room.mayStay(l, sp, cut.n)
		return true
	}
	if r.holes.count(sp.First(), sp.Last())+cut.n <= d.most.holes {
		return false
	}
	is := func(port int) bool {
		p := uint16(port)
		return cut.has(p) || r.holes.has(p) && !back.has(p)
	}
	all, inRuns := 0, 0
	for port := int(sp.First()); port <= int(sp.Last()); {
		end := port
		for end <= int(sp.Last()) && is(end) {
			end++
		}
		all += end - port
		if end-port > d.most.cut {
			inRuns += end - port
		}
		port = max(end, port+1)
	}
	if inRuns <= all/2 {
		return false
	}
	d.room.mayStay(l, sp, cut.n)
	return true
}

// run is consecutive ports of a span, before and after a change.
type run struct {
	first, last   uint16
	before, after state
	to            Port // after, by a single port or a range
	kept          bool // nothing changes but the range
	outside       bool // no range was around
}

// state is what serves a port.
type state uint8

const (
	byNone state = iota
	bySingle
	byRange
)

// replace replaces spans by what is left of them and what is assigned.
func (d *draft) replace(l line, r *ranges, parts []stretch) {
	runs, spans := d.fit(l, r, d.runs(l, r, parts))
	prepared := len(d.Prepared)
	for i := range parts {
		if sp := parts[i].span; sp != nil {
			d.delete(EntryRange, *sp)
			d.room.count(l, -1)
		}
	}
	for i := range spans {
		d.put(l, runs[spans[i].from:spans[i].to], spans[i].port)
	}
	if l.way == translated {
		d.moveHoles(l, r, parts, runs, spans)
		d.bridge(r, runs)
	}
	for i := range runs {
		d.moveSingles(l, r, &runs[i])
	}
	// A range that only goes is found or not, if no single port has been asked for before it.
	single := func(x run) bool { return x.before == bySingle || x.after == bySingle }
	d.Waits = d.Waits || l.way == translated && (len(d.Prepared) != prepared || slices.ContainsFunc(runs, single))
}

// put adds a range of runs. Where it takes the place of others, it comes by the second map.
func (d *draft) put(l line, runs []run, p Port) {
	assigned := func(x run) bool { return !x.kept && x.after == byRange }
	d.room.comes(l, p, slices.ContainsFunc(runs, assigned))
	inside := func(x run) bool { return !x.outside }
	if l.way != translated || !slices.ContainsFunc(runs, inside) { // no packet asks for it, or has asked
		d.add(EntryRange, p)
		return
	}
	for len(runs) != 0 {
		n := slices.IndexFunc(runs, func(x run) bool { return x.outside != runs[0].outside })
		if n < 0 {
			n = len(runs)
		}
		piece := Entry{EntryRange, p.Part(runs[0].first, runs[n-1].last)}
		if runs[0].outside {
			d.Between = append(d.Between, piece)
		} else {
			d.Prepared = append(d.Prepared, piece)
		}
		runs = runs[n:]
	}
	d.Settled = append(d.Settled, Entry{EntryRange, p})
}

// moveSingles changes the single ports of a run.
func (d *draft) moveSingles(l line, r *ranges, x *run) {
	switch {
	case x.kept:
	case x.after == bySingle:
		d.single(l, x.to)
	case x.outside:
		d.claim(l, r, &x.to)
	case x.after == byRange && l.way == translated:
		for port := int(x.first); port <= int(x.last); port++ {
			if p := uint16(port); !r.serves(p) {
				d.cover(l, x.to.Part(p, p))
			}
		}
	default:
		d.deleteSingles(l, x.first, x.last)
	}
}

// moveHoles adds the holes that the new ranges and the change need, and has those that nobody
// needs after it deleted.
func (d *draft) moveHoles(l line, r *ranges, parts []stretch, runs []run, spans []group) {
	var keep, need bitmap
	for i := range runs {
		x := &runs[i]
		for port := int(x.first); port <= int(x.last) && !x.kept; port++ {
			if r.over.has(uint16(port)) {
				need.set(uint16(port))
			}
		}
	}
	for _, g := range spans {
		for _, x := range runs[g.from:g.to] {
			for port := int(x.first); port <= int(x.last) && x.after != byRange; port++ {
				if p := uint16(port); x.after == byNone || r.holes.has(p) || need.has(p) {
					keep.set(p)
				}
			}
		}
	}
	for i := range parts {
		if sp := parts[i].span; sp != nil {
			d.moveHolesOf(l, r, sp, &keep, &need)
		}
	}
}

func (d *draft) moveHolesOf(l line, r *ranges, sp *Port, keep, need *bitmap) {
	for port := int(sp.First()); port <= int(sp.Last()); port++ {
		p := uint16(port)
		has, needed := r.holes.has(p), keep.has(p) || need.has(p)
		if !has && needed {
			d.added = append(d.added, l.hole(p))
		}
		if (has || needed) && !keep.has(p) {
			d.clean(l.hole(p))
		}
	}
}

// bridge adds to the second map what spans served and single ports will serve: a packet that
// asks for those before the change, and for the span after it, finds what was before.
func (d *draft) bridge(r *ranges, runs []run) {
	needs := func(x *run) bool { return x.before == byRange && x.after == bySingle }
	for i := 0; i < len(runs); i++ {
		if !needs(&runs[i]) {
			continue
		}
		first := runs[i].first
		j, _ := r.find(first)
		sp := &r.spans[j]
		for i+1 < len(runs) && needs(&runs[i+1]) && runs[i+1].first <= sp.Last() {
			i++
		}
		d.Prepared = append(d.Prepared, Entry{EntryRange, sp.Part(first, runs[i].last)})
	}
}

// runs returns what the ports of stretches are before and after a change.
func (d *draft) runs(l line, r *ranges, parts []stretch) (all []run) {
	for i := range parts {
		if s := &parts[i]; s.span != nil {
			all = append(all, d.runsOf(l, r, s.span, s.as)...)
		} else {
			a := &s.as[0]
			all = append(all, run{first: a.first, last: a.last, after: byRange, to: *a.to, outside: true})
		}
	}
	return all
}

func (d *draft) runsOf(l line, r *ranges, sp *Port, as []assignment) (all []run) {
	at := int(sp.First())
	stay := func(to int) { // what is not assigned
		for at <= to {
			port := uint16(at)
			switch {
			case r.over.has(port):
				single, _ := d.set.singleOn(l, port)
				all = append(all, run{port, port, bySingle, bySingle, single, true, false})
				at++
			case r.holes.has(port):
				end := at
				for end < to && r.holes.has(uint16(end+1)) && !r.over.has(uint16(end+1)) {
					end++
				}
				all = append(all, run{port, uint16(end), byNone, byNone, Port{}, true, false})
				at = end + 1
			default:
				end := r.nextTaken(at, to) - 1
				all = append(all, run{port, uint16(end), byRange, byRange, sp.Part(port, uint16(end)), true, false})
				at = end + 1
			}
		}
	}
	for i := range as {
		a := &as[i]
		stay(int(a.first) - 1)
		if a.to != nil && a.to.More != 0 {
			all = append(all, run{a.first, a.last, byNone, byRange, *a.to, false, false})
		} else {
			all = append(all, explode(r, a.first, a.last, a.to)...)
		}
		at = int(a.last) + 1
	}
	stay(int(sp.Last()))
	return all
}

// explode returns the runs of ports that single ports serve after the change, or nothing.
func explode(r *ranges, first, last uint16, to *Port) (all []run) {
	for at := int(first); at <= int(last); at++ {
		port := uint16(at)
		x := run{first: port, last: port, before: byRange}
		switch {
		case r.over.has(port):
			x.before = bySingle
		case r.holes.has(port):
			x.before = byNone
		}
		if to != nil {
			x.after, x.to = bySingle, to.Part(port, port)
		} else if n := len(all); n != 0 && all[n-1].before == x.before {
			all[n-1].last = port
			continue
		}
		all = append(all, x)
	}
	return all
}

// group is runs that become one range.
type group struct {
	from, to int
	port     Port
}

// fit returns the runs and the ranges that they become. A range of one port becomes a single
// port, and so do ranges for which there is no room.
func (d *draft) fit(l line, r *ranges, runs []run) ([]run, []group) {
	spans := d.groups(l, runs)
	singles := make([]bool, len(runs))
	exploded := false
	for i := range spans {
		if g := &spans[i]; g.port.More == 0 || d.spare.singles[beginning{l, g.port.First()}] {
			exploded = true
			for j := g.from; j < g.to; j++ {
				singles[j] = runs[j].after == byRange
			}
		}
	}
	if !exploded {
		return runs, spans
	}
	var all []run
	for i := range runs {
		x := &runs[i]
		if !singles[i] {
			all = append(all, *x)
			continue
		}
		for _, one := range explode(r, x.first, x.last, &x.to) {
			if one.outside = x.outside; x.outside {
				one.before = byNone
			}
			all = append(all, one)
		}
	}
	return all, d.groups(l, all)
}

// groups returns the ranges that runs become. Those that have the same target are one if
// between them are only ports that were holes or single ports before, since a packet that
// misses the change of the others would find the new range.
func (d *draft) groups(l line, runs []run) (all []group) {
	open, gap, holes := false, 0, l.way == translated
	for i := range runs {
		x := &runs[i]
		if x.after != byRange {
			open = open && x.before != byRange && (holes || x.to.Expires == 0) && !d.isApart(l, x.first, x.last)
			if x.after == byNone {
				gap += int(x.last) - int(x.first) + 1
				open = open && holes && gap <= d.most.cut
			}
			continue
		}
		if n := len(all); open && x.to.AddrPort.Addr() == all[n-1].port.AddrPort.Addr() &&
			x.to.Target == all[n-1].port.shifted(x.first-all[n-1].port.First()) {
			all[n-1].to = i + 1
			all[n-1].port.More = x.last - all[n-1].port.First()
		} else {
			all = append(all, group{i, i + 1, x.to})
		}
		open, gap = true, 0
	}
	return all
}
