// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"sync"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// feedLength is how many events a reader may be behind before it loses some: every
// port of a protocol published at once.
const feedLength = 1 << 16

// Feed brings events from who makes them to any number of readers. The readers share
// one record of the latest 65,536 events, some 12 MiB if it is full, and each has a
// place in it; so a reader that does not read costs nothing and holds nobody up, and
// learns how much it has missed. Nothing is kept while nobody reads. The zero value
// is ready to use.
type Feed struct {
	mu      sync.Mutex
	readers int
	// record has the event of number n at (n - first) % feedLength. It grows to that
	// length and is overwritten from then on; first is the number of the event that
	// it began with.
	record []happening
	first  uint64
	next   uint64 // number of the next event
	// wake is closed when there are more events; nil if no reader waits.
	wake chan struct{}
}

// Send tells all readers what happened at a time: to each port of the mappings, or,
// without mappings, to the table. It does not wait for any of them.
func (f *Feed) Send(what EventType, at time.Time, ms ...nat.Mapping) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readers == 0 {
		return
	}
	if len(ms) == 0 {
		f.put(happening{what: what, time: at.UnixNano()})
	}
	for _, m := range ms {
		for single := range nat.Expand(m) {
			f.put(happening{what: what, time: at.UnixNano(), mapping: single})
		}
	}
	if f.wake != nil {
		close(f.wake)
		f.wake = nil
	}
}

func (f *Feed) put(h happening) {
	if len(f.record) < feedLength {
		f.record = append(f.record, h)
	} else {
		f.record[(f.next-f.first)%feedLength] = h
	}
	f.next++
}

// oldest is the number of the oldest event that there is.
func (f *Feed) oldest() uint64 { return f.next - uint64(len(f.record)) }

// reader is a reader's place in a feed.
type reader struct {
	feed *Feed
	next uint64
}

// subscribe returns a reader of everything that happens from now on.
func (f *Feed) subscribe() *reader {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers++
	return &reader{feed: f, next: f.next}
}

func (r *reader) close() {
	f := r.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readers--; f.readers == 0 {
		f.record, f.first = nil, f.next
	}
}

// read waits until there are events, puts as many as fit into buf and returns how
// many, and how many were lost before them. It returns ctx's error once that is done.
func (r *reader) read(ctx context.Context, buf []happening) (n int, lost uint64, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return 0, 0, err
		}
		n, lost, wake := r.take(buf)
		if n > 0 {
			return n, lost, nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
		}
	}
}

// take is read that does not wait: without events it returns what is closed when
// there are some.
func (r *reader) take(buf []happening) (n int, lost uint64, wake <-chan struct{}) {
	f := r.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.next == f.next {
		if f.wake == nil {
			f.wake = make(chan struct{})
		}
		return 0, 0, f.wake
	}
	if oldest := f.oldest(); r.next < oldest {
		lost = oldest - r.next
		r.next = oldest
	}
	for n < len(buf) && r.next < f.next {
		buf[n] = f.record[(r.next-f.first)%feedLength]
		n++
		r.next++
	}
	return n, lost, nil
}
