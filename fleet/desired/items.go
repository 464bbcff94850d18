// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"slices"
	"strings"

	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
	"github.com/nftnat/nftnat/nat"
)

// thing is what several items may be about, of which one counts.
type thing struct {
	kind keys.Kind
	name string
}

// item is what one key says.
type item struct {
	keys.Item
	revision int64
	mappings []nat.Mapping
	network  *nat.Network
	err      error // of its value
}

// items are what concerns one host.
type items struct {
	host   string
	groups []string
	all    map[thing][]item // by precedence
	wrong  map[string]keys.Fault
	change keys.Change // the last
	held   []store.Change
	half   bool // all was listed while the change was under way, and has a part of it
}

func newItems(host string, groups []string) items {
	return items{host: host, groups: groups, all: map[thing][]item{}, wrong: map[string]keys.Fault{}}
}

// open reports whether a change is under way.
func (s *items) open() bool { return s.change.Open }

// replace makes the items those of a list, and returns what may have become different.
func (s *items) replace(entries []store.Entry) map[thing]bool {
	dirty := map[thing]bool{}
	for t := range s.all {
		dirty[t] = true
	}
	clear(s.all)
	clear(s.wrong)
	s.change, s.held = keys.Change{}, nil
	for _, e := range entries {
		if e.Key == keys.Generation {
			s.change = keys.ParseChange(e.Value)
			continue
		}
		s.put(e, dirty)
	}
	s.half = s.open()
	return dirty
}

// apply applies the changes of a revision. While a change of several revisions is under way, they wait
// for its end.
func (s *items) apply(changes []store.Change) map[thing]bool {
	for _, c := range changes {
		if c.Key == keys.Generation {
			s.change = keys.ParseChange(c.Value) // deleted: the value is empty, and it is done
		}
	}
	s.held = slices.Grow(s.held, len(changes))
	for _, c := range changes {
		if strings.HasPrefix(c.Key, keys.Desired) {
			s.held = append(s.held, c)
		}
	}
	if s.open() {
		return nil
	}
	dirty := map[thing]bool{}
	for _, c := range s.held {
		if c.Deleted {
			s.remove(c.Key, dirty)
		} else {
			s.put(c.Entry, dirty)
		}
	}
	s.held, s.half = nil, false
	return dirty
}

func (s *items) put(e store.Entry, dirty map[thing]bool) {
	if !strings.HasPrefix(e.Key, keys.Desired) {
		return
	}
	delete(s.wrong, e.Key)
	i, err := keys.ParseItem(e.Key)
	if err != nil {
		s.wrong[e.Key] = keys.Fault{Key: e.Key, Revision: e.Modified, Reason: err.Error()}
		return
	}
	if !i.Scope.Concerns(s.host, s.groups) {
		return
	}
	it := item{Item: i, revision: e.Modified}
	switch i.Kind {
	case keys.KindMapping:
		it.mappings, it.err = keys.ParseMappings(i.Name, e.Value)
	case keys.KindNetwork:
		n, err := keys.ParseNetwork(i.Name, e.Value)
		it.network, it.err = &n, err
	case keys.KindFloat: // of package float
		return
	default:
		s.wrong[e.Key] = keys.Fault{Key: e.Key, Revision: e.Modified, Reason: "this version of the agent knows no such kind"}
		return
	}
	t := thing{i.Kind, i.Name}
	dirty[t] = true
	all := slices.DeleteFunc(s.all[t], func(o item) bool { return o.Scope == i.Scope })
	at, _ := slices.BinarySearchFunc(all, it, func(a, b item) int {
		if a.Scope.Precedes(b.Scope) {
			return -1
		}
		return 1
	})
	s.all[t] = slices.Insert(all, at, it)
}

func (s *items) remove(key string, dirty map[thing]bool) {
	delete(s.wrong, key)
	i, err := keys.ParseItem(key)
	if err != nil {
		return
	}
	t := thing{i.Kind, i.Name}
	all := slices.DeleteFunc(s.all[t], func(o item) bool { return o.Scope == i.Scope })
	if dirty[t] = true; len(all) == 0 {
		delete(s.all, t)
	} else {
		s.all[t] = all
	}
}

// of is the item that counts; nil: none.
func (s *items) of(t thing) *item {
	if all := s.all[t]; len(all) != 0 {
		return &all[0]
	}
	return nil
}
