// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// Bounds of how Run answers to others who change the table over and over.
const (
	// firstRest is how long it waits before it answers somebody who undoes a repair
	// at once, doubled each time up to longestRest.
	firstRest   = time.Millisecond
	longestRest = time.Second
	// shortPeace is what a repair has to last, beside the time that it took, not to
	// have been undone at once. Whoever damages the table more seldom is answered
	// without a rest, and half of the time at most goes into repairs.
	shortPeace = 5 * time.Millisecond
)

// vigil is how Run looks after a table that others may change.
type vigil struct {
	engine   *Engine
	changed  chan struct{}    // somebody may have changed it
	due      <-chan time.Time // when to look; nil: nothing was heard
	rest     time.Duration
	repaired time.Time // when the last repair was done
	took     time.Duration
	warned   bool // that looking fails
	stop     func()
}

// startVigil begins to listen. A table that is owned cannot be changed, unless the
// ownership is lost: that is heard of by what others do then.
func (e *Engine) startVigil(ctx context.Context) *vigil {
	v := &vigil{engine: e, changed: make(chan struct{}, 1), stop: func() {}}
	if e.opts.ReadOnly {
		return v
	}
	ctx, cancel := context.WithCancel(ctx)
	var listening sync.WaitGroup
	listening.Go(func() { v.listen(ctx) })
	v.stop = func() {
		cancel()
		listening.Wait()
	}
	return v
}

// heard notes that somebody may have changed the table.
func (v *vigil) heard(now time.Time) {
	if v.due != nil {
		return
	}
	if v.repaired.IsZero() || now.Sub(v.repaired) > shortPeace+v.took {
		v.rest = 0
	} else {
		v.tire()
	}
	v.due = time.After(v.rest)
}

// tire makes the next rest longer.
func (v *vigil) tire() { v.rest = min(max(2*v.rest, firstRest), longestRest) }

// look sees to the table, and if that cannot be done, to another time for it.
func (v *vigil) look() {
	v.due = nil
	begin := time.Now()
	repaired, err := v.engine.look()
	now := time.Now()
	switch {
	case err != nil:
		if !v.warned {
			v.engine.opts.Log.Warn("table could not be checked, which will be tried again", "table", v.engine.opts.Table, "error", err)
		}
		v.warned = true
		v.tire()
		v.due = time.After(v.rest)
		return
	case repaired:
		v.repaired, v.took = now, now.Sub(begin)
	default:
		v.rest, v.repaired = 0, time.Time{} // whoever it was, is at peace
	}
	v.warned = false
}

// look puts right, or takes over, what others have done to the table.
func (e *Engine) look() (repaired bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || !e.present && !e.doubtful {
		return false, nil // nobody can have changed what is not there
	}
	before := e.repaired
	e.doubtful = true
	if err = e.settle(); err != nil {
		e.failures.Repairs++
	}
	return e.repaired != before, err
}

// listen hears of what others do to the table, until the context is done. Should that
// fail it begins again, and takes it that something was missed.
func (v *vigil) listen(ctx context.Context) {
	e := v.engine
	for ctx.Err() == nil {
		err := e.watch(ctx, v.tell)
		switch {
		case err == nil:
			continue // the context is done, or the socket another
		case errors.Is(err, nat.ErrClosed):
			return
		}
		e.opts.Log.Warn("changes by others are not watched for a moment", "table", e.opts.Table, "error", err)
		v.tell() // if the socket has failed it is replaced
		select {
		case <-ctx.Done():
		case <-e.closing:
			return
		case <-time.After(longestRest):
		}
	}
}

// tell has Run look.
func (v *vigil) tell() {
	select {
	case v.changed <- struct{}{}:
	default: // it has not come to the one before yet
	}
}

// watch listens until the context is done, or the engine gets another socket. The error is
// ErrClosed if it has none any more.
func (e *Engine) watch(ctx context.Context, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e.mu.Lock()
	k, closed := e.kernel, e.closed
	e.deafen, e.watched = cancel, !closed
	e.mu.Unlock()
	if closed {
		return nat.ErrClosed
	}
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.watched = false
	}()
	return k.Watch(ctx, e.opts.Table, changed)
}
