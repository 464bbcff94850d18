// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package segment

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/engine/internal/addrmap"
	"github.com/nftnat/nftnat/internal/order"
)

// Segment is a prefix that is on link by an interface.
type Segment struct {
	Link   string
	Prefix netip.Prefix
}

// Compare orders segments by prefix, then by link.
func (s Segment) Compare(t Segment) int {
	if c := Compare(s.Prefix, t.Prefix); c != 0 {
		return c
	}
	return strings.Compare(s.Link, t.Link)
}

// Link is an interface that leads to published backends of a family.
type Link struct {
	Name string
	Is4  bool
}

// Links are backends with the names of the interfaces that lead to each; these may be none.
// Many backends share a slice of names.
type Links = addrmap.Map[*[]string]

// Facts are what the host says of published backends.
type Facts struct {
	Links
	// OnLink are the prefixes on link by each of these. They do not overlap.
	OnLink map[Link][]netip.Prefix
}

// Segments returns the segments, in order.
func (f *Facts) Segments() []Segment {
	all := map[Segment]struct{}{}
	for backend, names := range f.All {
		for _, name := range *names {
			for _, p := range f.OnLink[Link{name, backend.Is4()}] {
				all[Segment{name, p}] = struct{}{}
			}
		}
	}
	return order.Sorted(maps.Keys(all), Segment.Compare)
}

// State is what is known of published backends, and which segments the table has.
type State struct {
	facts Facts
	// uses has how many backends each link leads to.
	uses  map[Link]int
	table map[Segment]struct{}
	// current is whether the facts are known.
	current bool
	// expired are backends of which no port may be published any more.
	expired []netip.Addr
}

// New returns the state for a table with these segments. Facts are unknown until they are
// set, unless there are no backends.
func New(table []Segment, backends int) *State {
	s := &State{
		facts: Facts{OnLink: map[Link][]netip.Prefix{}},
		uses:  map[Link]int{}, table: make(map[Segment]struct{}, len(table)),
		current: len(table)+backends == 0,
	}
	for _, one := range table {
		s.table[one] = struct{}{}
	}
	return s
}

// Current reports whether the facts are known. If not, a plan changes nothing.
func (s *State) Current() bool { return s.current }

// Table returns the segments that the table has, in order.
func (s *State) Table() []Segment { return order.Sorted(maps.Keys(s.table), Segment.Compare) }

// Len returns how many segments the table has.
func (s *State) Len() int { return len(s.table) }

// Knows reports whether it is known what is on link by an interface.
func (s *State) Knows(l Link) bool { return s.uses[l] != 0 }

// Around returns the prefix that a published backend is in, if it is on link.
func (s *State) Around(backend netip.Addr) (netip.Prefix, bool) {
	for _, name := range s.namesOf(backend) {
		for _, p := range s.facts.OnLink[Link{name, backend.Is4()}] {
			if p.Contains(backend) {
				return p, true
			}
		}
	}
	return netip.Prefix{}, false
}

// namesOf returns the names of the interfaces that lead to a backend.
func (s *State) namesOf(backend netip.Addr) []string {
	if names, ok := s.facts.Get(backend); ok {
		return *names
	}
	return nil
}

// Links returns the interfaces that lead to backends, in order.
func (s *State) Links() []Link {
	return order.Sorted(maps.Keys(s.uses), func(a, b Link) int { return strings.Compare(a.Name, b.Name) })
}

// Expire notes that a port that led to the backend has expired.
func (s *State) Expire(backend netip.Addr) { s.expired = append(s.expired, backend) }

// Plan is a change of the segments.
type Plan struct {
	// Removed and Added are the segments that differ from those of the table, in order.
	Removed, Added []Segment
	links          Links                   // of backends; nil: it goes
	onLink         map[Link][]netip.Prefix // of links that come
	uses           map[Link]int            // the differences
	facts          *Facts                  // all of them, in place of the others; nil: those stay
}

// Change is a change of the published backends.
type Change struct {
	// Touched are the backends of ports that are unpublished or lead elsewhere, and Left
	// returns how many ports of a backend are left after the change.
	Touched []netip.Addr
	Left    func(netip.Addr) int
	// Facts are those of the backends that are published, and of the links to them that the
	// state does not know. They are the state's after the plan.
	Facts
}

// Plan plans the change of the segments with one of the published backends.
func (s *State) Plan(c Change) *Plan {
	p := &Plan{}
	if !s.current {
		return p
	}
	for _, some := range [][]netip.Addr{s.expired, c.Touched} {
		for _, a := range some {
			if _, ok := s.facts.Get(a); ok && c.Left(a) <= 0 {
				s.set(p, a, nil)
			}
		}
	}
	if s.facts.Len() == 0 { // as at first, when there may be very many
		s.setAll(p, &c)
	} else {
		for a, names := range c.All {
			if have, ok := s.facts.Get(a); c.Left(a) > 0 && (!ok || !slices.Equal(*have, *names)) {
				s.set(p, a, names)
			}
		}
	}
	p.onLink = c.OnLink
	for l, by := range p.uses {
		switch before, after := s.uses[l], s.uses[l]+by; {
		case before == 0 && after > 0:
			p.Added = s.append(p.Added, l, c.OnLink[l], false)
		case before > 0 && after == 0:
			p.Removed = s.append(p.Removed, l, s.facts.OnLink[l], true)
		}
	}
	order.Sort(p.Added, Segment.Compare)
	order.Sort(p.Removed, Segment.Compare)
	return p
}

// set plans that other links lead to a backend; nil: it is not published any more.
func (s *State) set(p *Plan, a netip.Addr, names *[]string) {
	if _, twice := p.links.Get(a); twice {
		return
	}
	p.links.Set(a, names)
	for _, name := range s.namesOf(a) {
		p.use(name, a, -1)
	}
	if names == nil {
		return
	}
	for _, name := range *names {
		p.use(name, a, 1)
	}
}

// setAll is set of all backends of a change, where the state has none.
func (s *State) setAll(p *Plan, c *Change) {
	p.links = c.Links
	for a, names := range c.All {
		if c.Left(a) <= 0 {
			p.links.Delete(a)
			continue
		}
		for _, name := range *names {
			p.use(name, a, 1)
		}
	}
}

// use counts that a link leads to a backend: by is 1 or -1.
func (p *Plan) use(name string, a netip.Addr, by int) {
	if p.uses == nil {
		p.uses = map[Link]int{}
	}
	p.uses[Link{name, a.Is4()}] += by
}

// append appends the segments of a link that the table has, or that it lacks.
func (s *State) append(to []Segment, l Link, ps []netip.Prefix, has bool) []Segment {
	for _, p := range ps {
		one := Segment{l.Name, p}
		if _, ok := s.table[one]; ok == has {
			to = append(to, one)
		}
	}
	return to
}

// Replace plans the change to the segments of the facts of all published backends.
func (s *State) Replace(f Facts) *Plan {
	p := &Plan{facts: &f}
	wanted := map[Segment]struct{}{}
	for _, one := range f.Segments() {
		wanted[one] = struct{}{}
		if _, ok := s.table[one]; !ok {
			p.Added = append(p.Added, one)
		}
	}
	for _, one := range s.Table() {
		if _, ok := wanted[one]; !ok {
			p.Removed = append(p.Removed, one)
		}
	}
	return p
}

// After returns the segments of the table after a plan, in no order.
func (s *State) After(p *Plan) []Segment {
	after := make([]Segment, 0, len(s.table)+len(p.Added))
	for one := range s.table {
		if !slices.Contains(p.Removed, one) {
			after = append(after, one)
		}
	}
	return append(after, p.Added...)
}

// Apply notes that a plan was made.
func (s *State) Apply(p *Plan) {
	for _, one := range p.Removed {
		delete(s.table, one)
	}
	for _, one := range p.Added {
		s.table[one] = struct{}{}
	}
	if p.facts != nil {
		s.facts, s.uses, s.current, s.expired = *p.facts, map[Link]int{}, true, nil
		if s.facts.OnLink == nil {
			s.facts.OnLink = map[Link][]netip.Prefix{}
		}
		for a, names := range s.facts.All {
			for _, name := range *names {
				s.uses[Link{name, a.Is4()}]++
			}
		}
		return
	}
	if !s.current {
		return
	}
	s.expired = nil
	if s.facts.Len() == 0 { // then none of the plan's goes
		s.facts.Links, p.links = p.links, Links{}
	}
	for a, names := range p.links.All {
		if names == nil {
			s.facts.Delete(a)
		} else {
			s.facts.Set(a, names)
		}
	}
	for l, by := range p.uses {
		if s.uses[l] += by; s.uses[l] == 0 {
			delete(s.uses, l)
			delete(s.facts.OnLink, l)
		} else if ps, ok := p.onLink[l]; ok {
			s.facts.OnLink[l] = ps
		}
	}
}

// few is the number of prefixes up to which trying each is faster than a look-up for each
// prefix length.
const few = 16

// Around returns the prefix that an address lies in. The prefixes do not overlap.
func Around[V any](prefixes map[netip.Prefix]V, a netip.Addr) (netip.Prefix, bool) {
	if len(prefixes) <= few {
		for p := range prefixes {
			if p.Contains(a) {
				return p, true
			}
		}
		return netip.Prefix{}, false
	}
	for bits := a.BitLen(); bits >= 0; bits-- {
		p := netip.PrefixFrom(a, bits).Masked()
		if _, ok := prefixes[p]; ok {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// Compare orders prefixes by address, then by length.
func Compare(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}
