// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// Delays of checks while a program keeps changing the table.
const (
	// firstDelay is the delay after a repair was undone at once. It doubles each time up to
	// maxDelay.
	firstDelay = time.Millisecond
	maxDelay   = time.Second
	// A repair was undone at once if it lasted less than stableAfter and the time that it
	// took. So repairs take half of the time at most, and rare damage is repaired without a
	// delay.
	stableAfter = 5 * time.Millisecond
)

// ErrStopped means that the table is not watched any more.
var ErrStopped = errors.New("the table is watched no longer")

// Watcher watches for changes of a table by other programs, and schedules checks. Its
// fields are set before Start.
type Watcher struct {
	Name string
	Log  *slog.Logger
	// Watch calls changed when other programs may have changed the table, until the context
	// is done or the netlink socket is replaced. The error is ErrStopped if there is no
	// socket.
	Watch func(ctx context.Context, changed func()) error
	// Check loads the table, and repairs it or accepts changes by other programs.
	Check func() (repaired bool, err error)
	// Stopped is closed when the table is not watched any more.
	Stopped <-chan struct{}

	changed  chan struct{}
	due      <-chan time.Time // nil: no check is due
	delay    time.Duration
	repaired time.Time // when the last repair ended
	took     time.Duration
	warned   bool // a check has failed, and the log says so
	stop     func()
}

// Start begins to watch.
func (w *Watcher) Start(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	w.changed = make(chan struct{}, 1)
	var watching sync.WaitGroup
	watching.Go(func() { w.watch(ctx) })
	w.stop = func() {
		cancel()
		watching.Wait()
	}
}

// Stop ends what Start began, if it was called.
func (w *Watcher) Stop() {
	if w.stop != nil {
		w.stop()
	}
}

// Changed receives when other programs may have changed the table. Then Schedule must be
// called.
func (w *Watcher) Changed() <-chan struct{} { return w.changed }

// Due receives when RunCheck must be called.
func (w *Watcher) Due() <-chan time.Time { return w.due }

// Schedule schedules a check: now, or later if the last repair was undone at once.
func (w *Watcher) Schedule(now time.Time) {
	if w.due != nil {
		return
	}
	if w.repaired.IsZero() || now.Sub(w.repaired) > stableAfter+w.took {
		w.delay = 0
	} else {
		w.backOff()
	}
	w.due = time.After(w.delay)
}

func (w *Watcher) backOff() { w.delay = min(max(2*w.delay, firstDelay), maxDelay) }

// RunCheck checks the table, and schedules another check if that fails.
func (w *Watcher) RunCheck() {
	w.due = nil
	begin := time.Now()
	repaired, err := w.Check()
	now := time.Now()
	switch {
	case err != nil:
		if !w.warned {
			w.Log.Warn("table could not be checked, which will be tried again", "table", w.Name, "error", err)
		}
		w.warned = true
		w.backOff()
		w.due = time.After(w.delay)
		return
	case repaired:
		w.repaired, w.took = now, now.Sub(begin)
	default:
		w.delay, w.repaired = 0, time.Time{}
	}
	w.warned = false
}

// watch watches until the context is done. After a failure it begins again, and assumes
// that it missed a change.
func (w *Watcher) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := w.Watch(ctx, w.notify)
		switch {
		case err == nil:
			continue // the context is done, or there is another socket
		case errors.Is(err, ErrStopped):
			return
		}
		w.Log.Warn("changes by others are not watched for a moment", "table", w.Name, "error", err)
		w.notify() // the check replaces a socket that has failed
		select {
		case <-ctx.Done():
		case <-w.Stopped:
			return
		case <-time.After(maxDelay):
		}
	}
}

func (w *Watcher) notify() {
	select {
	case w.changed <- struct{}{}:
	default: // an earlier change was not received yet
	}
}

// BeginWatch returns a function that watches the table on the present socket. cancel is
// called when the socket is replaced. EndWatch must follow.
func (t *Table) BeginWatch(cancel context.CancelFunc) func(ctx context.Context, changed func()) error {
	t.unwatch, t.watched = cancel, true
	k, name := t.kernel, t.Rules.Name
	return func(ctx context.Context, changed func()) error { return k.Watch(ctx, name, changed) }
}

// EndWatch records that the function from BeginWatch has returned.
func (t *Table) EndWatch() { t.watched = false }
