// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

const (
	// The first and the longest pause before the daemon is asked again.
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
)

// errResync has the mappings be read again.
var errResync = errors.New("events were lost")

// follow keeps the index equal to the daemon's mappings, and reads all again when the daemon was started again or events
// were lost.
func (l *Leases) follow(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		began := l.now()
		err := l.listen(ctx)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errResync) || l.now().Sub(began) > lastPause {
			pause = firstPause
		}
		if !errors.Is(err, errResync) {
			l.fail(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
	}
}

// fail notes that the daemon does not answer.
func (l *Leases) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down.IsZero() {
		l.down = l.now()
		if err == nil {
			err = errors.New("it closed the events")
		}
		l.cause = err
		l.log.Warn("the daemon does not answer", "error", err)
	}
}

// listen reads the mappings, and then the events until they end.
func (l *Leases) listen(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The events first: what happens while the mappings are read is in them too.
	events, err := l.daemon.RangeEvents(ctx)
	if err != nil {
		return err
	}
	all, err := l.daemon.Mappings(ctx)
	if err != nil {
		return err
	}
	created, err := l.table(ctx)
	if err != nil {
		return err
	}
	l.rebuild(all, created)
	for event, err := range events {
		if err != nil {
			return err
		}
		if err := l.apply(ctx, &event); err != nil {
			return err
		}
	}
	return nil
}

// rebuild makes the index of what is published now.
func (l *Leases) rebuild(all []nat.Mapping, created int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	x := newIndex(l.index.ports.again(now))
	x.changes = l.index.changes + 1
	for i := range all {
		x.put(&all[i])
	}
	l.index = x
	for _, w := range l.waiters {
		w.observe(x)
	}
	l.setCreated(created, len(all) != 0)
	if !l.down.IsZero() {
		l.log.Info("the daemon answers again")
	}
	l.down, l.cause = time.Time{}, nil
	select {
	case <-l.ready:
	default:
		close(l.ready)
	}
}

// setCreated notes when the table was created. If it is another table, the leases were lost.
func (l *Leases) setCreated(created int64, published bool) {
	before := l.created
	l.created, l.untold = created, created == 0 && published
	if before != 0 && created != before {
		l.log.Warn("the table was created again: clients are told that their leases are lost")
		l.announce()
	}
}

// apply follows an event.
func (l *Leases) apply(ctx context.Context, event *api.Event) error {
	put := false
	switch event.Type {
	case api.EventLost:
		return errResync
	case api.EventRepaired:
		if event.Mapping == nil {
			return errResync
		}
		put = true
	case api.EventPublished:
		put = true
	case api.EventUnpublished, api.EventExpired:
	case api.EventHost:
		return nil
	default: // of a later version
		return nil
	}
	if event.Mapping == nil {
		return errResync
	}
	m, err := event.Mapping.Value()
	if err != nil {
		return fmt.Errorf("read event: %w", err)
	}
	l.mu.Lock()
	if put {
		l.index.put(&m)
	} else {
		l.index.drop(&m, l.now())
	}
	l.seen(&m)
	unknown := put && l.created == 0 && !l.untold
	l.mu.Unlock()
	if !unknown {
		return nil
	}
	// The first mapping has created the table.
	created, err := l.table(ctx)
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.setCreated(created, true)
	}
	return err
}

// seen has those go on who wait for a change of the ports of a mapping.
func (l *Leases) seen(m *nat.Mapping) {
	if len(l.waiters) == 0 {
		return
	}
	for port := int(m.Frontend.Port()); port <= int(m.Frontend.Port())+int(m.More); port++ {
		if w := l.waiters[slot{m.Proto, uint16(port)}]; w != nil {
			w.observe(l.index)
		}
	}
}

// waiter waits until the index has, or has no longer, a lease.
type waiter struct {
	want Lease
	gone bool // it is to be no longer there
	done chan struct{}
	over bool
	// met is called at the end. Nil: nothing is.
	met func()
}

// observe ends the wait if the index is as it is to be.
func (w *waiter) observe(x *index) {
	e := x.entries[slot{w.want.Proto, w.want.External}]
	is := e != nil && e.Kind == w.want.Kind && e.Client == w.want.Client && e.Internal == w.want.Internal
	if w.over || is == w.gone || is && (!e.renewedBy(&w.want) || !e.Expires.Equal(w.want.Expires)) {
		return
	}
	w.over = true
	close(w.done)
	if w.met != nil {
		w.met()
	}
}

// expect has a waiter look at what becomes of its port, of which there is no other. It is called before the daemon is asked.
func (l *Leases) expect(w *waiter) {
	w.done = make(chan struct{})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiters[slot{w.want.Proto, w.want.External}] = w
	w.observe(l.index)
}

// seenTime is how long the daemon's event of a change is waited for. It comes within
// milliseconds, unless the stream of events has broken.
const seenTime = time.Second

// await waits, if the daemon has made the change, until it is in the index, or else makes it there.
func (l *Leases) await(w *waiter, made bool) {
	if made {
		timer := time.NewTimer(seenTime)
		defer timer.Stop()
		select {
		case <-w.done:
		case <-timer.C:
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if at := (slot{w.want.Proto, w.want.External}); l.waiters[at] == w {
		delete(l.waiters, at)
	}
	if w.over || !made {
		return
	}
	if m, err := w.want.mapping(); err == nil && w.gone {
		l.index.drop(&m, l.now())
	} else if err == nil {
		l.index.put(&m)
	}
}
