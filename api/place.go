// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import "time"

// take has a request wait for a place, for a while, and returns why it has none, if so. The
// gate is locked, but for the while.
func (g *gate) take(c *conn, state connState) error {
	c.enter(connWaiting)
	end := time.Now().Add(g.limits.patience)
	for c.state == connWaiting {
		now := time.Now()
		if len(g.placed) < g.limits.conns {
			break
		}
		weakest, wait := g.weakest(c, now)
		if weakest != nil {
			weakest.refuse(now)
			break
		}
		wait = min(wait, end.Sub(now))
		if wait <= 0 {
			c.refuse(now)
			break
		}
		timer := time.NewTimer(wait)
		g.mu.Unlock()
		select {
		case <-c.wake:
		case <-timer.C:
		}
		timer.Stop()
		g.mu.Lock()
	}
	if err := c.lost(); err != nil {
		return err
	}
	c.enter(state)
	return nil
}

// weakest returns the request that has to give its place to a new one: the oldest of the
// process with the most of them, if that is more than its share, and more than the new
// one's process would have; else one that takes long to be sent, or to read its answer;
// or else how long to wait for such a one. What is in the engine's hands stays.
func (g *gate) weakest(c *conn, now time.Time) (weakest *conn, wait time.Duration) {
	counts := countClients(g.placed)
	if o := greediest(g.placed, counts, connTalking); o != nil &&
		counts[o.client] > max(g.limits.share, counts[c.client]+1) {
		return o, 0
	}
	for _, o := range g.placed {
		if o.state == connTalking {
			left := g.limits.grace - now.Sub(o.since)
			if left <= 0 {
				return o, 0
			}
			return nil, left // the others entered the state later
		}
	}
	return nil, g.limits.patience // all are at work
}

// grant gives a place that is free to who waits for one: of those whose processes have the
// fewest to the first.
func (g *gate) grant() {
	for len(g.placed) < g.limits.conns {
		counts := countClients(g.placed)
		var next *conn
		for _, c := range g.others {
			if c.state == connWaiting && (next == nil || counts[c.client] < counts[next.client]) {
				next = c
			}
		}
		if next == nil {
			return
		}
		next.enter(connTalking)
		next.rouse()
	}
}

// countClients counts the connections of each process.
func countClients(conns []*conn) map[int32]int {
	counts := map[int32]int{}
	for _, c := range conns {
		counts[c.client]++
	}
	return counts
}

// greediest returns the first connection in the given state of the process that has the
// most of those with one in it; nil: no process has.
func greediest(conns []*conn, counts map[int32]int, state connState) (first *conn) {
	for _, c := range conns {
		if c.state == state && (first == nil || counts[c.client] > counts[first.client]) {
			first = c
		}
	}
	return first
}
