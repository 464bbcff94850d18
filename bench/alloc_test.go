// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What is compared does the same.
func TestPools(t *testing.T) {
	for _, kind := range poolKinds() {
		t.Run(kind.name, func(t *testing.T) {
			p, err := kind.make()
			require.NoError(t, err)
			require.True(t, p.reserve(address(1)))
			require.False(t, p.reserve(address(1)))
			for _, want := range []string{"10.0.0.1", "10.0.0.3", "10.0.0.4"} {
				a, ok := p.next()
				require.True(t, ok)
				require.Equal(t, want, a.String())
			}
			require.True(t, p.release(address(0)))
			require.False(t, p.release(address(0)))
			a, ok := p.next()
			require.True(t, ok)
			require.Equal(t, "10.0.0.5", a.String(), "what was released rests")
			require.True(t, p.reserve(address(slash8Size-1)))
			require.Equal(t, "10.255.255.254", address(slash8Size-1).String())
		})
	}
}

func TestPoolsWrapRound(t *testing.T) {
	bitmap, set := newBitmapPool(), newMapPool()
	bitmap.cursor, set.cursor = slash8Size-1, slash8Size-1
	for _, p := range []pool{bitmap, set} {
		for _, want := range []string{"10.255.255.254", "10.0.0.1"} {
			a, ok := p.next()
			require.True(t, ok)
			require.Equal(t, want, a.String())
		}
	}
	for i := range bitmap.words {
		bitmap.words[i] = ^uint64(0)
	}
	_, ok := bitmap.next()
	require.False(t, ok)
	require.True(t, bitmap.release(address(0))) // before the cursor, in its word
	a, ok := bitmap.next()
	require.True(t, ok)
	require.Equal(t, address(0), a)
}
