// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/internal/nfttest"
	"github.com/nftnat/nftnat/nat"
)

// withoutEnds are mappings that do not end.
func withoutEnds(ms []nat.Mapping) []nat.Mapping {
	ms = slices.Clone(ms)
	for i := range ms {
		ms[i].Expires = time.Time{}
	}
	return ms
}

// saveRuleset returns what nft(8) would save of the table, and a function that loads it after
// a reboot: the table is another one, without a tag.
func (b *testbed) saveRuleset(tb testing.TB) (boot func()) {
	tb.Helper()
	var saved nfttest.Table
	b.edit(tb, func(table *nfttest.Table) {
		saved = *table
		saved.Elements = slices.Clone(table.Elements)
	})
	saved.Tag, saved.Flags = "", 0
	return func() {
		b.kernel.Edit(func(tables map[string]*nfttest.Table) {
			loaded := saved
			loaded.Elements = slices.Clone(saved.Elements)
			tables[saved.Name] = &loaded
		})
	}
}

// firstEvents are the first events that a reader gets.
func firstEvents(tb testing.TB, e *Engine, n int) (events []nat.Event) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	for event := range e.Events(ctx) {
		if events = append(events, event); len(events) == n {
			break
		}
	}
	require.Len(tb, events, n)
	return events
}

func remove(tb testing.TB, e *Engine, texts ...string) {
	tb.Helper()
	var ms []nat.Mapping
	for _, text := range texts {
		ms = append(ms, nattest.Mapping(tb, text))
	}
	_, err := e.Remove(tb.Context(), nat.Removal{Mappings: ms})
	require.NoError(tb, err)
}

func replace(tb testing.TB, e *Engine, text string) {
	tb.Helper()
	_, err := e.Publish(tb.Context(), nat.PublishOptions{Replace: true}, nattest.Mapping(tb, text))
	require.NoError(tb, err)
}

// Of a ruleset that is older than the stored state nothing comes back that was removed,
// replaced, ended or detached since: mappings, endpoints, networks. What a command without the
// daemon has published on top of it stays.
func TestOlderRuleset(t *testing.T) {
	for _, owning := range []bool{false, true} {
		b := newTestbed()
		b.store, b.owning = &memoryStore{}, owning
		e := b.open(t)
		fill(t, e, b)
		publish(t, e, "2222->172.30.0.2:22")
		publish(t, e, "3000-3009->172.30.0.2:4000-4009/udp")
		publish(t, e, "4000->172.30.0.2:80")
		create(t, e, "later", "10.78.0.0/24")
		attach(t, e, "left", "later", "70:70")
		// A table that is owned cannot be edited; one that its engine has left can.
		require.NoError(t, e.Close())
		boot := b.saveRuleset(t)
		e = b.open(t)

		remove(t, e, "2222->172.30.0.2:22", "3003-3005->172.30.0.2:4003-4005/udp")
		replace(t, e, "4000->172.30.0.3:81")
		publish(t, e, "5000->172.30.0.2:80")
		_, err := e.Detach(t.Context(), "left")
		require.NoError(t, err)
		require.NoError(t, e.RemoveNetwork(t.Context(), "later"))
		attach(t, e, "newer", "inside")
		b.clock.advance(2 * time.Minute) // udp 91 has ended
		publish(t, e, "6000->172.30.0.2:80")
		want, err := e.State(t.Context())
		require.NoError(t, err)
		requireKept(t, b, e)
		kill(t, e)

		boot()
		direct := b.openDirect(t)
		publish(t, direct, "7000->172.30.0.2:80")
		require.NoError(t, direct.Close())
		e, log := b.reopen(t)
		want.Mappings = append(want.Mappings, nattest.Mapping(t, "7000->172.30.0.2:80"))
		want.Mappings = nat.Collapse(want.Mappings)
		have, err := e.State(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, have)
		for _, line := range []string{
			"2222->172.30.0.2:22", "3003-3005->172.30.0.2:4003-4005/udp", "4000->172.30.0.2:80", "91->10.9.0.2:91/udp", "70->10.78.0.2:70",
			`"network later 10.78.0.0/24 gateway 10.78.0.1"`, `"endpoint left 10.78.0.2"`,
		} {
			require.Contains(t, log, "was="+line)
		}
		// The first reader of events has them.
		events := firstEvents(t, e, 2)
		require.Equal(t, nat.EventUnpublished, events[0].Kind)
		require.Contains(t, events[0].Mappings, nattest.Mapping(t, "2222->172.30.0.2:22"))
		require.Equal(t, nat.EventHost, events[1].Kind)
		require.Contains(t, events[1].Message, "a ruleset that was loaded")
		requireConsistent(t, b, e)
		requireKept(t, b, e)

		// The same ruleset again, and again.
		for range 2 {
			kill(t, e)
			boot()
			e = b.open(t)
			have, err = e.State(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, have)
		}
		// What is published again is not removed any more.
		publish(t, e, "2222->172.30.0.2:22")
		kill(t, e)
		boot()
		e = b.open(t)
		require.Contains(t, publishedBy(e), "2222->172.30.0.2:22")
		require.NoError(t, e.Purge(t.Context()))
		boot()
		require.Empty(t, publishedBy(b.open(t)), "after a purge nothing comes back")
	}
}

// A table that an engine has made without the store is no older ruleset: what it has was
// published after the stored table was lost.
func TestRemovedAndPublishedWithoutStore(t *testing.T) {
	e, b := openKept(t)
	publish(t, e, "80->172.30.0.2:80")
	publish(t, e, "81->172.30.0.2:81")
	remove(t, e, "81->172.30.0.2:81")
	replace(t, e, "80->172.30.0.3:80")
	b.kernel.Flush()
	direct := b.openDirect(t)
	publish(t, direct, "80-81->172.30.0.2:80-81")
	e = b.open(t)
	require.Equal(t, []string{"80-81->172.30.0.2:80-81"}, publishedBy(e))
	require.Equal(t, []nat.Mapping{nattest.Mapping(t, "80->172.30.0.3:80")}, b.store.record.Removed.Mappings)
}

// The very table that was stored has what counts, also if nft(8) has loaded it: by hand, and by a
// command without the daemon.
func TestRemovedFromStoredTable(t *testing.T) {
	e, b := openKept(t)
	publish(t, e, "80-82->172.30.0.2:80-82")
	boot := b.saveRuleset(t)
	remove(t, e, "82->172.30.0.2:82")
	boot()
	e = b.open(t)
	require.Equal(t, []string{"80-81->172.30.0.2:80-81"}, publishedBy(e))
	direct := b.openDirect(t)
	publish(t, direct, "82->172.30.0.2:82")
	remove(t, direct, "81->172.30.0.2:81")
	replace(t, direct, "80->172.30.0.3:80")
	e = b.open(t)
	require.Equal(t, []string{"80->172.30.0.3:80", "82->172.30.0.2:82"}, publishedBy(e))
	require.Equal(t, []nat.Mapping{nattest.Mapping(t, "80-81->172.30.0.2:80-81")}, b.store.record.Removed.Mappings)
	// What was removed without the daemon does not come back either.
	boot()
	e = b.open(t)
	require.Equal(t, []string{"80->172.30.0.3:80", "82->172.30.0.2:82"}, publishedBy(e))
	requireConsistent(t, b, e)
}

// A process that is killed while it takes out what was removed leaves that for the next one.
func TestOlderRulesetKilled(t *testing.T) {
	e, b := openKept(t)
	publish(t, e, "80-82->172.30.0.2:80-82")
	boot := b.saveRuleset(t)
	remove(t, e, "82->172.30.0.2:82")
	replace(t, e, "81->172.30.0.3:81")
	want := publishedBy(e)
	for _, at := range []int{1, 2, 3} {
		boot()
		b.kernel.Flush()
		boot()
		calls := 0
		b.kernel.Hook(func(op string) error {
			if op == "Update" {
				if calls++; calls >= at {
					return unix.EIO
				}
			}
			return nil
		})
		_, err := b.tryOpen(Options{NoSysctl: true})
		if at <= 2 {
			require.ErrorIs(t, err, unix.EIO)
		}
		b.kernel.Hook(nil)
		require.Equal(t, want, publishedBy(b.open(t)))
	}
}
