// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/alloc"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/internal/nfttest"
	"github.com/nftnat/nftnat/nat"
)

// The space in which random mappings meet: ports 100 to 111, of which the upper half
// is chosen from.
const (
	spaceFirst, spaceChosen, spaceLast = 100, 105, 111
)

// player plays random calls to an engine and to the model of it.
type player struct {
	*testing.T
	choose func(n int) int // the next decision: 0 to n-1
	bed    *testbed
	engine *Engine
	model  *model
	looked int // how often the engine has read the elements
	step   int
	call   string // the last
	seen   map[string]int
}

func newPlayer(t *testing.T, choose func(int) int) *player {
	t.Helper()
	p := &player{T: t, choose: choose, bed: newTestbed(), seen: map[string]int{}}
	p.bed.kernel.Hook(func(op string) error {
		if op == "Elements" {
			p.looked++
		}
		return nil
	})
	p.model = newModel(p.bed.clock.Now)
	p.open()
	return p
}

func (p *player) open() {
	p.engine = p.bed.openWith(p.T, Options{NoSysctl: true, FirstPort: spaceChosen, LastPort: spaceLast})
	p.model.reopen()
}

// play makes one step and checks everything.
func (p *player) play() {
	p.step++
	p.model.expire()
	switch p.choose(20) {
	case 0, 1, 2, 3, 4:
		p.publish(nat.PublishOptions{})
	case 5, 6, 7:
		p.publish(nat.PublishOptions{Replace: true})
	case 8, 9, 10:
		p.unpublish()
	case 11, 12:
		p.apply()
	case 13, 14:
		p.call = "expire"
		p.bed.clock.advance(time.Duration(p.choose(7)) * time.Second)
		p.model.expire()
	case 15:
		p.call = "reopen"
		if p.choose(2) == 0 {
			require.NoError(p, p.engine.Close())
		}
		p.open()
	case 16:
		p.call = "flush"
		if p.choose(3) == 0 {
			p.bed.kernel.Flush()
			p.model.flush()
		}
	case 17, 18:
		p.foreign()
	case 19:
		p.call = "purge"
		if p.choose(10) == 0 {
			require.NoError(p, p.engine.Purge(context.Background()))
			p.model.flush()
			p.open()
		}
	}
	p.check()
}

// outcome is what came of a call, in the words of the model.
func (p *player) outcome(err error) string {
	var c *nat.ConflictError
	switch {
	case err == nil:
		return isDone
	case errors.Is(err, nat.ErrInvalid):
		return isInvalid
	case errors.As(err, &c):
		require.True(p, anyPorts(c, excludes) || anyPorts(c, disagreeing), p.call)
		if !anyPorts(c, disagreeing) {
			require.Subset(p, p.model.known, slices.Collect(nat.Expand(c.Have)), p.call)
		}
		return isConflict
	case errors.Is(err, nat.ErrNotFound):
		return isNotFound
	case errors.Is(err, alloc.ErrExhausted):
		return isExhausted
	}
	require.NoError(p, err, p.call)
	return ""
}

// anyPorts reports whether something is true of any ports of two mappings in conflict.
func anyPorts(c *nat.ConflictError, is func(a, b nat.Mapping) bool) bool {
	for want := range nat.Expand(c.Want) {
		for have := range nat.Expand(c.Have) {
			if is(want, have) {
				return true
			}
		}
	}
	return false
}

// decide is what the engine does when it finds the kernel changed: look, and decide
// anew.
func (p *player) decide(attempt func() string) string {
	p.model.sure = false
	got := attempt()
	if got == hasDrifted {
		p.seen[hasDrifted]++
		p.model.adopt()
		p.model.sure = true
		got = attempt()
	}
	return got
}

func (p *player) publish(how nat.PublishOptions) {
	ms := p.mappings(1 + p.choose(3))
	if known := p.model.known; len(known) > 0 && p.choose(6) == 0 {
		ms[0] = known[p.choose(len(known))]
		if p.choose(2) == 0 {
			ms = ms[:1] // just what is there
		}
	}
	if lease := p.lease(); lease != (nat.Mapping{}) && p.choose(3) == 0 {
		ms[0] = lease
	}
	p.call = "publish " + describeAll(ms)
	if how.Replace {
		p.call, how.Kill = "replace "+describeAll(ms), p.choose(3) == 0
	}
	chooses := p.choose(5) == 0
	if chooses { // the last of them, which then is chosen a port after the others
		last := &ms[len(ms)-1]
		last.Frontend = netip.AddrPortFrom(last.Frontend.Addr(), 0)
	}
	looked := p.looked
	got, err := p.engine.Publish(context.Background(), how, ms...)
	if overlapping(ms) {
		require.ErrorIs(p, err, nat.ErrInvalid, p.call)
		p.seen[isInvalid]++
		return
	}
	if chooses {
		if p.looked != looked {
			p.model.adopt() // which port had been chosen first, only the engine knows
		}
		if errors.Is(err, alloc.ErrExhausted) {
			require.False(p, p.hasRun(ms), "%s: there is one", p.call)
			p.seen[isExhausted]++
			return
		}
		var c *nat.ConflictError
		if errors.As(err, &c) && !anyPorts(c, excludes) { // perhaps the one whose port only the engine knows
			require.True(p, anyPorts(c, disagreeing), p.call)
			p.seen[isConflict]++
			return
		}
		if err == nil {
			p.checkChoice(ms[len(ms)-1], got[len(got)-1])
			ms = got
		} else {
			ms = ms[:len(ms)-1] // what else may be wrong
		}
	}
	want := p.decide(func() string { return p.model.publish(ms, how) })
	p.seen[want]++
	require.Equal(p, want, p.outcome(err), "%s: %v", p.call, err)
	if err == nil {
		require.Equal(p, p.model.done, got, p.call)
	}
}

// lease is one that is known, with another end or none; zero: there is none.
func (p *player) lease() nat.Mapping {
	for _, known := range p.model.known {
		if !known.Expires.IsZero() {
			known.Expires = known.Expires.Add(time.Duration(1+p.choose(3)) * 5 * time.Second)
			if p.choose(4) == 0 {
				known.Expires = time.Time{}
			}
			return known
		}
	}
	return nat.Mapping{}
}

// checkChoice checks that a chosen port is what was asked for but for the port.
func (p *player) checkChoice(asked, got nat.Mapping) {
	port := got.Frontend.Port()
	require.True(p, port >= spaceChosen && int(port)+int(got.More) <= spaceLast, "%s: %s", p.call, got)
	asked.Frontend = netip.AddrPortFrom(asked.Frontend.Addr(), port)
	require.Equal(p, asked, got)
}

// hasRun reports whether the last of the mappings could have been given ports, the
// others having theirs.
func (p *player) hasRun(ms []nat.Mapping) bool {
	last, others := ms[len(ms)-1], singles(ms[:len(ms)-1])
	for first := spaceChosen; first+int(last.More) <= spaceLast; first++ {
		last.Frontend = netip.AddrPortFrom(last.Frontend.Addr(), uint16(first))
		free := true
		for one := range nat.Expand(last) {
			free = free && !p.model.isTaken(one) && !slices.ContainsFunc(others, func(o nat.Mapping) bool { return excludes(o, one) })
		}
		if free {
			return true
		}
	}
	return false
}

func (p *player) unpublish() {
	var ms []nat.Mapping
	for range 1 + p.choose(3) {
		if have := p.model.known; len(have) > 0 && p.choose(8) != 0 {
			ms = append(ms, have[p.choose(len(have))])
		} else {
			ms = append(ms, p.mapping())
		}
	}
	p.call = "unpublish " + describeAll(ms)
	kill := p.choose(3) == 0
	looked := p.looked
	_, err := p.engine.Remove(context.Background(), nat.Removal{Mappings: ms, Kill: kill})
	want := p.decide(func() string { return p.model.unpublish(ms) })
	p.seen[want]++
	require.Equal(p, want, p.outcome(err), "%s: %v (looked %d times)", p.call, err, p.looked-looked)
}

func (p *player) apply() {
	var ms []nat.Mapping
	for _, have := range p.model.known {
		if p.choose(4) != 0 {
			ms = append(ms, have)
		}
	}
	ms = append(ms, p.mappings(p.choose(4))...)
	p.call = "apply " + describeAll(ms)
	diff, diffErr := p.engine.Diff(context.Background(), ms...)
	changes, err := p.engine.Apply(context.Background(), ms...)
	want := isInvalid
	if !overlapping(ms) {
		before := p.looked
		want = p.decide(func() string { return p.model.apply(ms) })
		if p.looked == before {
			require.Equal(p, diffErr == nil, err == nil, p.call)
		}
	}
	require.Equal(p, want, p.outcome(err), "%s: %v", p.call, err)
	if err == nil && slices.Equal(diff, changes) {
		known := slices.Clone(p.model.known)
		again, err := p.engine.Apply(context.Background(), ms...)
		changed := false // by others, as the second attempt finds
		want := p.decide(func() string {
			changed = !slices.Equal(known, p.model.known)
			return p.model.apply(ms)
		})
		require.Equal(p, want, p.outcome(err), "%s: once more", p.call)
		require.Equal(p, changed, len(again) != 0, "%s: once more", p.call)
	}
}

// foreign is somebody else's hand on an element: one more, or one less.
func (p *player) foreign() {
	p.call = "foreign"
	m := p.model
	if !m.present {
		return
	}
	keys := slices.SortedFunc(maps.Keys(m.kernel), compareKeys)
	if len(keys) > 0 && p.choose(2) == 0 {
		at := keys[p.choose(len(keys))]
		p.bed.edit(p.T, func(t *nfttest.Table) {
			t.Elements = slices.DeleteFunc(t.Elements, isAt(at))
		})
		delete(m.kernel, at)
		delete(m.foreign, at)
		return
	}
	one := p.mapping()
	one.More = 0
	if len(m.known) > 0 && p.choose(4) == 0 { // where there is something already
		have := m.known[p.choose(len(m.known))]
		one.Proto, one.Frontend = have.Proto, have.Frontend
	}
	one.Masquerade, one.From = false, nat.Sources{} // which are not in the element
	one.NoProxy = one.NoProxy && !one.Frontend.Addr().IsLoopback() && !isApart(one)
	at, e := keyOf(one), elementAt(one)
	if _, ok := m.kernel[at]; ok {
		return
	}
	e.comment = []string{e.comment, "", "x [one-family]", "\"\n [no-proxy]", " [ops] "}[p.choose(5)]
	written := schema.PortElement(portset.Of(one), m.now())
	written.Comment = e.comment
	p.bed.write(p.T, written)
	m.kernel[at] = e
	m.foreign[at] = true
}

func (p *player) check() {
	p.Helper()
	e, m := p.engine, p.model
	have := must(e.Mappings(context.Background()))
	require.Equal(p, inAllWords(m.known), inAllWords(have), "step %d: %s", p.step, p.call)
	dump := p.bed.kernel.Dump()
	require.Equal(p, m.present, dump != "", "step %d: %s", p.step, p.call)
	require.Equal(p, m.elements(), mapElementsIn(dump), "step %d: %s", p.step, p.call)
	if m.present {
		lines := slices.DeleteFunc(elementsIn(withoutTimeouts(dump)), func(e string) bool { return !isOptionLine(e) })
		require.Equal(p, inOrder(optionLines(m.known)), inOrder(lines), "step %d: %s", p.step, p.call)
	}
	require.Empty(p, misreserved(e, have), "step %d: %s", p.step, p.call)
	if !m.isPlain() || !m.settled || !m.present {
		return
	}
	require.Equal(p, p.segments(), segmentsIn(dump), "step %d: %s", p.step, p.call)
	if len(have) == 0 || !m.isKnown() || overlapping(have) {
		return
	}
	// The same state is the same table, whatever the history.
	fresh := newTestbed()
	fresh.clock.now = m.now()
	_, err := fresh.open(p.T).Apply(context.Background(), have...)
	require.NoError(p, err)
	p.seen[isSame]++
	require.Equal(p, withoutNotes(withoutLimitsOf(fresh.kernel.Dump())), withoutNotes(withoutLimitsOf(dump)), "step %d: %s", p.step, p.call)
	requireNotes(p, p.bed, e)
}

// segments are the prefixes on link by the interfaces that lead to what is known.
func (p *player) segments() []string { return p.bed.wantedSegments(p, p.model.known) }
