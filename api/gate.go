// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// gate lets connections in, a bounded number at once, and has places for the requests that
// may be under way at once. A connection needs none before the header of its request has
// come, so that silence keeps nobody out. Where there are not enough places, or there are
// too many connections, it is for the process that has most of them to make room; so what
// one does costs the others little.
type gate struct {
	net.Listener
	limits limits

	mu     sync.Mutex
	closed bool
	// left is whether another process serves the listener from now on.
	left bool
	// placed are the connections that have a place, and others those that have none, each
	// the one whose state has not changed for longest first. Linear search is fine for so
	// few.
	placed, others []*conn
	// room is signalled when a connection has changed its state.
	room *sync.Cond
}

func newGate(l net.Listener, most limits) *gate {
	g := &gate{Listener: l, limits: most}
	g.room = sync.NewCond(&g.mu)
	return g
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
	c := &conn{UnixConn: nc, gate: g, fresh: true, wake: make(chan struct{}, 1)}
	client, refusal := admissible(nc, g.Addr().String())
	c.client, c.uid, c.refusal = client.pid, client.uid, refusal
	if !g.admit(c) {
		_ = nc.Close()
		return nil, net.ErrClosed
	}
	return c, nil
}

// admit lets a connection in when there is room for it, unless the gate is closed first.
// Those behind it are in the kernel's queue.
func (g *gate) admit(c *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for !g.closed {
		if len(g.others) < g.limits.others {
			c.enter(connIdle)
			return true
		}
		if wait := g.makeRoom(time.Now()); wait > 0 {
			timer := time.AfterFunc(wait, g.lookAgain)
			g.room.Wait()
			timer.Stop()
		}
	}
	return false
}

// makeRoom has one of those without a place go, or returns how long to wait for one that
// does so by itself.
func (g *gate) makeRoom(now time.Time) (wait time.Duration) {
	counts := countClients(g.others)
	if c := greediest(g.others, counts, connIdle); c != nil {
		most := g.limits.hush
		if counts[c.client] <= g.limits.share {
			most = g.limits.silence
			c = g.others[slices.IndexFunc(g.others, isIdle)] // the one that is silent for longest
		}
		if left := most - now.Sub(c.since); left > 0 {
			return left
		}
		c.drop()
		return 0
	}
	// All have asked. As soon as one has been told that there is no place, it goes.
	refused := func(c *conn) bool { return c.state == connRefused }
	if !slices.ContainsFunc(g.others, refused) {
		greediest(g.others, counts, connWaiting).refuse(now)
	}
	return time.Minute
}

// lookAgain takes the lock so that it does not come between a look and the Wait after it.
func (g *gate) lookAgain() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.room.Broadcast()
}

// Close lets nobody in any more. Closing again does nothing.
func (g *gate) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	g.room.Broadcast()
	if g.left {
		return nil
	}
	return g.Listener.Close()
}

// closeIdle closes all connections that have no request.
func (g *gate) closeIdle() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range slices.Clone(g.others) {
		if c.state == connIdle {
			c.drop()
		}
	}
}
