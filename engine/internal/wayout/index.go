// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package wayout

import (
	"iter"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/portset"
)

// Index has the frontends of the backends in masqueraded networks, by what they send from.
type Index struct{ frontends map[Source][]candidate }

// New returns an empty index.
func New() *Index { return &Index{map[Source][]candidate{}} }

// Of returns the index of published ports. masqueraded reports whether a backend is in a
// masqueraded network.
func Of(ports iter.Seq[portset.Port], masqueraded func(netip.Addr) bool) *Index {
	x, cache := New(), cached(masqueraded)
	for p := range ports {
		if s, ok := source(p, cache); ok {
			x.frontends[s] = with(x.frontends[s], candidateOf(p))
		}
	}
	return x
}

// source returns what the backend of a port sends from; ok is false if it does not leave by
// the frontend.
func source(p portset.Port, masqueraded func(netip.Addr) bool) (s Source, ok bool) {
	if p.ProxiedOnly() || !masqueraded(p.Backend.Addr()) {
		return Source{}, false
	}
	return Source{p.Proto, p.Backend}, true
}

// cached remembers the last answer: many ports in a row often have one backend.
func cached(masqueraded func(netip.Addr) bool) func(netip.Addr) bool {
	var last netip.Addr
	var is bool
	return func(a netip.Addr) bool {
		if a != last {
			last, is = a, masqueraded(a)
		}
		return is
	}
}

// with and without return frontends with one more, or one less. They may change the slice.

func with(frontends []candidate, c candidate) []candidate {
	i, found := slices.BinarySearchFunc(frontends, c, candidate.before)
	if found {
		frontends[i] = c
		return frontends
	}
	return slices.Insert(frontends, i, c)
}

func without(frontends []candidate, c candidate) []candidate {
	if i, found := slices.BinarySearchFunc(frontends, c, candidate.before); found {
		return slices.Delete(frontends, i, i+1)
	}
	return frontends
}

// Len returns the number of sources.
func (x *Index) Len() int { return len(x.frontends) }

// Has reports whether a source leaves by a frontend.
func (x *Index) Has(s Source) bool { return len(x.frontends[s]) != 0 }

// Exits returns all exits.
func (x *Index) Exits(places Places) []Exit {
	es := make([]Exit, 0, len(x.frontends))
	for s, frontends := range x.frontends {
		es = exits(es, s, frontends, places)
	}
	return es
}

// Hosts returns the addresses of the frontends that are for one.
func (x *Index) Hosts() map[netip.Addr]bool {
	hosts := map[netip.Addr]bool{}
	for _, frontends := range x.frontends {
		addHosts(hosts, frontends)
	}
	return hosts
}

func addHosts(hosts map[netip.Addr]bool, frontends []candidate) {
	for _, c := range frontends {
		if a := c.at.Addr(); a.IsValid() {
			hosts[a] = true
		}
	}
}

// Delete removes a port, and returns the exits that take the place of its own.
func (x *Index) Delete(p portset.Port, places Places) (added []Exit) {
	s := Source{p.Proto, p.Backend}
	have, ok := x.frontends[s]
	if !ok {
		return nil
	}
	before := exits(nil, s, have, places)
	if have = without(have, candidateOf(p)); len(have) == 0 {
		delete(x.frontends, s)
		return nil
	}
	x.frontends[s] = have
	_, added = diff(before, exits(nil, s, have, places))
	return added
}

// Moved returns the exits that go and come when places change.
func (x *Index) Moved(before, after Places) (removed, added []Exit) {
	for s, frontends := range x.frontends {
		if !frontends[0].at.Addr().IsValid() {
			continue
		}
		gone, come := diff(exits(nil, s, frontends, before), exits(nil, s, frontends, after))
		removed, added = append(removed, gone...), append(added, come...)
	}
	return removed, added
}

// diff returns what is only before, and what is only after.
func diff(before, after []Exit) (removed, added []Exit) {
	for _, e := range before {
		if !slices.Contains(after, e) {
			removed = append(removed, e)
		}
	}
	for _, e := range after {
		if !slices.Contains(before, e) {
			added = append(added, e)
		}
	}
	return removed, added
}
