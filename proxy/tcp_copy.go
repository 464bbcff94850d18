// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import "golang.org/x/sys/unix"

const (
	// smallRead is how much is copied through user memory first. A shorter
	// message costs a read and a write; splice would save the copies but take a
	// third call to learn that there is no more.
	smallRead = 32 << 10

	// spliceChunk is how much one splice may move. The pipe holds less;
	// the kernel takes what fits.
	spliceChunk = 1 << 20

	// turn is how much one stream may move in one turn.
	turn = 1 << 20
)

// pump moves what can be moved in both directions.
func (c *tcpConn) pump() {
	moved := 0
	for from := range c.side {
		n, ok := c.move(from)
		if !ok {
			c.abort()
			return
		}
		if n > 0 {
			moved += n
			counter := &c.shard.proxy.counters.toBackend
			if from == backend {
				counter = &c.shard.proxy.counters.toClient
			}
			counter.Add(uint64(n))
		}
	}
	switch {
	case c.side[client].done && c.side[backend].done:
		c.end(closeFD)
	case c.side[client].failed || c.side[backend].failed:
		// All that could be passed on has been: a reset overtakes data that
		// wait, as it does in the kernel.
		c.abort()
	case moved > 0:
		if c.shard.proxy.opts.IdleTimeout > 0 && !c.dialing {
			c.since = c.shard.loop.now
			c.shard.conns.moveToBack(&c.node)
		}
		c.weigh(moved)
	}
}

// move carries the stream from one side to the other until one of them blocks, and
// returns how much it wrote. false: the connection is broken.
func (c *tcpConn) move(from int) (moved int, ok bool) {
	src, dst := &c.side[from], &c.side[1-from]
	l := c.shard.loop
	for !src.done {
		if src.held.size() > 0 {
			n, e := src.held.write(dst.fd, &l.pipes)
			moved += n
			if e == unix.EAGAIN {
				dst.writable = false
				return moved, true
			}
			if e != noErrno {
				return moved, false
			}
			continue
		}
		if src.eof {
			src.done = true
			// The second to end is sent its FIN by close.
			if !dst.done && shutdownWrite(dst.fd) != noErrno {
				return moved, false
			}
			break
		}
		if !src.readable || !dst.writable {
			break
		}
		if moved >= turn {
			c.yield()
			break
		}
		var e unix.Errno
		var n int
		if src.bulk && !src.noSplice {
			n, e = c.splice(src, dst)
		} else {
			n, e = c.copy(src, dst)
		}
		moved += n
		if e != noErrno {
			return moved, false
		}
	}
	return moved, true
}

// yield gives other connections of the loop their turn.
func (c *tcpConn) yield() {
	if !c.queued {
		c.queued = true
		c.shard.loop.again = append(c.shard.loop.again, c)
	}
}

// continueTurn implements turner.
func (c *tcpConn) continueTurn() {
	c.queued = false
	if !c.closed {
		c.pump()
	}
}

// copy carries one small message through the loop's buffer, and learns whether more
// follows.
func (c *tcpConn) copy(src, dst *half) (int, unix.Errno) {
	l := c.shard.loop
	n, e := recv(src.fd, l.buf)
	switch {
	case e == unix.EAGAIN:
		src.readable = false
		return 0, noErrno
	case e != noErrno:
		return 0, e
	case n == 0:
		src.eof = true
		return 0, noErrno
	case n == len(l.buf):
		src.bulk = true
		src.burst = n
	case !src.noSplice:
		// epoll(7), question 9: after a short read a stream socket is empty,
		// and later data bring an edge. Its end, if known by now, is next.
		src.readable = false
		src.eof = src.finished && !src.failed
	}
	w, e := send(dst.fd, l.buf[:n])
	if e == unix.EAGAIN {
		dst.writable = false
		w, e = 0, noErrno
	}
	if e == noErrno && w < n {
		src.held.keep(l.buf[w:n], &l.pipes)
	}
	return w, e
}

// splice carries a pipe's worth without bringing it into user memory.
func (c *tcpConn) splice(src, dst *half) (int, unix.Errno) {
	pipes := &c.shard.loop.pipes
	if !src.held.borrow(pipes) {
		src.bulk = false // no pipe: copy for a while
		return c.copy(src, dst)
	}
	n, e := splice(src.fd, src.held.pipe.w, spliceChunk)
	if e != noErrno || n == 0 {
		src.held.release(pipes)
	}
	switch {
	case e == unix.EAGAIN:
		// Messages are likely followed by others of their size.
		src.readable = false
		src.bulk = src.burst >= smallRead
		src.burst = 0
		return 0, noErrno
	case e == unix.EINVAL:
		// A socket that knows no splice, such as one under kernel TLS.
		src.noSplice = true
		return 0, noErrno
	case e != noErrno:
		return 0, e
	case n == 0:
		// The end, or urgent data: only a read can tell.
		src.bulk = false
		return 0, noErrno
	}
	src.held.pipe.n = n
	src.burst = min(src.burst+n, smallRead)
	w, e := src.held.write(dst.fd, pipes)
	if e == unix.EAGAIN {
		dst.writable = false
		e = noErrno
	}
	return w, e
}
