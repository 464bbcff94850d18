// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// tcpProxy is a Proxy for TCP.
type tcpProxy struct {
	*base
	keepAlive int32                      // seconds; 0: none
	shards    []atomic.Pointer[tcpShard] // by index of the loop; nil: had no connection yet
	homeOnly  atomic.Bool                // only the home loop accepts
	closing   atomic.Bool                // no connection moves to another loop

	// Guarded by the turn of the home loop.
	listening bool
	leaving   bool // a caller of loop.with accepts, who must not open sockets
}

// tcpShard is the part of a proxy that one loop serves.
type tcpShard struct {
	proxy   *tcpProxy
	loop    *loop
	conns   list[tcpConn] // connected, in order of activity if there is an idle time-out
	recent  list[tcpConn] // connected less than keepAfter ago, the oldest first; see there
	dialing list[tcpConn] // waiting for the backend, the oldest first
	timer   timer         // for all three lists

	accepts atomic.Bool   // the loop watches the listener, or will when the back-off ends
	alone   int           // see manyAlone
	events  uint32        // that it watches the listener for
	delay   time.Duration // of the accept back-off; 0: not in one
	retry   timer         // ends the back-off

	mu     sync.Mutex
	handed []handed // guarded by mu: from other loops, in order
}

// newTCP makes the proxy; b.fd listens.
func newTCP(b *base) *tcpProxy {
	p := &tcpProxy{base: b}
	b.proto = p
	if d := b.opts.KeepAlive; d > 0 {
		p.keepAlive = int32(min(max(d/time.Second, 1), 32767)) // MAX_TCP_KEEPIDLE in include/net/tcp.h
	}
	// Accepted sockets inherit these from the listener (sk_clone and
	// tcp_create_openreq_child copy it): they cost a connection nothing.
	p.tune(b.fd)
	p.keep(b.fd)
	return p
}

// keepAfter is when keep-alive begins for the backend's side of a connection:
// to set it costs a twentieth of a short connection.
const keepAfter = time.Second

// keepsLater reports whether connections begin without keep-alive. They do not if
// there is an idle time-out, which needs them all in one list.
func (p *tcpProxy) keepsLater() bool { return p.keepAlive != 0 && p.opts.IdleTimeout <= 0 }

// tune sets options of both sides of a connection. It works without them: errors
// are ignored.
func (p *tcpProxy) tune(fd int) {
	// A proxy must not hold a small message back: whether to wait for more
	// was the sender's decision (RFC 9293 section 3.7.4).
	setInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	// Urgent data (RFC 6093) stay in the stream; else a read would skip them.
	setInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
}

// keep sets keep-alive if the options ask for it.
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
	if e := p.shard(p.home).watch(evIn); e != noErrno {
		return os.NewSyscallError("epoll_ctl", e)
	}
	p.listening = true
	return nil
}

// consolidate implements served. When it returns each loop has had its turn: none
// accepts any more or is about to hand a connection to another.
func (p *tcpProxy) consolidate(gently bool) {
	p.homeOnly.Store(true)
	if !gently {
		p.closing.Store(true)
	}
	for i := range p.shards {
		if s := p.shards[i].Load(); s != nil && s.loop != p.home {
			s.loop.with(s.unwatch)
		}
	}
}

// stopAccepting implements served. Clients of connections in the queue take them for
// open: gently, they are accepted before the listener is closed. The filter drops
// the SYNs of later clients, which try again and are then refused. A shared listener
// keeps its options and its queue for the other process; but if several loops of this
// process accepted from it, a connection in the queue may have woken only one of them.
func (p *tcpProxy) stopAccepting(gently bool) {
	if !p.listening {
		return
	}
	s := p.shard(p.home)
	s.unwatch()
	if gently && !p.shared {
		_ = attachDropAll(p.fd) // without it a client may get a reset for a moment
	}
	if gently && (!p.shared || s.events&unix.EPOLLEXCLUSIVE != 0) {
		p.leaving = true
		waiting := listenBacklog
		if p.shared { // later ones wake the other process, and may come without end
			waiting = queued(p.fd)
		}
		s.acceptUpTo(waiting)
	}
	closeFD(p.fd)
	p.listening = false
}

// shard returns the part of the proxy that l serves.
func (p *tcpProxy) shard(l *loop) *tcpShard {
	at := &p.shards[l.index]
	if s := at.Load(); s != nil {
		return s
	}
	s := &tcpShard{proxy: p, loop: l}
	s.timer.expire = s.expire
	s.retry.expire = s.endPause
	if !at.CompareAndSwap(nil, s) {
		return at.Load()
	}
	return s
}

// drop implements served. After consolidate no connection is handed over any more.
func (p *tcpProxy) drop(l *loop) {
	if p.shards == nil {
		return
	}
	if s := p.shards[l.index].Load(); s != nil {
		s.rejectHanded(nil)
		s.abort(nil)
	}
}

// reset implements served.
func (p *tcpProxy) reset(which *match) {
	for i := range p.shards {
		if s := p.shards[i].Load(); s != nil {
			s.loop.with(func() {
				if which != nil {
					s.rejectHanded(which)
				} // else those that were just accepted have no backend yet
				s.abort(which)
			})
		}
	}
}

// leaveBackend implements served.
func (p *tcpProxy) leaveBackend(again bool, which *match) {
	for i := range p.shards {
		if s := p.shards[i].Load(); s != nil {
			s.loop.with(func() { s.endDials(again, which) })
		}
	}
}

// endDials ends the dials, and dials once more for their clients or resets these.
func (s *tcpShard) endDials(again bool, which *match) {
	for n := s.dialing.front; n != nil; {
		c := n.item
		n = n.next
		switch {
		case which != nil && !c.matches(which):
		case c.answered():
			s.dialing.remove(&c.node)
			s.established(c) // the event that says so is under way
		case again:
			c.redial()
		default:
			c.abort()
		}
	}
}

// abort resets the connections that the shard has.
func (s *tcpShard) abort(which *match) {
	for _, l := range []*list[tcpConn]{&s.dialing, &s.recent, &s.conns} {
		for n := l.front; n != nil; {
			c := n.item
			n = n.next
			if c.matches(which) {
				c.abort()
			}
		}
	}
	if which == nil {
		s.loop.disarm(&s.timer)
	}
}

// wake arms the shard's timer for when, unless it is armed for an earlier time.
func (s *tcpShard) wake(when int64) {
	if s.timer.index == 0 || when < s.timer.when {
		s.loop.arm(&s.timer, when)
	}
}

// expire ends the dials that took too long and the connections that were idle too
// long, sets keep-alive for recent ones, and wakes again for the next.
func (s *tcpShard) expire() {
	s.overdue(&s.dialing, s.proxy.opts.DialTimeout, func(c *tcpConn) {
		s.proxy.counters.refused.Add(1)
		c.abort()
	})
	s.overdue(&s.recent, keepAfter, (*tcpConn).endRecent)
	if idle := s.proxy.opts.IdleTimeout; idle > 0 {
		s.overdue(&s.conns, idle, (*tcpConn).abort)
	}
}

// overdue calls f, which removes it, for each connection that has been in the list for
// longer than a time.
func (s *tcpShard) overdue(l *list[tcpConn], after time.Duration, f func(*tcpConn)) {
	for n := l.front; n != nil; n = l.front {
		if when := n.item.since + int64(after); when > s.loop.now {
			s.wake(when)
			return
		}
		f(n.item)
	}
}
