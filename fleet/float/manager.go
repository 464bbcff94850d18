// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package float

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nftnat/nftnat/fleet/internal/announce"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
)

// Options say for which host a [Manager] is.
type Options struct {
	Store *store.Store
	// Host is the name of this host.
	Host string
	// Groups are those that this host is in.
	Groups []string
	// Apply publishes what is mapped on the addresses that [Manager.Holds], and no longer what
	// is mapped on the other floating addresses. It returns an error if this host cannot serve
	// now, so that another host should. Nil: there is nothing to publish.
	Apply func(context.Context) error
	// Open opens an interface. Nil: [announce.Open].
	Open func(name string) (*announce.Interface, error)
	// Log is where it says what it does. Nil: nowhere.
	Log *slog.Logger
}

// Manager takes and holds the floating addresses of a host. Its methods may be called from
// several goroutines at once.
type Manager struct {
	Options
	calls chan func()
	done  chan struct{} // closed when Run returns

	// These are of the goroutine of Run.
	session lease // nil: none
	known   bool  // what etcd has was told
	items   map[string]keys.Item
	devices map[string]string // the values of items
	states  map[netip.Addr]*state
	slow    sync.WaitGroup
	begun   time.Duration // when this program began, by the clock of the lease

	mu       sync.Mutex
	clear    bool                // no address is here, since Run has returned
	holds    map[netip.Addr]bool // of each floating address of this host
	problems map[netip.Addr]string
}

// lease is what a manager needs of a [store.Session]; a test has one that counts wrongly.
type lease interface {
	ID() clientv3.LeaseID
	TTL() time.Duration
	Until() time.Duration
	Alive() bool
}

// New returns a manager that does nothing before [Manager.Run].
func New(o Options) *Manager {
	if o.Apply == nil {
		o.Apply = func(context.Context) error { return nil }
	}
	if o.Open == nil {
		o.Open = announce.Open
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Manager{
		Options: o, calls: make(chan func()), done: make(chan struct{}),
		items: make(map[string]keys.Item), devices: make(map[string]string), states: make(map[netip.Addr]*state),
		holds: make(map[netip.Addr]bool), problems: make(map[netip.Addr]string), begun: store.Now(),
	}
}

// Floats reports whether an address is a floating one of this host.
func (m *Manager) Floats(a netip.Addr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.holds[a]
	return ok
}

// Holds reports whether what is mapped on a floating address is to be published on this host:
// it holds the address, or is about to.
func (m *Manager) Holds(a netip.Addr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.holds[a]
}

// Problems says why this host cannot hold some of its floating addresses.
func (m *Manager) Problems() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for _, a := range slices.SortedFunc(maps.Keys(m.problems), netip.Addr.Compare) {
		all = append(all, fmt.Sprintf("floating address %s: %s", a, m.problems[a]))
	}
	return all
}

// Clear reports whether Run has returned and left no address here. Otherwise the host's lease has to
// end by itself, as the times of its addresses do before.
func (m *Manager) Clear() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.clear
}

// Update tells the manager what etcd has, from [store.Store.Follow] of everything.
func (m *Manager) Update(u store.Update) { m.call(func() { m.update(u) }) }

// Session tells the manager its session, and each time that it was renewed. Nil: it was lost.
func (m *Manager) Session(s *store.Session) {
	if s == nil {
		m.call(func() { m.renewed(nil) })
		return
	}
	m.call(func() { m.renewed(s) })
}

// call runs f in the goroutine of Run.
func (m *Manager) call(f func()) {
	select {
	case m.calls <- f:
	case <-m.done:
	}
}

// Run holds addresses until ctx is done, and then gives them back, so that others take them at
// once. It is called once.
func (m *Manager) Run(ctx context.Context) error {
	defer close(m.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := m.stepAll(ctx)
		timer.Reset(wait)
		select {
		case f := <-m.calls:
			f()
		case <-timer.C:
		case <-ctx.Done():
			m.end(context.WithoutCancel(ctx))
			return ctx.Err()
		}
	}
}

// endTime bounds how long a manager that ends waits for etcd.
const endTime = 2 * time.Second

// end removes all addresses and gives their keys back.
func (m *Manager) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	waited := make(chan struct{})
	go func() { m.slow.Wait(); close(waited) }()
	for running := true; running; { // what is on its way reports here
		select {
		case f := <-m.calls:
			f()
		case <-waited:
			running = false
		}
	}
	published, gone := false, m.known // what an earlier agent left here is not known otherwise
	for _, s := range m.states {
		if m.mine(s) {
			m.suspect(s)
		}
		removed := m.remove(s, "the agent ends")
		gone = gone && removed
		if s.published {
			m.setHolds(s, false)
			published = true
		}
		if removed && m.mine(s) {
			if err := m.release(ctx, s.addr, s.modified); err != nil {
				m.Log.Warn("did not give back a floating address", "address", s.addr, "err", err)
			}
		}
		if s.link != nil {
			_ = s.link.Close() // holds nothing
		}
	}
	if published {
		if err := m.Apply(ctx); err != nil {
			m.Log.Warn("what is mapped on floating addresses stays published", "err", err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clear = gone
}

// update takes over what etcd has.
func (m *Manager) update(u store.Update) {
	switch {
	case u.Err != nil: // what was told is what is known
		return
	case u.Whole:
		m.known = true
		clear(m.items)
		clear(m.devices)
		for _, s := range m.states {
			if u.Restored || s.modified <= u.Revision { // a transaction of this host may have told more
				s.forget()
			}
		}
		for _, e := range u.Entries {
			m.change(store.Change{Entry: e})
		}
		m.define()
		if u.Restored {
			m.hesitate()
		}
	default:
		items := false
		for _, c := range u.Changes {
			items = m.change(c) || items
		}
		if items {
			m.define()
		}
	}
}

// hesitate is for a restore of etcd from a snapshot: who has an address that another had then, or nobody,
// keeps it until it notices or its lease ends.
func (m *Manager) hesitate() {
	wait := restoredTime
	if m.session != nil {
		wait = m.session.TTL() + margin
	}
	for _, s := range m.states {
		if !s.added {
			s.pause, s.retry = time.Now().Add(wait), time.Now().Add(wait)
		}
	}
}

// change takes over one key, and reports whether it says what floats here.
func (m *Manager) change(c store.Change) (item bool) {
	if a, ok := address(c.Key, keys.Floats); ok {
		m.state(a).changed(c)
		return false
	}
	if a, ok := address(c.Key, keys.FloatEpochs); ok {
		m.state(a).epochChanged(c)
		return false
	}
	if a, ok := address(c.Key, keys.FloatRequests); ok {
		m.state(a).requestChanged(c)
		return false
	}
	if !strings.HasPrefix(c.Key, keys.Desired) || !strings.Contains(c.Key, "/"+string(keys.KindFloat)+"/") {
		return false
	}
	i, err := keys.ParseItem(c.Key)
	if err != nil || i.Kind != keys.KindFloat || !i.Scope.Concerns(m.Host, m.Groups) {
		return false
	}
	if c.Deleted {
		delete(m.items, c.Key)
		delete(m.devices, c.Key)
		return true
	}
	m.items[c.Key], m.devices[c.Key] = i, c.Value
	return true
}

// address is the address of a key with a prefix.
func address(key, prefix string) (netip.Addr, bool) {
	if len(key) <= len(prefix) || key[:len(prefix)] != prefix {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(key[len(prefix):])
	return a, err == nil
}

func (m *Manager) state(a netip.Addr) *state {
	s := m.states[a]
	if s == nil {
		s = &state{addr: a}
		m.states[a] = s
	}
	return s
}

// define finds out which addresses float here, and on which interfaces.
func (m *Manager) define() {
	counts := make(map[netip.Addr]string) // the key that counts
	for key, i := range m.items {
		a, err := keys.FloatAddr(i)
		if err != nil {
			m.Log.Warn("not a floating address", "key", key, "err", err)
			continue
		}
		if other, ok := counts[a]; !ok || i.Scope.Precedes(m.items[other].Scope) {
			counts[a] = key
		}
	}
	for a, s := range m.states {
		if _, ok := counts[a]; !ok {
			s.defined = false
		}
	}
	for a, key := range counts {
		s := m.state(a)
		dev, err := keys.ParseDevice(m.devices[key])
		if s.defined && s.dev == dev && err == nil {
			continue
		}
		if s.dev != dev {
			m.remove(s, "another interface")
			if s.link != nil {
				_ = s.link.Close() // holds nothing
				s.link = nil
			}
		}
		if !s.defined && !s.held {
			s.free = time.Now()
		}
		s.defined, s.dev, s.pause, s.retry = true, dev, time.Time{}, time.Time{}
		if err != nil {
			s.dev = ""
			m.problem(s, err.Error())
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for a, s := range m.states {
		if _, ok := m.holds[a]; s.defined && !ok {
			m.holds[a] = false
		} else if !s.defined && ok && !m.holds[a] {
			delete(m.holds, a)
		}
	}
}

// renewed takes over the session, and gives the addresses more time.
func (m *Manager) renewed(l lease) {
	m.session = l
	for _, s := range m.states {
		if s.added && s.link != nil && m.mine(s) && !s.handing {
			m.extend(s)
		}
	}
}

// alive reports whether the session lives for sure.
func (m *Manager) alive() bool { return m.session != nil && m.session.Alive() }

// mine reports whether this host holds the key for sure.
func (m *Manager) mine(s *state) bool {
	return m.alive() && s.held && s.holder.Host == m.Host && s.lease == m.session.ID()
}

// problem notes why this host cannot hold an address; empty: it can.
func (m *Manager) problem(s *state, text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if text == m.problems[s.addr] {
		return
	}
	if text == "" {
		delete(m.problems, s.addr)
		return
	}
	m.problems[s.addr] = text
	m.Log.Warn("cannot hold a floating address", "address", s.addr, "err", text)
}

// setHolds says whether what is mapped on the address is to be published here.
func (m *Manager) setHolds(s *state, on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !on && !s.defined {
		delete(m.holds, s.addr)
		return
	}
	m.holds[s.addr] = on
}
