// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pipe is a kernel pipe that splice(2) moves data through.
type pipe struct {
	r, w int
	n    int // bytes inside
}

func (q *pipe) close() {
	closeFD(q.r)
	closeFD(q.w)
}

// keptPipes is how many empty pipes a loop keeps for the next bulk transfers.
const keptPipes = 8

// pipeSize is asked for with F_SETPIPE_SZ: the most that an unprivileged process
// may have (pipe(7), fs.pipe-max-size), and the most that a pair of splices moves.
// With the default of 64 KiB a gigabyte costs a third more processor time.
const pipeSize = 1 << 20

// After a failure to make a pipe there is no attempt for firstPipePause, and for twice
// as long after each further one, up to longestPipePause. Data are copied meanwhile.
const (
	firstPipePause   = time.Second
	longestPipePause = time.Minute
)

// pipePool is the pipes of a loop. A stream has one only while data are in it.
type pipePool struct {
	group *Group
	free  []*pipe
	made  int // free ones included
	limit int
	size  int           // bytes asked for
	pause time.Duration // since the last failure; zero: the last attempt did not fail
	retry time.Time     // when to try again
}

// get returns an empty pipe, or nil.
func (p *pipePool) get() *pipe {
	if n := len(p.free); n > 0 {
		q := p.free[n-1]
		p.free = p.free[:n-1]
		return q
	}
	if p.made >= p.limit || p.pause != 0 && time.Now().Before(p.retry) {
		return nil
	}
	q, err := newPipe(p.size)
	if err != nil {
		p.pause = min(max(2*p.pause, firstPipePause), longestPipePause)
		p.retry = time.Now().Add(p.pause)
		p.group.notePipe(err)
		return nil
	}
	if p.pause != 0 {
		p.pause = 0
		p.group.notePipe(nil)
	}
	p.made++
	return q
}

// newPipe makes a pipe that splice(2) may be used with.
func newPipe(size int) (*pipe, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	q := &pipe{r: fds[0], w: fds[1]}
	// A system call filter may refuse splice alone; data in a pipe could then not be
	// sent on. A splice from a pipe to itself is EINVAL where splice is allowed.
	if _, e := splice(q.r, q.w, 1); e != unix.EINVAL {
		q.close()
		return nil, os.NewSyscallError("splice", e)
	}
	// A refusal leaves 64 KiB or less, which works.
	_, _ = unix.FcntlInt(uintptr(q.r), unix.F_SETPIPE_SZ, size)
	return q, nil
}

// try makes a pipe and closes it, so that PipeError is known before one is needed.
func (p *pipePool) try() {
	if q := p.get(); q != nil {
		q.close()
		p.made--
	}
}

// put takes a pipe back, and closes one with data inside.
func (p *pipePool) put(q *pipe) {
	if q.n == 0 && len(p.free) < keptPipes {
		p.free = append(p.free, q)
		return
	}
	q.close()
	p.made--
}

// trim closes the pipes that are not in use.
func (p *pipePool) trim() {
	for _, q := range p.free {
		q.close()
		p.made--
	}
	p.free = p.free[:0]
}

// held is what was read from one side and not yet written to the other: first what
// is in the pipe, then what is in memory because there was no pipe or no room in it.
type held struct {
	pipe *pipe
	mem  []byte
}

// size is how many bytes are held.
func (h *held) size() int {
	n := len(h.mem)
	if h.pipe != nil {
		n += h.pipe.n
	}
	return n
}

// borrow gets a pipe if it has none, and reports whether it has one.
func (h *held) borrow(pool *pipePool) bool {
	if h.pipe == nil {
		h.pipe = pool.get()
	}
	return h.pipe != nil
}

// keep holds a copy of b.
func (h *held) keep(b []byte, pool *pipePool) {
	if h.borrow(pool) {
		n, err := unix.Write(h.pipe.w, b)
		if err != nil {
			n = 0
		}
		h.pipe.n = n
		b = b[n:]
		if n == 0 {
			h.release(pool)
		}
	}
	if len(b) > 0 {
		h.mem = append([]byte(nil), b...)
	}
}

// write writes what the socket takes, and releases the pipe when nothing is left.
func (h *held) write(fd int, pool *pipePool) (int, unix.Errno) {
	written := 0
	for h.pipe != nil && h.pipe.n > 0 {
		n, e := splice(h.pipe.r, fd, h.pipe.n)
		if e != noErrno {
			return written, e
		}
		h.pipe.n -= n
		written += n
	}
	for len(h.mem) > 0 {
		n, e := send(fd, h.mem)
		if e != noErrno {
			return written, e
		}
		h.mem = h.mem[n:]
		written += n
	}
	h.release(pool)
	return written, noErrno
}

// release gives the pipe back. Data that are held are lost.
func (h *held) release(pool *pipePool) {
	h.mem = nil
	if h.pipe != nil {
		pool.put(h.pipe)
		h.pipe = nil
	}
}
