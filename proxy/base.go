// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// base is what the proxies of both protocols share: their states.
//
//	bound --Open--> open --Shutdown, Retire--> draining
//	  \_______________\___________________________\__Close__> closed
type base struct {
	opts     Options
	fd       int
	filtered bool // fd drops what arrives, until opened
	frontend net.Addr
	target   atomic.Pointer[destination]
	backends Backends // nil: target alone
	counters counters
	proto    served

	mu       sync.Mutex
	state    state         // guarded by mu
	group    *Group        // guarded by mu until open
	private  bool          // guarded by mu: group is ours alone
	home     *loop         // guarded by mu until open: where fd is watched
	ended    chan struct{} // guarded by mu; closed with the proxy; nil until somebody waits
	shared   bool          // guarded by mu: open in another process too; see Group.Leave
	drained  chan struct{} // set before draining; closed when nothing is live
	draining atomic.Bool
	empty    sync.Once // closes drained
}

type state uint8

const (
	bound state = iota
	open
	drains
	closed
)

// served is what differs between the protocols.
type served interface {
	Proxy
	// listen watches the frontend. The caller holds the turn of the home loop.
	listen() error
	// consolidate leaves it to the home loop alone to take what is new. It
	// comes before stopAccepting. The caller holds no turn.
	consolidate(gently bool)
	// stopAccepting takes nothing new any more and closes the frontend.
	// gently: what has arrived is served, and the frontend stays open if the
	// protocol needs it for that. The caller holds the turn of the home loop.
	stopAccepting(gently bool)
	// drop ends everything of the proxy that l serves, whose turn the caller
	// holds.
	drop(l *loop)
	// reset ends what has been taken so far and matches. The caller holds no turn.
	reset(which *match)
	// leaveBackend ends what waits for the backend and matches: dials, and the flows of
	// UDP, whose sockets are connected to it. again: clients that wait are led to the
	// present backend. The caller holds no turn.
	leaveBackend(again bool, which *match)
}

// match is a condition on connections and flows. nil: each matches.
type match struct {
	addr func(netip.Addr) bool
	// client is whether addr is about the client's address. Zero: it is about a local one,
	// towards the client or the backend.
	client bool
	// port is in place of addr: a condition on the local address towards the client.
	port func(netip.AddrPort) bool
}

// frontend reports whether a client's socket matches.
func (m *match) frontend(fd int) bool {
	if m != nil && m.port != nil {
		ap, err := localAddr(fd)
		return err == nil && m.port(unmapped(ap))
	}
	if m == nil || !m.client {
		return m.backend(fd)
	}
	ap, err := peerAddr(fd)
	return err == nil && m.addr(ap.Addr())
}

// backend reports whether a socket to the backend matches.
func (m *match) backend(fd int) bool {
	if m == nil || m.client || m.port != nil {
		return m == nil
	}
	ap, err := localAddr(fd)
	return err == nil && m.addr(ap.Addr())
}

// drainIdle is how long a UDP flow must be silent to count as ended when its
// proxy drains: longer than a round trip.
const drainIdle = time.Second

// FrontendAddr implements Proxy.
func (b *base) FrontendAddr() net.Addr { return b.frontend }

// BackendAddr implements Proxy.
func (b *base) BackendAddr() net.Addr { return b.target.Load().addr }

// SetBackend implements Proxy.
func (b *base) SetBackend(backend net.Addr) error {
	to, err := newDestination(b.frontend.Network(), backend)
	if err != nil {
		return fmt.Errorf("proxy %s: %w", b.frontend, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == closed {
		return ErrClosed
	}
	b.target.Store(to)
	if b.state != bound {
		b.proto.leaveBackend(true, nil)
	}
	return nil
}

// Reset implements Proxy.
func (b *base) Reset() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == closed {
		return ErrClosed
	}
	if b.state != bound {
		b.proto.reset(nil)
	}
	return nil
}

// ResetAddr implements Proxy.
func (b *base) ResetAddr(gone netip.Addr) error {
	gone = gone.Unmap()
	return b.resetSome(&match{addr: func(a netip.Addr) bool {
		if gone.Zone() == "" {
			a = a.WithZone("")
		}
		return a.Unmap() == gone
	}})
}

// ResetClients implements Proxy.
func (b *base) ResetClients(which func(netip.Addr) bool) error {
	return b.resetSome(&match{addr: func(a netip.Addr) bool { return which(a.WithZone("").Unmap()) }, client: true})
}

func (b *base) resetSome(which *match) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == closed {
		return ErrClosed
	}
	if b.state != bound && b.counters.live.Load() != 0 {
		b.proto.reset(which)
	}
	return nil
}

// backend returns the address that a local address towards clients leads to. Nil: there is none.
func (b *base) backend(local func() netip.AddrPort) *sockaddr {
	if b.backends == nil {
		return b.target.Load().to
	}
	to, err := encode(b.backends(unmapped(local())))
	if err != nil || to.port() == 0 {
		return nil
	}
	return to
}

func (b *base) tcp() bool { return b.frontend.Network() == "tcp" }

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
		return detachFilter(b.fd) // last: traffic comes in from here on
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
	if !b.tcp() || b.state == bound {
		return b.closeLocked()
	}
	if b.state == open {
		b.proto.leaveBackend(false, nil)
		b.group.retire(b)
		b.drainLocked()
	}
	return nil
}

// Descriptor implements Proxy.
func (b *base) Descriptor() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == bound || b.state == open {
		return b.fd
	}
	return -1
}

// leave is Group.Leave for one proxy. The processes share the socket's queue, its filter,
// its options and whether it listens: it is only closed, neither shut down nor filtered.
func (b *base) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch b.state {
	case bound:
		_ = b.closeLocked() // closing a descriptor, which has no error
	case open:
		b.shared = true
		b.drainLocked()
	case drains, closed:
	}
}

// drainLocked stops accepting.
func (b *base) drainLocked() {
	b.state = drains
	b.drained = make(chan struct{})
	b.proto.consolidate(true)
	b.home.with(func() { b.proto.stopAccepting(true) })
	// Only now: before, the proxy could be found empty while connections wait
	// in its queue.
	b.draining.Store(true)
	if b.counters.live.Load() == 0 {
		b.empty.Do(b.endDraining)
	}
}

// gone counts one connection or flow less; on any loop.
func (b *base) gone() {
	// drainLocked sets draining and then reads live; here it is the other way
	// round, so that one of the two finds the proxy empty.
	if b.counters.live.Add(-1) == 0 && b.draining.Load() {
		b.empty.Do(b.endDraining)
	}
}

// endDraining is called, on any loop, when a draining proxy has nothing live.
func (b *base) endDraining() {
	close(b.drained)
	if b.tcp() { // whose frontend is closed already: nothing is left to close
		b.group.leave(b)
	}
}

// Close implements Proxy.
func (b *base) Close() error {
	// Held throughout: a second Close must not return before the first is done.
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
		b.proto.consolidate(false)
		b.home.with(func() { b.proto.stopAccepting(false) })
		for _, l := range b.group.started() {
			l.with(func() { b.proto.drop(l) })
		}
	}
	b.state = closed
	if b.ended != nil {
		close(b.ended)
	}
	if b.group != nil && !b.private {
		b.group.leave(b)
	}
	if b.private {
		return b.group.Close()
	}
	return nil
}
