// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"cmp"
	"iter"
	"slices"

	"github.com/nftnat/nftnat/nat"
)

// A packet asks the single ports of the kernel's table, then its holes, then its ranges, then
// the second map of ranges; each may be newer than the one before. And a transaction is not one
// moment: single ports and holes change first, ranges later. So that a packet never goes to a
// wrong place, and never to none while its port is published:
//
//   - An element of a map of ranges is never changed: ranges are added and deleted whole.
//   - What replaces ranges is added to the second map before (prepare); the change deletes the
//     old ranges; then the new ones are added to the first map (settle), and once no packet is
//     under way any more that has missed them there, they are deleted from the second (clean).
//   - Holes of a range that goes are deleted after it. Single ports that go with it become holes
//     first. Ports that a new range takes over are single ports with its target until it is
//     there.
//   - A hole stays beneath a single port, and is added beneath one that is replaced: some kernels
//     miss it for a moment.
//   - A single port that ends by itself has a hole beneath, or the range would serve the port
//     then. It is added once all packets know the single port.
//   - Where a single port takes over from a range that goes, what the range served is in the
//     second map for that time: a packet that was too early for the one may be too late for the
//     other.
//
// Ranges that no rule looks up are changed at once. Between adding a single port and deleting
// the range beneath it in another call, the caller waits until no packet is under way.

// EntryKind is what the kernel's table has for an [Entry].
type EntryKind uint8

// The kinds of entries.
const (
	// EntrySingle is an element for a single port.
	EntrySingle EntryKind = iota
	// EntryRange is an element for a range, which may have one port.
	EntryRange
	// EntryHole is an element for a port that no range serves. Of the Port, only the frontend
	// is set; it is of one family.
	EntryHole
)

// String returns the name of the kind.
func (k EntryKind) String() string {
	switch k {
	case EntrySingle:
		return "single port"
	case EntryRange:
		return "range"
	case EntryHole:
		return "hole"
	}
	return "unknown"
}

// Entry is an element of the kernel's table.
type Entry struct {
	Kind EntryKind
	Port
}

// entryOf returns the entry of a port or a range.
func entryOf(p Port) Entry {
	if p.More != 0 {
		return Entry{EntryRange, p}
	}
	return Entry{EntrySingle, p}
}

// hole returns the entry of a hole.
func (l line) hole(port uint16) Entry {
	fs := l.frontends(port)
	f := fs[0]
	if fs[1].Proto != 0 {
		f = fs[1]
	}
	return Entry{Kind: EntryHole, Port: Port{Frontend: f}}
}

// lineOfHole returns the line of a hole.
func lineOfHole(f Frontend) line {
	return line{proto: f.Proto, is4: f.AddrPort.Addr().Is4(), host: f.Host()}
}

// Plan is how the elements of the table change with the published ports.
type Plan struct {
	// Prepared are added to the second maps of ranges before the change, without any effect.
	Prepared []Entry
	// Settled are the ranges of Prepared that are added to the first maps after the change. Then
	// Prepared are deleted from the second maps, once no packet is under way that began before,
	// Cleaned are deleted, and Beneath are added.
	Settled, Cleaned, Beneath []Entry
	// Waits is whether packets must know what was added before, by another change, when this
	// change is made.
	Waits bool
	// plain is a change of single ports alone. Nil: deleted and added are the change.
	plain          *Change
	deleted, added []Entry
}

// Inverse returns the plan of the change back, for a set that the plan has been done in. c is
// the change that was planned.
func (p *Plan) Inverse(after *Set, c *Change) *Plan {
	back := c.Inverse()
	if p.plain != nil && len(after.lines) == 0 {
		return &Plan{plain: &back}
	}
	return after.planUnbound(&back)
}

// Deleted yields the entries that the change deletes.
func (p *Plan) Deleted(yield func(Entry) bool) { p.each(p.deleted, (*Change).Before, yield) }

// Added yields the entries that the change adds, in the same transaction.
func (p *Plan) Added(yield func(Entry) bool) { p.each(p.added, (*Change).After, yield) }

func (p *Plan) each(es []Entry, plain func(*Change, func(Port) bool), yield func(Entry) bool) {
	if p.plain != nil {
		plain(p.plain, func(port Port) bool { return yield(Entry{EntrySingle, port}) })
		return
	}
	for _, e := range es {
		if !yield(e) {
			return
		}
	}
}

// IsPlain reports whether the change is of single ports alone, in a set without ranges.
func (p *Plan) IsPlain() bool { return p.plain != nil }

// Count returns how many entries the change deletes, and how many it adds.
func (p *Plan) Count() (deleted, added int) {
	if p.plain != nil {
		return p.plain.LenBefore(), p.plain.LenAfter()
	}
	return len(p.deleted), len(p.added)
}

// Do makes the change.
func (s *Set) Do(p *Plan) {
	for e := range p.Deleted {
		s.change(&e, false)
	}
	for e := range p.Added {
		s.change(&e, true)
	}
	for i := range p.Settled {
		s.change(&p.Settled[i], true)
	}
	for i := range p.Cleaned {
		s.change(&p.Cleaned[i], false)
	}
	for i := range p.Beneath {
		s.change(&p.Beneath[i], true)
	}
}

// Load adds an entry that was found in the table. A range that overlaps another of its line is
// refused.
func (s *Set) Load(e Entry) bool {
	if e.Kind == EntryRange {
		if r := s.lines[e.line()]; r != nil {
			i, _ := r.find(e.First())
			if i < len(r.spans) && r.spans[i].First() <= e.Last() {
				return false
			}
		}
	}
	s.change(&e, true)
	return true
}

// Unload removes an entry that the table does not have.
func (s *Set) Unload(e Entry) { s.change(&e, false) }

func (s *Set) change(e *Entry, add bool) {
	switch {
	case e.Kind == EntryHole:
		s.setHole(lineOfHole(e.Frontend), e.First(), add)
	case e.Kind == EntryRange && add:
		s.putRange(e.Port)
	case e.Kind == EntryRange:
		s.deleteRange(&e.Port)
	case add:
		s.putSingle(e.Port)
	default:
		s.deleteSingle(e.Frontend)
	}
}

// Entries yields what the table has: whole ranges, holes and single ports.
func (s *Set) Entries(yield func(Entry) bool) {
	if s.count != 0 && !s.paged(func(p Port) bool { return yield(Entry{EntrySingle, p}) }) {
		return
	}
	for f, t := range s.other {
		if !yield(Entry{EntrySingle, Port{Frontend: f, Target: t}}) {
			return
		}
	}
	s.RangeEntries(yield)
}

// RangeEntries yields the entries for ranges: they and the holes.
func (s *Set) RangeEntries(yield func(Entry) bool) {
	for l, r := range s.lines {
		for _, p := range r.spans {
			if !yield(Entry{EntryRange, p}) {
				return
			}
		}
		for port := r.holes.next(0, 65535); port <= 65535; port = r.holes.next(port+1, 65535) {
			if !yield(l.hole(uint16(port))) {
				return
			}
		}
	}
}

// LenEntries returns how many entries there are.
func (s *Set) LenEntries() int {
	n := s.count + len(s.other)
	for _, r := range s.lines {
		n += len(r.spans) + r.holes.n
	}
	return n
}

// Redundant returns the entries without which the set would have the same ports: holes without a
// range, and single ports that are equal to what is beneath them, with the holes between.
func (s *Set) Redundant() (es []Entry) {
	for l, r := range s.lines {
		for i := range r.spans {
			sp := &r.spans[i]
			for port := r.over.next(int(sp.First()), int(sp.Last())); port <= int(sp.Last()); port = r.over.next(port+1, int(sp.Last())) {
				if p, _ := s.singleOn(l, uint16(port)); p.AddrPort.Addr() == sp.AddrPort.Addr() && p.SameAs(sp.Part(p.First(), p.Last()).Target) {
					es = append(es, Entry{EntrySingle, p})
					if r.holes.has(uint16(port)) {
						es = append(es, l.hole(uint16(port)))
					}
				}
			}
		}
		for port := r.holes.next(0, 65535); port <= 65535; port = r.holes.next(port+1, 65535) {
			if _, within := r.find(uint16(port)); !within {
				es = append(es, l.hole(uint16(port)))
			}
		}
	}
	return es
}

// Unbacked returns the holes that single ports lack which end by themselves and have a range
// beneath.
func (s *Set) Unbacked() (es []Entry) {
	for l, r := range s.lines {
		if l.way != translated {
			continue
		}
		for port := r.over.next(0, 65535); port <= 65535; port = r.over.next(port+1, 65535) {
			if p, _ := s.singleOn(l, uint16(port)); p.Expires != 0 && !r.holes.has(uint16(port)) {
				es = append(es, l.hole(uint16(port)))
			}
		}
	}
	return es
}

// Unsettled says what becomes of an entry of a second map that was found: whether it is added
// to the first map before it is deleted from the second. The set has been loaded with all
// others.
func (s *Set) Unsettled(e Entry) (settle bool) {
	r := s.lines[e.line()]
	if r == nil {
		return s.uncovered(&e.Port)
	}
	i, _ := r.find(e.First())
	if i < len(r.spans) && r.spans[i].First() <= e.Last() {
		return false // the change was not made, or the range has been settled
	}
	return s.uncovered(&e.Port)
}

// uncovered reports whether some port of a range is no single port.
func (s *Set) uncovered(p *Port) bool {
	n := 0
	for range s.singles(p.line(), p.First(), p.Last()) {
		n++
	}
	return n < p.Len()
}

// limits are those of ranges.
type limits struct {
	// cut is how many ports of a range a change makes holes of. Of more, the range is replaced
	// by those that are left.
	cut int
	// holes is from how many holes of a range on it is replaced, if most of them are in runs
	// longer than cut.
	holes int
	// ranges is how many ranges of one address each there are at most, of a protocol and family:
	// the kernel takes longer for each change of the map by their number. A further one of up to
	// singles ports is stored as single ports.
	ranges, singles int
}

// MostOfOneAddress is how many ranges of one address each there are at most, of a protocol and
// family, but for those of up to 1,024 ports.
const MostOfOneAddress = 128

func defaultLimits() limits {
	return limits{cut: 256, holes: 1024, ranges: MostOfOneAddress, singles: 1024}
}

// Plan plans a change. It changes nothing. The error is a [*nat.RangesError] if there would be
// too many ranges of one address.
func (s *Set) Plan(c *Change) (*Plan, error) { return s.plan(c, defaultLimits()) }

// planUnbound plans a change whatever the number of ranges.
func (s *Set) planUnbound(c *Change) *Plan {
	most := defaultLimits()
	most.ranges = 1 << 17
	p, _ := s.plan(c, most) // there is no other error
	return p
}

func (s *Set) plan(c *Change, most limits) (*Plan, error) {
	if len(s.lines) == 0 && !c.HasRange() {
		return &Plan{plain: c}, nil
	}
	d := draft{set: s, most: most, lines: map[line][]assignment{}}
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
	d.room = map[lineMap]int{}
	for l, r := range s.lines {
		if l.bounded() {
			d.room[l.lineMap()] += len(r.spans)
		}
	}
	for _, l := range slices.SortedFunc(mapKeys(d.lines), compareLines) {
		if err := d.planLine(l, disjoint(d.lines[l])); err != nil {
			return nil, err
		}
	}
	return &d.Plan, nil
}

func mapKeys(m map[line][]assignment) iter.Seq[line] {
	return func(yield func(line) bool) {
		for l := range m {
			if !yield(l) {
				return
			}
		}
	}
}

func compareLines(a, b line) int {
	return cmp.Or(cmp.Compare(a.proto, b.proto), cmp.Compare(a.way, b.way), a.host.Compare(b.host), compareBool(a.is4, b.is4))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// HasRange reports whether a range changes.
func (c *Change) HasRange() bool {
	for p := range c.Before {
		if p.More != 0 {
			return true
		}
	}
	for p := range c.After {
		if p.More != 0 {
			return true
		}
	}
	return false
}

// assignment says what ports of a line are after a change: to, or nothing.
type assignment struct {
	first, last uint16
	to          *Port
}

// part returns what a part of the ports will be.
func (a *assignment) part(first, last uint16) Port { return a.to.Part(first, last) }

// lineMap identifies the map that the ranges of one address are in.
type lineMap struct {
	proto nat.Proto
	is4   bool
}

func (l line) lineMap() lineMap { return lineMap{l.proto, l.is4} }

// bounded reports whether the number of ranges is bounded.
func (l line) bounded() bool { return l.host.IsValid() && l.way == translated }

// draft is a plan in the making.
type draft struct {
	Plan
	set   *Set
	lines map[line][]assignment
	room  map[lineMap]int // how many ranges there are
	most  limits
}

func (d *draft) assign(l line, a assignment) { d.lines[l] = append(d.lines[l], a) }

// disjoint sorts assignments, and joins those of one range. What is removed and is assigned as
// well was another frontend of the line, and the assignment counts.
func disjoint(as []assignment) []assignment {
	first := func(a, b assignment) int { return cmp.Compare(a.first, b.first) }
	slices.SortStableFunc(as, first)
	overlap := false
	for i := 1; i < len(as) && !overlap; i++ {
		overlap = as[i].first <= as[i-1].last
	}
	if overlap {
		as = withoutRemoved(as)
		slices.SortStableFunc(as, first)
	}
	joined := as[:0:0]
	for _, a := range as {
		if n := len(joined); n != 0 && joined[n-1].join(&a) {
			continue
		}
		joined = append(joined, a)
	}
	return joined
}

// withoutRemoved removes from the assignments of nothing the ports that others assign.
func withoutRemoved(as []assignment) []assignment {
	var wanted, gone bitmap
	for _, a := range as {
		for port := int(a.first); port <= int(a.last); port++ {
			if a.to != nil {
				wanted.set(uint16(port))
			} else {
				gone.set(uint16(port))
			}
		}
	}
	left := slices.DeleteFunc(as, func(a assignment) bool { return a.to == nil })
	for port := gone.next(0, 65535); port <= 65535; port = gone.next(port+1, 65535) {
		if !wanted.has(uint16(port)) {
			left = append(left, assignment{first: uint16(port), last: uint16(port)})
		}
	}
	return left
}

// join adds b to a if both are parts of one range, or of nothing.
func (a *assignment) join(b *assignment) bool {
	switch {
	case int(a.last)+1 != int(b.first), (a.to == nil) != (b.to == nil):
		return false
	case a.to == nil:
	case a.to.More == 0 && b.to.More == 0 || a.to.AddrPort.Addr() != b.to.AddrPort.Addr() || b.to.Target != a.to.shifted(b.first-a.first):
		return false
	case a.to.Backend.Port() != a.first: // single ports that are shifted
		return false
	default:
		whole := *a.to
		whole.More = b.last - a.first
		a.to = &whole
	}
	a.last = b.last
	return true
}

// planLine plans the assignments of one line, which are in order.
func (d *draft) planLine(l line, as []assignment) error {
	r := d.set.lines[l]
	if r == nil {
		r = &ranges{}
	}
	next := 0 // the first span that is not planned
	for i := range as {
		a := as[i]
		for at := int(a.first); at <= int(a.last); {
			j, within := r.find(uint16(at))
			if within {
				sp := &r.spans[j]
				if j >= next {
					next = j + 1
					if err := d.planSpan(l, r, sp, clip(as[i:], sp)); err != nil {
						return err
					}
				}
				at = int(sp.Last()) + 1
				continue
			}
			end := int(a.last)
			if j < len(r.spans) {
				end = min(end, int(r.spans[j].First())-1)
			}
			if err := d.outside(l, r, &a, uint16(at), uint16(end)); err != nil {
				return err
			}
			at = end + 1
		}
	}
	return nil
}

// clip returns the parts of assignments that lie in a span.
func clip(as []assignment, sp *Port) (in []assignment) {
	for _, a := range as {
		if a.first > sp.Last() {
			break
		}
		if a.last < sp.First() {
			continue
		}
		first, last := max(a.first, sp.First()), min(a.last, sp.Last())
		if a.to != nil {
			to := a.part(first, last)
			a.to = &to
		}
		in = append(in, assignment{first, last, a.to})
	}
	return in
}

// outside plans ports that no range is around.
func (d *draft) outside(l line, r *ranges, a *assignment, first, last uint16) error {
	if a.to == nil {
		d.deleteSingles(l, first, last)
		return nil
	}
	p := a.part(first, last)
	if p.More == 0 {
		d.single(l, p)
		return nil
	}
	if l.bounded() && d.room[l.lineMap()] >= d.most.ranges {
		if p.Len() > d.most.singles {
			return &nat.RangesError{Want: p.Mapping(), Most: d.most.ranges}
		}
		for single := range p.Singles {
			d.single(l, single)
		}
		return nil
	}
	if l.way != translated {
		d.deleteSingles(l, first, last)
	} else {
		for single := range d.set.singles(l, first, last) {
			d.cover(l, p.Part(single.First(), single.First()))
		}
		for port := r.holes.next(int(first), int(last)); port <= int(last); port = r.holes.next(port+1, int(last)) {
			if _, ok := d.set.singleOn(l, uint16(port)); !ok { // else it is done
				d.cover(l, p.Part(uint16(port), uint16(port)))
			}
			d.clean(l.hole(uint16(port))) // of a range that has expired
		}
	}
	d.addRange(l, p)
	return nil
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

func (d *draft) addRange(l line, p Port) {
	d.add(EntryRange, p)
	if l.bounded() {
		d.room[l.lineMap()]++
	}
}

func (d *draft) delete(k EntryKind, p Port) { d.deleted = append(d.deleted, Entry{k, p}) }

func (d *draft) add(k EntryKind, p Port) { d.added = append(d.added, Entry{k, p}) }

// fits reports whether a port or range is a part of the span, with equal fields.
func fits(p, sp *Port) bool {
	return p.AddrPort.Addr() == sp.AddrPort.Addr() && p.Target == sp.Part(p.First(), p.Last()).Target
}

// planSpan plans the assignments within a span.
func (d *draft) planSpan(l line, r *ranges, sp *Port, as []assignment) error {
	if d.replaces(l, r, sp, as) {
		return d.replace(l, r, sp, as)
	}
	for i := range as {
		a := &as[i]
		switch {
		case a.to == nil:
			d.takeOut(l, r, a.first, a.last)
		case fits(a.to, sp): // back to the range
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
	return nil
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
	if left == 0 {
		return true
	}
	if cut.n == 0 {
		return false
	}
	if l.bounded() && d.room[l.lineMap()] >= d.most.ranges {
		return false // there is no room for what would be left
	}
	if cut.n > d.most.cut {
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
	return inRuns > all/2
}

// run is consecutive ports of a span, before and after a change.
type run struct {
	first, last   uint16
	before, after state
	to            Port // after, by a single port or a range
	kept          bool // nothing changes but the range
}

// state is what serves a port.
type state uint8

const (
	byNone state = iota
	bySingle
	byRange
)

// replace replaces a span by what is left of it and what is assigned.
func (d *draft) replace(l line, r *ranges, sp *Port, as []assignment) error {
	if l.bounded() {
		d.room[l.lineMap()]--
	}
	runs, spans, err := d.fit(l, r, d.runs(l, r, sp, as), sp.Mapping())
	if err != nil {
		return err
	}
	d.Waits = d.Waits || l.way == translated
	d.delete(EntryRange, *sp)
	for _, g := range spans {
		if l.way != translated { // no packet asks for it
			d.addRange(l, g.port)
			continue
		}
		d.Prepared = append(d.Prepared, Entry{EntryRange, g.port})
		d.Settled = append(d.Settled, Entry{EntryRange, g.port})
		if l.bounded() {
			d.room[l.lineMap()]++
		}
	}
	if l.way == translated {
		d.moveHoles(l, r, sp, runs, spans)
		d.bridge(sp, runs)
	}
	for i := range runs {
		d.moveSingles(l, r, &runs[i])
	}
	return nil
}

// moveSingles changes the single ports of a run.
func (d *draft) moveSingles(l line, r *ranges, x *run) {
	switch {
	case x.kept:
	case x.after == bySingle:
		d.single(l, x.to)
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
func (d *draft) moveHoles(l line, r *ranges, sp *Port, runs []run, spans []group) {
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

// bridge adds to the second map what the span served and single ports will serve: a packet that
// asks for those before the change, and for the span after it, finds what was before.
func (d *draft) bridge(sp *Port, runs []run) {
	needs := func(x *run) bool { return x.before == byRange && x.after == bySingle }
	for i := 0; i < len(runs); i++ {
		if !needs(&runs[i]) {
			continue
		}
		first := runs[i].first
		for i+1 < len(runs) && needs(&runs[i+1]) {
			i++
		}
		d.Prepared = append(d.Prepared, Entry{EntryRange, sp.Part(first, runs[i].last)})
	}
}

// runs returns what the ports of a span are before and after a change.
func (d *draft) runs(l line, r *ranges, sp *Port, as []assignment) (all []run) {
	at := int(sp.First())
	stay := func(to int) { // what is not assigned
		for at <= to {
			port := uint16(at)
			switch {
			case r.over.has(port):
				single, _ := d.set.singleOn(l, port)
				all = append(all, run{port, port, bySingle, bySingle, single, true})
				at++
			case r.holes.has(port):
				end := at
				for end < to && r.holes.has(uint16(end+1)) && !r.over.has(uint16(end+1)) {
					end++
				}
				all = append(all, run{port, uint16(end), byNone, byNone, Port{}, true})
				at = end + 1
			default:
				end := r.nextTaken(at, to) - 1
				all = append(all, run{port, uint16(end), byRange, byRange, sp.Part(port, uint16(end)), true})
				at = end + 1
			}
		}
	}
	for i := range as {
		a := &as[i]
		stay(int(a.first) - 1)
		if a.to != nil && a.to.More != 0 {
			all = append(all, run{a.first, a.last, byNone, byRange, *a.to, false})
		} else {
			all = append(all, d.explode(r, a.first, a.last, a.to)...)
		}
		at = int(a.last) + 1
	}
	stay(int(sp.Last()))
	return all
}

// explode returns the runs of ports that single ports serve after the change, or nothing.
func (d *draft) explode(r *ranges, first, last uint16, to *Port) (all []run) {
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
func (d *draft) fit(l line, r *ranges, runs []run, want nat.Mapping) ([]run, []group, error) {
	spans := d.groups(runs, l.way == translated)
	room := len(spans)
	if l.bounded() {
		room = max(d.most.ranges-d.room[l.lineMap()], 0)
	}
	var exploded []int
	for i := range spans {
		if spans[i].port.More == 0 {
			exploded = append(exploded, i)
		}
	}
	if over := len(spans) - len(exploded) - room; over > 0 {
		narrow := make([]int, 0, len(spans))
		for i := range spans {
			if spans[i].port.More != 0 {
				narrow = append(narrow, i)
			}
		}
		slices.SortStableFunc(narrow, func(a, b int) int { return cmp.Compare(spans[a].port.More, spans[b].port.More) })
		for _, i := range narrow[:over] {
			if spans[i].port.Len() > d.most.singles {
				return nil, nil, &nat.RangesError{Want: want, Most: d.most.ranges}
			}
		}
		exploded = append(exploded, narrow[:over]...)
	}
	if len(exploded) == 0 {
		return runs, spans, nil
	}
	singles := make([]bool, len(runs))
	for _, i := range exploded {
		for j := spans[i].from; j < spans[i].to; j++ {
			singles[j] = runs[j].after == byRange
		}
	}
	var all []run
	for i := range runs {
		if !singles[i] {
			all = append(all, runs[i])
			continue
		}
		all = append(all, d.explode(r, runs[i].first, runs[i].last, &runs[i].to)...)
	}
	return all, d.groups(all, l.way == translated), nil
}

// groups returns the ranges that runs become. Those that have the same target are one if
// between them are only ports that were holes or single ports before, since a packet that
// misses the change of the others would find the new range.
func (d *draft) groups(runs []run, holes bool) (all []group) {
	open, gap := false, 0
	for i := range runs {
		x := &runs[i]
		if x.after != byRange {
			open = open && x.before != byRange && (holes || x.to.Expires == 0)
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
