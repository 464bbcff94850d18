// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// GroupOptions configures a Group. The zero value and nil are the defaults.
type GroupOptions struct {
	// Loops is how many event loops, and so how many processors, the group
	// uses at most. 0: GOMAXPROCS. Loops are started when first needed.
	Loops int

	// MaxPipes bounds the pipes of each loop, two descriptors and up to 1 MiB
	// of data in kernel memory each: one for every direction of a connection
	// whose receiver does not keep up. Beyond the bound data are copied
	// through user memory, 32 KiB at a time. 0: 256. Negative: no pipes.
	MaxPipes int

	// PipeFailed is called once, when a pipe cannot be made or splice(2) is refused for
	// the first time: data are then copied through user memory until a pipe can be made
	// again. It must not block or call methods of the group other than PipeError. Nil:
	// nothing is called.
	PipeFailed func(error)

	// NetNS is the descriptor of a network namespace which all sockets of
	// the group are opened in; it must stay open until the group is closed,
	// and entering it needs CAP_SYS_ADMIN (setns(2)). 0: the namespace of
	// the process.
	NetNS int
}

// Group is a set of event loops that proxies share. A process that has many
// proxies gives them all one group: a proxy then costs no goroutine and no
// thread. All methods are safe for concurrent use.
type Group struct {
	opts       GroupOptions
	lead       int32 // see leadToShare
	heavyAfter int   // bytes; see there
	pipeSize   int
	answering  time.Duration // see lastAnswers
	start      time.Time
	pipeErr    atomic.Pointer[error] // see PipeError
	pipeFailed sync.Once             // calls opts.PipeFailed

	mu      sync.Mutex
	loops   []*loop        // guarded by mu; nil: not started yet
	next    int            // guarded by mu: the loop of the next proxy
	members map[*base]bool // guarded by mu: the proxies; true: it holds no port any more
	former  Stats          // guarded by mu: the counters of those that left
	closed  bool           // guarded by mu
}

// NewGroup returns a group. It starts nothing: loops begin with the first
// proxy that opens. Close ends it.
func NewGroup(opts *GroupOptions) *Group {
	g := &Group{lead: leadToShare, heavyAfter: heavyAfter, pipeSize: pipeSize, answering: lastAnswers, start: time.Now(), members: map[*base]bool{}}
	if opts != nil {
		g.opts = *opts
	}
	if g.opts.Loops <= 0 {
		g.opts.Loops = runtime.GOMAXPROCS(0)
	}
	switch {
	case g.opts.MaxPipes == 0:
		g.opts.MaxPipes = 256
	case g.opts.MaxPipes < 0:
		g.opts.MaxPipes = 0
	}
	g.loops = make([]*loop, g.opts.Loops)
	return g
}

// Close closes the group's proxies, stops its loops and waits for all of it.
// A second Close does nothing.
func (g *Group) Close() error {
	var errs []error
	for _, m := range g.closeToNew() {
		errs = append(errs, m.Close())
	}

	g.mu.Lock()
	loops := g.loops
	g.loops = nil
	g.mu.Unlock()
	for _, l := range loops {
		if l != nil {
			l.stop()
		}
	}
	return errors.Join(errs...)
}

// Shutdown is Close, and lets the connections and flows of all proxies end
// first, those of retired ones too, until ctx is done. It returns the error of
// ctx if that cut anything short.
func (g *Group) Shutdown(ctx context.Context) error {
	members := g.closeToNew()
	errs := make([]error, len(members), len(members)+2)
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { errs[i] = m.Shutdown(ctx) })
	}
	wg.Wait()
	var cut error
	for i, err := range errs {
		if err != nil && errors.Is(err, ctx.Err()) {
			errs[i], cut = nil, err // reported once, and not once for each proxy
		}
	}
	return errors.Join(append(errs, cut, g.Close())...)
}

// Leave begins a Shutdown while another process has the frontends too, so that it
// takes over without a moment in which a port is free (unix(7), SCM_RIGHTS). When it
// returns, the group takes nothing new from them and has closed its listeners.
// Datagrams in their queues are left to the other process, and so are connections,
// except those of which perhaps only this process was notified. Connections go on;
// answers to UDP flows leave by the frontends until there was none for a second,
// for 10 s at most. Shutdown or Close must follow.
func (g *Group) Leave() {
	for _, m := range g.closeToNew() {
		m.leave()
	}
}

// lastAnswers bounds how long the flows of a UDP proxy go on after Leave.
const lastAnswers = 10 * time.Second

// closeToNew lets no proxy join any more and returns the members.
func (g *Group) closeToNew() []*base {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	return slices.Collect(maps.Keys(g.members))
}

// ResetAddr calls ResetAddr of the group's proxies, those that are retired or shutting
// down included.
func (g *Group) ResetAddr(a netip.Addr) {
	g.mu.Lock()
	members := slices.Collect(maps.Keys(g.members))
	g.mu.Unlock()
	for _, m := range members {
		_ = m.ResetAddr(a) // the only error: it is closed
	}
}

// Former returns the sum of the counters of the group's closed and retired
// proxies. Live are the connections of the retired ones.
func (g *Group) Former() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.former
	for b, retired := range g.members {
		if retired {
			s.Add(b.Stats())
		}
	}
	return s
}

// PipeError returns why the last attempt to make a pipe failed: bulk data are then
// copied through user memory instead of spliced, at two to three times the processor
// time. An attempt is made when a loop starts and when data need a pipe, after a failure
// at most once a second. Nil: the last one succeeded, or no loop has started.
func (g *Group) PipeError() error {
	if err := g.pipeErr.Load(); err != nil {
		return *err
	}
	return nil
}

// notePipe records the result of making a pipe, on any loop.
func (g *Group) notePipe(err error) {
	if err == nil {
		g.pipeErr.Store(nil)
		return
	}
	g.pipeErr.Store(&err)
	if g.opts.PipeFailed != nil {
		g.pipeFailed.Do(func() { g.opts.PipeFailed(err) })
	}
}

// clock is the group's time: monotonic nanoseconds.
func (g *Group) clock() int64 { return int64(time.Since(g.start)) }

// join makes a proxy a member, which Close closes.
func (g *Group) join(b *base) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return ErrClosed
	}
	g.members[b] = false
	return nil
}

// leave undoes join. Loops may call it.
func (g *Group) leave(b *base) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.members[b]; ok {
		delete(g.members, b)
		g.former.Add(b.Stats())
	}
}

// retire notes that a member holds no port any more.
func (g *Group) retire(b *base) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.members[b]; ok {
		g.members[b] = true
	}
}

// home picks the loop of a new proxy, each in turn.
func (g *Group) home() (*loop, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.loops == nil {
		return nil, ErrClosed
	}
	i := g.next % g.opts.Loops
	g.next++
	return g.loopLocked(i)
}

// loopLocked returns the i-th loop, started.
func (g *Group) loopLocked(i int) (*loop, error) {
	if l := g.loops[i]; l != nil {
		return l, nil
	}
	l, err := newLoop(g, i)
	if err != nil {
		return nil, fmt.Errorf("start event loop: %w", err)
	}
	ready := make(chan error, 1)
	go l.run(ready)
	if err := <-ready; err != nil {
		<-l.done
		return nil, fmt.Errorf("start event loop: %w", err)
	}
	g.loops[i] = l
	return l, nil
}

// lighter returns the loop with the fewest connections if l has at least lead
// more, else l.
func (g *Group) lighter(l *loop, lead int32) *loop {
	return g.fewest(l, lead, func(l *loop) int32 { return l.live.Load() })
}

// idler is lighter for bulk transfers. The lead is two, so that a move does not
// make the other loop the one with more.
func (g *Group) idler(l *loop) *loop {
	return g.fewest(l, 2, func(l *loop) int32 { return l.heavy.Load() })
}

// fewest returns the loop for which count is least if it is at least lead more
// for l, else l.
func (g *Group) fewest(l *loop, lead int32, count func(*loop) int32) *loop {
	mine := count(l)
	if mine < lead || g.opts.Loops == 1 {
		return l
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	best := l
	for i := range g.loops { // empty once the group is closed
		other, err := g.loopLocked(i)
		if err != nil {
			continue
		}
		if n := count(other); n <= mine-lead {
			best, mine = other, n+lead-1
		}
	}
	return best
}

// started returns the loops that run.
func (g *Group) started() []*loop {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(g.loops), func(l *loop) bool { return l == nil })
}
