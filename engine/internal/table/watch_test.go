// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A program that undoes every repair at once is answered after longer and longer delays,
// and without a delay once a repair has lasted.
func TestWatcherBacksOff(t *testing.T) {
	w := &Watcher{}
	now := time.Now()
	var delays []time.Duration
	for range 14 {
		w.Schedule(now)
		require.NotNil(t, w.due)
		delays = append(delays, w.delay)
		w.due, w.repaired = nil, now
	}
	require.Equal(t, []time.Duration{0, firstDelay, 2 * firstDelay, 4 * firstDelay}, delays[:4])
	require.Equal(t, maxDelay, delays[13])
	w.took = time.Second
	w.Schedule(now.Add(time.Second))
	require.Equal(t, maxDelay, w.delay, "most of the time would go into repairs")
	w.due = nil
	w.Schedule(now.Add(time.Second + 2*stableAfter))
	require.Zero(t, w.delay)
	due := w.due
	w.Schedule(now)
	require.Equal(t, due, w.due, "a check is scheduled already")
}
