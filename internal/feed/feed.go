// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package feed passes events on to any number of readers. The sender never waits. An event
// is kept until all readers have read it. When more than 65,536 mappings are kept, the oldest
// events are dropped, and a reader that missed them gets an event with their number.
package feed

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// most is how many mappings are kept for slow readers: every port of a protocol.
const most = 1 << 16

// Feed passes events on. The zero value is ready to use.
type Feed struct {
	mu      sync.Mutex
	readers map[*reader]struct{}
	events  []entry       // not yet read by all readers, the oldest first
	first   uint64        // number of events[0]
	ports   uint64        // in all events that were sent
	kept    int           // mappings in events
	wake    chan struct{} // closed by the next event; nil: no reader waits
}

// entry is a kept event.
type entry struct {
	nat.Event
	before uint64 // ports in all earlier events
}

func (e entry) size() int { return max(len(e.Mappings), 1) }

// Followed reports whether there are readers. Without any, Send does nothing.
func (f *Feed) Followed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.readers) != 0
}

// SendFirst passes an event to all readers, or to the first one that comes if there has been
// none.
func (f *Feed) SendFirst(e nat.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.send(e)
}

// Send passes an event to all readers.
func (f *Feed) Send(e nat.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.readers) != 0 {
		f.send(e)
	}
}

func (f *Feed) send(e nat.Event) {
	f.events = append(f.events, entry{e, f.ports})
	f.ports += uint64(e.Ports())
	f.kept += f.events[len(f.events)-1].size()
	for f.kept > most && len(f.events) > 1 {
		f.drop()
	}
	if f.wake != nil {
		close(f.wake)
		f.wake = nil
	}
}

// drop drops the oldest event.
func (f *Feed) drop() {
	f.kept -= f.events[0].size()
	f.events[0] = entry{}
	f.events = f.events[1:]
	f.first++
}

// Events returns the events that are sent from now on, to be iterated over once. The
// iteration ends when the context is done or ended is closed. Events are kept for the reader
// until it stops or the context is done, so the context must end.
func (f *Feed) Events(ctx context.Context, ended <-chan struct{}) iter.Seq[nat.Event] {
	r := f.subscribe()
	stop := context.AfterFunc(ctx, r.close)
	return func(yield func(nat.Event) bool) {
		defer stop()
		defer r.close()
		for ctx.Err() == nil {
			e, ok, wake := r.read()
			switch {
			case ok:
				if !yield(e) {
					return
				}
				continue
			case wake == nil:
				return
			}
			select {
			case <-wake:
			case <-ctx.Done():
			case <-ended:
				return
			}
		}
	}
}

// reader is the position of one reader.
type reader struct {
	feed   *Feed
	next   uint64 // number of its next event
	seen   uint64 // ports of the events before
	closed bool
}

func (f *Feed) subscribe() *reader {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readers == nil {
		f.readers = map[*reader]struct{}{}
	}
	r := &reader{feed: f, next: f.first + uint64(len(f.events)), seen: f.ports}
	if len(f.readers) == 0 && len(f.events) != 0 { // SendFirst
		r.next, r.seen = f.first, f.events[0].before
	}
	f.readers[r] = struct{}{}
	return r
}

func (r *reader) close() {
	f := r.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	r.closed = true
	delete(f.readers, r)
	f.trim()
}

// read returns the next event; without one, a channel that is closed when there is one, or
// nil if the reader is closed.
func (r *reader) read() (e nat.Event, ok bool, wake <-chan struct{}) {
	f := r.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.closed {
		return nat.Event{}, false, nil
	}
	if r.next < f.first {
		oldest := f.events[0].before
		e = nat.Event{Kind: nat.EventLost, Time: time.Now().UTC(), Lost: oldest - r.seen}
		r.next, r.seen = f.first, oldest
		return e, true, nil
	}
	i := r.next - f.first
	if i == uint64(len(f.events)) {
		if f.wake == nil {
			f.wake = make(chan struct{})
		}
		return nat.Event{}, false, f.wake
	}
	e = f.events[i].Event
	r.next++
	r.seen += uint64(e.Ports())
	if i == 0 {
		f.trim()
	}
	return e, true, nil
}

// trim drops the events that all readers have read.
func (f *Feed) trim() {
	next := f.first + uint64(len(f.events))
	for r := range f.readers {
		next = min(next, r.next)
	}
	for f.first < next {
		f.drop()
	}
}
