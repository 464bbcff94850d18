// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/logbound"
	"github.com/nftnat/nftnat/nat"
)

// Leases gives ports to clients. Make it with [New], and call Run.
type Leases struct {
	daemon   Daemon
	table    func(context.Context) (created int64, err error)
	rules    Rules
	limits   Limits
	log      *slog.Logger
	now      func() time.Time
	boottime func() int64
	started  time.Time
	ready    chan struct{}
	queue    chan *order

	mu sync.Mutex
	// Guarded by mu:
	index   *index
	busy    map[target]chan struct{} // what is being changed; closed at the end
	asked   map[netip.Addr]int       // new leases that clients are about to get
	waiters map[slot]*waiter         // what is to be seen in the events
	refused refusals
	lines   *logbound.Lines // on refusals

	address      netip.Addr // zero: none
	addressSince int64      // seconds of boottime
	created      int64      // when the table was created, seconds of boottime; 0: not known, or there is none
	untold       bool       // there is a table, and it is not known since when
	down         time.Time  // since when the daemon has not answered; zero: it does
	cause        error      // why not
	changed      chan struct{}
}

// New returns leases of a daemon. Nothing is known of them until Run has read the mappings.
func New(o Options) *Leases {
	l := &Leases{
		daemon: o.Daemon, table: o.Created, rules: o.Rules, limits: o.Limits.complete(), log: o.Log, now: o.Now, boottime: o.Boottime,
		ready: make(chan struct{}), queue: make(chan *order), index: newIndex(newPorts()),
		busy: map[target]chan struct{}{}, asked: map[netip.Addr]int{}, waiters: map[slot]*waiter{}, changed: make(chan struct{}),
	}
	if l.rules == nil {
		l.rules = DefaultRules()
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.now == nil {
		l.now = time.Now
	}
	if l.boottime == nil {
		l.boottime = boottime
	}
	l.lines = logbound.New(l.log, "more requests were refused")
	l.started = l.now()
	return l
}

func boottime() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // every kernel has it
	sec, _ := t.Unix()
	return sec
}

// Run follows the daemon's events and passes requests on to it, until ctx is done. It
// returns nil then.
func (l *Leases) Run(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(func() { l.follow(ctx) })
	running.Go(func() { l.lines.Run(ctx) })
	l.send(ctx)
	running.Wait()
	return nil
}

// Ready is closed when the mappings have been read for the first time. Before that nobody knows the epoch: requests
// should not be answered.
func (l *Leases) Ready() <-chan struct{} { return l.ready }

// Limits returns the limits that are in force.
func (l *Leases) Limits() Limits { return l.limits }

// SetAddress says which address the WAN has, and since when, in seconds of boottime. The zero address: none.
func (l *Leases) SetAddress(a netip.Addr, since int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a == l.address {
		return
	}
	l.address = a
	if a.IsValid() {
		l.addressSince = since
	}
	l.announce()
}

// announce has those who wait for Changed go on.
func (l *Leases) announce() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Changed returns a channel that is closed by the next change of which all clients should be told:
// the WAN has another address, or the leases were lost.
func (l *Leases) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Address returns the address of the WAN. False: it has none.
func (l *Leases) Address() (netip.Addr, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.address, l.address.IsValid()
}

// Epoch returns for how many seconds no lease has been lost (RFC 6887 section 8.5): since the table was
// created, or the WAN got its address.
func (l *Leases) Epoch() uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.created == 0 && !l.untold { // there is no table, and so no lease that a client could have lost
		return 0
	}
	return uint32(max(0, l.boottime()-max(l.created, l.addressSince)))
}

// Down returns since when the daemon has not answered, and why. The zero time: it does.
func (l *Leases) Down() (time.Time, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.down, l.cause
}

// External returns the lease of a port of the WAN.
func (l *Leases) External(p nat.Proto, port uint16) (Lease, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.index.entries[slot{p, port}]
	if e == nil || e.Kind == 0 {
		return Lease{}, false
	}
	return e.Lease, true
}

// Find returns what leads to a port of a client: a lease of NAT-PMP or PCP, or else one of IGD, or else an operator's
// mapping, whose Kind is zero.
func (l *Leases) Find(client netip.Addr, p nat.Proto, internal uint16) (Lease, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.index.find(target{client, p, internal})
	if e == nil {
		return Lease{}, false
	}
	return e.Lease, true
}

// At returns a lease by its position among all, by protocol and port. False: there are not so many.
func (l *Leases) At(i int) (Lease, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.index.order()
	if i < 0 || i >= len(all) {
		return Lease{}, false
	}
	return all[i].Lease, true
}

// Len returns how many leases there are.
func (l *Leases) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.index.leases
}

// Revision returns a number that is another one after each lease that came, went or was changed, but for its
// expiry.
func (l *Leases) Revision() uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.index.changes
}

// All returns all leases, by protocol and port.
func (l *Leases) All() []Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]Lease, 0, l.index.leases)
	for _, e := range l.index.order() {
		all = append(all, e.Lease)
	}
	return all
}
