// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"time"
)

// A listener can be open in two processes at once (unix(7), SCM_RIGHTS), so that a server
// is succeeded by that of another process and no client is refused: those whom nobody has
// let in yet wait in the queue, which is the same for both.

// leave stops letting clients in, without closing the listener, and waits until those that
// are there have sent their requests, up to patience.
func (r *run) leave(patience time.Duration) error {
	if err := r.gate.leave(); err != nil {
		return err
	}
	err := <-r.served // whoever was just let in is a connection of net/http now
	if !errors.Is(err, net.ErrClosed) {
		return err
	}
	r.gate.awaitRequests(patience)
	// For who serves it next, also if that is this process.
	return r.gate.Listener.(deadliner).SetDeadline(time.Time{})
}

// deadliner is a listener that can be told to stop waiting, as those of package net can.
type deadliner interface{ SetDeadline(t time.Time) error }

// leave has Accept return net.ErrClosed, and the listener stay open.
func (g *gate) leave() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	d, ok := g.Listener.(deadliner)
	if !ok {
		return fmt.Errorf("%T cannot be left to others", g.Listener)
	}
	g.left = true
	return d.SetDeadline(time.Unix(1, 0))
}

func (g *gate) hasLeft() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.left
}

// awaitRequests waits until every connection has had a request, or until it is late.
func (g *gate) awaitRequests(patience time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	late := time.Now().Add(patience)
	timer := time.AfterFunc(patience, g.lookAgain)
	defer timer.Stop()
	for g.anyFresh() && time.Now().Before(late) {
		g.room.Wait()
	}
}

func (g *gate) anyFresh() bool {
	return slices.ContainsFunc(g.others, func(c *conn) bool { return c.fresh })
}
