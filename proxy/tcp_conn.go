// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// The two sides of a connection.
const (
	client  = 0
	backend = 1
)

// tcpConn is one connection and its continuation to the backend. It belongs
// to the goroutine of its loop.
//
// Both sockets are registered once, edge-triggered, and the sides remember the
// edges: an idle connection costs this struct and two descriptors.
type tcpConn struct {
	node    node[tcpConn] // in a list of its shard
	shard   *tcpShard
	since   int64 // loop time of the last activity, or of the dial
	side    [2]half
	dialing bool
	recent  bool // has no keep-alive yet towards the backend
	queued  bool // in loop.again
	closed  bool
	heavy   bool // counted as a bulk transfer of its loop
	weight  int  // bytes moved since it was last weighed
}

// half is one socket of a connection, and the stream that is read from it.
type half struct {
	fd    int
	held  held // read here, not yet written to the other side
	burst int  // bytes spliced since there was nothing to read, up to smallRead

	readable bool // no read has said EAGAIN since the last edge
	writable bool // no write has said EAGAIN since the last edge
	finished bool // the peer's FIN has arrived: nothing more can be read later
	failed   bool // the socket has an error pending
	bulk     bool // so much arrived at once that splicing is worth its calls
	noSplice bool // splice does not work here, or would stop short of urgent data
	eof      bool // the stream has been read to its end
	done     bool // ... and written to its end: the other side has been sent FIN
}

const connEvents = evIn | evOut | evRDHup | evUrgent | evEdge

// reject resets a client that cannot be served.
func (s *tcpShard) reject(fd int) {
	reset(fd)
	s.loop.live.Add(-1)
	s.proxy.gone()
}

// admit dials the backend for a client. An error is one of this process, such as
// EMFILE, and not an unreachable backend.
func (s *tcpShard) admit(fd int) unix.Errno {
	p, l := s.proxy, s.loop
	to := p.backend(func() netip.AddrPort {
		local, _ := localAddr(fd) // after an error, nowhere
		return local
	})
	if to == nil {
		s.reject(fd)
		return noErrno
	}
	b, e := socket(to.family, unix.SOCK_STREAM)
	if e != noErrno {
		s.reject(fd)
		return e
	}
	p.tune(b)
	if !p.keepsLater() {
		p.keep(b)
	}
	e = connect(b, to)
	if e != noErrno && e != unix.EINPROGRESS {
		closeFD(b)
		p.counters.refused.Add(1)
		s.reject(fd)
		return noErrno
	}
	c := &tcpConn{shard: s, since: l.now, dialing: e != noErrno}
	c.node.item = c
	c.side[client] = half{fd: fd, writable: true}
	c.side[backend] = half{fd: b, writable: !c.dialing}
	if e = l.watch(fd, c, connEvents); e == noErrno {
		if e = l.watch(b, c, connEvents); e != noErrno {
			l.forget(fd)
		}
	}
	if e != noErrno {
		closeFD(b)
		s.reject(fd)
		return e
	}
	if c.dialing {
		c.list().pushBack(&c.node)
		s.wake(l.now + int64(p.opts.DialTimeout))
	} else {
		s.established(c)
	}
	return noErrno
}

// established enters a connection whose backend has answered.
func (s *tcpShard) established(c *tcpConn) {
	c.dialing = false
	c.since = s.loop.now
	c.recent = s.proxy.keepsLater()
	c.list().pushBack(&c.node)
	if idle := s.proxy.opts.IdleTimeout; idle > 0 {
		s.wake(c.since + int64(idle))
	} else if c.recent {
		s.wake(c.since + int64(keepAfter))
	}
}

// endRecent sets keep-alive of a connection that has lasted.
func (c *tcpConn) endRecent() {
	c.list().remove(&c.node)
	c.recent = false
	c.list().pushBack(&c.node)
	c.shard.proxy.keep(c.side[backend].fd)
}

// list is where the connection is, or belongs.
func (c *tcpConn) list() *list[tcpConn] {
	switch s := c.shard; {
	case c.dialing:
		return &s.dialing
	case c.recent:
		return &s.recent
	default:
		return &s.conns
	}
}

// ready implements handler.
func (c *tcpConn) ready(fd int, events uint32) {
	h := &c.side[client]
	if fd == c.side[backend].fd {
		h = &c.side[backend]
		if c.dialing && !c.dialed(events) {
			return
		}
	}
	if events&(evIn|evRDHup|evHup|evErr) != 0 {
		h.readable = true
	}
	if events&(evRDHup|evHup|evErr) != 0 {
		h.finished = true
	}
	if events&evErr != 0 {
		h.failed = true
	}
	if events&evOut != 0 {
		h.writable = true
	}
	if events&evUrgent != 0 {
		// The kernel stops before the urgent byte (tcp_recvmsg_locked and
		// tcp_read_sock in net/ipv4/tcp.c): a short read does not mean that the
		// socket is empty, and splice would never pass that byte.
		h.noSplice = true
	}
	c.pump()
}

// dialed looks for the end of a dial and reports whether it succeeded.
func (c *tcpConn) dialed(events uint32) bool {
	s := c.shard
	if events&(evErr|evHup) != 0 {
		s.proxy.counters.refused.Add(1)
		c.abort()
		return false
	}
	if events&evOut == 0 {
		return false
	}
	c.list().remove(&c.node)
	s.established(c)
	return true
}

// answered reports whether the backend has accepted the connection.
func (c *tcpConn) answered() bool {
	_, err := unix.Getpeername(c.side[backend].fd)
	return err == nil
}

// redial makes the client one that was just accepted. Nothing has been read from it.
func (c *tcpConn) redial() {
	s := c.shard
	c.closed = true
	c.list().remove(&c.node)
	s.loop.unwatch(c.side[client].fd)
	s.loop.forget(c.side[backend].fd)
	reset(c.side[backend].fd)
	s.handOver(handed{fd: c.side[client].fd}) // to open a socket is the loop's
}

// matches reports whether the connection matches.
func (c *tcpConn) matches(which *match) bool {
	return which.frontend(c.side[client].fd) || which.backend(c.side[backend].fd)
}

// abort resets both sides. For a side that is closed already this does nothing.
func (c *tcpConn) abort() { c.end(reset) }

// end closes both sides. how is closeFD, which sends the last FIN, or reset.
func (c *tcpConn) end(how func(fd int)) {
	if c.closed {
		return
	}
	c.closed = true
	s := c.shard
	for i := range c.side {
		h := &c.side[i]
		s.loop.forget(h.fd)
		h.held.release(&s.loop.pipes)
	}
	c.list().remove(&c.node)
	c.closeSides(how)
}

// closeSides closes both sides of a connection that is not in its loop.
func (c *tcpConn) closeSides(how func(fd int)) {
	for i := range c.side {
		how(c.side[i].fd)
	}
	l := c.shard.loop
	if c.heavy {
		l.heavy.Add(-1)
	}
	l.live.Add(-1)
	c.shard.proxy.gone()
}
