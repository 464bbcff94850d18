// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/internal/nfttest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

func leaseFor(tb testing.TB, b *testbed, text string, d time.Duration) nat.Mapping {
	tb.Helper()
	m := nattest.Mapping(tb, text)
	m.Expires = b.clock.Now().Add(d)
	return m
}

func TestExpiry(t *testing.T) {
	e, b := openFake(t)
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, leaseFor(t, b, "80-81->172.30.0.2:80-81", time.Second),
		leaseFor(t, b, local4+":90->10.9.0.2:90", 2*time.Second), nattest.Mapping(t, "99->172.30.0.2:99"))
	require.NoError(t, err)
	b.clock.advance(time.Second - time.Millisecond)
	require.Len(t, must(e.Mappings(t.Context())), 3)
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "80->172.30.0.3:80"))
	require.ErrorIs(t, err, nat.ErrConflict, "not yet")

	b.clock.advance(time.Millisecond)
	require.Equal(t, []string{"99->172.30.0.2:99", "192.0.2.1:90->10.9.0.2:90 until 00:00:02"}, publishedBy(e))
	require.Equal(t, []string{"99->172.30.0.2:99", "192.0.2.1:90->10.9.0.2:90 until 00:00:02"}, publishedBy(b.open(t)))
	_, err = e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "80->172.30.0.2:80")}})
	require.ErrorIs(t, err, nat.ErrNotFound)
	publish(t, e, "80->172.30.0.3:80")
	requireConsistent(t, b, e)

	// The last backend of a segment has gone by itself: the next change takes the
	// segment away.
	b.clock.advance(time.Minute)
	publish(t, e, "100->172.30.0.2:100")
	require.NotContains(t, b.kernel.Dump(), farther4)
	requireConsistent(t, b, e)
}

// The end of a mapping that has gone otherwise is not that of the one after it.
func TestExpiryOfWhatHasChanged(t *testing.T) {
	e, b := openFake(t)
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, leaseFor(t, b, "80->172.30.0.2:80", time.Second), leaseFor(t, b, "81->172.30.0.2:80", time.Second),
		leaseFor(t, b, "82->172.30.0.2:80", time.Second), leaseFor(t, b, "83->172.30.0.2:80", time.Second))
	require.NoError(t, err)
	_, err = e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "80-81->172.30.0.2:80-81")}})
	require.NoError(t, err)
	publish(t, e, "80->172.30.0.2:80")
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, leaseFor(t, b, "81->172.30.0.2:80", 3*time.Second))
	require.NoError(t, err)
	_, err = e.Publish(t.Context(), nat.PublishOptions{Replace: true}, leaseFor(t, b, "82->172.30.0.3:80", 2*time.Second))
	require.NoError(t, err)
	for at, want := range [][]string{
		{"80->172.30.0.2:80", "81->172.30.0.2:80 until 00:00:03", "82->172.30.0.3:80 until 00:00:02"},
		{"80->172.30.0.2:80", "81->172.30.0.2:80 until 00:00:03"},
		{"80->172.30.0.2:80"},
	} {
		b.clock.now = time.Date(2027, 1, 1, 0, 0, at+1, 0, time.UTC)
		require.Equal(t, want, publishedBy(e))
		requireConsistent(t, b, e)
	}
}

// To publish a lease again renews it, in one transaction, and nothing else of it may
// differ.
func TestRenewal(t *testing.T) {
	e, b := openFake(t)
	lease := leaseFor(t, b, "80-82->172.30.0.2:80-82", time.Minute)
	lease.Name = "web"
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, lease)
	require.NoError(t, err)
	next, stop := iter.Pull(e.Events(t.Context()))
	defer stop()
	updates := 0
	b.kernel.Hook(func(op string) error {
		if op == "Update" {
			updates++
		}
		return nil
	})
	b.flows.flows = append(b.flows.flows, flow(nat.UDP, local4+":80", "172.30.0.2:80"))

	b.clock.advance(30 * time.Second)
	longer := leaseFor(t, b, "80-82->172.30.0.2:80-82", time.Hour)
	longer.Name = "web"
	done, err := e.Publish(t.Context(), nat.PublishOptions{}, longer, nattest.Mapping(t, "90->172.30.0.2:90"))
	require.NoError(t, err)
	require.Equal(t, []nat.Mapping{longer, nattest.Mapping(t, "90->172.30.0.2:90")}, done)
	require.Equal(t, 4, updates, "the range is prepared, changed, settled and cleaned")
	event, _ := next()
	require.Equal(t, nat.EventPublished, event.Kind)
	require.Equal(t, 4, event.Ports())
	require.Equal(t, []string{"80-82->172.30.0.2:80-82 web until 01:00:30", "90->172.30.0.2:90"}, publishedBy(e))
	require.Contains(t, b.kernel.Dump(), "timeout 1h ")
	requireConsistent(t, b, e)

	// Anything else is a conflict still, also with a mapping that does not end.
	for _, other := range []func(*nat.Mapping){
		func(m *nat.Mapping) { m.Name = "" },
		func(m *nat.Mapping) { m.NoProxy = true },
		func(m *nat.Mapping) { m.Backend = netip.MustParseAddrPort("172.30.0.2:81") },
		func(m *nat.Mapping) { m.Frontend = netip.AddrPortFrom(any4(), m.Frontend.Port()) },
		func(m *nat.Mapping) { *m = leaseFor(t, b, "90->172.30.0.2:90", time.Hour) },
	} {
		m := longer
		other(&m)
		before := b.kernel.Dump()
		_, err := e.Publish(t.Context(), nat.PublishOptions{}, m)
		require.ErrorIs(t, err, nat.ErrConflict, "%s", m)
		require.Equal(t, before, b.kernel.Dump())
	}

	// The kernel has ended it, and the engine's clock is behind: it is a new one.
	b.edit(t, func(table *nfttest.Table) {
		table.Elements = slices.DeleteFunc(table.Elements, func(el nft.Element) bool { return el.Timeout != 0 })
	})
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, longer)
	require.NoError(t, err)
	requireConsistent(t, b, e)

	// Without an end it stays.
	forever := longer
	forever.Expires = time.Time{}
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, forever)
	require.NoError(t, err)
	b.clock.advance(24 * time.Hour)
	require.Equal(t, []string{"80-82->172.30.0.2:80-82 web", "90->172.30.0.2:90"}, publishedBy(e))
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, longer)
	require.ErrorIs(t, err, nat.ErrInvalid, "its time is over")
	requireConsistent(t, b, e)
}

// Leases that are renewed over and over do not pile up.
func TestRenewedLeases(t *testing.T) {
	e, b := openFake(t)
	for i := range 5000 {
		_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, leaseFor(t, b, fmt.Sprintf("%d->172.30.0.2:80", 80+i%10), time.Hour))
		require.NoError(t, err)
		b.clock.advance(time.Second)
	}
	require.Len(t, must(e.Mappings(t.Context())), 10)
	b.clock.advance(time.Hour - 5*time.Second)
	require.Len(t, must(e.Mappings(t.Context())), 4)
	b.clock.advance(time.Hour)
	require.Empty(t, must(e.Mappings(t.Context())))
	requireConsistent(t, b, e)
}

// A mapping that has ended by the engine's clock and not yet by the kernel's is in
// the kernel still: it is in the way, and named, until it has gone.
func TestExpiryKernelLate(t *testing.T) {
	e, b := openFake(t)
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, leaseFor(t, b, "80->172.30.0.2:80", time.Second))
	require.NoError(t, err)
	b.clock.advance(time.Second)
	b.kernel.Advance(-2 * time.Millisecond)
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "80->172.30.0.3:80"))
	var conflict *nat.ConflictError
	require.ErrorAs(t, err, &conflict)
	b.clock.advance(2 * time.Millisecond)
	publish(t, e, "80->172.30.0.3:80")
	requireConsistent(t, b, e)
}

// And the other way round: what the kernel has ended already is no more.
func TestExpiryKernelEarly(t *testing.T) {
	e, b := openFake(t)
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, leaseFor(t, b, "80->172.30.0.2:80", time.Second), nattest.Mapping(t, "81->172.30.0.2:80"))
	require.NoError(t, err)
	b.clock.advance(time.Second - time.Millisecond)
	b.kernel.Advance(2 * time.Millisecond)
	_, err = e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "81->172.30.0.2:80"), nattest.Mapping(t, "80->172.30.0.2:80")}})
	require.ErrorIs(t, err, nat.ErrNotFound)
	require.Equal(t, []string{"81->172.30.0.2:80"}, publishedBy(e))
	requireConsistent(t, b, e)
}
