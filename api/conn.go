// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net"
	"net/http"
	"slices"
	"time"
)

// connState is what a connection is doing.
type connState int

const (
	connIdle    connState = iota // it has no request, or not all of its header
	connWaiting                  // its request waits for a place
	connRefused                  // its request is being told that there is no place
	connTalking                  // its request is being read or answered
	connWorking                  // its request is in the engine's hands, or it streams events
	connClosed
)

// placed is whether a connection in the state has a place.
func (s connState) placed() bool { return s == connTalking || s == connWorking }

// conn is a connection that was let in. Nil is none of a gate's, and is content with
// everything.
type conn struct {
	*net.UnixConn
	gate *gate
	// client is the process that has made the connection. Those of all other PID
	// namespaces are one, 0.
	client int32
	uid    uint32 // of that process
	// refusal is why the client may not do anything; nil: he may.
	refusal error
	// wake is told when the state changes while the connection waits for a place.
	wake chan struct{}

	// All are gate.mu's.
	state connState
	since time.Time // when it entered the state
	fresh bool      // it has had no request yet
}

func isIdle(c *conn) bool { return c.state == connIdle }

// begin says that a whole header has come. It and work return why nothing may be done
// for the request, if so: the connection was closed (errGone), or it has no place.
func (c *conn) begin() error { return c.become(connTalking) }

// work says that the connection is to keep its place from now on, and rest that it is
// again only being answered.
func (c *conn) work() error { return c.become(connWorking) }

func (c *conn) rest() { _ = c.become(connTalking) }

func (c *conn) become(state connState) error {
	if c == nil {
		return nil
	}
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	if err := c.lost(); err != nil {
		return err
	}
	if c.state.placed() {
		c.enter(state)
		return nil
	}
	c.fresh = false
	return c.gate.take(c, state)
}

// idle says that the answer has been sent.
func (c *conn) idle() {
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	if c.state != connClosed {
		c.enter(connIdle)
		c.gate.grant()
	}
}

// turnedAway reports whether the connection's request has no place, and gets none.
func (c *conn) turnedAway() bool {
	if c == nil {
		return false
	}
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	return c.state == connRefused
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

// The rest is called with the gate locked.

// lost returns why nothing may be done for the connection's request, if so.
func (c *conn) lost() error {
	if c.state == connClosed {
		return errGone
	}
	if c.state == connRefused {
		return crowded()
	}
	return nil
}

// refuse has the connection's request told that there is no place for it.
func (c *conn) refuse(now time.Time) {
	if c.state == connTalking {
		// What has not come of its body does not come in time any more.
		_ = c.SetReadDeadline(now)
	}
	c.enter(connRefused)
	c.rouse()
}

// rouse has the connection look at its state, if it waits.
func (c *conn) rouse() {
	select {
	case c.wake <- struct{}{}:
	default: // it has not looked since the last time
	}
}

// drop closes the connection.
func (c *conn) drop() {
	if c.state == connClosed {
		return
	}
	// Of a connection that is closed there is nothing that could fail and matter.
	_ = c.UnixConn.Close()
	c.enter(connClosed)
	c.rouse()
	c.gate.grant()
}

// detach gives the connection's place to another one, for it is no server's any more.
func (c *conn) detach() *net.UnixConn {
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	c.enter(connClosed)
	c.gate.grant()
	return c.UnixConn
}

// enter puts the connection at the end of those that are as it is from now on.
func (c *conn) enter(state connState) {
	g := c.gate
	for _, list := range []*[]*conn{&g.placed, &g.others} {
		if i := slices.Index(*list, c); i >= 0 {
			*list = slices.Delete(*list, i, i+1)
		}
	}
	c.state, c.since = state, time.Now()
	switch {
	case state.placed():
		g.placed = append(g.placed, c)
	case state != connClosed:
		g.others = append(g.others, c)
	}
	g.room.Broadcast()
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
