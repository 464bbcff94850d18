// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// acceptTurn bounds the connections taken before other descriptors have
	// their turn.
	acceptTurn = 64

	// The back-off after accept found no descriptor or no memory: as
	// net/http has it, short enough to serve within a second of relief.
	minAcceptDelay = 5 * time.Millisecond
	maxAcceptDelay = time.Second
)

// ready implements handler: clients wait at the listener.
func (p *tcpProxy) ready(int, uint32) { p.accept() }

// accept takes waiting clients and reports whether there may be more.
func (p *tcpProxy) accept() bool {
	for range acceptTurn {
		c, e := accept4(p.fd)
		full := e == unix.EMFILE || e == unix.ENFILE
		if e == noErrno {
			e = p.assign(c)
		}
		switch {
		case e == noErrno:
			p.delay = 0
		case e == unix.EAGAIN:
			return false
		case passing(e):
			p.counters.acceptErrors.Add(1)
		default: // EMFILE, ENFILE, ENOBUFS, ENOMEM
			p.pause(full)
			return false
		}
	}
	return true
}

// passing are the errors of accept(2) that belong to the connection which was
// to be returned; the next one may be sound.
func passing(e unix.Errno) bool {
	return slices.Contains([]unix.Errno{
		unix.ECONNABORTED, unix.EPROTO, unix.EPERM, unix.ENETDOWN, unix.ENOPROTOOPT,
		unix.EHOSTDOWN, unix.ENONET, unix.EHOSTUNREACH, unix.EOPNOTSUPP, unix.ENETUNREACH,
	}, e)
}

// assign gives a new connection to a loop. It returns why this process, not
// the backend, could not serve it.
func (p *tcpProxy) assign(fd int) unix.Errno {
	p.counters.live.Add(1)
	p.counters.total.Add(1)
	to := p.group.lighter(p.home)
	to.live.Add(1)
	s := p.shard(to)
	if to == p.home && !p.leaving {
		return s.admit(fd) // which opens a socket, in the thread's namespace
	}
	if !to.post(task{shard: s, fd: fd}) {
		s.turnAway(fd)
	}
	return noErrno
}

// pause stops accepting for a while, since trying again at once would spin.
// The queue of the kernel keeps the clients meanwhile. If the first pause has
// not helped and there is still no descriptor even for accepting, those who
// wait are told by a reset: the loop's reserve descriptor is given up so that
// one can be accepted, and taken again.
func (p *tcpProxy) pause(full bool) {
	p.counters.acceptErrors.Add(1)
	p.home.pipes.trim()
	if p.delay == 0 {
		p.delay = minAcceptDelay
	} else {
		p.delay = min(2*p.delay, maxAcceptDelay)
		if full {
			p.home.shed(p.fd)
		}
	}
	if p.retry.index == 0 {
		_ = p.home.control(unix.EPOLL_CTL_DEL, p.fd, 0, 0)
		p.home.forget(p.fd)
	}
	p.home.arm(&p.retry, p.home.now+int64(p.delay))
}

// resume ends a pause.
func (p *tcpProxy) resume() {
	if e := p.home.watch(p.fd, p, evIn); e != noErrno {
		p.pause(false)
	}
}

// shed resets up to acceptTurn clients that wait at listener, without having
// a descriptor for any of them but the reserve.
func (l *loop) shed(listener int) {
	for range acceptTurn {
		if l.reserve >= 0 {
			closeFD(l.reserve)
			l.reserve = -1
		}
		c, e := accept4(listener)
		if e == noErrno {
			reset(c)
		}
		l.restock()
		if e != noErrno {
			return
		}
	}
}

// restock takes the reserve descriptor; a failure is made good next time.
func (l *loop) restock() {
	if l.reserve < 0 {
		if fd, err := unix.FcntlInt(uintptr(l.wakeup), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			l.reserve = fd
		}
	}
}
