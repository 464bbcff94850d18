// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// acceptTurn bounds the connections accepted in one turn.
	acceptTurn = 64

	// The back-off after accept found no descriptor or no memory, as in
	// net/http.
	minAcceptDelay = 5 * time.Millisecond
	maxAcceptDelay = time.Second
)

// leadToShare is how many connections more than another loop the home loop of a
// proxy has when it begins to share: it hands a connection over, and the other loop
// watches the listener too from then on; an idle one of them is woken for the next
// connection (EPOLLEXCLUSIVE, epoll_ctl(2)). To hand over costs one more wake-up.
// Between two loops that both accept it takes twice the lead.
const leadToShare = 2

// manyAlone is after how many connections in a row a loop stops sharing a listener if
// the proxy had at most aloneLive connections each time, the new one included: so many
// that it does not happen by chance under load. aloneLive is two because the last
// connection of a single client may still be ending.
const (
	manyAlone = 64
	aloneLive = 2
)

// tcpLoop is what the TCP connections of one loop share.
type tcpLoop struct {
	live    atomic.Int32 // connections; read by other loops to share them out
	heavy   atomic.Int32 // those that are bulk transfers
	buf     []byte       // for messages too small to be worth two splices
	pipes   pipePool     // for bulk
	reserve int          // a descriptor to give up when there are no more; -1: given up
}

// releaseTCP closes the descriptors.
func (l *tcpLoop) releaseTCP() {
	l.pipes.trim()
	if l.reserve >= 0 {
		closeFD(l.reserve)
	}
}

// watch watches the listener. Level-triggered: a pause only stops watching, and the
// rest of the queue shows afterwards.
func (s *tcpShard) watch(events uint32) unix.Errno {
	e := s.loop.watch(s.proxy.fd, s, events)
	if e == noErrno {
		s.events = events
		s.accepts.Store(true)
	}
	return e
}

// unwatch leaves the listener.
func (s *tcpShard) unwatch() {
	if s.accepts.Load() {
		s.accepts.Store(false)
		s.loop.disarm(&s.retry)
		s.loop.unwatch(s.proxy.fd)
	}
}

// leaveIfAlone stops sharing the listener if that has not been needed for a while:
// one loop serves clients that come one after another best. The home loop stays.
func (s *tcpShard) leaveIfAlone() {
	if s.loop == s.proxy.home {
		return
	}
	if s.proxy.counters.live.Load() > aloneLive {
		s.alone = 0
		return
	}
	if s.alone++; s.alone == manyAlone {
		s.alone = 0
		s.unwatch()
		s.events = 0
		s.acceptUpTo(queued(s.proxy.fd)) // they may have woken this loop alone
		if s.delay != 0 {                // and one may be left in the queue
			s.delay = 0
			s.share()
		}
	}
}

// share makes the loop accept too; a connection then wakes one of the loops that do.
// After an error the loop does not accept.
func (s *tcpShard) share() {
	if s.proxy.homeOnly.Load() || s.events&unix.EPOLLEXCLUSIVE != 0 || s.delay != 0 {
		return
	}
	if s.accepts.Load() {
		s.loop.unwatch(s.proxy.fd)
	}
	if s.watch(evIn|unix.EPOLLEXCLUSIVE) != noErrno && s.accepts.Load() {
		s.pause(false)
	}
}

// ready implements handler: clients wait at the listener.
func (s *tcpShard) ready(int, uint32) { s.accept() }

// accept accepts some clients and reports whether there may be more.
func (s *tcpShard) accept() bool {
	turn := acceptTurn
	if s.events&unix.EPOLLEXCLUSIVE != 0 && s.accepts.Load() {
		turn = 1 // leave others to idle loops
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
			s.leaveIfAlone()
		case e == unix.EAGAIN:
			return false
		case ofConnection(e):
			s.proxy.counters.acceptErrors.Add(1)
		default: // EMFILE, ENFILE, ENOBUFS, ENOMEM
			s.pause(full)
			return false
		}
	}
	return true
}

// queued returns how many connections wait at a listener (tcpi_unacked in
// tcp_get_info, net/ipv4/tcp.c), or more than there can be if that fails.
func queued(listener int) int {
	info, err := unix.GetsockoptTCPInfo(listener, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return listenBacklog
	}
	return int(info.Unacked)
}

// ofConnection reports whether an error of accept(2) is about the connection that it
// was to return. The next one may be sound.
func ofConnection(e unix.Errno) bool {
	return slices.Contains([]unix.Errno{
		unix.ECONNABORTED, unix.EPROTO, unix.EPERM, unix.ENETDOWN, unix.ENOPROTOOPT,
		unix.EHOSTDOWN, unix.ENONET, unix.EHOSTUNREACH, unix.EOPNOTSUPP, unix.ENETUNREACH,
	}, e)
}

// assign gives a new connection to a loop. An error is of this process, not of the
// backend.
func (s *tcpShard) assign(fd int) unix.Errno {
	p := s.proxy
	p.counters.live.Add(1)
	p.counters.total.Add(1)
	if p.leaving {
		// A connection made after stopAccepting attached the filter has a copy of
		// it (sk_clone in net/core/sock.c), and would never receive anything.
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
	to.handOver(handed{fd: fd})
	return noErrno
}

// pause stops accepting for a while: to try again at once would spin. Clients stay in
// the queue. If the first pause has not helped and accept still finds no descriptor
// (full), waiting clients are reset: the loop closes its reserve descriptor to accept
// one, and opens it again.
func (s *tcpShard) pause(full bool) {
	s.proxy.counters.acceptErrors.Add(1)
	s.loop.pipes.trim()
	if s.delay == 0 {
		s.delay = minAcceptDelay
	} else {
		s.delay = min(2*s.delay, maxAcceptDelay)
		if full {
			s.loop.shed(s.proxy.fd, s.loop.wakeup)
		}
	}
	if !s.accepts.Load() {
		return // it has left the listener
	}
	if s.retry.index == 0 {
		s.loop.unwatch(s.proxy.fd)
	}
	s.loop.arm(&s.retry, s.loop.now+int64(s.delay))
}

func (s *tcpShard) endPause() {
	if s.watch(s.events) != noErrno {
		s.pause(false)
	}
}

// shed resets up to acceptTurn clients that wait at listener, with no descriptor but
// the reserve.
func (l *tcpLoop) shed(listener, spare int) {
	for range acceptTurn {
		if l.reserve >= 0 {
			closeFD(l.reserve)
			l.reserve = -1
		}
		c, e := accept4(listener)
		if e == noErrno {
			reset(c)
		}
		l.restock(spare)
		if e != noErrno {
			return
		}
	}
}

// restock makes the reserve a copy of any descriptor; if that fails, a later call does.
func (l *tcpLoop) restock(of int) {
	if l.reserve < 0 {
		if fd, err := unix.FcntlInt(uintptr(of), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			l.reserve = fd
		}
	}
}
