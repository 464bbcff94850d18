// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

// fakeDaemon is a daemon of single mappings in memory.
type fakeDaemon struct {
	mu       sync.Mutex
	mappings map[slot]nat.Mapping
	held     map[slot]bool // by programs
	created  int64
	down     bool
	silent   bool // no events are sent
	calls    int  // of Publish
	delay    time.Duration
	streams  map[chan api.Event]context.CancelFunc
}

func newFake() *fakeDaemon {
	return &fakeDaemon{mappings: map[slot]nat.Mapping{}, held: map[slot]bool{}, streams: map[chan api.Event]context.CancelFunc{}}
}

// slotOf tells ports of IPv6 addresses from those of IPv4 ones.
func slotOf(m *nat.Mapping) slot {
	if m.Frontend.Addr().Is6() {
		return slot{m.Proto + 100, m.Frontend.Port()}
	}
	return slot{m.Proto, m.Frontend.Port()}
}

func (f *fakeDaemon) send(kind api.EventType, m nat.Mapping) {
	doc := api.Ranges([]nat.Mapping{m})[0]
	for c := range f.streams {
		if !f.silent {
			c <- api.Event{Type: kind, Mapping: &doc}
		}
	}
}

func (f *fakeDaemon) Publish(_ context.Context, how nat.PublishOptions, ms ...nat.Mapping) ([]nat.Mapping, error) {
	time.Sleep(f.delay)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if f.down {
		return nil, api.ErrNoServer
	}
	for _, m := range ms {
		at := slotOf(&m)
		have, ok := f.mappings[at]
		renewed := have
		renewed.Expires = m.Expires
		switch {
		case f.held[at]:
			return nil, &nat.HeldError{Want: m, Address: m.Frontend, PID: 7, Command: "sshd", Inode: 1}
		case !ok, have == m, how.Replace && (how.IfName == "" || how.IfName == have.Name), renewed == m && !have.Expires.IsZero():
		default:
			return nil, &nat.ConflictError{Want: m, Have: have}
		}
	}
	for _, m := range ms {
		if f.mappings[slotOf(&m)] != m {
			f.mappings[slotOf(&m)] = m
			f.send(api.EventPublished, m)
		}
	}
	if f.created == 0 {
		f.created = 1000
	}
	return ms, nil
}

func (f *fakeDaemon) Remove(_ context.Context, r nat.Removal) ([]nat.Mapping, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, api.ErrNoServer
	}
	have, ok := f.mappings[slotOf(&r.Mappings[0])]
	if !ok || have.Backend != r.Mappings[0].Backend || have.Name != r.Name {
		return nil, nat.ErrNotFound
	}
	delete(f.mappings, slotOf(&have))
	f.send(api.EventUnpublished, have)
	return []nat.Mapping{have}, nil
}

func (f *fakeDaemon) Mappings(context.Context) (all []nat.Mapping, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, api.ErrNoServer
	}
	for _, m := range f.mappings {
		all = append(all, m)
	}
	return nat.Collapse(all), nil
}

func (f *fakeDaemon) RangeEvents(ctx context.Context) (iter.Seq2[api.Event, error], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, api.ErrNoServer
	}
	ctx, cancel := context.WithCancel(ctx)
	events := make(chan api.Event, 1<<16)
	f.streams[events] = cancel
	return func(yield func(api.Event, error) bool) {
		defer cancel()
		for {
			select {
			case e := <-events:
				if !yield(e, nil) {
					return
				}
			case <-ctx.Done():
				yield(api.Event{}, io.ErrUnexpectedEOF)
				return
			}
		}
	}, nil
}

// Created is Options.Created.
func (f *fakeDaemon) Created(context.Context) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return 0, api.ErrNoServer
	}
	return f.created, nil
}

// stop ends the daemon; the kernel keeps the mappings.
func (f *fakeDaemon) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = true
	f.breakStreams()
}

func (f *fakeDaemon) breakStreams() {
	for c, cancel := range f.streams {
		cancel()
		delete(f.streams, c)
	}
}

func (f *fakeDaemon) start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = false
}

// change does what others do with the daemon.
func (f *fakeDaemon) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

// publish has an operator publish a mapping.
func (f *fakeDaemon) publish(t *testing.T, m nat.Mapping) {
	t.Helper()
	_, err := f.Publish(t.Context(), nat.PublishOptions{}, m)
	require.NoError(t, err)
}

// clock is one that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// testbed is leases of a fake.
type testbed struct {
	*Leases
	fake  *fakeDaemon
	clock *clock
	boot  time.Time
	end   func()
}

var wanAddress = netip.MustParseAddr("198.51.100.1")

func newTestbed(t *testing.T, o Options) *testbed {
	t.Helper()
	b := &testbed{fake: newFake(), clock: &clock{at: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)}}
	b.boot = b.clock.now().Add(-time.Hour)
	b.restart(t, o)
	return b
}

// restart starts the gateway again.
func (b *testbed) restart(t *testing.T, o Options) {
	t.Helper()
	if b.end != nil {
		b.end()
	}
	o.Daemon, o.Created, o.Now = b.fake, b.fake.Created, b.clock.now
	o.Boottime = func() int64 { return int64(b.clock.now().Sub(b.boot) / time.Second) }
	b.Leases = New(o)
	b.SetAddress(wanAddress, 10)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	l := b.Leases
	go func() { ended <- l.Run(ctx) }()
	b.end = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			panic(err)
		}
	})
	t.Cleanup(b.end)
	<-b.Ready()
}

// soon waits until something is so.
func soon(t *testing.T, is func() bool) {
	t.Helper()
	require.Eventually(t, is, 10*time.Second, time.Millisecond)
}

func addr(n int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("192.168.%d.%d", n>>8, n&255))
}

func operators(text, name string) nat.Mapping {
	ms, err := nat.ParseMappingText(text)
	if err != nil {
		panic(err)
	}
	ms.Name = name
	return ms
}

func lostEvent() api.Event { return api.Event{Type: api.EventLost, Lost: 1} }
