// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"math/bits"
	"testing"

	"github.com/stretchr/testify/require"
)

// Searches for runs of every length, against looking at each port.
func TestUnionAgainstBitmap(t *testing.T) {
	r := newRand(t)
	for range 60 {
		var sets [3]portSet
		var u union
		var taken [maxPort + 1]bool
		for i := range sets {
			u.add(&sets[i])
		}
		first := r.IntN(maxPort)
		last := min(maxPort, first+r.IntN(1<<r.IntN(17)))
		for range r.IntN(400) {
			s, port, run := &sets[r.IntN(3)], first+r.IntN(last-first+1), 1<<r.IntN(9)
			if r.IntN(2) == 0 {
				port, run = port/64*64, (run+63)/64*64
			}
			for p := port; p < min(port+run, maxPort+1); p++ {
				s.add(piece{block: p / blockBits, word: uint(p) % blockBits / 64, bits: 1 << (p % 64)}, func(piece) {})
				taken[p] = true
			}
		}
		for range 40 {
			from, n := first+r.IntN(last-first+1), 1+r.IntN(1<<r.IntN(10))
			wantFree, found, run := 0, false, 0
			for p := from; p <= last && !found; p++ {
				if run++; taken[p] {
					run = 0
				}
				wantFree, found = p-n+1, run == n
			}
			got, ok := u.firstFree(from, last, n)
			require.Equal(t, found, ok, "%d free from %d to %d", n, from, last)
			if found {
				require.Equal(t, wantFree, got, "%d free from %d to %d", n, from, last)
			}

			p := from
			for p <= last && !taken[p] {
				p++
			}
			got, ok = u.firstTaken(from, last)
			require.Equal(t, p <= last, ok, "taken from %d to %d", from, last)
			if ok {
				require.Equal(t, p, got, "taken from %d to %d", from, last)
			}
		}
	}
}

// A run ends at the last port, whichever bit of a word that is.
func TestUnionEndsAtLast(t *testing.T) {
	var u union
	u.add(new(portSet))
	for last := range 200 {
		for from := range last + 1 {
			got, ok := u.firstFree(from, last, last-from+1)
			require.True(t, ok)
			require.Equal(t, from, got)
			_, ok = u.firstFree(from, last, last-from+2)
			require.False(t, ok, "%d to %d", from, last)
		}
	}
}

func TestRuns(t *testing.T) {
	r := newRand(t)
	for range 2000 {
		w, n := r.Uint64()|r.Uint64()|r.Uint64(), 1+r.IntN(70)
		var want uint64
		for i := range 64 {
			if bits.TrailingZeros64(^(w >> i)) >= n {
				want |= 1 << i
			}
		}
		require.Equal(t, want, runs(w, n), "%d in %#x", n, w)
	}
	require.EqualValues(t, 1, runs(allOnes, 64))
}
