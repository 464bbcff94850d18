// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import "golang.org/x/sys/unix"

// heavyAfter is how much a connection moves until it is a bulk transfer, and
// between two looks at whether another loop has fewer of those.
const heavyAfter = 8 << 20

// weigh counts n bytes moved, and gives the connection to another loop if it
// is heavy and there are more such here than there.
func (c *tcpConn) weigh(n int) {
	s := c.shard
	l, p := s.loop, s.proxy
	if c.weight += n; c.weight < p.group.heavyAfter {
		return
	}
	if c.closed || c.queued || c.dialing {
		return // some other time
	}
	c.weight = 0
	if !c.heavy {
		c.heavy = true
		l.heavy.Add(1)
	}
	if p.closing.Load() { // Close must know that no connection is on its way
		return
	}
	if to := p.group.idler(l); to != l {
		c.moveTo(p.shard(to))
	}
}

// moveTo hands an established connection to another loop, with the pipes that
// it has data in.
func (c *tcpConn) moveTo(s *tcpShard) {
	l := c.shard.loop
	for i := range c.side {
		fd := c.side[i].fd
		l.forget(fd)
		_ = l.control(unix.EPOLL_CTL_DEL, fd, 0, 0)
		if c.side[i].held.pipe != nil {
			l.pipes.made--
		}
	}
	c.list().remove(&c.node)
	l.live.Add(-1)
	l.heavy.Add(-1)
	c.shard = s
	s.loop.live.Add(1)
	s.loop.heavy.Add(1)
	if !s.loop.post(task{shard: s, conn: c}) {
		c.lose()
	}
}

// lose ends a connection that is on its way between loops.
func (c *tcpConn) lose() {
	for i := range c.side {
		if q := c.side[i].held.pipe; q != nil {
			q.close()
		}
	}
	c.scrap(reset)
}

// adopt takes a connection from another loop. Watching a descriptor anew tells
// what it is ready for, so that no edge is lost on the way.
func (s *tcpShard) adopt(c *tcpConn) {
	s.established(c)
	for i := range c.side {
		if c.side[i].held.pipe != nil {
			s.loop.pipes.made++
		}
	}
	for i := range c.side {
		if e := s.loop.watch(c.side[i].fd, c, connEvents); e != noErrno {
			c.abort()
			return
		}
	}
}
