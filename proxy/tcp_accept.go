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

// A listener is watched by the home loop of its proxy alone, until that has clearly
// more connections than another loop: from then on both watch it, and whichever is
// idle is woken for a connection (EPOLLEXCLUSIVE, epoll_ctl(2)). To accept in one
// loop and hand over to another costs a wake-up more for each connection, and is
// left for those that live long enough for one loop to have collected many more.
//
// leadToShare is how many connections more than another loop are clearly more;
// twice as many if that loop accepts by itself.
const leadToShare = 2

// manyAlone is how many connections in a row must have come while a proxy had no
// more than aloneLive of them, the new one included, for a loop to leave them to the
// others again: so many that it does not happen by chance under load. Of a single
// client the connection before may still be ending.
const (
	manyAlone = 64
	aloneLive = 2
)

// hear watches the listener for events. Level-triggered: a pause is a matter of
// not watching, and what was left in the queue shows again by itself.
func (s *tcpShard) hear(events uint32) unix.Errno {
	e := s.loop.watch(s.proxy.fd, s, events)
	if e == noErrno {
		s.events = events
		s.accepts.Store(true)
	}
	return e
}

// deaf stops watching. Closing the listener would not do: a socket that was
// handed over may be open elsewhere, and epoll holds on to it as long as it is.
func (s *tcpShard) deaf() {
	_ = s.loop.control(unix.EPOLL_CTL_DEL, s.proxy.fd, 0, 0)
	s.loop.forget(s.proxy.fd)
}

// hearNoMore is for a listener that is given up.
func (s *tcpShard) hearNoMore() {
	if s.accepts.Load() {
		s.accepts.Store(false)
		s.loop.disarm(&s.retry)
		s.deaf()
	}
}

// notNeeded counts for a loop that shares a listener whether it is needed: a proxy
// whose clients come one after another is served best by one loop. Home stays.
func (s *tcpShard) notNeeded() {
	if s.loop == s.proxy.home {
		return
	}
	if s.proxy.counters.live.Load() > aloneLive {
		s.alone = 0
		return
	}
	if s.alone++; s.alone == manyAlone {
		s.alone = 0
		s.hearNoMore()
		s.events = 0
		s.acceptUpTo(queued(s.proxy.fd)) // it may have been us alone whom they have woken
		if s.delay != 0 {                // and one may still be there
			s.delay = 0
			s.share()
		}
	}
}

// share has the loop take connections by itself from now on, each of which wakes
// one of the loops that do. A loop that cannot goes without.
func (s *tcpShard) share() {
	if s.proxy.gathered.Load() || s.events&unix.EPOLLEXCLUSIVE != 0 || s.delay != 0 {
		return
	}
	if s.accepts.Load() {
		s.deaf()
	}
	if s.hear(evIn|unix.EPOLLEXCLUSIVE) != noErrno && s.accepts.Load() {
		s.pause(false)
	}
}

// ready implements handler: clients wait at the listener.
func (s *tcpShard) ready(int, uint32) { s.accept() }

// accept takes waiting clients and reports whether there may be more.
func (s *tcpShard) accept() bool {
	turn := acceptTurn
	if s.events&unix.EPOLLEXCLUSIVE != 0 && s.accepts.Load() {
		turn = 1 // the others are for loops that are idle
	}
	return s.acceptUpTo(turn)
}

// acceptUpTo is accept with a bound of its own.
func (s *tcpShard) acceptUpTo(most int) bool {
	for range most {
		c, e := accept4(s.proxy.fd)
		full := e == unix.EMFILE || e == unix.ENFILE
		if e == noErrno {
			e = s.assign(c)
		}
		switch {
		case e == noErrno:
			s.delay = 0
			s.notNeeded()
		case e == unix.EAGAIN:
			return false
		case passing(e):
			s.proxy.counters.acceptErrors.Add(1)
		default: // EMFILE, ENFILE, ENOBUFS, ENOMEM
			s.pause(full)
			return false
		}
	}
	return true
}

// queued is how many connections wait at a listener: what tcp_get_info in
// net/ipv4/tcp.c has for tcpi_unacked then. More than there can be if it is not to be
// found out.
func queued(listener int) int {
	info, err := unix.GetsockoptTCPInfo(listener, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return listenBacklog
	}
	return int(info.Unacked)
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
func (s *tcpShard) assign(fd int) unix.Errno {
	p := s.proxy
	p.counters.live.Add(1)
	p.counters.total.Add(1)
	if p.leaving {
		// A connection copies the filter of its listener (sk_clone in
		// net/core/sock.c), so one that was being made while deafen attached it has
		// it too, and would be dead to its client for good.
		_ = detachFilter(fd) // most have none
	}
	g := p.group
	to := p.shard(g.lighter(s.loop, g.lead))
	if to != s && to.accepts.Load() {
		to = p.shard(g.lighter(s.loop, 2*g.lead))
	}
	to.loop.live.Add(1)
	if to == s && !p.leaving {
		return s.admit(fd) // which opens a socket, in the thread's namespace
	}
	if to != s {
		s.share()
	}
	if !to.loop.post(task{shard: to, fd: fd}) {
		to.turnAway(fd)
	}
	return noErrno
}

// take serves a connection that another loop has accepted.
func (s *tcpShard) take(fd int) {
	if s.loop != s.proxy.home {
		s.share()
	}
	s.admit(fd)
}

// pause stops accepting for a while, since trying again at once would spin.
// The queue of the kernel keeps the clients meanwhile. If the first pause has
// not helped and there is still no descriptor even for accepting, those who
// wait are told by a reset: the loop's reserve descriptor is given up so that
// one can be accepted, and taken again.
func (s *tcpShard) pause(full bool) {
	s.proxy.counters.acceptErrors.Add(1)
	s.loop.pipes.trim()
	if s.delay == 0 {
		s.delay = minAcceptDelay
	} else {
		s.delay = min(2*s.delay, maxAcceptDelay)
		if full {
			s.loop.shed(s.proxy.fd)
		}
	}
	if !s.accepts.Load() {
		return // the listener is being given up
	}
	if s.retry.index == 0 {
		s.deaf()
	}
	s.loop.arm(&s.retry, s.loop.now+int64(s.delay))
}

// resume ends a pause.
func (s *tcpShard) resume() {
	if s.hear(s.events) != noErrno {
		s.pause(false)
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
