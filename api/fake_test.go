// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nftnat/nftnat/internal/feed"
	"github.com/nftnat/nftnat/nat"
)

// fakeEngine publishes in memory. It knows conflicts between equal frontends only.
type fakeEngine struct {
	mu    sync.Mutex
	ports map[nat.Mapping]nat.Mapping // by protocol and frontend
	next  uint16                      // the next free port

	networks  map[string]nat.Network
	endpoints map[string]nat.Endpoint // without their mappings
	// changes counts the calls that changed something or could have.
	changes int
	// repeats is whether what is there already is done; else it is a conflict.
	repeats bool
	// notes are on each publishing, and on each network that goes.
	notes []string
	// feed passes on the events that a test sends.
	feed feed.Feed
	// err is what every change fails with.
	err error
	// entered, if not nil, is told of each change that begins; it then waits for
	// leave.
	entered, leave chan struct{}
}

func newFake(ms ...nat.Mapping) *fakeEngine {
	f := &fakeEngine{
		ports: map[nat.Mapping]nat.Mapping{}, next: 49153,
		networks: map[string]nat.Network{}, endpoints: map[string]nat.Endpoint{},
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

// Publish fills the report with the fake's notes, and with what is there already. What it
// killed is told by the name.
func (f *fakeEngine) Publish(ctx context.Context, how nat.PublishOptions, ms ...nat.Mapping) ([]nat.Mapping, error) {
	f.mu.Lock()
	same := f.repeats && f.err == nil && !how.Replace && len(ms) > 0
	for _, m := range ms {
		for single := range nat.Expand(m) {
			same = same && f.ports[keyOf(single)] == single
		}
	}
	f.mu.Unlock()
	report := reportFrom(ctx)
	if same {
		report.Unchanged = true
		return ms, nil
	}
	if !how.Replace {
		report.Notes = f.notes
	}
	for _, have := range f.list() {
		for _, m := range ms {
			if how.IfName != "" && keyOf(have) == keyOf(m) && have.Name != nat.Name(how.IfName) {
				return nil, fmt.Errorf("publish %s: %w", nat.DescribeFrontend(m), &nat.ConflictError{Want: m, Have: have})
			}
		}
	}
	done, err := f.publish(ms, how.Replace)
	if how.Kill {
		for i := range done {
			done[i].Name = "killed"
		}
	}
	return done, err
}

// reportFrom is nat.ReportFrom, and never nil.
func reportFrom(ctx context.Context) *nat.Report {
	if r := nat.ReportFrom(ctx); r != nil {
		return r
	}
	return &nat.Report{}
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

func (f *fakeEngine) unpublish(ms ...nat.Mapping) ([]nat.Mapping, error) {
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

// Remove tells what it killed by the name.
func (f *fakeEngine) Remove(ctx context.Context, r nat.Removal) ([]nat.Mapping, error) {
	ms := r.Mappings
	for _, have := range f.list() {
		switch named := have.Name == nat.Name(r.Name); {
		case r.Name != "" && len(r.Mappings) == 0 && named:
			ms = append(ms, have)
		case r.Name != "" && len(r.Mappings) != 0 && keyOf(have) == keyOf(ms[0]) && !named:
			return nil, fmt.Errorf("unpublish %s: it is %w", ms[0], nat.ErrNotFound)
		}
		if r.Exact && keyOf(have) == keyOf(ms[0]) && have.Backend != ms[0].Backend {
			return nil, fmt.Errorf("unpublish %s: it is %w", ms[0], nat.ErrNotFound)
		}
	}
	if len(ms) == 0 {
		return nil, fmt.Errorf("unpublish all of %q: it is %w", r.Name, nat.ErrNotFound)
	}
	done, err := f.unpublish(ms...)
	if r.Kill {
		for i := range done {
			done[i].Name = "killed"
		}
	}
	return done, err
}

func (f *fakeEngine) Diff(_ context.Context, ms ...nat.Mapping) ([]nat.Change, error) {
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

func (f *fakeEngine) Apply(ctx context.Context, ms ...nat.Mapping) ([]nat.Change, error) {
	changes, err := f.Diff(ctx, ms...)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ports = newFake(ms...).ports
	f.changes++
	return changes, nil
}

func (f *fakeEngine) Exchange(_ context.Context, x nat.Exchange) ([]nat.Change, error) {
	err := f.begin()
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	next := maps.Clone(f.ports)
	for k := range newFake(x.Remove...).ports {
		delete(next, k)
	}
	maps.Copy(next, newFake(x.Publish...).ports)
	changes := f.difference(slices.Collect(maps.Values(next)))
	f.ports = next
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

func (f *fakeEngine) Mappings(context.Context) ([]nat.Mapping, error) {
	if f.err != nil {
		return nil, f.err
	}
	return f.list(), nil
}

// Connections are two of each mapping, one of them by its proxy.
func (f *fakeEngine) Connections(context.Context) ([]nat.Connections, error) {
	if f.err != nil {
		return nil, f.err
	}
	var all []nat.Connections
	for _, m := range f.list() {
		all = append(all, nat.Connections{Mapping: m, Translated: 1, Proxied: 1, ProxiedEver: 3})
	}
	return all, nil
}

// list is what is published.
func (f *fakeEngine) list() []nat.Mapping {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.SortedFunc(maps.Values(f.ports), nat.Compare)
}

func (f *fakeEngine) Events(ctx context.Context) iter.Seq[nat.Event] { return f.feed.Events(ctx, nil) }

// send sends an event about mappings.
func (f *fakeEngine) send(kind nat.EventKind, at time.Time, ms ...nat.Mapping) {
	f.feed.Send(nat.Event{Kind: kind, Time: at, Mappings: ms})
}

// numbered is a mapping that can be told from others.
func numbered(n int) nat.Mapping {
	return nat.Mapping{
		Proto: nat.TCP, Frontend: netip.AddrPortFrom(netip.Addr{}, 80),
		Backend: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), 80), Name: strconv.Itoa(n),
	}
}

// changed is how often something was changed.
func (f *fakeEngine) changed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes
}
