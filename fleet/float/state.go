// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package float

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nftnat/nftnat/fleet/internal/announce"
	"github.com/nftnat/nftnat/fleet/keys"
	"github.com/nftnat/nftnat/fleet/store"
)

// state is what is known of an address, and how far this host is with it.
type state struct {
	addr    netip.Addr
	defined bool   // it floats here
	dev     string // on this interface; empty: no usable one is named

	// What etcd has.
	held     bool // somebody has the key
	holder   keys.Holder
	lease    clientv3.LeaseID
	modified int64     // revision of the key, for comparisons
	free     time.Time // since when nobody has the key
	epoch    uint64
	epochMod int64
	request  string // the host that it is to be handed over to; empty: none

	// What this host has done.
	link      *announce.Interface
	added     bool          // the address is on an interface, or may be
	ends      time.Duration // of the clock of the lease: when the kernel ends it
	published bool          // Apply has been told
	handing   bool          // it was handed over, and its new holder does not serve yet
	doubt     bool          // whether it was handed over is not known
	giving    bool          // its key is to be given back, or was without an answer
	announces []time.Time   // when it is announced again
	busy      bool          // a goroutine works for it
	pause     time.Time     // this host does not take it before
	retry     time.Time     // this host does nothing for it before, while it holds it
}

// forget is for a new account of everything.
func (s *state) forget() {
	s.held, s.holder, s.lease, s.modified = false, keys.Holder{}, 0, 0
	s.epoch, s.epochMod, s.request = 0, 0, ""
}

func (s *state) changed(c store.Change) {
	if c.Modified < s.modified {
		return // a transaction of this host has told already
	}
	s.modified = c.Modified
	s.held = !c.Deleted
	if c.Deleted {
		s.holder, s.lease, s.free = keys.Holder{}, 0, time.Now()
		return
	}
	s.lease = c.Lease
	s.holder, _ = keys.ParseHolder(c.Value) // one that cannot be read is a holder without a name
}

func (s *state) epochChanged(c store.Change) {
	if c.Modified < s.epochMod {
		return
	}
	s.epochMod = c.Modified
	e, _ := keys.ParseEpoch(c.Value) // one that cannot be read is begun anew
	s.epoch = e.Number
	if c.Deleted {
		s.epochMod = 0
	}
}

func (s *state) requestChanged(c store.Change) {
	s.request = c.Value
	if c.Deleted {
		s.request = ""
	}
}

const (
	// margin is how long before the end of a lease its addresses end: the kernel removes an
	// address up to 0.4 s late.
	margin = 500 * time.Millisecond
	// overlap is how long an address that was handed over stays if its new holder does not
	// serve.
	overlap = 2 * time.Second
	// again is when what failed is tried again.
	again = time.Second
	// restoredTime is how long a host without a lease takes none after a restore of etcd.
	restoredTime = 5 * time.Second
	// elsewhere is how long another host has the first try, after this one could not serve.
	elsewhere = 5 * time.Second
	// longest is the longest time that a kernel was given for an address (see announce).
	longest = time.Minute
	// slowTime bounds what a goroutine does for an address.
	slowTime = 5 * time.Second
)

// repeats are when an announcement is sent again, for neighbours that did not receive it, or
// heard the host before last since.
var repeats = [...]time.Duration{200 * time.Millisecond, time.Second, 5 * time.Second}

// stepAll does what can be done for all addresses, and returns how long nothing more is to be
// done.
func (m *Manager) stepAll(ctx context.Context) time.Duration {
	wait := time.Minute
	for a, s := range m.states {
		wait = min(wait, m.step(ctx, s))
		if !s.defined && !s.held && !s.added && !s.busy && !s.published && s.request == "" && s.epochMod == 0 && s.link == nil {
			delete(m.states, a)
		}
	}
	if m.session != nil {
		if left := m.session.Until() - store.Now(); left > 0 {
			wait = min(wait, left)
		}
	}
	return max(wait, time.Millisecond)
}

// step does the next thing for an address, and returns when to look again.
func (m *Manager) step(ctx context.Context, s *state) time.Duration {
	if !m.known {
		return time.Minute
	}
	wait := time.Minute
	if s.link == nil && s.defined && s.dev != "" && !m.open(s) {
		wait = again
	}
	if !m.mine(s) {
		return min(wait, m.stepOther(ctx, s))
	}
	wait = min(wait, m.announce(s))
	if left := time.Until(s.retry); left > 0 {
		return min(wait, left)
	}
	switch {
	case s.busy:
	case s.doubt:
		m.serve(ctx, s)
	case !s.defined:
		return min(wait, m.giveUp(ctx, s, 0, "it no longer floats here"))
	case s.giving, s.link == nil:
		return min(wait, m.giveUp(ctx, s, elsewhere, "it cannot be here"))
	case !s.published:
		m.setHolds(s, true)
		m.apply(ctx, s)
	case !s.added && m.life() < time.Second: // until the lease is renewed
	case !s.added:
		if err := m.add(s); err != nil {
			m.problem(s, err.Error())
			return min(wait, m.giveUp(ctx, s, elsewhere, "it cannot be here"))
		}
		m.problem(s, "")
		return min(wait, m.announce(s), time.Millisecond)
	case !s.holder.Serving:
		m.serve(ctx, s)
	case s.request != "" && s.request != m.Host:
		m.hand(ctx, s)
	}
	return wait
}

// stepOther is the step for an address whose key this host does not hold for sure.
func (m *Manager) stepOther(ctx context.Context, s *state) time.Duration {
	if s.added && s.handing && m.alive() && s.held && !s.holder.Serving {
		return overlap // the kernel removes it by then
	}
	s.announces, s.handing, s.doubt, s.giving = nil, false, false, false
	if s.added && !m.remove(s, "it is another's") {
		return again
	}
	switch {
	case s.busy:
		return time.Minute
	case s.published:
		m.setHolds(s, false)
		m.withdraw(ctx, s)
		return time.Minute
	case !s.defined:
		if s.link != nil {
			_ = s.link.Close() // holds nothing
			s.link = nil
		}
		m.problem(s, "")
		m.setHolds(s, false)
		return time.Minute
	case s.held || !m.alive() || s.link == nil:
		return time.Minute
	}
	if wait := time.Until(s.pause); wait > 0 {
		return wait
	}
	if wait := time.Until(s.free.Add(m.delay())); wait > 0 {
		return wait
	}
	if _, err := s.link.Check(s.addr); err != nil {
		m.problem(s, err.Error())
		s.pause = time.Now().Add(again)
		return again
	}
	m.problem(s, "")
	m.acquire(ctx, s)
	return time.Minute
}

// delay lets hosts that hold fewer addresses take one first.
func (m *Manager) delay() time.Duration {
	held := 0
	for _, s := range m.states {
		if m.mine(s) {
			held++
		}
	}
	return min(time.Duration(held)*20*time.Millisecond, 200*time.Millisecond) + rand.N(5*time.Millisecond) //nolint:gosec // no secret
}

// open opens the interface of an address. What an earlier agent left there is removed, unless
// it is to be there.
func (m *Manager) open(s *state) bool {
	link, err := m.Open(s.dev)
	if err != nil {
		m.problem(s, err.Error())
		return false
	}
	s.link = link
	if ours, err := link.Check(s.addr); err == nil && ours {
		m.left(s)
		if m.mine(s) && !s.handing { // what an earlier agent gave it ends soon
			m.extend(s)
		}
	}
	m.problem(s, "")
	return true
}

// left notes that an earlier agent may have left the address here.
func (m *Manager) left(s *state) { s.added, s.ends = true, max(s.ends, m.begun+longest) }

// suspect is left for an address whose interface was never looked at.
func (m *Manager) suspect(s *state) {
	if s.link == nil {
		m.left(s)
	}
}

// deadline is until when, by the clock of the lease, an address may be there.
func (m *Manager) deadline() time.Duration { return m.session.Until() - margin }

// life is how long an address may be there from now on.
func (m *Manager) life() time.Duration { return m.deadline() - store.Now() }

// set gives an address time until the end. Should this process have been stopped between the
// reading of the clock and the call of the kernel, which counts from the call, it does both again.
func (m *Manager) set(s *state, end time.Duration) error {
	const (
		tries  = 5
		prompt = margin / 5 // what the margin leaves for it
	)
	for range tries {
		begun := store.Now()
		if begun >= end {
			break
		}
		s.ends = max(s.ends, end)
		err := s.link.Set(s.addr, end-begun)
		if err != nil || store.Now()-begun < prompt {
			return err
		}
	}
	return errors.Join(s.link.Delete(s.addr), errLate)
}

var errLate = errors.New("its lease has ended, or this host is too busy to be in time")

// add adds the address and announces it.
func (m *Manager) add(s *state) error {
	if _, err := s.link.Check(s.addr); err != nil {
		return err
	}
	s.added = true // even if it fails: then it is removed before its key is
	if err := m.set(s, m.deadline()); err != nil {
		return err
	}
	now := time.Now()
	s.announces = []time.Time{now}
	for _, d := range repeats {
		s.announces = append(s.announces, now.Add(d))
	}
	m.Log.Info("holds a floating address", "address", s.addr, "interface", s.dev, "epoch", s.epoch)
	return nil
}

// extend gives an address that is there the time of the session.
func (m *Manager) extend(s *state) {
	if m.life() < time.Second {
		m.remove(s, "its lease ends")
		return
	}
	if err := m.set(s, m.deadline()); err != nil { // it is tried anew, and given up then
		m.remove(s, err.Error())
	}
}

// shorten leaves an address that was handed over its overlap, unless it has less.
func (m *Manager) shorten(s *state) {
	if !s.added || s.link == nil || !m.alive() {
		return
	}
	if err := m.set(s, min(m.deadline(), store.Now()+overlap)); err != nil {
		m.remove(s, err.Error())
	}
}

// remove removes the address, and reports whether it is surely not there. While it may be, its key
// is not given to others.
func (m *Manager) remove(s *state, why string) bool {
	if !s.added {
		return true
	}
	s.announces, s.handing = nil, false
	if err := m.delete(s); err != nil && store.Now() < s.ends+margin {
		m.Log.Warn("cannot remove a floating address: its time ends it", "address", s.addr, "err", err)
		return false
	}
	s.added = false
	m.Log.Info("gave up a floating address", "address", s.addr, "interface", s.dev, "why", why)
	return true
}

// delete removes the address from all interfaces.
func (m *Manager) delete(s *state) error {
	if s.link != nil {
		return s.link.Delete(s.addr)
	}
	link, err := m.Open(loopback) // any will do
	if err != nil {
		return err
	}
	return errors.Join(link.Delete(s.addr), link.Close())
}

// loopback is an interface that every host has.
const loopback = "lo"

// announce sends the announcements that are due, and returns when the next one is.
func (m *Manager) announce(s *state) time.Duration {
	for s.added && len(s.announces) > 0 {
		if wait := time.Until(s.announces[0]); wait > 0 {
			return wait
		}
		s.announces = s.announces[1:]
		if err := s.link.Announce(s.addr); err != nil {
			m.Log.Warn("cannot announce a floating address", "address", s.addr, "err", err)
			s.announces = nil
		}
	}
	return time.Minute
}

// spawn does something slow for an address, and then the function that it returns in the
// goroutine of Run. The context of work has ended by then.
func (m *Manager) spawn(ctx context.Context, s *state, work func(context.Context) (done func())) {
	s.busy = true
	m.slow.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, slowTime)
		defer cancel()
		done := work(ctx)
		m.call(func() {
			s.busy = false
			done()
		})
	})
}

// apply publishes what is mapped on an address whose key this host has.
func (m *Manager) apply(ctx context.Context, s *state) {
	m.spawn(ctx, s, func(call context.Context) func() {
		err := m.Apply(call)
		return func() {
			s.published = true
			if err != nil && ctx.Err() == nil && !s.added {
				m.problem(s, err.Error())
				s.giving = true
			}
		}
	})
}

// withdraw publishes it no longer.
func (m *Manager) withdraw(ctx context.Context, s *state) {
	m.spawn(ctx, s, func(ctx context.Context) func() {
		if err := m.Apply(ctx); err != nil {
			m.Log.Warn("what is mapped on an address that another holds stays published until the daemon answers", "address", s.addr, "err", err)
		}
		return func() { s.published = false }
	})
}
