// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package wayout

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/portset"
)

// Draft is a change of an index that is not made yet.
type Draft struct {
	index *Index
	// before and after have the frontends of each source that changes.
	before, after map[Source][]candidate
}

// Draft returns the change of the index that a change of the published ports makes.
func (x *Index) Draft(c *portset.Change, masqueraded func(netip.Addr) bool) *Draft {
	d, cache := &Draft{index: x}, cached(masqueraded)
	edit := func(p portset.Port, edit func([]candidate, candidate) []candidate) {
		s, ok := source(p, cache)
		if !ok {
			return
		}
		if d.after == nil {
			d.before, d.after = map[Source][]candidate{}, map[Source][]candidate{}
		}
		frontends, changed := d.after[s]
		if !changed {
			frontends = slices.Clone(x.frontends[s])
			d.before[s] = x.frontends[s]
		}
		d.after[s] = edit(frontends, candidateOf(p))
	}
	for p := range c.Before {
		edit(p, without)
	}
	for p := range c.After {
		edit(p, with)
	}
	return d
}

// Replace returns the change to another index.
func (x *Index) Replace(by *Index) *Draft {
	d := &Draft{x, maps.Clone(x.frontends), maps.Clone(by.frontends)}
	for s := range d.before {
		if _, ok := d.after[s]; !ok {
			d.after[s] = nil
		}
	}
	return d
}

// Empty reports whether no source changes.
func (d *Draft) Empty() bool { return len(d.after) == 0 }

// Hosts returns the addresses of frontends that are for one, of the sources that change.
func (d *Draft) Hosts() map[netip.Addr]bool {
	hosts := map[netip.Addr]bool{}
	for s, frontends := range d.after {
		addHosts(hosts, d.before[s])
		addHosts(hosts, frontends)
	}
	return hosts
}

// Diff returns the exits that go and come.
func (d *Draft) Diff(places Places) (removed, added []Exit) {
	for s, frontends := range d.after {
		switch { // most sources come or go
		case len(d.before[s]) == 0:
			added = exits(added, s, frontends, places)
			continue
		case len(frontends) == 0:
			removed = exits(removed, s, d.before[s], places)
			continue
		}
		gone, come := diff(exits(nil, s, d.before[s], places), exits(nil, s, frontends, places))
		removed, added = append(removed, gone...), append(added, come...)
	}
	return removed, added
}

// Commit makes the change.
func (d *Draft) Commit() { d.index.set(d.after) }

// Revert undoes Commit.
func (d *Draft) Revert() error {
	for s := range d.after {
		delete(d.index.frontends, s)
	}
	d.index.set(d.before)
	return nil
}

func (x *Index) set(all map[Source][]candidate) {
	for s, frontends := range all {
		if len(frontends) == 0 {
			delete(x.frontends, s)
		} else {
			x.frontends[s] = frontends
		}
	}
}

// Exits returns all exits after the change.
func (d *Draft) Exits(places Places) []Exit {
	var es []Exit
	for s, frontends := range d.index.frontends {
		if _, changed := d.after[s]; !changed {
			es = exits(es, s, frontends, places)
		}
	}
	for s, frontends := range d.after {
		es = exits(es, s, frontends, places)
	}
	return es
}
