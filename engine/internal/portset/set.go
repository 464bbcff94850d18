// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/nat"
)

// Set holds ports by their frontends, as the kernel's table does: single ports; ranges; and
// holes, which are ports that no range serves. A single port within a range is served by
// itself.
//
// Single ports for any address, which can be very many, are in pages by their number: this
// takes no hashing, and half the memory of a map.
type Set struct {
	any   *[2 * pages]*page // tcp, then udp; nil: there was none yet
	count int               // of those in the pages
	other map[Frontend]Target
	// lines has the ranges; nil: there were none yet. ranged is how many ports they serve.
	lines  map[line]*ranges
	ranged int
}

// page is a run of ports. A target without a backend is none. An empty page stays: a set
// of one port often changes between none and one.
type page [pagePorts]packed

// packed is a Target in 64 bytes: what is small is where an address and a port leave room.
type packed struct {
	backend                        netip.Addr
	port                           uint16
	noProxy, proxyOnly, masquerade bool
	hold                           nat.Hold
	name                           string
	expires                        int64
	from                           nat.Sources
}

func pack(t Target) packed {
	return packed{
		t.Backend.Addr(), t.Backend.Port(), t.NoProxy, t.ProxyOnly, t.Masquerade, t.Hold, t.Name, t.Expires, t.From,
	}
}

func (p *packed) target() Target {
	return Target{
		Backend: netip.AddrPortFrom(p.backend, p.port), Name: p.name, Expires: p.expires,
		NoProxy: p.noProxy, ProxyOnly: p.proxyOnly, Masquerade: p.masquerade, Hold: p.hold, From: p.from,
	}
}

const (
	pagePorts = 64
	pages     = (1 << 16) / pagePorts // of each protocol
)

// NewSet returns an empty set.
func NewSet() Set {
	return Set{other: map[Frontend]Target{}}
}

// indexOf returns the place of the page of a frontend for any address; ok is false for others.
func indexOf(f Frontend) (i int, ok bool) {
	i = int(f.AddrPort.Port()) / pagePorts
	switch {
	case f.AddrPort.Addr().IsValid():
		return 0, false
	case f.Proto == nat.UDP:
		i += pages
	case f.Proto != nat.TCP:
		return 0, false
	}
	return i, true
}

// pageOf returns the page of a frontend for any address, nil if there is none; ok is false for
// others.
func (s *Set) pageOf(f Frontend) (p *page, ok bool) {
	i, ok := indexOf(f)
	if !ok || s.any == nil {
		return nil, ok
	}
	return s.any[i], true
}

// Get returns the target of a frontend; ok is false if the set does not have it.
func (s *Set) Get(f Frontend) (t Target, ok bool) {
	if t, ok = s.single(f); ok || len(s.lines) == 0 {
		return t, ok
	}
	p, ok := s.inRange(f)
	return p.Target, ok
}

// Find returns the target of a frontend, or nil.
func (s *Set) Find(f Frontend) *Target {
	if t, ok := s.Get(f); ok {
		return &t
	}
	return nil
}

// Single returns the target of a single port; ok is false for a port of a range, too.
func (s *Set) Single(f Frontend) (t Target, ok bool) { return s.single(f) }

// single returns the target of a single port.
func (s *Set) single(f Frontend) (t Target, ok bool) {
	p, ok := s.pageOf(f)
	if !ok {
		t, ok = s.other[f]
		return t, ok
	}
	if p == nil {
		return Target{}, false
	}
	t = p[f.AddrPort.Port()%pagePorts].target()
	return t, t.Backend.IsValid()
}

// inRange returns the port of a range that has a frontend.
func (s *Set) inRange(f Frontend) (Port, bool) {
	port := f.AddrPort.Port()
	for _, l := range linesOf(f) {
		r := s.lines[l]
		if r == nil {
			continue
		}
		i, ok := r.find(port)
		if ok && r.spans[i].AddrPort.Addr() == f.AddrPort.Addr() && r.serves(port) {
			return r.spans[i].Part(port, port), true
		}
	}
	return Port{}, false
}

// Around returns the port of a frontend: a single one, or all that a range serves on both sides of it.
func (s *Set) Around(f Frontend) (Port, bool) {
	if t, ok := s.single(f); ok {
		return Port{Frontend: f, Target: t}, true
	}
	one, ok := s.inRange(f)
	if !ok {
		return Port{}, false
	}
	r := s.lines[one.line()]
	i, _ := r.find(f.AddrPort.Port())
	for p := range s.Served(entryOf(r.spans[i])) {
		if p.Contains(f) {
			return p, true
		}
	}
	return one, true
}

// Alike returns the mapping that has a frontend: with what leads on beside it, in the same way.
func (s *Set) Alike(f Frontend) (nat.Mapping, bool) {
	p, ok := s.Around(f)
	if !ok || p.More != 0 {
		return p.Mapping(), ok
	}
	beside := func(port uint16, by uint16) bool {
		t, ok := s.single(f.at(port))
		return ok && t == p.shifted(by)
	}
	for p.Last() < 65535 && beside(p.Last()+1, p.More+1) {
		p.More++
	}
	for p.First() > 1 && beside(p.First()-1, ^uint16(0)) {
		p.Frontend, p.Target, p.More = p.at(p.First()-1), p.shifted(^uint16(0)), p.More+1
	}
	return p.Mapping(), true
}

// singleOn returns the single port of a line.
func (s *Set) singleOn(l line, port uint16) (Port, bool) {
	for _, f := range l.frontends(port) {
		if t, ok := s.single(f); ok && lineOf(f, &t) == l {
			return Port{Frontend: f, Target: t}, true
		}
	}
	return Port{}, false
}

// Put adds a port or a range, in place of what has its frontends. A port that fits into a range
// becomes part of it.
func (s *Set) Put(added Port) {
	if len(s.lines) == 0 && added.More == 0 {
		s.putSingle(added)
		return
	}
	var c Change
	for part, have := range s.Split(added) {
		if have != nil {
			c.Moved = append(c.Moved, Move{part.Frontend, *have, part.Target, part.More})
		} else {
			c.Added = append(c.Added, part)
		}
	}
	s.Do(s.planUnbound(&c))
}

// Add adds a port or a range whose frontends the set does not have, as it is.
func (s *Set) Add(p Port) { s.Load(entryOf(p)) }

// expire removes what expires at a time and has one of the frontends: the kernel has removed its
// elements. Holes and single ports within a range stay. It returns these, and what was served.
func (s *Set) expire(f Frontend, more uint16, at int64) (whole, over []Port) {
	first, last := f.AddrPort.Port(), f.AddrPort.Port()+more
	for p := range s.singlesOf(f, first, last) {
		if p.Expires == at {
			over = append(over, p)
		}
	}
	for i := range over {
		s.deleteSingle(over[i].Frontend)
	}
	whole = append(whole, over...)
	for _, l := range linesOf(f) {
		r := s.lines[l]
		if r == nil {
			continue
		}
		var gone []Port
		i, _ := r.find(first)
		for ; i < len(r.spans) && r.spans[i].First() <= last; i++ {
			if sp := &r.spans[i]; sp.Expires == at && sp.AddrPort.Addr() == f.AddrPort.Addr() {
				gone = append(gone, *sp)
			}
		}
		for i := range gone {
			r.runs(gone[i].First(), gone[i].Last(), func(first, last uint16) bool {
				over = append(over, gone[i].Part(first, last))
				return true
			})
			s.deleteRange(&gone[i])
		}
		whole = append(whole, gone...)
	}
	return whole, over
}

// Whole yields the single ports, and the ranges with the ports that were taken out of them.
func (s *Set) Whole(yield func(Port) bool) {
	for e := range s.Entries {
		if e.Kind != EntryHole && !yield(e.Port) {
			return
		}
	}
}

// Ranged reports whether a range serves a published port, and not a single port.
func (s *Set) Ranged(p *Port) bool {
	if len(s.lines) == 0 {
		return false
	}
	_, single := s.single(p.Frontend)
	return !single
}

// Beginning returns the range of the set that begins where a range does, with the ports that were
// taken out of it; of a single port, the single port.
func (s *Set) Beginning(p Port) (Port, bool) {
	if p.More == 0 {
		t, ok := s.single(p.Frontend)
		return Port{Frontend: p.Frontend, Target: t}, ok
	}
	for _, l := range linesOf(p.Frontend) {
		if r := s.lines[l]; r != nil {
			if i, ok := r.find(p.First()); ok && r.spans[i].First() == p.First() {
				return r.spans[i], true
			}
		}
	}
	return Port{}, false
}

// Delete removes the port of a frontend, if there is one.
func (s *Set) Delete(f Frontend) {
	if t, ok := s.Get(f); ok {
		s.DeleteAll(Port{Frontend: f, Target: t})
	}
}

// DeleteAll removes a port or a range, as far as it is there.
func (s *Set) DeleteAll(p Port) {
	if len(s.lines) == 0 && p.More == 0 {
		s.deleteSingle(p.Frontend)
		return
	}
	s.Do(s.planUnbound(&Change{Removed: slices.Collect(s.In(p))}))
}

func (s *Set) putSingle(added Port) {
	if len(s.lines) != 0 {
		s.deleteSingle(added.Frontend) // it may be of another line
		defer s.cover(&added, true)
	}
	i, ok := indexOf(added.Frontend)
	if !ok {
		s.other[added.Frontend] = added.Target
		return
	}
	if s.any == nil {
		s.any = new([2 * pages]*page)
	}
	if s.any[i] == nil {
		s.any[i] = new(page)
	}
	t := &s.any[i][added.AddrPort.Port()%pagePorts]
	if !t.backend.IsValid() {
		s.count++
	}
	*t = pack(added.Target)
}

func (s *Set) deleteSingle(f Frontend) {
	if len(s.lines) != 0 {
		if t, ok := s.single(f); ok {
			gone := Port{Frontend: f, Target: t}
			defer s.cover(&gone, false)
		}
	}
	p, ok := s.pageOf(f)
	if !ok {
		delete(s.other, f)
		return
	}
	if p == nil {
		return
	}
	if t := &p[f.AddrPort.Port()%pagePorts]; t.backend.IsValid() {
		*t = packed{}
		s.count--
	}
}

// cover notes that there is a single port, or that there is none any more, within a range.
func (s *Set) cover(p *Port, is bool) {
	l, port := p.line(), p.First()
	r := s.lines[l]
	if r == nil {
		return
	}
	if _, ok := r.find(port); !ok {
		return
	}
	if !is {
		_, is = s.singleOn(l, port) // others can have made two
	}
	served := r.serves(port)
	if is {
		r.over.set(port)
	} else {
		r.over.clear(port)
	}
	s.recount(r, port, served)
}

// Clone returns a copy of the set.
func (s *Set) Clone() Set {
	c := Set{count: s.count, other: maps.Clone(s.other), ranged: s.ranged}
	if s.count != 0 {
		c.any = new([2 * pages]*page)
		for i, p := range s.any {
			if p != nil {
				copied := *p
				c.any[i] = &copied
			}
		}
	}
	if len(s.lines) != 0 {
		c.lines = make(map[line]*ranges, len(s.lines))
		for l, r := range s.lines {
			c.lines[l] = &ranges{slices.Clone(r.spans), r.holes.clone(), r.over.clone()}
		}
	}
	return c
}

// Len returns the number of ports.
func (s *Set) Len() int { return s.count + len(s.other) + s.ranged }

// HasRanges reports whether there are ranges, or holes.
func (s *Set) HasRanges() bool { return len(s.lines) != 0 }
