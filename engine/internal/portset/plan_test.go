// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// table is a naive model of the kernel's table: a state of it.
type table struct {
	singles       map[tableKey]Port
	holes         map[tableKey]bool
	first, second map[line][]Port
}

type tableKey struct {
	line
	port uint16
}

func newTable() *table {
	return &table{map[tableKey]Port{}, map[tableKey]bool{}, map[line][]Port{}, map[line][]Port{}}
}

func (k *table) clone() *table {
	c := &table{maps.Clone(k.singles), maps.Clone(k.holes), maps.Clone(k.first), maps.Clone(k.second)}
	for l, ps := range c.first {
		c.first[l] = slices.Clone(ps)
	}
	for l, ps := range c.second {
		c.second[l] = slices.Clone(ps)
	}
	return c
}

func find(ps []Port, port uint16) (Port, bool) {
	for _, p := range ps {
		if port >= p.First() && port <= p.Last() {
			return p.Part(port, port), true
		}
	}
	return Port{}, false
}

func (k *table) add(tb testing.TB, e Entry, second bool) {
	tb.Helper()
	at := tableKey{e.line(), e.First()}
	switch e.Kind {
	case EntryHole:
		at.line = lineOfHole(e.Frontend)
		require.False(tb, k.holes[at], "hole %v twice", e)
		k.holes[at] = true
	case EntrySingle:
		require.NotContains(tb, k.singles, at)
		k.singles[at] = e.Port
	case EntryRange:
		m := k.first
		if second {
			m = k.second
		}
		for _, p := range m[at.line] {
			require.True(tb, p.Last() < e.First() || p.First() > e.Last(), "%v overlaps %v", e, p)
		}
		m[at.line] = append(m[at.line], e.Port)
	}
}

func (k *table) delete(tb testing.TB, e Entry, second bool) {
	tb.Helper()
	at := tableKey{e.line(), e.First()}
	switch e.Kind {
	case EntryHole:
		at.line = lineOfHole(e.Frontend)
		require.True(tb, k.holes[at], "no hole %v", e)
		delete(k.holes, at)
	case EntrySingle:
		require.Equal(tb, e.Port, k.singles[at])
		delete(k.singles, at)
	case EntryRange:
		m := k.first
		if second {
			m = k.second
		}
		i := slices.Index(m[at.line], e.Port)
		require.NotEqual(tb, -1, i, "no range %v", e)
		if m[at.line] = slices.Delete(m[at.line], i, i+1); len(m[at.line]) == 0 {
			delete(m, at.line)
		}
	}
}

// load is what an engine reads, and how it finishes what another has begun.
func (k *table) load(tb testing.TB) *Set {
	tb.Helper()
	s := NewSet()
	for _, p := range k.singles {
		require.True(tb, s.Load(Entry{EntrySingle, p}))
	}
	for at := range k.holes {
		require.True(tb, s.Load(at.hole(at.port)))
	}
	for _, ps := range k.first {
		for _, p := range ps {
			require.True(tb, s.Load(Entry{EntryRange, p}))
		}
	}
	var second []Entry
	for _, ps := range k.second {
		for _, p := range ps {
			second = append(second, Entry{EntryRange, p})
		}
	}
	for _, e := range s.Settling(second) {
		require.True(tb, s.Load(e))
	}
	for _, e := range s.Redundant() {
		s.Unload(e)
	}
	require.Empty(tb, s.Redundant())
	for _, e := range s.Unbacked() {
		require.True(tb, s.Load(e))
	}
	require.Empty(tb, s.Unbacked())
	return &s
}

// flight is all states that a packet under way may have met, with what is published in each.
type flight struct {
	testing.TB
	r         *rand.Rand
	states    []*table
	published [][]map[Frontend]Target // one or the other
}

func (w *flight) state(k *table, published ...map[Frontend]Target) {
	w.states, w.published = append(w.states, k), append(w.published, published)
}

func (w *flight) between(k *table, before, after map[Frontend]Target) {
	w.state(k, before, after)
	w.packets()
}

// grace waits until no packet is under way that has met an earlier state.
func (w *flight) grace() {
	w.packets()
	n := len(w.states)
	w.states, w.published = w.states[n-1:], w.published[n-1:]
}

// packets has packets meet states, each look-up a state at least as new as the one before.
func (w *flight) packets() {
	for range 40 {
		l := line{proto: nat.TCP, is4: w.r.IntN(4) != 0, host: modelHosts()[w.r.IntN(2)]}
		at := tableKey{l, uint16(1 + w.r.IntN(modelPorts))}
		var when [4]int
		for i := range when {
			when[i] = w.r.IntN(len(w.states))
		}
		slices.Sort(when[:])
		got, ok := w.states[when[0]].singles[at]
		if !ok && !w.states[when[1]].holes[at] {
			if got, ok = find(w.states[when[2]].first[l], at.port); !ok {
				got, ok = find(w.states[when[3]].second[l], at.port)
			}
		}
		var want []string
		for i := when[0]; i <= when[3]; i++ {
			for _, published := range w.published[i] {
				want = append(want, modelTarget(published, at))
			}
		}
		is := "none"
		if ok {
			is = got.Backend.String()
		}
		require.Contains(w, want, is, "%v %v: states %v of %d", l, at.port, when, len(w.states))
	}
}

const (
	modelPorts = 48
	modelEnd   = 5_000_000
)

func modelHosts() []netip.Addr { return []netip.Addr{{}, netip.MustParseAddr("192.0.2.1")} }

// modelTarget is where a packet should go.
func modelTarget(published map[Frontend]Target, at tableKey) string {
	for _, f := range at.frontends(at.port) {
		if t, ok := published[f]; ok && lineOf(f, &t) == at.line {
			return t.Backend.String()
		}
	}
	return "none"
}

// A set does what a map of single ports does; at no moment of a change does a packet go to a
// wrong place or to none; and an engine that is killed at any moment leaves what was before the
// change or what is after it.
func TestPlanAgainstModel(t *testing.T) {
	few := limits{cut: 5, holes: 8, ranges: 4, singles: 12}
	for seed := range uint64(16) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { modelRun(t, seed, few) })
	}
}

func modelRun(t *testing.T, seed uint64, few limits) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 49))
	w := &flight{TB: t, r: r}
	s, k, m := NewSet(), newTable(), map[Frontend]Target{}
	w.state(k, m)
	lone := false // whether the last change was of ports that are taken out of ranges, given to others and returned, or of ranges that go
	for range 40 {
		if r.IntN(8) == 0 {
			k, m = w.expire(k, &s, m)
			w.grace()
			lone = false
		}
		c, after := someChange(r, &s, m)
		plan, err := s.plan(&c, few)
		if err != nil {
			var many *nat.RangesError
			require.ErrorAs(t, err, &many)
			continue
		}
		before, was := s.Clone(), lone
		if lone = !plan.addsRanges(); plan.Waits || !lone || !was {
			w.grace() // a packet that is under way for longer than a change is not looked at
		}
		k = w.carryOut(plan, k, m, after)
		s.Do(plan)
		for l, ps := range k.first {
			if before := before.lines[l]; l.bounded() && (before == nil || len(before.spans) <= few.ranges) { // undoing is not refused
				require.LessOrEqual(t, len(ps), few.ranges)
			}
		}
		if r.IntN(6) == 0 { // a later step fails
			requireEntries(t, &s, k)
			w.grace()
			back := plan.Inverse(&s, &c)
			k = w.carryOut(back, k, after, m)
			s.Do(back)
			after = m
			lone = false
		}
		m = after
		requireSame(t, &s, m)
		requireEntries(t, &s, k)
		requireDiff(t, &before, &s)
	}
}

func (p *Plan) addsRanges() bool {
	isRange := func(e Entry) bool { return e.Kind == EntryRange }
	return slices.ContainsFunc(slices.Concat(p.Prepared, p.Settled, slices.Collect(p.Added)), isRange)
}

// carryOut makes the change as an engine does.
func (w *flight) carryOut(p *Plan, k *table, before, after map[Frontend]Target) *table {
	step := func(published map[Frontend]Target, f func(*table)) {
		k = k.clone()
		f(k)
		w.state(k, published)
		w.packets()
		requireSame(w, k.load(w), published)
	}
	if len(p.Prepared) != 0 {
		step(before, func(k *table) {
			for _, e := range p.Prepared {
				k.add(w, e, true)
			}
		})
	}
	w.late(k, p, before, after)
	step(after, func(k *table) {
		for e := range p.Deleted {
			k.delete(w, e, false)
		}
		for e := range p.Added {
			k.add(w, e, false)
		}
		for _, e := range p.Between {
			k.add(w, e, true)
		}
	})
	if len(p.Settled) != 0 {
		step(after, func(k *table) {
			for _, e := range p.Settled {
				k.add(w, e, false)
			}
		})
	}
	if len(p.Prepared)+len(p.Beneath) != 0 {
		w.grace()
	}
	if len(p.Prepared)+len(p.Cleaned)+len(p.Beneath) != 0 {
		step(after, func(k *table) {
			for _, e := range slices.Concat(p.Prepared, p.Between) {
				k.delete(w, e, true)
			}
			for _, e := range p.Cleaned {
				k.delete(w, e, false)
			}
			for _, e := range p.Beneath {
				k.add(w, e, false)
			}
		})
	}
	return k
}

// expire has the kernel remove all that ends by itself, and the set note it.
func (w *flight) expire(k *table, s *Set, m map[Frontend]Target) (*table, map[Frontend]Target) {
	k, m = k.clone(), maps.Clone(m)
	for _, a := range append(modelHosts(), netip.IPv4Unspecified()) {
		s.expire(Frontend{nat.TCP, netip.AddrPortFrom(a, 1)}, modelPorts, modelEnd)
	}
	isOver := func(p Port) bool { return p.Expires != 0 }
	maps.DeleteFunc(m, func(_ Frontend, t Target) bool { return t.Expires != 0 })
	maps.DeleteFunc(k.singles, func(_ tableKey, p Port) bool { return isOver(p) })
	for l := range k.first {
		if k.first[l] = slices.DeleteFunc(k.first[l], isOver); len(k.first[l]) == 0 {
			delete(k.first, l)
		}
	}
	requireSame(w, s, m)
	requireEntries(w, s, k)
	if w.r.IntN(2) == 0 {
		for _, e := range s.Redundant() {
			s.Unload(e)
			k.delete(w, e, false)
		}
	}
	requireSame(w, s, m)
	requireEntries(w, s, k)
	w.state(k, m)
	return k, m
}

// late adds states that are within the transaction of the change: single ports and holes change
// before ranges do, and some kernels delete a range before they add another.
func (w *flight) late(k *table, p *Plan, before, after map[Frontend]Target) {
	k = k.clone()
	for e := range p.Deleted {
		if e.Kind != EntryRange {
			k.delete(w, e, false)
		}
	}
	for e := range p.Added {
		if e.Kind != EntryRange {
			k.add(w, e, false)
		}
	}
	w.between(k.clone(), before, after)
	for e := range p.Deleted {
		if e.Kind == EntryRange {
			k.delete(w, e, false)
		}
	}
	w.between(k, before, after)
}

// someChange returns a change, and what is published after it.
func someChange(r *rand.Rand, s *Set, m map[Frontend]Target) (c Change, after map[Frontend]Target) {
	after = maps.Clone(m)
	for range 1 + r.IntN(2) {
		first := 1 + r.IntN(modelPorts)
		last := min(first+r.IntN(1+r.IntN(modelPorts)), modelPorts)
		hosts := append(modelHosts(), netip.IPv4Unspecified())
		p := Port{Frontend: Frontend{nat.TCP, netip.AddrPortFrom(hosts[r.IntN(3)], uint16(first))}, More: uint16(last - first)}
		if r.IntN(3) == 0 {
			for single := range p.Singles {
				delete(after, single.Frontend)
			}
			continue
		}
		backends := []string{"10.0.0.1", "10.0.0.2", "fd00::1"}
		p.Backend = netip.AddrPortFrom(netip.MustParseAddr(backends[r.IntN(len(backends))]), uint16(first))
		if r.IntN(6) == 0 {
			p.Expires = modelEnd
		}
		p.ProxyOnly = r.IntN(8) == 0
		shift := uint16(0)
		if r.IntN(4) == 0 {
			shift = 100
		}
		for single := range p.Singles {
			for _, a := range hosts { // which conflict
				if other := (Frontend{nat.TCP, netip.AddrPortFrom(a, single.First())}); a.IsValid() == p.AddrPort.Addr().IsValid() || !a.Is4() || a.IsUnspecified() {
					if _, ok := after[other]; ok && a.IsUnspecified() != p.AddrPort.Addr().IsUnspecified() && a.IsValid() != p.AddrPort.Addr().IsValid() {
						delete(after, other)
					}
				}
			}
			after[single.Frontend] = single.shifted(shift)
		}
	}
	// As few pieces as possible.
	want := NewSet()
	frontends := slices.SortedFunc(maps.Keys(after), func(a, b Frontend) int {
		return widestFirst(a, b)
	})
	for i := 0; i < len(frontends); i++ {
		p := Port{Frontend: frontends[i], Target: after[frontends[i]]}
		for p.Backend.Port() == p.First() && i+1 < len(frontends) && frontends[i+1].follows(&p) && after[frontends[i+1]] == p.shifted(uint16(p.Len())) {
			p.More++
			i++
		}
		kind := EntrySingle
		if p.More != 0 {
			kind = EntryRange
		}
		want.Load(Entry{kind, p})
	}
	return Diff(s, &want), after
}

// requireSame checks what a set has.
func requireSame(tb testing.TB, s *Set, m map[Frontend]Target) {
	tb.Helper()
	all := map[Frontend]Target{}
	for p := range s.All {
		for single := range p.Singles {
			require.NotContains(tb, all, single.Frontend)
			all[single.Frontend] = single.Target
		}
	}
	require.Equal(tb, m, all)
	require.Equal(tb, len(m), s.Len())
	for f, want := range m {
		have, ok := s.Get(f)
		require.True(tb, ok)
		require.Equal(tb, want, have)
	}
}

// requireEntries checks that a set mirrors the table.
func requireEntries(tb testing.TB, s *Set, k *table) {
	tb.Helper()
	is := newTable()
	n := 0
	for e := range s.Entries {
		is.add(tb, e, false)
		n++
	}
	require.Equal(tb, n, s.LenEntries())
	require.Equal(tb, k.singles, is.singles)
	require.Equal(tb, k.holes, is.holes)
	require.Empty(tb, k.second)
	for l, ps := range k.first {
		require.ElementsMatch(tb, ps, is.first[l])
	}
	require.Len(tb, is.first, len(k.first))
}

// A range that only goes has to wait for no packet; one that leaves a single port does, which a
// packet may have missed just before it came.
func TestPlanWaits(t *testing.T) {
	port := func(first, last uint16, backend string) Port {
		return Port{
			Frontend: Frontend{nat.UDP, netip.AddrPortFrom(netip.Addr{}, first)}, More: last - first,
			Target: Target{Backend: netip.AddrPortFrom(netip.MustParseAddr(backend), first)},
		}
	}
	wide, over := port(1000, 3000, "10.0.0.1"), port(2000, 2000, "10.0.0.2")
	rest := []Port{wide.Part(1000, 1999), wide.Part(2001, 3000)}
	for _, c := range []struct {
		name   string
		before []Change
		change Change
		waits  bool
	}{
		{"a range", nil, Change{Removed: []Port{wide}}, false},
		{"a range with a hole", []Change{{Removed: []Port{wide.Part(2000, 2000)}}}, Change{Removed: rest}, false},
		{"a range around a port", []Change{{Removed: []Port{wide.Part(2000, 2000)}, Added: []Port{over}}}, Change{Removed: rest}, true},
		{"a range that is replaced", nil, Change{Removed: []Port{wide}, Added: []Port{port(1000, 3000, "10.0.0.2")}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := NewSet()
			for _, change := range append([]Change{{Added: []Port{wide}}}, c.before...) {
				plan, err := s.Plan(&change)
				require.NoError(t, err)
				s.Do(plan)
			}
			plan, err := s.Plan(&c.change)
			require.NoError(t, err)
			require.Equal(t, c.waits, plan.Waits)
		})
	}
}
