// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// gate lets connections in, a bounded number at once. When there is one more, the one
// that makes least of its place is closed for it; while all make good use of theirs,
// it waits, and those after it in the kernel's queue.
type gate struct {
	net.Listener
	most int
	// grace is how long a connection may do nothing before it is closed for another
	// one. Without it, a flood of connections would push out those that are about to
	// send their requests; so it is held back instead.
	grace time.Duration

	mu     sync.Mutex
	closed bool
	// conns are those that are open, the one whose state has not changed for
	// longest first. Linear search is fine for so few.
	conns []*conn
	// room is signalled when there is reason to look for room again.
	room *sync.Cond
}

func newGate(l net.Listener, most limits) *gate {
	g := &gate{Listener: l, most: most.conns, grace: most.grace}
	g.room = sync.NewCond(&g.mu)
	return g
}

// connState is what a connection is doing.
type connState int

const (
	connIdle    connState = iota // it has no request, or not all of its header
	connTalking                  // its request is being read or answered
	connWorking                  // its request is in the engine's hands, or it streams events
	connClosed
)

// conn is a connection that was let in. Nil is none of a gate's, and is content with
// everything.
type conn struct {
	*net.UnixConn
	gate *gate
	// refusal is why its client may not do anything; nil: he may.
	refusal error

	// Both are gate.mu's.
	state connState
	since time.Time // when it entered the state
}

// Accept returns a [*conn]. Whoever may not use the socket is let in all the same, to
// be told so.
func (g *gate) Accept() (net.Conn, error) {
	accepted, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	nc, ok := accepted.(*net.UnixConn)
	if !ok {
		_ = accepted.Close()
		return nil, fmt.Errorf("accept: %T is no unix socket", accepted)
	}
	c := &conn{UnixConn: nc, gate: g, refusal: refuse(nc, g.Addr().String())}
	if !g.admit(c) {
		_ = nc.Close()
		return nil, net.ErrClosed
	}
	return c, nil
}

// admit makes room for a connection, unless the gate is closed first.
func (g *gate) admit(c *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for !g.closed {
		if len(g.conns) < g.most {
			c.since = time.Now()
			g.conns = append(g.conns, c)
			return true
		}
		if wait := g.evict(time.Now()); wait > 0 {
			timer := time.AfterFunc(wait, g.lookAgain)
			g.room.Wait()
			timer.Stop()
		}
	}
	return false
}

// lookAgain takes the lock so that it does not come between admit's look and its Wait.
func (g *gate) lookAgain() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.room.Signal()
}

// evict closes the connection that makes least of its place, or returns how long to
// wait for one that may be closed.
func (g *gate) evict(now time.Time) (wait time.Duration) {
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
				c.drop()
				return 0
			}
			wait = min(wait, left)
			break // the others entered the state later
		}
	}
	return wait
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
	return g.Listener.Close()
}

// closeIdle closes all connections that have no request.
func (g *gate) closeIdle() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range slices.Clone(g.conns) {
		if c.state == connIdle {
			c.drop()
		}
	}
}

// begin says that a whole header has come. It and work report false if the
// connection was closed: then nothing may be done for it.
func (c *conn) begin() bool { return c.enter(connTalking) }

// work says that the connection is not to be closed from now on, and rest that it is
// again only being answered.
func (c *conn) work() bool { return c.enter(connWorking) }

func (c *conn) rest() { c.enter(connTalking) }

// idle says that the answer has been sent.
func (c *conn) idle() { c.enter(connIdle) }

func (c *conn) enter(state connState) bool {
	if c == nil {
		return true
	}
	g := c.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.state == connClosed {
		return false
	}
	c.remove()
	c.state, c.since = state, time.Now()
	g.conns = append(g.conns, c)
	g.room.Signal()
	return true
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

func (c *conn) remove() {
	g := c.gate
	if i := slices.Index(g.conns, c); i >= 0 {
		g.conns = slices.Delete(g.conns, i, i+1)
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
