// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func leaseFor(tb testing.TB, b *testbed, text string, d time.Duration) Mapping {
	tb.Helper()
	m := mapped(tb, text)
	m.Expires = b.clock.Now().Add(d)
	return m
}

func TestExpiry(t *testing.T) {
	e, b := openFake(t)
	_, err := e.Publish(leaseFor(t, b, "80-81->172.30.0.2:80-81", time.Second),
		leaseFor(t, b, local4+":90->10.9.0.2:90", 2*time.Second), mapped(t, "99->172.30.0.2:99"))
	require.NoError(t, err)
	b.clock.advance(time.Second - time.Millisecond)
	require.Len(t, slices.Collect(e.Mappings()), 4)
	_, err = e.Publish(mapped(t, "80->172.30.0.3:80"))
	require.ErrorIs(t, err, ErrConflict, "not yet")

	b.clock.advance(time.Millisecond)
	require.Equal(t, []string{"99->172.30.0.2:99", "192.0.2.1:90->10.9.0.2:90 until 00:00:02"}, publishedBy(e))
	require.Equal(t, []string{"99->172.30.0.2:99", "192.0.2.1:90->10.9.0.2:90 until 00:00:02"}, publishedBy(b.open(t)))
	_, err = e.Unpublish(mapped(t, "80->172.30.0.2:80"))
	require.ErrorIs(t, err, ErrNotFound)
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
	_, err := e.Publish(leaseFor(t, b, "80->172.30.0.2:80", time.Second), leaseFor(t, b, "81->172.30.0.2:80", time.Second),
		leaseFor(t, b, "82->172.30.0.2:80", time.Second), leaseFor(t, b, "83->172.30.0.2:80", time.Second))
	require.NoError(t, err)
	_, err = e.Unpublish(mapped(t, "80-81->172.30.0.2:80-81"))
	require.NoError(t, err)
	publish(t, e, "80->172.30.0.2:80")
	_, err = e.Publish(leaseFor(t, b, "81->172.30.0.2:80", 3*time.Second))
	require.NoError(t, err)
	_, err = e.Retarget(leaseFor(t, b, "82->172.30.0.3:80", 2*time.Second))
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

// Leases that are renewed over and over do not pile up.
func TestRenewedLeases(t *testing.T) {
	e, b := openFake(t)
	for i := range 5000 {
		_, err := e.Retarget(leaseFor(t, b, fmt.Sprintf("%d->172.30.0.2:80", 80+i%10), time.Hour))
		require.NoError(t, err)
		b.clock.advance(time.Second)
	}
	require.Len(t, slices.Collect(e.Mappings()), 10)
	require.LessOrEqual(t, len(e.expiries), minExpiries)
	b.clock.advance(time.Hour - 5*time.Second)
	require.Len(t, slices.Collect(e.Mappings()), 4)
	b.clock.advance(time.Hour)
	require.Empty(t, slices.Collect(e.Mappings()))
	requireConsistent(t, b, e)
}

// A mapping that has ended by the engine's clock and not yet by the kernel's is in
// the kernel still: it is in the way, and named, until it has gone.
func TestExpiryKernelLate(t *testing.T) {
	e, b := openFake(t)
	_, err := e.Publish(leaseFor(t, b, "80->172.30.0.2:80", time.Second))
	require.NoError(t, err)
	b.clock.advance(time.Second)
	b.kernel.Advance(-2 * time.Millisecond)
	_, err = e.Publish(mapped(t, "80->172.30.0.3:80"))
	var conflict *ConflictError
	require.ErrorAs(t, err, &conflict)
	b.clock.advance(2 * time.Millisecond)
	publish(t, e, "80->172.30.0.3:80")
	requireConsistent(t, b, e)
}

// And the other way round: what the kernel has ended already is no more.
func TestExpiryKernelEarly(t *testing.T) {
	e, b := openFake(t)
	_, err := e.Publish(leaseFor(t, b, "80->172.30.0.2:80", time.Second), mapped(t, "81->172.30.0.2:80"))
	require.NoError(t, err)
	b.clock.advance(time.Second - time.Millisecond)
	b.kernel.Advance(2 * time.Millisecond)
	_, err = e.Unpublish(mapped(t, "81->172.30.0.2:80"), mapped(t, "80->172.30.0.2:80"))
	require.ErrorIs(t, err, ErrNotFound)
	require.Equal(t, []string{"81->172.30.0.2:80"}, publishedBy(e))
	requireConsistent(t, b, e)
}
