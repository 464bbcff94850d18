// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package space

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// A block that is given back comes again only after all others that were free then, but for those of a window.
func TestRingReuse(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		const size = 256
		ring := newRing(size)
		var held []uint64
		freedAt := map[uint64]int{} // how many blocks had been acquired
		freeThen := map[uint64]int{}
		acquired := 0
		for rev := range int64(2000) {
			if len(held) < 1+r.IntN(200) {
				next := ring.next(nil)
				if len(next) != min(window, size-len(held)) {
					t.Fatalf("%d of %d are free, and %d next", size-len(held), size, len(next))
				}
				i := next[r.IntN(len(next))]
				if slices.Contains(held, i) {
					t.Fatalf("block %d is held", i)
				}
				if at, ok := freedAt[i]; ok && acquired-at < freeThen[i]-window {
					t.Fatalf("block %d came again after %d others; %d were free", i, acquired-at, freeThen[i])
				}
				ring.blocks[i] = block{host: "h", modified: rev}
				held = append(held, i)
				acquired++
				continue
			}
			n := r.IntN(len(held))
			i := held[n]
			held = append(held[:n], held[n+1:]...)
			freedAt[i], freeThen[i] = acquired, size-len(held)-1
			ring.blocks[i] = block{modified: rev}
		}
	}
}

// Each block can be had, and no more than there are.
func TestRingFull(t *testing.T) {
	for _, size := range []uint64{2, 3, 31, 32, 33, 100} {
		ring := newRing(size)
		for n := range size {
			next := ring.next(nil)
			require.Len(t, next, int(min(window, size-n)))
			ring.blocks[next[len(next)-1]] = block{host: "h"}
		}
		require.Empty(t, ring.next(nil))
		require.Equal(t, map[string]int{"h": int(size)}, ring.held())
		ring.blocks[1] = block{}
		require.Equal(t, []uint64{1}, ring.next(nil))
		require.Empty(t, ring.next(map[uint64]bool{1: true}))
	}
}
