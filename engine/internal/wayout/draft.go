// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package wayout

import (
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/portset"
)

// Draft is a change of an index that is not made yet.
type Draft struct {
	index *Index
	// before and after have the frontends of each source that changes.
	before, after frontends
}

// frontends are those of some sources, and the ranges of some backends; those of others are as
// in the index.
type frontends struct {
	singles map[Source][]candidate
	ranges  map[sender][]piece
}

// of returns the frontends of a source.
func (d *Draft) of(s Source, of *frontends) []candidate {
	singles, ok := of.singles[s]
	if !ok {
		singles = d.index.frontends[s]
	}
	ranges, ok := of.ranges[s.sender()]
	if !ok {
		ranges = d.index.ranges[s.sender()]
	}
	return merge(singles, s, ranges)
}

// Unchanged returns a draft that changes nothing.
func (x *Index) Unchanged() *Draft { return &Draft{index: x} }

// Draft returns the change of the index that a change of the published ports makes. after
// returns all ports that are published after the change; nil: there are no ranges before or
// after it.
func (x *Index) Draft(c *portset.Change, after func() iter.Seq[portset.Port], masqueraded func(netip.Addr) bool) *Draft {
	d, cache := &Draft{index: x}, cached(masqueraded)
	if after != nil {
		touched := map[sender]bool{}
		for _, ports := range []iter.Seq[portset.Port]{c.Before, c.After} {
			for p := range ports {
				if s, ok := source(p, cache); ok {
					touched[s.sender()] = true
				}
			}
		}
		if len(touched) != 0 {
			d.read(touched, after(), cache)
		}
		return d
	}
	edit := func(p portset.Port, edit func([]candidate, candidate) []candidate) {
		s, ok := source(p, cache)
		if !ok {
			return
		}
		if d.after.singles == nil {
			d.before.singles, d.after.singles = map[Source][]candidate{}, map[Source][]candidate{}
		}
		frontends, changed := d.after.singles[s]
		if !changed {
			frontends = slices.Clone(x.frontends[s])
			d.before.singles[s] = x.frontends[s]
		}
		d.after.singles[s] = edit(frontends, candidateOf(p))
	}
	for p := range c.Before {
		edit(p, without)
	}
	for p := range c.After {
		edit(p, with)
	}
	return d
}

// read makes the draft change all frontends of some backends: what a change makes of ranges, the
// set of published ports decides.
func (d *Draft) read(of map[sender]bool, after iter.Seq[portset.Port], masqueraded func(netip.Addr) bool) {
	now := Of(func(yield func(portset.Port) bool) {
		for p := range after {
			if of[sender{p.Proto, p.Backend.Addr()}] && !yield(p) {
				return
			}
		}
	}, masqueraded)
	d.before.singles, d.after.singles = map[Source][]candidate{}, map[Source][]candidate{}
	d.before.ranges, d.after.ranges = map[sender][]piece{}, map[sender][]piece{}
	for s, have := range d.index.frontends {
		if of[s.sender()] && !slices.Equal(have, now.frontends[s]) {
			d.before.singles[s], d.after.singles[s] = have, now.frontends[s]
		}
	}
	for s, have := range now.frontends {
		if len(d.index.frontends[s]) == 0 {
			d.before.singles[s], d.after.singles[s] = nil, have
		}
	}
	for s := range of {
		if before, after := d.index.ranges[s], now.ranges[s]; !slices.Equal(before, after) {
			d.before.ranges[s], d.after.ranges[s] = before, after
		}
	}
	d.hidden()
}

// hidden adds to the draft the sources whose own frontends do not change, if ranges do that have
// them.
func (d *Draft) hidden() {
	for s, after := range d.after.ranges {
		before := d.before.ranges[s]
		for _, ps := range [][2][]piece{{before, after}, {after, before}} {
			for _, p := range ps[0] {
				if slices.Contains(ps[1], p) {
					continue
				}
				for _, single := range d.index.singlesOf(s, p) {
					if _, ok := d.after.singles[single]; !ok {
						have := d.index.frontends[single]
						d.before.singles[single], d.after.singles[single] = have, have
					}
				}
			}
		}
	}
}

// Replace returns the change to another index.
func (x *Index) Replace(by *Index) *Draft {
	d := &Draft{
		x, frontends{maps.Clone(x.frontends), maps.Clone(x.ranges)}, frontends{maps.Clone(by.frontends), maps.Clone(by.ranges)},
	}
	for s := range d.before.singles {
		if _, ok := d.after.singles[s]; !ok {
			d.after.singles[s] = nil
		}
	}
	for s := range d.before.ranges {
		if _, ok := d.after.ranges[s]; !ok {
			d.after.ranges[s] = nil
		}
	}
	return d
}

// Empty reports whether no source changes.
func (d *Draft) Empty() bool { return len(d.after.singles)+len(d.after.ranges) == 0 }

// Hosts returns the addresses of frontends that are for one, of the sources that change.
func (d *Draft) Hosts() map[netip.Addr]bool {
	hosts := map[netip.Addr]bool{}
	for _, of := range []frontends{d.before, d.after} {
		for _, frontends := range of.singles {
			addHosts(hosts, frontends)
		}
		for _, ranges := range of.ranges {
			addHostsOf(hosts, ranges)
		}
	}
	return hosts
}

// Diff returns the exits that go and come.
func (d *Draft) Diff(places Places) (removed, added []Exit) {
	for s := range d.after.singles {
		before, after := d.of(s, &d.before), d.of(s, &d.after)
		switch { // most sources come or go
		case len(before) == 0:
			added = singleExits(added, s, after, places)
			continue
		case len(after) == 0:
			removed = singleExits(removed, s, before, places)
			continue
		}
		gone, come := diff(singleExits(nil, s, before, places), singleExits(nil, s, after, places))
		removed, added = append(removed, gone...), append(added, come...)
	}
	for s, ranges := range d.after.ranges {
		gone, come := diff(rangeExits(nil, s, d.before.ranges[s], places), rangeExits(nil, s, ranges, places))
		removed, added = append(removed, gone...), append(added, come...)
	}
	return removed, added
}

// Commit makes the change.
func (d *Draft) Commit() { d.index.set(d.after) }

// Revert undoes Commit.
func (d *Draft) Revert() error {
	for s := range d.after.singles {
		delete(d.index.frontends, s)
	}
	for s := range d.after.ranges {
		delete(d.index.ranges, s)
	}
	d.index.set(d.before)
	return nil
}

func (x *Index) set(all frontends) {
	for s, frontends := range all.singles {
		if len(frontends) == 0 {
			delete(x.frontends, s)
		} else {
			x.frontends[s] = frontends
		}
	}
	for s, ranges := range all.ranges {
		if len(ranges) == 0 {
			delete(x.ranges, s)
		} else {
			x.ranges[s] = ranges
		}
	}
}

// Exits returns all exits after the change.
func (d *Draft) Exits(places Places) []Exit {
	var es []Exit
	for s := range d.index.frontends {
		if _, changed := d.after.singles[s]; !changed {
			es = singleExits(es, s, d.of(s, &d.after), places)
		}
	}
	for s := range d.after.singles {
		es = singleExits(es, s, d.of(s, &d.after), places)
	}
	for s, ranges := range d.index.ranges {
		if _, changed := d.after.ranges[s]; !changed {
			es = rangeExits(es, s, ranges, places)
		}
	}
	for s, ranges := range d.after.ranges {
		es = rangeExits(es, s, ranges, places)
	}
	return es
}
