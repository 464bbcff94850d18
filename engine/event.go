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
// because they expired. Host are the events of the host.
type EventCounts struct{ Published, Unpublished, Expired, Host int }

// events passes events on to readers, and counts ports.
type events struct {
	feed.Feed
	counts EventCounts
}

// Events returns the events from now on, in order: changes by callers, expired mappings,
// changes by other programs, and repairs. They can be iterated over once, and end when the
// context is done or the engine is closed. The context must end. A reader that is more than
// 65,536 mappings behind loses the oldest events and gets an EventLost in their place. A
// slow reader delays neither calls nor other readers. A reader may call the engine. The first
// reader also gets what Open has taken out of a ruleset that was loaded.
func (e *Engine) Events(ctx context.Context) iter.Seq[nat.Event] {
	return e.core.events.Events(ctx, e.core.closing)
}

func (e *core) send(kind nat.EventKind, ms ...nat.Mapping) {
	e.events.Send(nat.Event{Kind: kind, Time: e.now(), Mappings: ms})
}

// sendHost logs that the host has changed and what the engine did about it, and sends an event.
func (e *core) sendHost(message string) {
	e.log.Info(message)
	e.events.counts.Host++
	e.events.Send(nat.Event{Kind: nat.EventHost, Time: e.now(), Message: message})
}

// SendHost logs what the caller has found out about the host, and sends an EventHost with it.
func (e *Engine) SendHost(message string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.core.sendHost(message)
}

// sendChange sends the events of a change that was made.
func (e *core) sendChange(c *portset.Change) {
	_, after := c.Ports()
	e.events.counts.Unpublished += portset.Len(c.Removed)
	e.events.counts.Published += after
	if !e.events.Followed() {
		return
	}
	for _, event := range eventsOf(c, e.now()) {
		e.events.Send(event)
	}
}

// Run does what must happen between calls, until the context is done or the engine is
// closed; it returns nil. Run is called once at a time. It closes the proxies of mappings
// that expire, and sends their events; without Run the next call does. It serves ports that
// other processes held when their mappings were adopted, as soon as they are free.
//
// Run follows the host. Links, addresses, routes, rules and IP forwarding may change, and
// backends move from one bridge port to another: within a second the mappings work as if
// they had been published after that. An EventHost says what was done. Without Run the host
// is looked at when the engine is opened, and for what a call publishes.
//
// Run also watches for changes of the table by other programs. A table that is missing or
// was replaced, changed rules, and missing records of networks and endpoints are damage,
// which Run repairs in one transaction. Elements that were added to or deleted from the
// maps are accepted as changes of what is published: proxies and flows follow. Without Run
// the next call that notices does this.
func (e *Engine) Run(ctx context.Context) error {
	host := e.watchHost()
	defer host.stop()
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
		case ch := <-host.watcher.Changes():
			host.changed(ch)
		case <-host.polled():
			host.pollHost()
		case <-host.due:
			host.follow(ctx)
		case <-watcher.Changed():
			watcher.Schedule(time.Now())
		case <-watcher.Due():
			watcher.RunCheck()
		}
	}
}

// expire removes expired mappings, tries to serve unserved ports, and returns how long Run
// can wait; false: until it is woken.
func (e *Engine) expire() (time.Duration, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.core
	if c.closed {
		return 0, false
	}
	c.forget(c.now())
	c.addDueExits()
	c.hairpins.Release()
	next, waiting := c.holder.Retry(&c.mappings)
	c.followShared()
	if c.retryLocalhost() && (!waiting || next > localhostPause) {
		next, waiting = localhostPause, true
	}
	if c.exits.due && (!waiting || next > dueExitsPause) {
		next, waiting = dueExitsPause, true
	}
	at, ok := c.expiries.Next()
	if sweep := c.endExpired(c.now()); !sweep.IsZero() && (!ok || sweep.Before(at)) {
		at, ok = sweep, true
	}
	if !ok {
		return next, waiting
	}
	end := max(at.Sub(c.now()), time.Millisecond)
	if waiting {
		end = min(end, next)
	}
	return end, true
}

// wakeRun makes Run call expire.
func (e *core) wakeRun() {
	select {
	case e.sooner <- struct{}{}:
	default:
	}
}
