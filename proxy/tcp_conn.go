// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import "golang.org/x/sys/unix"

// The two sides of a connection.
const (
	client  = 0
	backend = 1
)

// tcpConn is one connection and its continuation to the backend. It belongs
// to the goroutine of its loop.
//
// It is registered edge-triggered for everything once, and remembers what the
// edges said: an idle connection costs this struct and two descriptors.
type tcpConn struct {
	node    node[tcpConn] // in a list of its shard
	shard   *tcpShard
	since   int64 // loop time of the last activity, or of the dial
	side    [2]half
	dialing bool
	recent  bool // has no keep-alive yet towards the backend
	queued  bool // in loop.again
	closed  bool
	heavy   bool // counted among its loop's bulk transfers
	weight  int  // bytes moved since it was last weighed
}

// half is one socket of a connection, and the stream that is read from it.
type half struct {
	fd    int
	held  held // read here, not yet written to the other side
	burst int  // bytes spliced since there was nothing to read, up to smallRead

	readable bool // no read has said EAGAIN since the last edge
	writable bool // no write has said EAGAIN since the last edge
	finished bool // the peer's FIN is in: what can be read now is all there will be
	failed   bool // the socket has an error pending
	bulk     bool // so much came at once that splicing is worth its calls
	noSplice bool // splice does not work here, or would stop short of urgent data
	eof      bool // the stream has been read to its end
	done     bool // ... and written to its end: the other side has been sent FIN
}

const connEvents = evIn | evOut | evRDHup | evUrgent | evEdge

// turnAway resets a client that cannot be served at all.
func (s *tcpShard) turnAway(fd int) {
	reset(fd)
	s.loop.live.Add(-1)
	s.proxy.gone()
}

// admit dials the backend for a client. The result is an error of this
// process, such as EMFILE; a backend that cannot be reached is none.
func (s *tcpShard) admit(fd int) unix.Errno {
	p, l := s.proxy, s.loop
	to := p.target.Load().to
	b, e := socket(to.family, unix.SOCK_STREAM)
	if e != noErrno {
		s.turnAway(fd)
		return e
	}
	p.tune(b)
	if !p.settles() {
		p.keep(b)
	}
	e = connect(b, to)
	if e != noErrno && e != unix.EINPROGRESS {
		closeFD(b)
		p.counters.refused.Add(1)
		s.turnAway(fd)
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
		s.turnAway(fd)
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
	c.recent = s.proxy.settles()
	c.list().pushBack(&c.node)
	if idle := s.proxy.opts.IdleTimeout; idle > 0 {
		s.wake(c.since + int64(idle))
	} else if c.recent {
		s.wake(c.since + int64(settleAfter))
	}
}

// settle is for a connection that is recent no more.
func (c *tcpConn) settle() {
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
		// The kernel stops short of the urgent byte (tcp_recvmsg_locked and
		// tcp_read_sock in net/ipv4/tcp.c): "less than asked for" no longer
		// means "all that there is", and splice would never get over it.
		h.noSplice = true
	}
	c.pump()
}

// dialed looks at how a dial ended, if it has; false: it is not a connection.
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

// abort resets both sides. To a side whose connection is over already the
// reset does nothing.
func (c *tcpConn) abort() { c.end(reset) }

// finish closes both sides when both streams have ended: the FIN of the last
// is sent by close.
func (c *tcpConn) finish() { c.end(closeFD) }

func (c *tcpConn) end(how func(fd int)) {
	if c.closed {
		return
	}
	c.closed = true
	s := c.shard
	for i := range c.side {
		h := &c.side[i]
		s.loop.forget(h.fd)
		h.held.drop(&s.loop.pipes)
	}
	c.list().remove(&c.node)
	c.scrap(how)
}

// scrap closes both sides of a connection that its loop knows nothing of.
func (c *tcpConn) scrap(how func(fd int)) {
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
