// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// How many schedules of faults are played, and from which seed on, in a long
// test, unless the environment says otherwise; and how many make one history.
const (
	envSchedules, defaultSchedules = "NFTNAT_SCHEDULES", 2000
	envSeed, defaultSeed           = "NFTNAT_SEED", 2013
	schedulesOfHistory             = 250
)

// fault is what one call through a seam is answered with.
type fault struct {
	err   error
	after bool // the call was done all the same: the answer went wrong
}

// schedule says which of the calls through the seams fail, counted from 0.
type schedule struct {
	faults map[int]fault
	calls  []string
	struck []fault
}

func (s *schedule) before(op string) error {
	s.calls = append(s.calls, op)
	return s.strike(false)
}

func (s *schedule) done(string) error { return s.strike(true) }

func (s *schedule) strike(after bool) error {
	f, ok := s.faults[len(s.calls)-1]
	if !ok || f.after != after {
		return nil
	}
	s.struck = append(s.struck, f)
	return f.err
}

// explains reports whether an error is one of the faults'.
func (s *schedule) explains(err error) bool {
	return slices.ContainsFunc(s.struck, func(f fault) bool { return errors.Is(err, f.err) })
}

// refusals are errors of calls that were not done: what the kernel refuses, a message
// that was cut short, and a dump that was interrupted as often as it was tried. The first
// of them may also be the answer to a call that was done.
func refusals() (all []error, done int) {
	for _, errno := range []unix.Errno{unix.ENOBUFS, unix.EINTR, unix.EAGAIN, unix.ENOMEM} {
		all = append(all, &nft.OpError{Op: "commit", Object: "transaction", Err: errno})
	}
	all = append(all, errors.New("netlink message is cut short"))
	done = len(all)
	for _, errno := range []unix.Errno{unix.EPERM, unix.EBUSY, unix.EEXIST, unix.ENOENT, unix.ENFILE} {
		all = append(all, &nft.OpError{Op: "add element", Object: "x", Err: errno})
	}
	return append(all, nft.ErrStale, nft.ErrInterrupted), done // ERESTART, NLM_F_DUMP_INTR
}

// faulty plays one history: random calls, each with a schedule of faults.
type faulty struct {
	*testing.T
	*rand.Rand
	bed    *testbed
	engine *Engine
	seen   map[string]int
	now    condition // after the last call
	what   string    // is going on
	tag    string    // the name of what the call makes
}

func newFaulty(t *testing.T, seed uint64, loopback Loopback, seen map[string]int) *faulty {
	t.Helper()
	f := &faulty{T: t, Rand: rand.New(rand.NewPCG(seed, 3)), bed: newTestbed(), seen: seen}
	f.bed.store = &memoryStore{}
	if loopback == LoopbackBPF {
		f.bed.localhost = newFakeLocalhost()
	}
	f.engine = f.open(f.bed)
	holdPorts(t, f.engine)
	f.now = f.condition(f.bed, f.engine)
	return f
}

func (f *faulty) open(b *testbed) *Engine {
	f.Helper()
	return b.openWith(f.T, Options{NoSysctl: true})
}

// Random calls meet random faults at the seams to the kernel: up to three, of any kind,
// at any call, before it is done or in its answer. Each ends in success, or in an error
// that says which fault it was, with nothing changed: not the kernel, not what is known
// to be published, not a port, not a proxy, nor where localhost is led. Done again without faults it succeeds.
//
// NFTNAT_SCHEDULES is how many are played, NFTNAT_SEED what the choices begin with.
func TestFaultSchedules(t *testing.T) {
	labtest.Require(t) // its proxies have sockets
	schedules := labtest.RoundsOf(t, envSchedules, "schedules of faults", 300, defaultSchedules)
	seed := labtest.Number(t, envSeed, defaultSeed)
	seen := map[string]int{}
	for first := 0; first < schedules; first += schedulesOfHistory {
		loopback := []Loopback{LoopbackBPF, LoopbackProxy}[first/schedulesOfHistory%2]
		t.Run(fmt.Sprintf("seed %d, localhost by %s", seed+first, loopback), func(t *testing.T) {
			f := newFaulty(t, uint64(seed+first), loopback, seen)
			for i := range min(schedulesOfHistory, schedules-first) {
				f.play(i)
			}
		})
	}
	t.Logf("%d schedules: %v", schedules, seen)
	if schedules < defaultSchedules || t.Failed() {
		return
	}
	for _, outcome := range []string{"done", "undone", "undone in the end", "done in the end", "refused"} {
		require.Greater(t, seen[outcome], 10, "%s: too few to mean anything", outcome)
	}
}

// condition is all that must be as before or as after.
type condition struct {
	snapshot
	state   nat.State
	stored  nat.State
	proxies []string
	// localhost is where eBPF leads sockets on localhost.
	localhost []string
}

func (f *faulty) condition(b *testbed, e *Engine) condition {
	f.Helper()
	s, err := e.State(context.Background())
	require.NoError(f, err, f.what)
	c := condition{snapshot: b.snapshot(e), state: s, stored: b.store.record.State}
	if f.bed.localhost != nil {
		c.localhost = ledTo(f.T, b.localhost, e, faultFirstPort, faultFirstPort+faultPorts-1, f.what)
	}
	if len(c.kernel) == 1 {
		c.kernel = nil // an empty table is as good as none
	}
	if !e.core.holder.Enabled() {
		c.proxies = proxiesFor(e)
		return c
	}
	for f, px := range e.core.holder.All {
		line := nat.DescribeFrontend(f.Mapping(portset.Target{}))
		if px == nil {
			line += " held"
		} else {
			line += " to " + px.BackendAddr().String()
		}
		c.proxies = append(c.proxies, line)
	}
	slices.Sort(c.proxies)
	return c
}

// proxiesFor are the proxies that an engine would have.
func proxiesFor(e *Engine) (lines []string) {
	for p := range e.core.mappings.All {
		line := nat.DescribeFrontend(p.Frontend.Mapping(portset.Target{})) + " held"
		if !p.NoProxy {
			line = fmt.Sprintf("%s to %s", nat.DescribeFrontend(p.Frontend.Mapping(portset.Target{})), p.Backend)
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

// play makes one call.
func (f *faulty) play(i int) {
	f.Helper()
	before := f.now
	name, call := f.call(before.state, fmt.Sprint("t", i))
	f.what = fmt.Sprintf("step %d: %s", i, name)
	f.flowTo()

	// What comes of it without faults, where the same is published.
	twin := newTestbed()
	twin.store = &memoryStore{}
	other := f.open(twin)
	_, err := other.ApplyState(context.Background(), before.state)
	require.NoError(f, err, f.what)
	twin.flows.flows = slices.Clone(f.bed.flows.flows)
	count := &schedule{}
	twin.infiltrate(count)
	wantErr := call(other)
	twin.infiltrate(nil)
	after := f.condition(twin, other)

	s := f.schedule(len(count.calls) + 3)
	f.bed.infiltrate(s)
	err = call(f.engine)
	f.bed.infiltrate(nil)
	f.what += fmt.Sprintf("\nfaults %v of the calls %q; struck: %v\nit returned: %v; without faults: %v", s.faults, s.calls, s.struck, err, wantErr)
	f.now = f.condition(f.bed, f.engine) // this looks, where there is doubt
	f.judge(s, before, after, err, wantErr)
	if err == nil && wantErr == nil {
		require.Equal(f, twin.flows.flows, f.bed.flows.flows, "%s\nflows", f.what)
	}
	if len(s.struck) != 0 || f.IntN(8) == 0 {
		requireConsistent(f.T, f.bed, f.engine)
	}
	if wantErr == nil && !f.same(f.now, after) {
		// Nothing of it is in the way of doing it again.
		require.NoError(f, call(f.engine), f.what)
		f.now = f.condition(f.bed, f.engine)
		f.requireSame(after, f.now)
	}
}

// judge compares what has become of everything with what may have.
func (f *faulty) judge(s *schedule, before, after condition, err, wantErr error) {
	f.Helper()
	switch {
	case wantErr != nil:
		f.seen["refused"]++
		require.Error(f, err, f.what)
		f.requireSame(before, f.now)
	case err == nil:
		f.seen["done"]++
		f.requireSame(after, f.now)
	case len(s.struck) == 1 && !s.struck[0].after:
		f.seen["undone"]++
		require.True(f, s.explains(err), f.what)
		f.requireSame(before, f.now)
	default:
		// Undoing failed as well, or nobody can know what was done. It is one of the two.
		require.True(f, s.explains(err), f.what)
		if f.same(before, f.now) {
			f.seen["undone in the end"]++
			return
		}
		f.seen["done in the end"]++
		f.requireSame(after, f.now)
	}
}

func (f *faulty) same(a, b condition) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

func (f *faulty) requireSame(want, have condition) {
	f.Helper()
	if !f.same(want, have) {
		require.Equal(f, want, have, f.what)
	}
}

// schedule chooses one to three faults among so many calls.
func (f *faulty) schedule(calls int) *schedule {
	all, done := refusals()
	s := &schedule{faults: map[int]fault{}}
	for range []int{1, 1, 1, 2, 3}[f.IntN(5)] {
		one := fault{err: all[f.IntN(len(all))]}
		if f.IntN(3) == 0 {
			one = fault{err: all[f.IntN(done)], after: true}
		}
		s.faults[f.IntN(calls)] = one
	}
	return s
}

// flowTo lets there be flows over UDP to all that may be published, at backends of
// which one at most is right.
func (f *faulty) flowTo() {
	f.bed.flows.flows = nil
	for port := range uint16(faultPorts) {
		f.bed.flows.flows = append(f.bed.flows.flows, conntrack.Flow{
			Proto: unix.IPPROTO_UDP, Dst: netip.AddrPortFrom(netip.MustParseAddr(local4), faultFirstPort+port),
			ReplySrc: netip.MustParseAddrPort("172.30.0.9:9"),
		})
	}
}
