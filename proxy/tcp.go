// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// tcpProxy is a Proxy for TCP.
type tcpProxy struct {
	*base
	keepAlive int32                      // seconds; 0: none
	shards    []atomic.Pointer[tcpShard] // by index of the loop; nil: had no connection yet
	gathered  atomic.Bool                // none but the home loop accepts
	closing   atomic.Bool                // connections stay on the loops that they are on

	// The rest belongs to the home loop.
	listening bool
	leaving   bool // the thread that accepts need not be the loop's own
}

// tcpShard is the part of a proxy that one loop serves.
type tcpShard struct {
	proxy   *tcpProxy
	loop    *loop
	conns   list[tcpConn] // connected, in order of activity if there is an idle time-out
	recent  list[tcpConn] // connected less than settleAfter ago, the oldest first; see there
	dialing list[tcpConn] // waiting for the backend, the oldest first
	timer   timer         // for all three lists

	accepts atomic.Bool   // the loop watches the listener, or will when the back-off ends
	alone   int           // see manyAlone
	events  uint32        // that it watches it for
	delay   time.Duration // of the accept back-off; 0: not in one
	retry   timer         // ends the back-off
}

// newTCP makes the proxy; b.fd listens.
func newTCP(b *base) *tcpProxy {
	p := &tcpProxy{base: b}
	b.proto = p
	if d := b.opts.KeepAlive; d > 0 {
		p.keepAlive = int32(min(max(d/time.Second, 1), 32767)) // MAX_TCP_KEEPIDLE in include/net/tcp.h
	}
	// What accept(2) returns inherits these from the listener (sk_clone and
	// tcp_create_openreq_child copy the socket), so that a connection pays
	// for none of them.
	p.tune(b.fd)
	p.keep(b.fd)
	return p
}

// settleAfter is when keep-alive begins for the backend's side of a connection. Three
// calls and a timer of the kernel's are a twentieth of what a short connection costs,
// and a peer that is found dead up to a second later is found all the same.
const settleAfter = time.Second

// settles reports whether connections begin without keep-alive. With an idle time-out
// they do not: it wants them all in one list.
func (p *tcpProxy) settles() bool { return p.keepAlive != 0 && p.opts.IdleTimeout <= 0 }

// tune sets what both sides of a connection want. A socket works without any
// of it, and a listener of package net, which is one of MPTCP, refuses some:
// errors are of no interest.
func (p *tcpProxy) tune(fd int) {
	// A proxy must not hold a small message back: whether to wait for more
	// was the sender's decision (RFC 9293 section 3.7.4).
	setInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	// Urgent data (RFC 6093) stay in the stream; else a read would skip them.
	setInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
}

// keep sets keep-alive, if there is to be any.
func (p *tcpProxy) keep(fd int) {
	if p.keepAlive != 0 {
		setInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		setInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, p.keepAlive)
		setInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, p.keepAlive)
	}
}

// listen implements served.
func (p *tcpProxy) listen() error {
	p.shards = make([]atomic.Pointer[tcpShard], p.group.opts.Loops)
	if e := p.shard(p.home).hear(evIn); e != noErrno {
		return os.NewSyscallError("epoll_ctl", e)
	}
	p.listening = true
	return nil
}

// gather implements served. When it returns every loop has had its turn since:
// none accepts any more or is about to hand a connection to another.
func (p *tcpProxy) gather(gently bool) {
	p.gathered.Store(true)
	if !gently {
		p.closing.Store(true)
	}
	for i := range p.shards {
		if s := p.shards[i].Load(); s != nil && s.loop != p.home {
			s.loop.with(s.hearNoMore)
		}
	}
}

// deafen implements served. Connections in the queue are live already, as
// their clients see it: gently, they are taken before the listener goes. The
// filter keeps the queue from growing meanwhile: those who come are not let in
// to be reset, but refused when they try again. A listener that is shared stays
// as it is, with its queue; unless several loops of ours took from it, for then who
// waits there may have woken one of those and not the other process.
func (p *tcpProxy) deafen(gently bool) {
	if !p.listening {
		return
	}
	s := p.shard(p.home)
	s.hearNoMore()
	if gently && !p.shared {
		_ = attachDropAll(p.fd) // without it there is a moment for a reset
	}
	if gently && (!p.shared || s.events&unix.EPOLLEXCLUSIVE != 0) {
		p.leaving = true
		waiting := listenBacklog
		if p.shared { // who comes from now on wakes the other process, and may come without end
			waiting = queued(p.fd)
		}
		s.acceptUpTo(waiting)
	}
	closeFD(p.fd)
	p.listening = false
}

// empty implements served: nothing of the proxy is left for its group to close.
func (p *tcpProxy) empty() { p.group.leave(p) }

// shard returns the part of the proxy that l serves.
func (p *tcpProxy) shard(l *loop) *tcpShard {
	at := &p.shards[l.index]
	if s := at.Load(); s != nil {
		return s
	}
	s := &tcpShard{proxy: p, loop: l}
	s.timer.expire = s.expire
	s.retry.expire = s.resume
	if !at.CompareAndSwap(nil, s) {
		return at.Load()
	}
	return s
}

// drop implements served. No connection is handed to another loop any more:
// gather came before.
func (p *tcpProxy) drop(l *loop) {
	if p.shards == nil {
		return
	}
	s := p.shards[l.index].Load()
	if s == nil {
		return
	}
	for _, t := range l.recall(s) {
		if t.conn != nil {
			t.conn.lose()
		} else {
			s.turnAway(t.fd)
		}
	}
	s.abortAll()
}

// reset implements served. What was handed to a loop that has not looked at it yet
// is not dialled yet.
func (p *tcpProxy) reset() {
	for i := range p.shards {
		if s := p.shards[i].Load(); s != nil {
			s.loop.with(s.abortAll)
		}
	}
}

// abortAll resets all connections that the shard has.
func (s *tcpShard) abortAll() {
	for _, all := range []*list[tcpConn]{&s.dialing, &s.recent, &s.conns} {
		for all.front != nil {
			all.front.item.abort()
		}
	}
	s.loop.disarm(&s.timer)
}

// wake arms the shard's timer for when, unless it wakes before that anyhow.
func (s *tcpShard) wake(when int64) {
	if s.timer.index == 0 || when < s.timer.when {
		s.loop.arm(&s.timer, when)
	}
}

// expire ends the dials that took too long and the connections that were idle
// too long, has recent ones settle, and wakes again for the next.
func (s *tcpShard) expire() {
	opts := &s.proxy.opts
	for n := s.dialing.front; n != nil; n = s.dialing.front {
		if when := n.item.since + int64(opts.DialTimeout); when > s.loop.now {
			s.wake(when)
			break
		}
		s.proxy.counters.refused.Add(1)
		n.item.abort()
	}
	for n := s.recent.front; n != nil; n = s.recent.front {
		if when := n.item.since + int64(settleAfter); when > s.loop.now {
			s.wake(when)
			break
		}
		n.item.settle()
	}
	if opts.IdleTimeout <= 0 {
		return
	}
	for n := s.conns.front; n != nil; n = s.conns.front {
		if when := n.item.since + int64(opts.IdleTimeout); when > s.loop.now {
			s.wake(when)
			break
		}
		n.item.abort()
	}
}
