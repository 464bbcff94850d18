// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/table"
	"github.com/nftnat/nftnat/internal/nfttest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// watched is an engine that runs, and tells what happens.
type watched struct {
	*Engine
	b      *testbed
	events chan nat.Event
}

func runFake(t *testing.T) *watched {
	t.Helper()
	w := &watched{b: newTestbed(), events: make(chan nat.Event, 1000)}
	w.Engine = w.b.openWith(t, Options{NoSysctl: true})
	w.run(t)
	return w
}

func (w *watched) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	events := w.Events(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = w.Run(ctx) })
	running.Go(func() {
		for ev := range events {
			w.events <- ev
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// await waits for an event of a kind, and drops those before it.
func (w *watched) await(t *testing.T, kind nat.EventKind) nat.Event {
	t.Helper()
	for {
		select {
		case ev := <-w.events:
			if ev.Kind == kind {
				return ev
			}
		case <-time.After(time.Minute):
			require.Fail(t, "nothing happens")
		}
	}
}

// fillTable publishes something of each kind that a table can hold.
func fillTable(t *testing.T, b *testbed, e *Engine) {
	t.Helper()
	publishAll(t, b, e)
	_, err := e.CreateNetwork(t.Context(), networkOf(t, "inside", "172.31.0.0/24"))
	require.NoError(t, err)
	for _, name := range []string{"web", "dns", "gone"} {
		a, err := nat.ParseEndpointSpec(name, "inside", "")
		require.NoError(t, err)
		_, err = e.Attach(t.Context(), a)
		require.NoError(t, err)
	}
	_, err = e.Detach(t.Context(), "gone")
	require.NoError(t, err)
}

// Whatever others do to the table as a whole, or to its rules and records, it is soon
// what it was.
func TestDamageIsRepaired(t *testing.T) {
	all := damages()
	all["no table"] = nil
	all["an empty table of that name"] = nil
	all["a record less"] = func(table *nfttest.Table) {
		for i, el := range table.Elements {
			if isRecordSet(el.Set) {
				table.Elements = append(table.Elements[:i], table.Elements[i+1:]...)
				return
			}
		}
	}
	for name, damage := range all {
		t.Run(name, func(t *testing.T) {
			w := runFake(t)
			fillTable(t, w.b, w.Engine)
			want, info := w.b.kernel.Dump(), w.b.table(t)
			for i := range 3 {
				switch name {
				case "no table":
					w.b.kernel.Flush()
				case "an empty table of that name":
					w.b.kernel.Edit(func(tables map[string]*nfttest.Table) {
						tables[DefaultTable] = &nfttest.Table{Table: nft.Table{Name: DefaultTable, Comment: w.core.table.Rules.Comment}}
					})
				default:
					w.b.edit(t, func(table *nfttest.Table) {
						damage(table)
						table.Elements = slices.DeleteFunc(table.Elements, func(el nft.Element) bool { return !hasSet(table, el.Set) })
					})
				}
				require.Empty(t, w.await(t, nat.EventRepaired).Mappings)
				w.settled(t)
				require.Equal(t, want, w.b.kernel.Dump())
				require.Equal(t, Status{Present: true, Repaired: i + 1}, statusOf(t, w.Engine))
				if !strings.HasSuffix(name, "table") && !strings.HasSuffix(name, "name") {
					require.Equal(t, info, w.b.table(t), "it was put right where it stands")
				}
			}
			requireConsistent(t, w.b, w.Engine)
			clean := newTestbed()
			fillTable(t, clean, clean.open(t))
			require.Equal(t, clean.kernel.Dump(), w.b.kernel.Dump(), "as after a clean start")
		})
	}
}

func hasSet(table *nfttest.Table, name string) bool {
	return slices.ContainsFunc(table.Sets, func(s nft.Set) bool { return s.Name == name })
}

// settled waits until the engine is through with what it does.
func (w *watched) settled(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	require.False(t, w.core.table.Stale())
}

// What somebody takes out of a map, or adds to it, is their will: it is taken over.
func TestElementsAreFollowed(t *testing.T) {
	w := runFake(t)
	fillTable(t, w.b, w.Engine)
	w.b.flows.flows = []conntrack.Flow{flow(nat.UDP, local4+":102", "172.30.0.3:80")}
	w.b.drop(t, "udp4 { 102 ")
	require.Equal(t, "0.0.0.0:102->172.30.0.3:80/udp", w.await(t, nat.EventUnpublished).Mappings[0].String())
	w.b.write(t, foreign("tcp4", "99", "172.30.0.2:99", ""))
	require.Equal(t, "99->172.30.0.2:99", w.await(t, nat.EventPublished).Mappings[0].String())
	w.settled(t)
	require.Empty(t, w.b.flows.flows, "those of what is gone")
	require.Equal(t, Status{Present: true}, statusOf(t, w.Engine))
	requireConsistent(t, w.b, w.Engine)
}

// Word that something was missed has the engine look, and what is right stays as it is.
func TestOverrunIsLookedInto(t *testing.T) {
	w := runFake(t)
	fillTable(t, w.b, w.Engine)
	info := w.b.table(t)
	looks := make(chan struct{}, 100)
	w.b.kernel.Hook(func(op string) error {
		if op == "Drift" {
			looks <- struct{}{}
		}
		return nil
	})
	w.b.kernel.Overrun()
	<-looks
	w.settled(t)
	require.Equal(t, info, w.b.table(t))
	require.Equal(t, Status{Present: true}, statusOf(t, w.Engine))
}

// A table that the engine has not made yet is nobody's to repair, and one that it has
// purged stays gone.
func TestNothingToRepair(t *testing.T) {
	w := runFake(t)
	w.b.kernel.Flush()
	w.b.kernel.Overrun()
	publish(t, w.Engine, "80->172.30.0.2:80")
	require.NoError(t, w.Purge(t.Context()))
	require.Empty(t, w.b.kernel.Dump())
}

// What came in by no rule while there were none ends with the repair, and what would
// have come in anyhow goes on.
func TestFlowsOfTheGap(t *testing.T) {
	const outside, inside, sibling = "198.51.100.7:4000", "172.31.0.2:80", "172.31.0.3:80"
	gap := func(src, dst, replySrc, replyDst string, status conntrack.Status) conntrack.Flow {
		return conntrack.Flow{
			Proto: unix.IPPROTO_TCP, Status: status, Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst),
			ReplySrc: netip.MustParseAddrPort(replySrc), ReplyDst: netip.MustParseAddrPort(replyDst),
		}
	}
	for name, tt := range map[string]struct {
		flow conntrack.Flow
		ends bool
	}{
		"into a network":               {gap(outside, inside, inside, outside, 0), true},
		"published":                    {gap(outside, inside, inside, outside, conntrack.StatusDNAT), false},
		"announced by another":         {gap(outside, inside, inside, outside, conntrack.StatusExpected), false},
		"from the host":                {gap(local4+":4000", inside, inside, local4+":4000", 0), false},
		"between siblings":             {gap(inside, sibling, sibling, inside, 0), false},
		"out as itself":                {gap(inside, outside, outside, inside, 0), true},
		"out, masqueraded":             {gap(inside, outside, outside, local4+":40000", 0), false},
		"to the host":                  {gap(inside, local4+":53", local4+":53", inside, 0), false},
		"in transit":                   {gap(outside, "203.0.113.9:80", "203.0.113.9:80", outside, 0), false},
		"of a segment without a guard": {gap(outside, "172.30.0.2:80", "172.30.0.2:80", outside, 0), false},
	} {
		t.Run(name, func(t *testing.T) {
			e, b := openFake(t)
			fillTable(t, b, e)
			b.flows.flows = []conntrack.Flow{tt.flow}
			b.kernel.Flush()
			publish(t, e, "80->172.30.0.2:80") // which notices
			require.Equal(t, 1, statusOf(t, e).Repaired)
			require.Equal(t, tt.ends, len(b.flows.flows) == 0)
		})
	}
}

// A check that fails is tried again, after growing delays, and logged once.
func TestCheckFails(t *testing.T) {
	log := &logged{}
	b := newTestbed()
	e := b.openWith(t, Options{NoSysctl: true, Log: slog.New(slog.NewTextHandler(log, nil))})
	publish(t, e, "80->172.30.0.2:80")
	w := e.watcher()
	b.kernel.Hook(func(string) error { return unix.ENOMEM })
	for range 20 {
		w.RunCheck()
		require.NotNil(t, w.Due())
	}
	require.Equal(t, 1, log.count("table could not be checked"))
	b.kernel.Hook(nil)
	b.kernel.Flush()
	w.RunCheck()
	require.Nil(t, w.Due())
	require.Equal(t, 1, statusOf(t, e).Repaired)
}

// An engine is closed whenever: before Run listens, while it does, or after it has begun
// to look.
func TestCloseWhileRunning(t *testing.T) {
	closed := newTestbed().open(t)
	require.NoError(t, closed.Close())
	require.ErrorIs(t, closed.watchTable(t.Context(), func() {}), table.ErrStopped)
	require.NoError(t, closed.Run(t.Context()))
	for i := range 300 {
		e := newTestbed().open(t)
		var running sync.WaitGroup
		running.Go(func() { _ = e.Run(t.Context()) })
		for range i % 20 {
			runtime.Gosched()
		}
		require.NoError(t, e.Close())
		running.Wait()
	}
}
