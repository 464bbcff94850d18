// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package order

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

type large struct {
	key, at int
	_       [15]int
}

func byKey(a, b large) int { return a.key - b.key }

func random(n int) []large {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	s := make([]large, n)
	for i := range s {
		s[i] = large{key: r.IntN(n/2 + 1), at: i}
	}
	return s
}

func TestSort(t *testing.T) {
	for n := range 300 {
		s := random(n)
		want := slices.Clone(s)
		slices.SortStableFunc(want, byKey)
		require.Equal(t, want, append([]large{}, Sorted(slices.Values(s), byKey)...))
		Sort(s, byKey)
		require.Equal(t, want, s)
	}
}

func BenchmarkSort(b *testing.B) {
	for _, bench := range []struct {
		name string
		sort func([]large, func(a, b large) int)
	}{{"order", Sort[large]}, {"slices", slices.SortFunc[[]large]}, {"slices stable", slices.SortStableFunc[[]large]}} {
		b.Run(bench.name, func(b *testing.B) {
			s := random(60000)
			work := make([]large, len(s))
			for b.Loop() {
				copy(work, s)
				bench.sort(work, byKey)
			}
		})
	}
}
