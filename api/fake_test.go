// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/nat"
)

// fakeEngine publishes in memory. It knows conflicts between equal frontends only.
type fakeEngine struct {
	mu    sync.Mutex
	ports map[nat.Mapping]nat.Mapping // by protocol and frontend
	next  uint16                      // the next free port

	networks  map[string]nat.Network
	endpoints map[string]Endpoint // without their mappings
	// changes counts the calls that changed something or could have.
	changes int
	// repeats is whether what is there already is done; else it is a conflict.
	repeats bool
	// notes are on each publishing, and on each network that goes.
	notes []string
	// err is what every change fails with.
	err error
	// entered, if not nil, is told of each change that begins; it then waits for
	// leave.
	entered, leave chan struct{}
}

func newFake(ms ...nat.Mapping) *fakeEngine {
	f := &fakeEngine{
		ports: map[nat.Mapping]nat.Mapping{}, next: 49153,
		networks: map[string]nat.Network{}, endpoints: map[string]Endpoint{},
	}
	for _, m := range ms {
		for single := range nat.Expand(m) {
			f.ports[keyOf(single)] = single
		}
	}
	return f
}

func keyOf(m nat.Mapping) nat.Mapping {
	return nat.Mapping{Proto: m.Proto, Frontend: m.Frontend}
}

func (f *fakeEngine) begin() error {
	if f.entered != nil {
		f.entered <- struct{}{}
		<-f.leave
	}
	f.mu.Lock()
	return f.err
}

func (f *fakeEngine) Publish(ms ...nat.Mapping) ([]nat.Mapping, error) {
	return f.publish(ms, false)
}

func (f *fakeEngine) Retarget(ms ...nat.Mapping) ([]nat.Mapping, error) {
	return f.publish(ms, true)
}

func (f *fakeEngine) RetargetAndKill(ms ...nat.Mapping) ([]nat.Mapping, error) {
	done, err := f.publish(ms, true)
	for i := range done {
		done[i].Name = "killed"
	}
	return done, err
}

func (f *fakeEngine) publish(ms []nat.Mapping, replace bool) ([]nat.Mapping, error) {
	err := f.begin()
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := nat.ValidateAll(ms...); err != nil {
		return nil, err
	}
	after := maps.Clone(f.ports)
	next := f.next
	done := slices.Clone(ms)
	for i := range done {
		m := &done[i]
		if m.Frontend.Port() == 0 {
			m.Frontend = netip.AddrPortFrom(m.Frontend.Addr(), next)
			next += m.More + 1
		}
		for single := range nat.Expand(*m) {
			if have, taken := after[keyOf(single)]; taken && !replace {
				return nil, fmt.Errorf("publish %s %s: %w", m.Proto, m.FrontendText(),
					&nat.ConflictError{Want: single, Have: have})
			}
			after[keyOf(single)] = single
		}
	}
	f.ports, f.next = after, next
	f.changes++
	return done, nil
}

func (f *fakeEngine) Unpublish(ms ...nat.Mapping) ([]nat.Mapping, error) {
	err := f.begin()
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	after := maps.Clone(f.ports)
	var done []nat.Mapping
	for _, m := range ms {
		for single := range nat.Expand(m) {
			have, ok := after[keyOf(single)]
			if !ok {
				return nil, fmt.Errorf("unpublish %s %s: %s %s is %w", m.Proto, m.FrontendText(),
					single.Proto, single.FrontendText(), nat.ErrNotFound)
			}
			delete(after, keyOf(single))
			done = append(done, have)
		}
	}
	f.ports = after
	f.changes++
	return nat.Collapse(done), nil
}

// Reporting fills a report with the fake's notes, and with what is there already.
func (f *fakeEngine) Reporting(r *engine.Report) Changer { return fakeReporter{f, r} }

type fakeReporter struct {
	*fakeEngine
	r *engine.Report
}

func (f fakeReporter) Publish(ms ...nat.Mapping) ([]nat.Mapping, error) {
	f.mu.Lock()
	same := f.repeats && f.err == nil && len(ms) > 0
	for _, m := range ms {
		for single := range nat.Expand(m) {
			same = same && f.ports[keyOf(single)] == single
		}
	}
	f.mu.Unlock()
	if same {
		f.r.Unchanged = true
		return ms, nil
	}
	f.r.Notes = f.notes
	return f.fakeEngine.Publish(ms...)
}

func (f fakeReporter) CreateNetwork(n nat.Network) (nat.Network, error) {
	f.mu.Lock()
	have, ok := f.networks[n.Name]
	same := f.repeats && f.err == nil && ok && have.Prefix == n.Prefix
	f.mu.Unlock()
	if same {
		f.r.Unchanged = true
		return have, nil
	}
	return f.fakeEngine.CreateNetwork(n)
}

func (f fakeReporter) Attach(a nat.EndpointSpec) (Endpoint, error) {
	if have, err := f.Endpoint(a.Name); f.repeats && err == nil {
		f.r.Unchanged = true
		return have, nil
	}
	return f.fakeEngine.Attach(a)
}

func (f fakeReporter) RemoveNetwork(name string) error {
	f.r.Notes = f.notes
	return f.fakeEngine.RemoveNetwork(name)
}

func (f fakeReporter) Remove(r engine.Removal) ([]nat.Mapping, error) {
	ms := r.Mappings
	for _, have := range f.list() {
		if r.Name != "" && have.Name == r.Name {
			ms = append(ms, have)
		}
		if r.Exact && keyOf(have) == keyOf(ms[0]) && have.Backend != ms[0].Backend {
			return nil, fmt.Errorf("unpublish %s: it is %w", ms[0], nat.ErrNotFound)
		}
	}
	if len(ms) == 0 {
		return nil, fmt.Errorf("unpublish all of %q: it is %w", r.Name, nat.ErrNotFound)
	}
	if r.Kill {
		return f.Kill(ms...)
	}
	return f.Unpublish(ms...)
}

// Kill is told from Unpublish by the name of what it returns.
func (f *fakeEngine) Kill(ms ...nat.Mapping) ([]nat.Mapping, error) {
	done, err := f.Unpublish(ms...)
	for i := range done {
		done[i].Name = "killed"
	}
	return done, err
}

func (f *fakeEngine) Diff(ms ...nat.Mapping) ([]nat.Change, error) {
	err := f.begin()
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := nat.ValidateAll(ms...); err != nil {
		return nil, err
	}
	return f.difference(ms), nil
}

func (f *fakeEngine) Apply(ms ...nat.Mapping) ([]nat.Change, error) {
	changes, err := f.Diff(ms...)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ports = newFake(ms...).ports
	f.changes++
	return changes, nil
}

func (f *fakeEngine) difference(ms []nat.Mapping) []nat.Change {
	want := newFake(ms...).ports
	var changes []nat.Change
	var come, gone []nat.Mapping
	for k, m := range want {
		have, ok := f.ports[k]
		switch {
		case !ok:
			come = append(come, m)
		case have != m:
			changes = append(changes, nat.Change{Old: have, New: m})
		}
	}
	for k, have := range f.ports {
		if _, ok := want[k]; !ok {
			gone = append(gone, have)
		}
	}
	for _, m := range nat.Collapse(gone) {
		changes = append(changes, nat.Change{Old: m})
	}
	for _, m := range nat.Collapse(come) {
		changes = append(changes, nat.Change{New: m})
	}
	return changes
}

func (f *fakeEngine) Mappings() iter.Seq[nat.Mapping] {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Values(slices.SortedFunc(maps.Values(f.ports), nat.Compare))
}

// list is what is published.
func (f *fakeEngine) list() []nat.Mapping { return slices.Collect(f.Mappings()) }

// changed is how often something was changed.
func (f *fakeEngine) changed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes
}
