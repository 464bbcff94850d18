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
type Index struct {
	frontends map[Source][]candidate // single ports
	ranges    map[sender][]piece
}

// New returns an empty index.
func New() *Index { return &Index{map[Source][]candidate{}, map[sender][]piece{}} }

// Of returns the index of published ports. masqueraded reports whether a backend is in a
// masqueraded network.
func Of(ports iter.Seq[portset.Port], masqueraded func(netip.Addr) bool) *Index {
	x, cache := New(), cached(masqueraded)
	for p := range ports {
		if s, ok := source(p, cache); ok {
			x.add(p, s)
		}
	}
	return x
}

func (x *Index) add(p portset.Port, s Source) {
	if p.More == 0 {
		x.frontends[s] = with(x.frontends[s], candidateOf(p))
		return
	}
	of := x.ranges[s.sender()]
	added := pieceOf(p)
	i, _ := slices.BinarySearchFunc(of, added, func(a, b piece) int { return a.before(b.candidate) })
	x.ranges[s.sender()] = slices.Insert(of, i, added)
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

// merge returns the frontends of a source: single ports, and those of ranges that have it. It
// does not change the slice.
func merge(singles []candidate, s Source, ranges []piece) []candidate {
	cloned := false
	for i := range ranges {
		if port := s.Backend.Port(); ranges[i].has(port) {
			if !cloned {
				singles, cloned = slices.Clone(singles), true
			}
			singles = with(singles, ranges[i].port(port))
		}
	}
	return singles
}

// of returns the frontends of a source.
func (x *Index) of(s Source) []candidate { return merge(x.frontends[s], s, x.ranges[s.sender()]) }

// Len returns the number of sources, a range as one.
func (x *Index) Len() int {
	n := len(x.frontends)
	for _, of := range x.ranges {
		n += len(of)
	}
	return n
}

// Has reports whether a source leaves by a frontend.
func (x *Index) Has(s Source) bool { return len(x.of(s)) != 0 }

// Exits returns all exits.
func (x *Index) Exits(places Places) []Exit {
	es := make([]Exit, 0, x.Len())
	for s := range x.frontends {
		es = singleExits(es, s, x.of(s), places)
	}
	for s, of := range x.ranges {
		es = rangeExits(es, s, of, places)
	}
	return es
}

// Hosts returns the addresses of the frontends that are for one.
func (x *Index) Hosts() map[netip.Addr]bool {
	hosts := map[netip.Addr]bool{}
	for _, frontends := range x.frontends {
		addHosts(hosts, frontends)
	}
	for _, of := range x.ranges {
		addHostsOf(hosts, of)
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

func addHostsOf(hosts map[netip.Addr]bool, of []piece) {
	for _, p := range of {
		if a := p.at.Addr(); a.IsValid() {
			hosts[a] = true
		}
	}
}

// Delete removes a port or a range, and returns the exits that take the place of its own.
func (x *Index) Delete(p portset.Port, places Places) (added []Exit) {
	s := Source{p.Proto, p.Backend}
	if p.More == 0 && slices.ContainsFunc(x.frontends[s], func(c candidate) bool { return c.before(candidateOf(p)) == 0 }) {
		return x.deleteSingle(s, candidateOf(p), places)
	}
	of, gone := x.ranges[s.sender()], pieceOf(p)
	if len(of) == 0 {
		return nil
	}
	var left []piece
	for _, q := range of {
		if q.at.Addr() == gone.at.Addr() {
			left = append(left, q.cut(gone.at.Port(), gone.last)...)
		} else {
			left = append(left, q)
		}
	}
	sources := x.singlesOf(s.sender(), gone)
	var before, after []Exit
	for _, single := range sources {
		before = singleExits(before, single, x.of(single), places)
	}
	if x.ranges[s.sender()] = left; len(left) == 0 {
		delete(x.ranges, s.sender())
	}
	for _, single := range sources {
		after = singleExits(after, single, x.of(single), places)
	}
	_, added = diff(rangeExits(before, s.sender(), of, places), rangeExits(after, s.sender(), left, places))
	return added
}

func (x *Index) deleteSingle(s Source, c candidate, places Places) (added []Exit) {
	before := singleExits(nil, s, x.of(s), places)
	if have := without(x.frontends[s], c); len(have) == 0 {
		delete(x.frontends, s)
	} else {
		x.frontends[s] = have
	}
	_, added = diff(before, singleExits(nil, s, x.of(s), places))
	return added
}

// singlesOf returns the sources of a backend that have single ports, within the ports of a piece.
func (x *Index) singlesOf(of sender, within piece) (found []Source) {
	if int(within.last)-int(within.at.Port()) < len(x.frontends) {
		for port := int(within.at.Port()); port <= int(within.last); port++ {
			s := Source{of.proto, netip.AddrPortFrom(of.addr, uint16(port))}
			if len(x.frontends[s]) != 0 {
				found = append(found, s)
			}
		}
		return found
	}
	for s := range x.frontends {
		if s.sender() == of && within.has(s.Backend.Port()) {
			found = append(found, s)
		}
	}
	return found
}

// Moved returns the exits that go and come when places change.
func (x *Index) Moved(before, after Places) (removed, added []Exit) {
	for s := range x.frontends {
		frontends := x.of(s)
		if !frontends[0].at.Addr().IsValid() {
			continue
		}
		gone, come := diff(singleExits(nil, s, frontends, before), singleExits(nil, s, frontends, after))
		removed, added = append(removed, gone...), append(added, come...)
	}
	for s, of := range x.ranges {
		gone, come := diff(rangeExits(nil, s, of, before), rangeExits(nil, s, of, after))
		removed, added = append(removed, gone...), append(added, come...)
	}
	return removed, added
}

// diff returns what is only before, and what is only after.
func diff(before, after []Exit) (removed, added []Exit) {
	if len(before) > few || len(after) > few {
		return diffMany(before, after)
	}
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

// few exits are compared with each other; of more, a map is made.
const few = 16

func diffMany(before, after []Exit) (removed, added []Exit) {
	was := make(map[Exit]bool, len(before))
	for _, e := range before {
		was[e] = true
	}
	for _, e := range after {
		if was[e] {
			was[e] = false
		} else {
			added = append(added, e)
		}
	}
	for _, e := range before {
		if was[e] {
			removed = append(removed, e)
		}
	}
	return removed, added
}
