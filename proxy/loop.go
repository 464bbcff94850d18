// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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

// handler is what owns a descriptor in a loop. Events are hints: a handler
// tries the call and believes its result.
type handler interface {
	ready(fd int, events uint32)
}

// slot is a descriptor's place in a loop's table. The generation travels
// through epoll and tells the events of a closed descriptor from those of the
// one that was given its number within the same batch of events.
type slot struct {
	handler    handler
	generation int32
}

// loop is one epoll set and the goroutine that serves it. Whoever touches it,
// or a connection, flow or listener that it serves, holds turn: its goroutine
// except while it sleeps, others by with.
type loop struct {
	turn    sync.Mutex
	group   *Group
	index   int // in the group
	epoll   int
	wakeup  int // eventfd, edge-triggered, never read
	reserve int // a descriptor to give up when there are no more; -1: given up
	table   []slot
	events  []unix.EpollEvent
	timers  timerHeap
	now     int64        // nanoseconds since the group began; read once a round
	yielded int64        // when the Go scheduler last had its turn
	sleep   int          // milliseconds; see minSleep
	again   []*tcpConn   // connections that used up their turn
	spare   []*tcpConn   // the other half of again
	buf     []byte       // for messages too small to be worth two splices
	pipes   pipePool     // for bulk
	udp     *udpBatch    // nil until the first UDP proxy
	quit    bool         //
	live    atomic.Int32 // TCP connections; read by other loops to share them out
	heavy   atomic.Int32 // those of them that are bulk transfers
	done    chan struct{}

	mu      sync.Mutex
	inbox   []task // guarded by mu
	stopped bool   // guarded by mu
}

// task is what one goroutine asks of a loop: a call, or a connection to take, a
// new one or one from another loop.
type task struct {
	call  func()
	shard *tcpShard
	fd    int
	conn  *tcpConn
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
	l := &loop{group: g, index: index, epoll: ep, wakeup: ev, reserve: -1, sleep: minSleep, done: make(chan struct{})}
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
	l.buf = make([]byte, smallRead)
	l.events = make([]unix.EpollEvent, eventBatch)
	ready <- nil
	l.turn.Lock()
	defer l.turn.Unlock()
	l.restock()
	for !l.quit {
		l.round()
	}
	l.drain() // what came between the last look and the refusal of more
	l.pipes.trim()
	if l.reserve >= 0 {
		closeFD(l.reserve)
	}
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

// yieldAfter is how long a loop may go without a look of the Go scheduler. What
// goes for 10 ms (forcePreemptNS in runtime/proc.go) is taken for a hog: the
// runtime's monitor then takes the processor away from it whenever it sleeps
// in epoll_wait, and wakes every 20 µs meanwhile to look again. That alone took
// a tenth of the time of a busy proxy.
const yieldAfter = 5 * int64(time.Millisecond)

// yield lets the Go scheduler see that the loop is no hog.
func (l *loop) yield() {
	if l.now-l.yielded > yieldAfter {
		runtime.Gosched()
		l.yielded = l.now
	}
}

// How long a loop may sleep that has nothing to wait for, in milliseconds: the
// least at first and after everything that wakes it, twice as long after each
// sleep that nothing ended, and the most in the end.
//
// It could sleep for ever but for a race in the runtime of Go 1.26. A goroutine
// that enters a system call looks whether the world is being stopped, and only
// then becomes one that is in a system call (reentersyscall in
// runtime/proc.go). Whoever begins to stop the world in between finds it
// running, asks it to stop, and from then on leaves it alone, as one that is in
// a system call (preemptone). So the world waits until the call returns, for
// each collection of garbage and each syscall.AllThreadsSyscall, of which the
// daemon makes fifty as it starts; or until sysmon looks, which may be in
// 60 s. Loops are the only ones who stay in a call that long.
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

// continueTurns gives those that used up their turn another one.
func (l *loop) continueTurns() {
	turn := l.again
	l.again = l.spare[:0]
	for i, c := range turn {
		turn[i] = nil
		c.queued = false
		if !c.closed {
			c.pump()
		}
	}
	l.spare = turn[:0]
}

// drain does what others asked for, in the order they asked.
func (l *loop) drain() {
	l.mu.Lock()
	tasks := l.inbox
	l.inbox = nil
	l.mu.Unlock()
	for _, t := range tasks {
		switch {
		case t.call != nil:
			t.call()
		case t.conn != nil:
			t.shard.adopt(t.conn)
		default:
			t.shard.take(t.fd)
		}
	}
}

// post hands t to the loop's goroutine; false: the loop has stopped.
func (l *loop) post(t task) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return false
	}
	l.inbox = append(l.inbox, t)
	if len(l.inbox) == 1 {
		l.wakeLocked()
	}
	return true
}

// wakeLocked ends the loop's sleep. mu is held, so that the eventfd cannot have been
// closed.
func (l *loop) wakeLocked() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(l.wakeup, one[:])
}

// with runs f between two rounds of the loop, on the caller's thread, which is
// much cheaper than changing threads: opening ten thousand proxies depends on
// it. f must not arm timers, for which the loop would have to be woken. false:
// the loop has stopped and f did not run.
func (l *loop) with(f func()) bool {
	l.turn.Lock()
	defer l.turn.Unlock()
	if l.quit {
		return false
	}
	l.now = l.group.clock()
	f()
	return true
}

// arrange is with for an f that may arm timers, for which the loop is woken. It does
// not wait for that.
func (l *loop) arrange(f func()) {
	sooner := false
	l.with(func() {
		before := l.due()
		f()
		sooner = l.due() < before
	})
	if !sooner {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.stopped {
		l.wakeLocked()
	}
}

// do runs f on the loop's own goroutine, and so in its network namespace, and
// waits for it: for what opens sockets. It must not be called from a loop.
// false: the loop has stopped and f did not run.
func (l *loop) do(f func()) bool {
	ran := make(chan struct{})
	if !l.post(task{call: func() { f(); close(ran) }}) {
		return false
	}
	<-ran
	return true
}

// recall takes back the connections that were handed to s and not yet looked
// at.
func (l *loop) recall(s *tcpShard) []task {
	l.mu.Lock()
	defer l.mu.Unlock()
	var tasks []task
	l.inbox = slices.DeleteFunc(l.inbox, func(t task) bool {
		if t.shard == s {
			tasks = append(tasks, t)
		}
		return t.shard == s
	})
	return tasks
}

// refuse makes post fail from now on.
func (l *loop) refuse() {
	l.mu.Lock()
	l.stopped = true
	l.mu.Unlock()
}

// stop ends the loop and waits for its goroutine.
func (l *loop) stop() {
	l.post(task{call: func() { l.refuse(); l.quit = true }})
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

// control is epoll_ctl(2).
func (l *loop) control(op, fd int, generation int32, events uint32) unix.Errno {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: generation}
	return epollCtl(l.epoll, op, fd, &ev)
}

// forget makes events of fd, those already fetched included, go nowhere.
// Closing the descriptor takes it out of the epoll set.
func (l *loop) forget(fd int) {
	if fd < len(l.table) {
		l.table[fd].handler = nil
	}
}
