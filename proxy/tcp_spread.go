// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import "slices"

// heavyAfter is after how many bytes a connection is a bulk transfer, and how many
// it moves before loops are compared again.
const heavyAfter = 8 << 20

// weigh counts n bytes moved, and moves a bulk transfer to a loop that has fewer.
func (c *tcpConn) weigh(n int) {
	s := c.shard
	l, p := s.loop, s.proxy
	if c.weight += n; c.weight < p.group.heavyAfter {
		return
	}
	if c.closed || c.queued || c.dialing {
		return // the next time
	}
	c.weight = 0
	if !c.heavy {
		c.heavy = true
		l.heavy.Add(1)
	}
	if p.closing.Load() {
		return
	}
	if to := p.group.idler(l); to != l {
		c.moveTo(p.shard(to))
	}
}

// moveTo hands an established connection to another loop, with the pipes that hold
// its data.
func (c *tcpConn) moveTo(s *tcpShard) {
	l := c.shard.loop
	for i := range c.side {
		l.unwatch(c.side[i].fd)
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
	s.handOver(handed{conn: c})
}

// handed is a connection that a shard gets from another loop: a socket that was just
// accepted, or an established connection.
type handed struct {
	fd   int
	conn *tcpConn // nil: fd
}

// handOver gives a connection, which its loop counts already, to the shard. It is
// called on another loop.
func (s *tcpShard) handOver(h handed) {
	s.mu.Lock()
	s.handed = append(s.handed, h)
	first := len(s.handed) == 1
	s.mu.Unlock()
	if first && !s.loop.post(s.takeHanded) {
		s.rejectHanded(nil)
	}
}

// removeHanded returns connections that were handed over, which are not any more.
func (s *tcpShard) removeHanded(which *match) (removed []handed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if which == nil {
		removed, s.handed = s.handed, nil
		return removed
	}
	s.handed = slices.DeleteFunc(s.handed, func(h handed) bool {
		if h.conn == nil && !which.frontend(h.fd) || h.conn != nil && !h.conn.matches(which) {
			return false
		}
		removed = append(removed, h)
		return true
	})
	return removed
}

// takeHanded serves the connections that were handed over. To watch a descriptor
// anew reports all that it is ready for, so that no edge is lost.
func (s *tcpShard) takeHanded() {
	for _, h := range s.removeHanded(nil) {
		c := h.conn
		if c == nil {
			if s.loop != s.proxy.home {
				s.share()
			}
			s.admit(h.fd)
			continue
		}
		s.established(c)
		for i := range c.side {
			if c.side[i].held.pipe != nil {
				s.loop.pipes.made++
			}
		}
		for i := range c.side {
			if e := s.loop.watch(c.side[i].fd, c, connEvents); e != noErrno {
				c.abort()
				break
			}
		}
	}
}

// rejectHanded resets connections that were handed over.
func (s *tcpShard) rejectHanded(which *match) {
	for _, h := range s.removeHanded(which) {
		if h.conn == nil {
			s.reject(h.fd)
			continue
		}
		for i := range h.conn.side {
			if q := h.conn.side[i].held.pipe; q != nil {
				q.close()
			}
		}
		h.conn.closeSides(reset)
	}
}
