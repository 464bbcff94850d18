// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// gate lets connections in, a bounded number at once. When there is one more, the one
// that makes least of its place gives it up; while all make good use of theirs, the new
// one waits for a moment, and then goes without. Whoever has no place is turned away:
// not by closing its connection, but by an answer to its request, when that comes, that
// says so. As those without a place are bounded too, the others wait in the kernel's
// queue.
type gate struct {
	net.Listener
	// most and mostTurned are how many connections may have a place, and how many none.
	most, mostTurned int
	// grace is how long a connection may do nothing before it gives up its place for
	// another one. Without it, a flood of connections would push out those that are
	// about to send their requests; so it is held back instead.
	grace time.Duration
	// patience is how long a new connection waits for a place.
	patience time.Duration
	// silence is how long one without a place may go on without a request before it is
	// closed for another one.
	silence time.Duration

	mu     sync.Mutex
	closed bool
	// left is whether another process serves the listener from now on.
	left bool
	// conns are those that have a place, and turned those that have none, each the one
	// whose state has not changed for longest first. Linear search is fine for so few.
	conns, turned []*conn
	// fullSince is since when new connections have found no place; zero: the last one
	// that got a place left another one free. Patience counts from then on for all of
	// them: were it to count for each, those further behind would wait for ever.
	fullSince time.Time
	// room is signalled when there is reason to look for room again.
	room *sync.Cond
}

func newGate(l net.Listener, most limits) *gate {
	g := &gate{
		Listener: l, most: most.conns, mostTurned: most.turned,
		grace: most.grace, patience: most.patience, silence: most.silence,
	}
	g.room = sync.NewCond(&g.mu)
	return g
}

// connState is what a connection is doing.
type connState int

const (
	connIdle    connState = iota // it has no request, or not all of its header
	connTalking                  // its request is being read or answered
	connWorking                  // its request is in the engine's hands, or it streams events
	connTurned                   // it has no place: it is told so when it has a request
	connClosed
)

// conn is a connection that was let in. Nil is none of a gate's, and is content with
// everything.
type conn struct {
	*net.UnixConn
	gate *gate
	// refusal is why its client may not do anything; nil: he may.
	refusal error

	// All are gate.mu's.
	state connState
	since time.Time // when it entered the state
	asked bool      // turned away, it has a request that is being answered
	fresh bool      // it has had no request yet
}

// Accept returns a [*conn]. Whoever may not use the socket is let in all the same, to
// be told so.
func (g *gate) Accept() (net.Conn, error) {
	accepted, err := g.Listener.Accept()
	if err != nil {
		if g.hasLeft() {
			err = net.ErrClosed
		}
		return nil, err
	}
	nc, ok := accepted.(*net.UnixConn)
	if !ok {
		_ = accepted.Close()
		return nil, fmt.Errorf("accept: %T is no unix socket", accepted)
	}
	c := &conn{UnixConn: nc, gate: g, fresh: true, refusal: refuse(nc, g.Addr().String())}
	if !g.admit(c) {
		_ = nc.Close()
		return nil, net.ErrClosed
	}
	return c, nil
}

// admit gives a connection a place or turns it away, unless the gate is closed first.
func (g *gate) admit(c *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for !g.closed {
		now := time.Now()
		if len(g.conns) < g.most {
			g.take(c, connIdle)
			return true
		}
		weakest, wait := g.weakest(now)
		if weakest == nil {
			if g.fullSince.IsZero() {
				g.fullSince = now
			}
			left := g.patience - now.Sub(g.fullSince)
			wait = min(wait, left)
			if left <= 0 {
				weakest = c
			}
		}
		if weakest != nil {
			if wait = g.turn(weakest, now); wait == 0 && weakest == c {
				return true
			}
		}
		if wait > 0 {
			timer := time.AfterFunc(wait, g.lookAgain)
			g.room.Wait()
			timer.Stop()
		}
	}
	return false
}

// take gives a connection a place.
func (g *gate) take(c *conn, state connState) {
	c.state, c.since, c.asked = state, time.Now(), false
	g.conns = append(g.conns, c)
	if len(g.conns) < g.most {
		g.fullSince = time.Time{}
	}
}

// lookAgain takes the lock so that it does not come between admit's look and its Wait.
func (g *gate) lookAgain() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.room.Signal()
}

// weakest returns the connection that makes least of its place, or how long to wait
// for one that may lose it.
func (g *gate) weakest(now time.Time) (c *conn, wait time.Duration) {
	wait = time.Minute // all are at work: until something else happens
	for _, state := range []connState{connIdle, connTalking} {
		grace := g.grace
		if state == connTalking {
			grace *= 10
		}
		for _, c := range g.conns {
			if c.state != state {
				continue
			}
			left := grace - now.Sub(c.since)
			if left <= 0 {
				return c, 0
			}
			wait = min(wait, left)
			break // the others entered the state later
		}
	}
	return nil, wait
}

// turn turns a connection away, or returns how long to wait until it can be.
func (g *gate) turn(c *conn, now time.Time) (wait time.Duration) {
	if len(g.turned) >= g.mostTurned {
		silent := slices.IndexFunc(g.turned, func(c *conn) bool { return !c.asked })
		if silent < 0 {
			return time.Minute // all are being answered: until one has been
		}
		if left := g.silence - now.Sub(g.turned[silent].since); left > 0 {
			return left
		}
		g.turned[silent].drop()
	}
	if c.state == connTalking {
		// What has not come of its body does not come in time any more.
		c.asked = true
		_ = c.SetReadDeadline(now)
	}
	c.remove()
	c.state, c.since = connTurned, now
	g.turned = append(g.turned, c)
	return 0
}

// Close lets nobody in any more. Closing again does nothing.
func (g *gate) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	g.room.Signal()
	if g.left {
		return nil
	}
	return g.Listener.Close()
}

// closeIdle closes all connections that have no request.
func (g *gate) closeIdle() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range slices.Concat(g.conns, g.turned) {
		if c.state == connIdle || c.state == connTurned && !c.asked {
			c.drop()
		}
	}
}

// begin says that a whole header has come. It and work return why nothing may be done
// for the request, if so: the connection was closed (errGone), or it has no place.
func (c *conn) begin() error { return c.enter(connTalking) }

// work says that the connection is to keep its place from now on, and rest that it is
// again only being answered.
func (c *conn) work() error { return c.enter(connWorking) }

func (c *conn) rest() { _ = c.enter(connTalking) }

// idle says that the answer has been sent.
func (c *conn) idle() { _ = c.enter(connIdle) }

func (c *conn) enter(state connState) error {
	if c == nil {
		return nil
	}
	g := c.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case c.state == connClosed:
		return errGone
	case c.state == connTurned && len(g.conns) >= g.most:
		c.asked = true
		return crowded()
	}
	c.remove()
	c.fresh = false
	g.take(c, state)
	g.room.Signal()
	return nil
}

// turnedAway reports whether the connection has no place.
func (c *conn) turnedAway() bool {
	if c == nil {
		return false
	}
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	return c.state == connTurned
}

// crowded is what a client without a place is told.
func crowded() error {
	return problem(http.StatusServiceUnavailable, CodeBusy, "the server has as many clients as it may at once")
}

// allowed returns why the client may not do anything, if so.
func (c *conn) allowed() error {
	if c == nil {
		return nil
	}
	return c.refusal
}

// Close closes the connection and gives its place to another one.
func (c *conn) Close() error {
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	c.drop()
	return nil
}

// drop is Close with the gate locked.
func (c *conn) drop() {
	if c.state == connClosed {
		return
	}
	c.remove()
	c.state = connClosed
	c.gate.room.Signal()
	// Of a connection that is closed there is nothing that could fail and matter.
	_ = c.UnixConn.Close()
}

// detach gives the connection's place to another one, for it is no server's any more.
func (c *conn) detach() *net.UnixConn {
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	c.remove()
	c.state = connClosed
	c.gate.room.Signal()
	return c.UnixConn
}

func (c *conn) remove() {
	for _, list := range []*[]*conn{&c.gate.conns, &c.gate.turned} {
		if i := slices.Index(*list, c); i >= 0 {
			*list = slices.Delete(*list, i, i+1)
		}
	}
}

// connKey is the key of a connection in the contexts of its requests.
type connKey struct{}

func withConn(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, nc)
}

// connOf returns the connection that a request came by; nil: none of a gate.
func connOf(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}
