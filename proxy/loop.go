// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/netns"
)

// The epoll(7) events, in the type that they arrive in.
const (
	evIn     = uint32(unix.EPOLLIN)
	evOut    = uint32(unix.EPOLLOUT)
	evErr    = uint32(unix.EPOLLERR)
	evHup    = uint32(unix.EPOLLHUP)
	evRDHup  = uint32(unix.EPOLLRDHUP)
	evUrgent = uint32(unix.EPOLLPRI)
	evEdge   = uint32(unix.EPOLLET)
)

// eventBatch is how many events one epoll_wait brings at most.
const eventBatch = 128

// handler owns a descriptor in a loop. Events are hints: a handler tries the call
// and believes its result.
type handler interface {
	ready(fd int, events uint32)
}

// turner has used up its turn and gets another one in the next round.
type turner interface {
	continueTurn()
}

// slot is an entry of a loop's table of descriptors. The generation travels
// through epoll and tells the events of a closed descriptor from those of the
// next one with its number in the same batch of events.
type slot struct {
	handler    handler
	generation int32
}

// loop is one epoll set and the goroutine that serves it. All that it serves,
// connections, flows and listeners, is guarded by turn, which its goroutine holds
// except while it sleeps. Others get in by three methods, which return false if
// the loop has stopped and f will not run:
//
//   - with runs f between two rounds, on the caller's thread, which may be in
//     another network namespace: f must not open sockets. It is much cheaper
//     than a change of threads: opening ten thousand proxies depends on it.
//   - do runs f on the loop's own thread, in its namespace, and waits for it.
//   - post is do without the wait. Loops may call it, and with and do must not
//     be called while holding any turn.
//
// Locks are taken in this order: mu of a proxy or Socket, the turn of one loop
// (never of two), mu of a Group, mu of a loop or of a tcpShard. Each may be left
// out.
type loop struct {
	turn    sync.Mutex
	group   *Group
	index   int // in the group
	epoll   int
	wakeup  int // eventfd, edge-triggered, never read
	table   []slot
	events  []unix.EpollEvent
	timers  timerHeap
	now     int64    // nanoseconds since the group began; read once a round
	yielded int64    // when the Go scheduler last had its turn
	sleep   int      // milliseconds; see minSleep
	again   []turner // get another turn in the next round
	spare   []turner // the other half of again
	quit    bool
	done    chan struct{}
	tcpLoop
	udp *udpBatch // nil until the first UDP proxy

	mu      sync.Mutex
	inbox   []func() // guarded by mu
	stopped bool     // guarded by mu
}

// newLoop makes a loop; run serves it.
func newLoop(g *Group, index int) (*loop, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll set: %w", err)
	}
	ev, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		closeFD(ep)
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	l := &loop{group: g, index: index, epoll: ep, wakeup: ev, sleep: minSleep, done: make(chan struct{})}
	l.reserve = -1
	l.pipes = pipePool{group: g, limit: g.opts.MaxPipes, size: g.pipeSize}
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, ev, &unix.EpollEvent{Events: evIn | evEdge, Fd: int32(ev)}); err != nil {
		closeFD(ep)
		closeFD(ev)
		return nil, fmt.Errorf("watch eventfd: %w", err)
	}
	l.pipes.try()
	return l, nil
}

// run serves the loop until a task sets quit. ready gets nil, or why the
// loop cannot run.
func (l *loop) run(ready chan<- error) {
	defer close(l.done)
	defer closeFD(l.epoll)
	defer closeFD(l.wakeup)
	if l.group.opts.NetNS == 0 {
		l.serve(ready)
		return
	}
	err := netns.Do(l.group.opts.NetNS, func() error { l.serve(ready); return nil })
	if err != nil {
		l.refuse()
		ready <- err
	}
}

// serve is run, in the right namespace.
func (l *loop) serve(ready chan<- error) {
	l.events = make([]unix.EpollEvent, eventBatch)
	l.buf = make([]byte, smallRead)
	ready <- nil
	l.turn.Lock()
	defer l.turn.Unlock()
	l.restock(l.wakeup)
	for !l.quit {
		l.round()
	}
	l.drain() // what was posted before the refusal of more
	l.releaseTCP()
}

// round waits for events and serves them.
func (l *loop) round() {
	timeout := l.timeout()
	l.turn.Unlock()
	n, err := unix.EpollWait(l.epoll, l.events, timeout)
	l.turn.Lock()
	l.sleep = minSleep
	switch {
	case err != nil:
		n = 0 // EINTR is the only error that a valid set and buffer can give
	case n == 0:
		l.sleep = min(2*max(timeout, minSleep), maxSleep)
	}
	l.now = l.group.clock()
	l.yield()
	for i := range n {
		ev := &l.events[i]
		fd := int(ev.Fd)
		if fd == l.wakeup {
			l.drain()
			continue
		}
		// The table may have changed since the events were fetched.
		if s := &l.table[fd]; s.handler != nil && s.generation == ev.Pad {
			s.handler.ready(fd, ev.Events)
		}
	}
	l.continueTurns()
	l.fireTimers()
	if l.udp != nil {
		l.udp.flush()
	}
}

// yieldAfter is how long a loop runs before it calls the Go scheduler. A goroutine
// that runs for 10 ms (forcePreemptNS in runtime/proc.go) loses its processor
// whenever it sleeps in epoll_wait, and the runtime's monitor then wakes every
// 20 µs. That took a tenth of the time of a busy proxy.
const yieldAfter = 5 * int64(time.Millisecond)

// yield calls the Go scheduler from time to time.
func (l *loop) yield() {
	if l.now-l.yielded > yieldAfter {
		runtime.Gosched()
		l.yielded = l.now
	}
}

// How long a loop without timers sleeps, in milliseconds: minSleep after it was
// woken, twice as long after each full sleep, up to maxSleep.
//
// It could sleep for ever but for a race in the runtime of Go 1.26. A goroutine
// that enters a system call first checks whether the world is being stopped, and
// then marks itself as in a system call (reentersyscall in runtime/proc.go). A
// stop that begins in between finds it running, asks it to stop, and then leaves
// it alone, as one in a system call (preemptone). So the world waits until the
// call returns, at each garbage collection and each syscall.AllThreadsSyscall, of
// which the daemon makes fifty as it starts; or until sysmon looks, which may be
// in 60 s. Only loops stay in a call that long.
const (
	minSleep = 50
	maxSleep = 60_000
)

// timeout is how long epoll_wait may sleep: milliseconds, rounded up so that
// a timer is due when the loop wakes for it.
func (l *loop) timeout() int {
	wait := l.due() - l.now
	if len(l.again) > 0 || wait <= 0 {
		return 0
	}
	return int(min(wait/int64(time.Millisecond)+1, int64(l.sleep)))
}

// due is when the first timer is; long after everything if there is none.
func (l *loop) due() int64 {
	if len(l.timers) == 0 {
		return math.MaxInt64
	}
	return l.timers[0].when
}

// continueTurns gives another turn to those that used up theirs.
func (l *loop) continueTurns() {
	turn := l.again
	l.again = l.spare[:0]
	for i, t := range turn {
		turn[i] = nil
		t.continueTurn()
	}
	l.spare = turn[:0]
}

// drain runs what was posted, in that order.
func (l *loop) drain() {
	l.mu.Lock()
	posted := l.inbox
	l.inbox = nil
	l.mu.Unlock()
	for _, f := range posted {
		f()
	}
}

// post has the loop's goroutine run f. See loop.
func (l *loop) post(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return false
	}
	l.inbox = append(l.inbox, f)
	if len(l.inbox) == 1 {
		l.wakeLocked()
	}
	return true
}

// wakeLocked ends the loop's sleep. mu is held, so that the eventfd is not closed.
func (l *loop) wakeLocked() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(l.wakeup, one[:])
}

// with runs f between two rounds of the loop. See loop.
func (l *loop) with(f func()) bool {
	l.turn.Lock()
	defer l.turn.Unlock()
	if l.quit {
		return false
	}
	l.now = l.group.clock()
	before := l.due()
	f()
	if l.due() < before { // f armed a timer that the loop would sleep through
		l.mu.Lock()
		defer l.mu.Unlock()
		if !l.stopped {
			l.wakeLocked()
		}
	}
	return true
}

// do runs f on the loop's goroutine and waits for it. See loop.
func (l *loop) do(f func()) bool {
	ran := make(chan struct{})
	if !l.post(func() { f(); close(ran) }) {
		return false
	}
	<-ran
	return true
}

// refuse makes post fail from now on.
func (l *loop) refuse() {
	l.mu.Lock()
	l.stopped = true
	l.mu.Unlock()
}

// stop ends the loop and waits for its goroutine.
func (l *loop) stop() {
	l.post(func() { l.refuse(); l.quit = true })
	<-l.done
}

// watch adds fd to the set, for h.
func (l *loop) watch(fd int, h handler, events uint32) unix.Errno {
	if fd >= len(l.table) {
		l.table = append(l.table, make([]slot, fd+1-len(l.table)+fd/4)...)
	}
	s := &l.table[fd]
	s.generation++
	if e := l.control(unix.EPOLL_CTL_ADD, fd, s.generation, events); e != noErrno {
		return e
	}
	s.handler = h
	return noErrno
}

// unwatch removes fd from the set. For a descriptor that is then closed forget
// will do, unless its socket is open elsewhere: epoll keeps that one.
func (l *loop) unwatch(fd int) {
	l.forget(fd)
	_ = l.control(unix.EPOLL_CTL_DEL, fd, 0, 0)
}

// control is epoll_ctl(2).
func (l *loop) control(op, fd int, generation int32, events uint32) unix.Errno {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: generation}
	_, _, e := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(l.epoll), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&ev)), 0, 0)
	return e
}

// forget drops all events of fd, those already fetched included.
func (l *loop) forget(fd int) {
	if fd < len(l.table) {
		l.table[fd].handler = nil
	}
}
