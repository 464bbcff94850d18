// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// base is what the proxies of both protocols have in common: their life.
//
//	bound --Open--> open --Shutdown, Retire--> draining
//	  \_______________\___________________________\__Close__> closed
type base struct {
	opts     Options
	fd       int
	filtered bool // fd drops what arrives, until opened
	frontend net.Addr
	target   atomic.Pointer[destination]
	counters counters
	proto    served

	mu       sync.Mutex
	state    state         // guarded by mu
	group    *Group        // guarded by mu until open
	private  bool          // guarded by mu: group is ours alone
	home     *loop         // guarded by mu until open: where fd is watched
	ended    chan struct{} // guarded by mu; closed with the proxy; nil until somebody waits
	shared   bool          // guarded by mu: another process has the frontend too; see Group.Leave
	drained  chan struct{} // set before draining
	draining atomic.Bool
}

type state uint8

const (
	bound state = iota
	open
	drains
	closed
)

// served is what differs between the protocols. The caller holds the turn of
// the loop concerned.
type served interface {
	member
	// listen watches the frontend, on its home loop.
	listen() error
	// gather has none but the home loop take what is new from now on. It comes
	// before deafen; the caller holds the turn of no loop.
	gather(gently bool)
	// deafen stops taking what is new and closes the frontend. gently: what
	// has come already is served; the frontend stays open if the protocol
	// needs it for that.
	deafen(gently bool)
	// empty is called, on any loop, when a proxy that drains has nothing
	// live.
	empty()
	// drop ends everything of the proxy that l serves.
	drop(l *loop)
	// reset ends what has been taken so far. The caller holds the turn of no loop.
	reset()
}

// quiet is how long a UDP flow must be silent to count as ended when its
// proxy drains: longer than a round trip, shorter than anybody's patience.
const quiet = time.Second

// FrontendAddr implements Proxy.
func (b *base) FrontendAddr() net.Addr { return b.frontend }

// BackendAddr implements Proxy.
func (b *base) BackendAddr() net.Addr { return b.target.Load().addr }

// SetBackend implements Proxy.
func (b *base) SetBackend(backend net.Addr) error {
	network, to, err := encodeBackend(backend)
	if err != nil {
		return fmt.Errorf("proxy %s: %w", b.frontend, err)
	}
	if network != b.frontend.Network() {
		return fmt.Errorf("proxy %s: backend: %w: %s is not %s", b.frontend, ErrAddr, backend, b.frontend.Network())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == closed {
		return ErrClosed
	}
	b.target.Store(&destination{backend, to})
	if p, ok := b.proto.(*udpProxy); ok && b.state != bound {
		// A flow has a socket that is connected to the old backend.
		b.home.with(p.endFlows)
	}
	return nil
}

// Reset implements Proxy.
func (b *base) Reset() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch b.state {
	case closed:
		return ErrClosed
	case bound: // nothing has been taken yet
	case open, drains:
		b.proto.reset()
	}
	return nil
}

// destination is where a proxy leads.
type destination struct {
	addr net.Addr
	to   *sockaddr // addr, for connect
}

// Stats implements Proxy.
func (b *base) Stats() Stats { return b.counters.read() }

// Open implements Proxy.
func (b *base) Open() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch b.state {
	case open:
		return nil
	case drains, closed:
		return ErrClosed
	case bound:
	}
	err := b.openLocked()
	if err != nil {
		_ = b.closeLocked()
	}
	return err
}

func (b *base) openLocked() error {
	if b.group == nil {
		b.group, b.private = NewGroup(nil), true
	}
	home, err := b.group.home()
	if err != nil {
		return err
	}
	b.home = home
	if !home.with(func() { err = b.proto.listen() }) {
		return ErrClosed
	}
	if err != nil {
		return err
	}
	b.state = open
	if b.filtered {
		// Last: what is let in finds everything in its place.
		return detachFilter(b.fd)
	}
	return nil
}

// Run implements Proxy.
func (b *base) Run(ctx context.Context) error {
	if err := b.Open(); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-b.end():
	}
	return b.Close()
}

// end is closed when the proxy is.
func (b *base) end() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended == nil {
		b.ended = make(chan struct{})
		if b.state == closed {
			close(b.ended)
		}
	}
	return b.ended
}

// Shutdown implements Proxy.
func (b *base) Shutdown(ctx context.Context) error {
	b.mu.Lock()
	if b.state == open {
		b.drainLocked()
	}
	draining, drained := b.state == drains, b.drained
	b.mu.Unlock()

	var err error
	if draining {
		select {
		case <-drained:
			b.signalDrained() // for another Shutdown that waits
		case <-b.end():
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if cerr := b.Close(); err == nil {
		err = cerr
	}
	return err
}

// Retire implements Proxy.
func (b *base) Retire() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.proto.(*tcpProxy); !ok || b.state == bound {
		return b.closeLocked()
	}
	if b.state == open {
		b.group.retire(b.proto)
		b.drainLocked()
	}
	return nil
}

// drainLocked lets in nothing more.
func (b *base) drainLocked() {
	b.state = drains
	b.drained = make(chan struct{}, 1)
	b.proto.gather(true)
	b.home.arrange(func() { b.proto.deafen(true) })
	// Only now, or the last of those before the proxy would be taken for the
	// last of all while others wait to be let in.
	b.draining.Store(true)
	if b.counters.live.Load() == 0 {
		b.drainedEmpty()
	}
}

// gone counts one connection or flow less; on any loop.
func (b *base) gone() {
	// drainLocked looks at live after it has set draining, and here it is the
	// other way round: one of the two sees the other.
	if b.counters.live.Add(-1) == 0 && b.draining.Load() {
		b.drainedEmpty()
	}
}

// drainedEmpty is for when nothing is left of a proxy that drains.
func (b *base) drainedEmpty() {
	b.signalDrained()
	b.proto.empty()
}

func (b *base) signalDrained() {
	select {
	case b.drained <- struct{}{}:
	default:
	}
}

// Close implements Proxy.
func (b *base) Close() error {
	// Held throughout: a second Close must not return before the first is
	// done. Loops never take this lock.
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closeLocked()
}

func (b *base) closeLocked() error {
	if b.state == closed {
		return nil
	}
	if b.state == bound {
		closeFD(b.fd)
	} else {
		// First where connections come from, then everywhere.
		b.proto.gather(false)
		b.home.with(func() { b.proto.deafen(false) })
		for _, l := range b.group.started() {
			l.with(func() { b.proto.drop(l) })
		}
	}
	b.state = closed
	if b.ended != nil {
		close(b.ended)
	}
	if b.group != nil && !b.private {
		b.group.leave(b.proto)
	}
	if b.private {
		return b.group.Close()
	}
	return nil
}
