// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"iter"
	"time"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/feed"
	"github.com/nftnat/nftnat/nat"
)

// EventCounts are how many ports have been published, unpublished by callers, and unpublished
// because they expired.
type EventCounts struct{ Published, Unpublished, Expired int }

// events passes on what happens to what is published, and counts it.
type events struct {
	feed.Feed
	counts EventCounts
}

// Events returns what happens to what is published, from now on: what callers change, what
// expires, and what others changed and was repaired. They come in the order in which they
// happen, and are to be iterated over once, until the context is done or the engine is
// closed. The context has to end. A reader that is more than 65,536 mappings behind loses
// the oldest events, and gets an EventLost in their place; it holds nobody up, and may call
// the engine.
func (e *Engine) Events(ctx context.Context) iter.Seq[nat.Event] {
	return e.core.events.Events(ctx, e.core.closing)
}

func (e *core) send(kind nat.EventKind, ms ...nat.Mapping) {
	e.events.Send(nat.Event{Kind: kind, Time: e.now(), Mappings: ms})
}

// sendChange sends the events of a change that was made.
func (e *core) sendChange(c *portset.Change) {
	e.events.counts.Unpublished += len(c.Removed)
	e.events.counts.Published += c.LenAfter()
	if !e.events.Followed() {
		return
	}
	for _, event := range eventsOf(c, e.now()) {
		e.events.Send(event)
	}
}

// Run ends what expires at its time: it closes the proxies of mappings that the
// kernel has dropped by its own clock, and tells of them. Without it that happens at
// the next call. It serves, once they are free, the ports that other processes held
// when their mappings were adopted. And it follows backends on bridges to the ports that
// they are behind, where these need hairpin mode; without it that is looked at once, when
// they are published. It returns nil when the context is done or the engine is closed.
//
// It also hears of what others do to the table, wherever they can, and puts it right or
// takes it over. A table that is gone, or another in its place, rules that are not as
// they should be, and records of networks and endpoints that are missing, are damage: all
// is restored as this engine knows it, in one transaction. Elements of the maps that come
// or go are somebody's will: proxies and flows follow. Without Run all that happens at
// the next call that notices.
func (e *Engine) Run(ctx context.Context) error {
	follower := e.followBridges()
	defer e.unfollowBridges(follower)
	watcher := e.watcher()
	if !e.core.opts.ReadOnly {
		watcher.Start(ctx)
		defer watcher.Stop()
	}
	for {
		var timer <-chan time.Time
		if next, ok := e.expire(); ok {
			timer = time.After(next)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-e.core.closing:
			return nil
		case <-e.core.sooner:
		case <-e.core.holder.Sooner():
		case <-timer:
		case c := <-follower.Changes():
			e.recheckBridges(follower, c)
		case <-watcher.Changed():
			watcher.Schedule(time.Now())
		case <-watcher.Due():
			watcher.RunCheck()
		}
	}
}

// expire lets go of what has ended, serves what was missing, and returns how long it is
// until there is something to do again.
func (e *Engine) expire() (time.Duration, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.core
	if c.closed {
		return 0, false
	}
	c.forget(c.now())
	c.hairpins.Release()
	next, waiting := c.holder.Retry(&c.mappings)
	at, ok := c.expiries.Next()
	if !ok {
		return next, waiting
	}
	end := max(at.Sub(c.now()), time.Millisecond)
	if waiting {
		end = min(end, next)
	}
	return end, true
}

// wakeRun has Run work out anew how long it may wait.
func (e *core) wakeRun() {
	select {
	case e.sooner <- struct{}{}:
	default:
	}
}
