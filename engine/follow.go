// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nftnat/nftnat/engine/internal/hairpin"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
)

// follow looks at the host anew and brings about what the published mappings need of it:
// they work as if they had been published now. Open calls it, and Run after each change of
// the host. Each step starts from what it finds, does nothing if nothing is to be done, and
// does not depend on the steps before: a failed one keeps none of the others from being
// made.
func (e *core) follow(ctx context.Context) error {
	if e.closed || e.opts.ReadOnly {
		return nil
	}
	if err := e.resync(ctx); err != nil {
		return err
	}
	e.looks++
	routes, err := e.routesToBackends()
	if err == nil {
		e.hairpins.FollowRoutes(routes)
		err = errors.Join(e.followSegments(routes), e.followFlows(routes))
	}
	return errors.Join(err,
		e.followForwarding(routes),
		e.followAddresses(),
		e.followRules(),
		e.followExits(),
	)
}

// followAtOpen follows the host. If that fails the mappings are published all the same, and
// Run tries again.
func (e *core) followAtOpen(ctx context.Context) {
	if err := e.follow(ctx); err != nil {
		e.log.Warn("the host could not be looked at, which will be tried again", "error", err)
	}
}

// routesToBackends looks up the routes to all backends that netfilter translates to.
func (e *core) routesToBackends() (hostnet.RouteMap, error) {
	return e.host.LookupAll(e.backends.Addrs())
}

// followForwarding turns IP forwarding on where somebody else has turned it off, and on
// interfaces that are new.
func (e *core) followForwarding(routes hostnet.RouteMap) error {
	if e.opts.NoSysctl {
		e.tellMissing(routes)
		return nil
	}
	e.forwarding.Forget()
	changed, err := e.turnOnForwarding(forwardingNeeds(e.backends, routes, e.ipam.Networks()))
	for _, s := range changed {
		e.sendHost(fmt.Sprintf("turned on forwarding: %s, and is %s now", s, s.After))
	}
	return err
}

// tellMissing sends an event for each setting that has come to keep back what is published.
// Those that cannot be read are left to the status.
func (e *core) tellMissing(routes hostnet.RouteMap) {
	missing, err := e.forwarding.Missing(forwardingNeeds(e.backends, routes, e.ipam.Networks()))
	if err != nil {
		return
	}
	for _, s := range missing {
		if e.watching && !slices.Contains(e.missing, s) {
			e.sendHost(fmt.Sprintf(forwardingIsOff, s))
		}
	}
	e.missing = missing
}

// Pauses between two calls of follow.
const (
	// followPause is the shortest: each change is followed by several others.
	followPause = 100 * time.Millisecond
	// A pause lasts followShare times as long as the call before it, so that a burst of
	// changes takes a bounded share of a processor.
	followShare = 25
	// longestFollowPause is the longest: changes are followed within a second.
	longestFollowPause = time.Second
	// pollPause is between two looks at settings that nothing notifies of: some reads of
	// files in /proc.
	pollPause = time.Second
)

// hostWatch watches the host for Run.
type hostWatch struct {
	e        *Engine
	watcher  *hostnet.Watcher[hairpin.Event] // nil: the host is not watched
	follower *hairpin.Follower
	due      <-chan time.Time // nil: nothing is to be followed
	poll     *time.Ticker     // for what nothing notifies of; nil: the host is not watched
	rested   time.Time        // from when on follow may be called
	failed   bool             // the last call has failed, and the log says so
}

// watchHost begins to watch the host, and follows what has changed since Open.
func (e *Engine) watchHost() *hostWatch {
	w := &hostWatch{e: e}
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.core
	if c.closed || c.opts.ReadOnly {
		return w
	}
	watcher, err := hostnet.Watch(c.namespace, hairpin.ParseEvent)
	if err != nil {
		c.log.Warn("the host is not watched: what changes on it is followed with the next start", "error", err)
		return w
	}
	w.watcher, w.follower, c.watching = watcher, c.hairpins.Follow(watcher.WatchNeighbours), true
	w.poll = time.NewTicker(pollPause)
	w.schedule(time.Now())
	return w
}

// polled receives when the host is to be polled.
func (w *hostWatch) polled() <-chan time.Time {
	if w.poll == nil {
		return nil
	}
	return w.poll.C
}

// pollHost looks at the settings that nothing notifies of.
func (w *hostWatch) pollHost() {
	w.e.mu.Lock()
	changed := !w.e.core.closed && w.follower.Poll()
	w.e.mu.Unlock()
	if changed {
		w.schedule(time.Now())
	}
}

// stop ends the watch.
func (w *hostWatch) stop() {
	if w.poll != nil {
		w.poll.Stop()
	}
	w.watcher.Close() // it waits, so it is called without the lock
	w.e.mu.Lock()
	defer w.e.mu.Unlock()
	w.follower.Stop()
	w.e.core.watching = false
}

// changed takes changes in, and schedules follow if they may need it.
func (w *hostWatch) changed(ch hostnet.Changes[hairpin.Event]) {
	w.e.mu.Lock()
	if !w.e.core.closed {
		w.follower.Recheck(ch.Events, ch.Lost)
		w.e.core.noteChanges(ch)
	}
	w.e.mu.Unlock()
	if ch.Host || ch.Lost {
		w.schedule(time.Now())
	}
}

// noteChanges records what follow has to know of changes.
func (e *core) noteChanges(ch hostnet.Changes[hairpin.Event]) {
	if ch.Lost {
		e.missed = true
	}
	for _, a := range ch.Addrs {
		if e.touched == nil {
			e.touched = addresses{}
		}
		e.touched[a] = true
	}
}

func (w *hostWatch) schedule(now time.Time) {
	if w.due == nil {
		w.due = time.After(w.rested.Sub(now))
	}
}

// follow follows the host. If that fails it is tried again after the longest pause.
func (w *hostWatch) follow(ctx context.Context) {
	w.due = nil
	w.e.mu.Lock()
	begin := time.Now()
	err := w.e.core.follow(ctx)
	now := time.Now()
	if err != nil && !w.failed && ctx.Err() == nil {
		w.e.core.log.Warn("the host has changed and could not be followed, which will be tried again", "error", err)
	}
	w.e.mu.Unlock()
	w.failed = err != nil
	if w.failed {
		w.rested = now.Add(longestFollowPause)
		w.schedule(now)
		return
	}
	w.rested = now.Add(min(max(followShare*now.Sub(begin), followPause), longestFollowPause))
}
