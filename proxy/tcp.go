// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// tcpProxy is a Proxy for TCP.
type tcpProxy struct {
	*base
	keepAlive int32       // seconds; 0: none
	shards    []*tcpShard // by index of the loop; nil: no connection yet. Made by the home loop

	// The rest belongs to the home loop.
	listening bool
	leaving   bool          // the thread that accepts need not be the loop's own
	closing   bool          // connections stay on the loops that they are on
	delay     time.Duration // of the accept back-off; 0: not in one
	retry     timer         // ends the back-off
}

// tcpShard is the part of a proxy that one loop serves.
type tcpShard struct {
	proxy   *tcpProxy
	loop    *loop
	conns   list[tcpConn] // connected, in order of activity if there is an idle time-out
	dialing list[tcpConn] // waiting for the backend, the oldest first
	timer   timer         // for both lists
}

// newTCP makes the proxy; b.fd listens.
func newTCP(b *base) *tcpProxy {
	p := &tcpProxy{base: b}
	b.proto = p
	if d := b.opts.KeepAlive; d > 0 {
		p.keepAlive = int32(min(max(d/time.Second, 1), 32767)) // MAX_TCP_KEEPIDLE in include/net/tcp.h
	}
	p.retry.expire = p.resume
	// What accept(2) returns inherits these from the listener (sk_clone and
	// tcp_create_openreq_child copy the socket), so that a connection pays
	// for none of them.
	p.tune(b.fd)
	return p
}

// tune sets what both sides of a connection want. A socket works without any
// of it, and a listener of package net, which is one of MPTCP, refuses some:
// errors are of no interest.
func (p *tcpProxy) tune(fd int) {
	// A proxy must not hold a small message back: whether to wait for more
	// was the sender's decision (RFC 9293 section 3.7.4).
	setInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	// Urgent data (RFC 6093) stay in the stream; else a read would skip them.
	setInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
	if p.keepAlive != 0 {
		setInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		setInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, p.keepAlive)
		setInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, p.keepAlive)
	}
}

// listen implements served.
func (p *tcpProxy) listen() error {
	p.shards = make([]*tcpShard, p.group.opts.Loops)
	// Level-triggered: a pause is a matter of not watching, and what was
	// left in the queue shows again by itself.
	if e := p.home.watch(p.fd, p, evIn); e != noErrno {
		return os.NewSyscallError("epoll_ctl", e)
	}
	p.listening = true
	return nil
}

// deafen implements served. Connections in the queue are live already, as
// their clients see it: gently, they are taken before the listener goes. The
// filter keeps the queue from growing meanwhile: those who come are not let in
// to be reset, but refused when they try again. A listener that is shared is left as
// it is, with its queue.
func (p *tcpProxy) deafen(gently bool) {
	p.closing = !gently
	if !p.listening {
		return
	}
	if gently && !p.shared {
		p.leaving = true
		_ = attachDropAll(p.fd) // without it there is a moment for a reset
		for p.accept() {
			continue
		}
	}
	p.home.forget(p.fd)
	p.home.disarm(&p.retry)
	// Not by closing alone: a socket that was handed over may be open
	// elsewhere, and epoll holds on to it as long as it is.
	_ = p.home.control(unix.EPOLL_CTL_DEL, p.fd, 0, 0)
	closeFD(p.fd)
	p.listening = false
}

// empty implements served: nothing of the proxy is left for its group to close.
func (p *tcpProxy) empty() { p.group.leave(p) }

// shard returns the part of the proxy that l serves.
func (p *tcpProxy) shard(l *loop) *tcpShard {
	if p.shards[l.index] == nil {
		s := &tcpShard{proxy: p, loop: l}
		s.timer.expire = s.expire
		p.shards[l.index] = s
	}
	return p.shards[l.index]
}

// drop implements served. The home loop makes no shard any more: deafen came
// before.
func (p *tcpProxy) drop(l *loop) {
	if p.shards == nil || p.shards[l.index] == nil {
		return
	}
	s := p.shards[l.index]
	for _, t := range l.recall(s) {
		if t.conn != nil {
			t.conn.lose()
		} else {
			s.turnAway(t.fd)
		}
	}
	s.abortAll()
}

// reset implements served. Only the home loop may look which shards there are: it makes
// them. What it has handed to one that has not looked at it yet is not dialled yet.
func (p *tcpProxy) reset() {
	var shards []*tcpShard
	p.home.with(func() { shards = slices.Clone(p.shards) })
	for _, s := range shards {
		if s != nil {
			s.loop.with(s.abortAll)
		}
	}
}

// abortAll resets all connections that the shard has.
func (s *tcpShard) abortAll() {
	for s.dialing.front != nil {
		s.dialing.front.item.abort()
	}
	for s.conns.front != nil {
		s.conns.front.item.abort()
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
// too long, and wakes again for the next.
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
