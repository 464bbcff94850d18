// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package order

import (
	"iter"
	"slices"
)

// Sort is slices.SortStableFunc.
func Sort[E any](s []E, compare func(a, b E) int) {
	positions := sorted(len(s), func(a, b int32) int { return compare(s[a], s[b]) })
	for first := range s {
		// Each position is in one cycle. Its elements move to where the first was.
		to, held := int32(first), s[first]
		for positions[to] != int32(first) {
			from := positions[to]
			s[to], positions[to] = s[from], to
			to = from
		}
		s[to], positions[to] = held, to
	}
}

// Sorted is slices.SortedStableFunc.
func Sorted[E any](all iter.Seq[E], compare func(a, b E) int) []E {
	s := slices.Collect(all)
	Sort(s, compare)
	return s
}

// sorted returns the positions of n elements in their order.
func sorted(n int, compare func(a, b int32) int) []int32 {
	positions := make([]int32, n)
	for i := range positions {
		positions[i] = int32(i)
	}
	slices.SortFunc(positions, func(a, b int32) int {
		if c := compare(a, b); c != 0 {
			return c
		}
		return int(a) - int(b)
	})
	return positions
}
