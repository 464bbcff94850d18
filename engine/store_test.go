// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/internal/nfttest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// memoryStore is a disk that outlives engines and kernels.
type memoryStore struct {
	record *nat.StoredState
	saves  int
	// hook is called before each call; an error is its, and nothing else happens.
	hook func(op string) error
}

func (s *memoryStore) call(op string) error {
	if s.hook == nil {
		return nil
	}
	return s.hook(op)
}

func (s *memoryStore) Load() (nat.StoredState, bool, error) {
	if err := s.call("Load"); err != nil || s.record == nil {
		return nat.StoredState{}, false, err
	}
	return *s.record, true, nil
}

func (s *memoryStore) Save(r nat.StoredState) error {
	if err := s.call("Save"); err != nil {
		return err
	}
	s.saves++
	s.record = &r
	return nil
}

// requireKept checks that the store has all that the engine has.
func requireKept(tb testing.TB, b *testbed, e *Engine) {
	tb.Helper()
	s, err := e.State(tb.Context())
	require.NoError(tb, err)
	require.Equal(tb, s, b.store.record.State)
	mark, err := e.core.tableMark()
	require.NoError(tb, err)
	require.Equal(tb, mark, b.store.record.Table)
}

// openKept opens an engine with a store on a testbed of its own.
func openKept(tb testing.TB) (*Engine, *testbed) {
	tb.Helper()
	b := newTestbed()
	b.store = &memoryStore{}
	return b.open(tb), b
}

// reopen opens an engine and returns what it has logged.
func (b *testbed) reopen(tb testing.TB) (*Engine, string) {
	tb.Helper()
	var log bytes.Buffer
	e := b.openWith(tb, Options{NoSysctl: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
	return e, log.String()
}

// openDirect opens an engine as a command without the daemon does: nothing is kept.
func (b *testbed) openDirect(tb testing.TB) *Engine {
	tb.Helper()
	store := b.store
	b.store = nil
	defer func() { b.store = store }()
	return b.open(tb)
}

// fill makes some of everything.
func fill(tb testing.TB, e *Engine, b *testbed) {
	tb.Helper()
	create(tb, e, "inside", inside4)
	_, err := e.CreateNetwork(tb.Context(), nat.Network{Name: "six", Prefix: netip.MustParsePrefix(inside6), NoGuard: true, NoMasquerade: true})
	require.NoError(tb, err)
	attach(tb, e, "web", "inside", "80", "8000-8009:9000-9009/udp", local4+":443:443")
	attach(tb, e, "gone", "inside")
	attach(tb, e, "db", "six", "53:53/udp")
	_, err = e.Detach(tb.Context(), "gone")
	require.NoError(tb, err)
	lease := leaseFor(tb, b, "90->172.30.0.2:90", time.Hour)
	lease.Name, lease.NoProxy = "web", true
	_, err = e.Publish(tb.Context(), nat.PublishOptions{}, lease, leaseFor(tb, b, "91->10.9.0.2:91/udp", time.Minute), nattest.Mapping(tb, "100->10.9.0.2:100"), nattest.Mapping(tb, local4+":101->[fd00:30::9]:1"))
	require.NoError(tb, err)
}

// A table that is lost, with the machine or by a flush, comes back as it was, but for
// what has ended meanwhile.
func TestRestore(t *testing.T) {
	e, b := openKept(t)
	fill(t, e, b)
	requireKept(t, b, e)
	before, dump := b.store.record.State, b.kernel.Dump()
	b.kernel.Flush()

	e, log := b.reopen(t)
	require.Contains(t, log, `msg="restored the stored state" networks=2 endpoints=2 ports=17`)
	s, err := e.State(t.Context())
	require.NoError(t, err)
	require.Equal(t, before, s)
	require.Equal(t, dump, b.kernel.Dump())
	requireConsistent(t, b, e)
	requireKept(t, b, e)
	// What was released comes round last after a reboot too.
	require.Equal(t, "172.30.0.4", attach(t, e, "next", "inside").Address().Addr().String())
	require.Equal(t, time.Hour, b.store.record.Mappings[0].Expires.Sub(b.clock.Now()))

	b.kernel.Flush()
	b.clock.advance(30 * time.Minute)
	e, log = b.reopen(t)
	require.Contains(t, log, "networks=2 endpoints=3 ports=16", "one has ended")
	left := time.Duration(0)
	for _, m := range must(e.Mappings(t.Context())) {
		require.NotEqual(t, uint16(91), m.Frontend.Port())
		if m.Frontend.Port() == 90 {
			left = m.Expires.Sub(b.clock.Now())
		}
	}
	require.Equal(t, 30*time.Minute, left)
	requireConsistent(t, b, e)
	requireKept(t, b, e)

	// What is in the kernel is not touched.
	dump, saves := b.kernel.Dump(), b.store.saves
	e, log = b.reopen(t)
	require.Empty(t, log)
	require.Equal(t, dump, b.kernel.Dump())
	require.Equal(t, saves+1, b.store.saves, "which writes nothing new")
	requireKept(t, b, e)
}

// Every change is kept before it is acknowledged, and no other.
func TestSaves(t *testing.T) {
	var steps []string
	b := newTestbed()
	b.store = &memoryStore{}
	e := b.openWith(t, Options{NoSysctl: true, Trace: func(step string) { steps = append(steps, step) }})
	require.Equal(t, 1, b.store.saves, "that there is nothing")
	steps = nil
	b.store.hook = func(op string) error {
		require.Equal(t, "Save", op)
		steps = append(steps, "saved")
		return nil
	}
	order := []string{"commit", "save", "saved", "flows", "done"}
	publish(t, e, "8000-8999->172.30.0.2:9000-9999")
	require.Equal(t, append([]string{"reserve"}, order...), steps)
	steps = nil
	_, err := e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "8000-8998->172.30.0.2:9000-9998")}})
	require.NoError(t, err)
	require.Equal(t, order, steps)
	requireKept(t, b, e)

	saves := b.store.saves
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "8999->172.30.0.3:80"))
	require.ErrorIs(t, err, nat.ErrConflict)
	require.Equal(t, saves, b.store.saves, "what changes nothing")
	for range 3 {
		_, err = e.Apply(t.Context(), nattest.Mapping(t, "8999->172.30.0.2:9999"))
		require.NoError(t, err)
	}
	require.Equal(t, saves+1, b.store.saves, "what was found when the table was read again")
	lease := leaseFor(t, b, "80->172.30.0.2:80", time.Second)
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, lease)
	require.NoError(t, err)
	lease.Expires = lease.Expires.Add(time.Second)
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, lease)
	require.NoError(t, err)
	require.Equal(t, saves+3, b.store.saves, "renewing is a change")
	requireKept(t, b, e)
	b.clock.advance(time.Hour)
	require.Len(t, must(e.Mappings(t.Context())), 1)
	require.Equal(t, saves+3, b.store.saves, "what ends by itself is no change: the file says when")
}

// Where both know, the kernel's word stands; what the very table that was kept lacks was
// taken out of it.
func TestRestoreKernelWins(t *testing.T) {
	e, b := openKept(t)
	fill(t, e, b)
	// A command without the daemon has no store.
	direct := b.openDirect(t)
	_, err := direct.Detach(t.Context(), "db")
	require.NoError(t, err)
	require.NoError(t, direct.RemoveNetwork(t.Context(), "six"))
	_, err = direct.Publish(t.Context(), nat.PublishOptions{Replace: true}, nattest.Mapping(t, "100->10.9.0.3:100"))
	require.NoError(t, err)
	_, err = direct.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "8000-8003->172.30.0.2:9000-9003/udp")}})
	require.NoError(t, err)
	publish(t, direct, "7->172.30.0.2:7")
	want, err := direct.State(t.Context())
	require.NoError(t, err)
	dump := b.kernel.Dump()

	e, log := b.reopen(t)
	s, err := e.State(t.Context())
	require.NoError(t, err)
	require.Equal(t, want, s)
	require.Equal(t, dump, b.kernel.Dump())
	requireKept(t, b, e)
	for _, line := range []string{
		`kept="network six fd00:30::/64 gateway fd00:30::1 no-masquerade no-guard" reason="it was taken out of the table meanwhile"`,
		`kept="endpoint db fd00:30::2" reason="it was taken`,
		`kept=8000-8003->172.30.0.2:9000-9003/udp reason="it was taken`,
		`kept=53->[fd00:30::2]:53/udp reason="it was taken`,
		`kept=100->10.9.0.2:100 reason="it is 100->10.9.0.3:100"`,
	} {
		require.Contains(t, log, line)
	}

	// Elements that others delete are no reboot.
	b.edit(t, func(table *nfttest.Table) {
		table.Elements = slices.DeleteFunc(table.Elements, func(el nft.Element) bool { return el.Set == "tcp4" })
	})
	e, log = b.reopen(t)
	require.Contains(t, log, "kept=49153->172.30.0.2:80 reason=\"it was taken out")
	require.NotContains(t, log, "restored the stored state")
	requireConsistent(t, b, e)
	requireKept(t, b, e)
}

// A table that has to be made again, because its rules are damaged or because it is to be
// owned, is still the one that was kept: what was taken out of it stays out.
func TestRestoreAfterRepair(t *testing.T) {
	for name, damage := range map[string]func(*testing.T, *testbed){
		"rules": func(t *testing.T, b *testbed) {
			t.Helper()
			b.edit(t, func(table *nfttest.Table) { table.Chains = table.Chains[1:] })
		},
		"owner": func(_ *testing.T, b *testbed) { b.owning = true },
	} {
		t.Run(name, func(t *testing.T) {
			e, b := openKept(t)
			publish(t, e, "7->172.30.0.2:7", "8->172.30.0.2:8")
			_, err := b.openDirect(t).Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "7->172.30.0.2:7")}})
			require.NoError(t, err)
			damage(t, b)
			e, log := b.reopen(t)
			require.Contains(t, log, "kept=7->172.30.0.2:7 reason=\"it was taken out of the table meanwhile\"")
			require.Equal(t, []string{"8->172.30.0.2:8"}, publishedBy(e))
			requireConsistent(t, b, e)
			requireKept(t, b, e)

			if b.owning {
				return
			}
			// The same if nothing could be saved after it was made again.
			_, err = b.openDirect(t).Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "8->172.30.0.2:8")}})
			require.NoError(t, err)
			b.edit(t, func(table *nfttest.Table) { table.Comment = "nftnat schema 1" })
			b.store.hook = func(op string) error {
				if op == "Save" {
					return unix.EROFS
				}
				return nil
			}
			_, log = b.reopen(t)
			require.Contains(t, log, "could not be stored")
			b.store.hook = nil
			e, _ = b.reopen(t)
			require.Empty(t, publishedBy(e))
			requireConsistent(t, b, e)
			requireKept(t, b, e)
		})
	}
}

// A table that was made after the one that was kept was lost has what was published
// since, and gets what was lost, as far as there is room for it.
func TestRestoreBeside(t *testing.T) {
	e, b := openKept(t)
	fill(t, e, b)
	create(t, e, "old", "10.78.0.0/24")
	attach(t, e, "left", "old", "70:70")
	b.kernel.Flush()
	direct := b.openDirect(t)
	create(t, direct, "new", "10.78.0.0/16")
	create(t, direct, "inside", inside4)
	attach(t, direct, "other", "inside", "100:80", "0.0.0.0:8000:9000/udp") // with the address of web
	attach(t, direct, "db", "new", "53:53/udp")

	e, log := b.reopen(t)
	for _, line := range []string{
		`kept="network old 10.78.0.0/24 gateway 10.78.0.1" reason="it overlaps network new 10.78.0.0/16"`,
		`kept="endpoint left 10.78.0.2" reason=`,
		`kept="endpoint web 172.30.0.2" reason=`,
		`kept="endpoint db fd00:30::2" reason="its address is 10.78.0.2"`,
		`kept=100->10.9.0.2:100 reason="it is 100->172.30.0.2:80"`,
		`msg="restored the stored state" networks=1 endpoints=0 ports=2`,
	} {
		require.Contains(t, log, line)
	}
	s, err := e.State(t.Context())
	require.NoError(t, err)
	names := []string{}
	for _, n := range s.Networks {
		names = append(names, n.Name)
	}
	require.Equal(t, []string{"inside", "new", "six"}, names)
	require.Len(t, s.Endpoints, 2)
	require.Equal(t, []string{
		"100->172.30.0.2:80 other", local4 + ":101->[fd00:30::9]:1",
		"53->10.78.0.2:53/udp db", "91->10.9.0.2:91/udp until 00:01:00", "0.0.0.0:8000->172.30.0.2:9000/udp other",
	}, publishedBy(e))
	requireConsistent(t, b, e)
	requireKept(t, b, e)
}

// What was lost comes back as it was also where the host has not come up yet, or has
// changed: only proxies and segments wait for it.
func TestRestoreEarly(t *testing.T) {
	e, b := openKept(t)
	fill(t, e, b)
	before := b.store.record.State
	b.kernel.Flush()
	b.host.routes = map[netip.Prefix]hostnet.Route{}
	e, _ = b.reopen(t)
	s, err := e.State(t.Context())
	require.NoError(t, err)
	require.Equal(t, before, s)
	require.Empty(t, e.core.segments.Table())

	b.kernel.Flush()
	b.host.hook = func(string) error { return unix.ENOBUFS }
	e, log := b.reopen(t)
	require.Contains(t, log, "route to a backend could not be looked up")
	s, err = e.State(t.Context())
	require.NoError(t, err)
	require.Equal(t, before, s)
	requireConsistent(t, b, e)
}

// What cannot be read is refused, and the kernel left as it is, damaged or not.
func TestRestoreRefuses(t *testing.T) {
	e, b := openKept(t)
	fill(t, e, b)
	b.edit(t, damages()["no rules"])
	dump := b.kernel.Dump()
	refusal := errors.New("state.yaml:7: no such thing")
	b.store.hook = func(string) error { return refusal }
	b.kernel.Hook(func(op string) error {
		require.Fail(t, "the kernel was asked", op)
		return nil
	})
	_, err := b.tryOpen(Options{NoSysctl: true})
	require.ErrorIs(t, err, refusal)
	b.kernel.Hook(nil)
	require.Equal(t, dump, b.kernel.Dump())
	// Readers do without.
	b.openWith(t, Options{ReadOnly: true})
}

// A store that can keep nothing refuses changes, and an engine that finds something.
// Whoever has just said where it is to be kept is told at once.
func TestSaveFails(t *testing.T) {
	e, b := openKept(t)
	fill(t, e, b)
	full := unix.ENOSPC
	b.store.hook = func(op string) error {
		if op == "Save" {
			return full
		}
		return nil
	}
	before, dump := b.snapshot(e), b.kernel.Dump()
	for name, call := range calls(t, e) {
		err := call()
		if name == "Unpublish" || name == "Kill" {
			require.ErrorIs(t, err, nat.ErrNotFound, "which is noticed before")
			continue
		}
		require.ErrorIs(t, err, full, name)
		require.Equal(t, before, b.snapshot(e), name)
	}
	_, err := e.Detach(t.Context(), "web")
	require.ErrorIs(t, err, full)
	_, err = e.Attach(t.Context(), nat.EndpointSpec{Name: "more", Network: "inside"})
	require.ErrorIs(t, err, full)
	_, err = e.CreateNetwork(t.Context(), netOf(t, "more", "10.79.0.0/24"))
	require.ErrorIs(t, err, full)
	require.Equal(t, before, b.snapshot(e))
	require.Equal(t, slices.Sorted(slices.Values(elementsIn(dump))), slices.Sorted(slices.Values(elementsIn(b.kernel.Dump()))))
	requireConsistent(t, b, e)

	e, log := b.reopen(t)
	require.Contains(t, log, "could not be stored")
	require.Equal(t, before.mappings, publishedBy(e))
	b.store.record = nil
	_, err = b.tryOpen(Options{NoSysctl: true})
	require.ErrorIs(t, err, full)
}

// After a purge nothing comes back, also if that is all that was done of it.
func TestPurgeIsKept(t *testing.T) {
	e, b := openKept(t)
	fill(t, e, b)
	b.kernel.Hook(func(op string) error {
		if op == "DeleteTable" {
			return unix.EPERM
		}
		return nil
	})
	require.ErrorIs(t, e.Purge(t.Context()), unix.EPERM)
	requireKept(t, b, e)
	b.kernel.Hook(nil)
	before := b.store.record.State
	require.NoError(t, e.Purge(t.Context()))
	require.Equal(t, nat.State{}, b.store.record.State)
	require.Empty(t, b.store.record.Table)
	require.ElementsMatch(t, nat.Collapse(withoutEnds(allMappings(before))), b.store.record.Removed.Mappings)
	require.Len(t, b.store.record.Removed.Networks, len(before.Networks))
	require.Len(t, b.store.record.Removed.Endpoints, len(before.Endpoints)+1, "with the one before")
	e = b.open(t)
	require.Empty(t, b.kernel.Dump())
	s, err := e.State(t.Context())
	require.NoError(t, err)
	require.Equal(t, nat.State{Networks: []nat.Network{}}, s)
}

// Mappings that only others can have written, one in the other's way, are in no file.
func TestSaveLeavesOutOverlapped(t *testing.T) {
	e, b := openKept(t)
	publish(t, e, "80->172.30.0.2:80")
	b.write(t, foreign("tcp4_host", local4+":80", "172.30.0.3:80", ""))
	e = b.open(t)
	require.Len(t, must(e.Mappings(t.Context())), 2)
	publish(t, e, "81->172.30.0.2:81")
	require.NoError(t, nat.ValidateAll(b.store.record.Mappings...))
	require.Len(t, b.store.record.Mappings, 1)
}

// A mapping that is put back because the state could not be stored expires when it should.
func TestUndoKeepsExpiry(t *testing.T) {
	b := newTestbed()
	b.store = &memoryStore{}
	e := b.open(t)
	m := nattest.Mapping(t, "80->172.30.0.2:80")
	m.Expires = b.clock.Now().Add(time.Minute)
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, m)
	require.NoError(t, err)
	b.store.hook = func(string) error {
		b.clock.advance(10 * time.Second) // a slow disk
		return io.ErrShortWrite
	}
	_, err = e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{m}})
	require.ErrorIs(t, err, io.ErrShortWrite)
	b.store = nil
	again, err := b.open(t).Mappings(t.Context())
	require.NoError(t, err)
	require.Len(t, again, 1)
	require.WithinDuration(t, m.Expires, again[0].Expires, time.Second)
}

// A new table that others delete while the state is stored is no error of the undo.
func TestUndoCreateOfADeletedTable(t *testing.T) {
	b := newTestbed()
	b.store = &memoryStore{}
	e := b.open(t)
	b.store.hook = func(string) error {
		b.kernel.Flush()
		return io.ErrShortWrite
	}
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "80->172.30.0.2:80"))
	require.ErrorIs(t, err, io.ErrShortWrite)
	require.NotContains(t, err.Error(), "undo")
	b.store.hook = nil
	publish(t, e, "81->172.30.0.2:81")
	requireConsistent(t, b, e)
}

// A process that is killed while it releases its table leaves the old table or the new one,
// and the next engine takes either for the one that was stored: what a command without the
// daemon removes then stays removed.
func TestReleaseKilled(t *testing.T) {
	for _, released := range []bool{false, true} {
		b := newTestbed()
		b.store, b.owning = &memoryStore{}, true
		e := b.open(t)
		publish(t, e, "80->172.30.0.2:80")
		publish(t, e, "81->172.30.0.2:81")
		if !released {
			b.kernel.FailNext("Restore", nil) // that of the stand-in
			b.kernel.FailNext("Restore", errors.New("killed"))
		}
		saves := b.store.saves
		require.NoError(t, e.Close())
		require.Equal(t, released, b.table(t).Flags == 0)
		require.Equal(t, saves, b.store.saves, "it is the same table to the store")

		direct := b.openDirect(t)
		_, err := direct.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "81->172.30.0.2:81")}})
		require.NoError(t, err)
		require.NoError(t, direct.Close())
		require.Equal(t, []string{"80->172.30.0.2:80"}, publishedBy(b.open(t)))
	}
}

// An engine without the store that recreates the table, as its owner and at its end, leaves it
// the one that was stored: what it removes stays removed, and what it publishes is there.
func TestRestoreAfterEngineWithoutStore(t *testing.T) {
	b := newTestbed()
	b.store, b.owning = &memoryStore{}, true
	e := b.open(t)
	publish(t, e, "80-82->172.30.0.2:80-82")
	remove(t, e, "82->172.30.0.2:82")
	require.NoError(t, e.Close())
	handle := b.table(t).Handle
	other := b.openDirect(t)
	remove(t, other, "81->172.30.0.2:81")
	publish(t, other, "82->172.30.0.2:82")
	require.NoError(t, other.Close())
	require.NotEqual(t, handle, b.table(t).Handle)
	e = b.open(t)
	require.Equal(t, []string{"80->172.30.0.2:80", "82->172.30.0.2:82"}, publishedBy(e))
	requireKept(t, b, e)
}
