// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func TestLong(t *testing.T) {
	t.Setenv("NFTNAT_TEST_LONG", "1")
	require.True(t, labtest.Long())
	labtest.LongOnly(t, "nothing")
	require.False(t, labtest.LeaveOut(t, "nothing"))
	require.Equal(t, 300, labtest.Rounds(t, "rounds", 30, 300))
	require.Equal(t, []int{1, 2, 3, 4}, labtest.Some(t, "numbers", 3, []int{1, 2, 3, 4}))
}

func TestShort(t *testing.T) {
	t.Setenv("NFTNAT_TEST_LONG", "")
	t.Setenv("NFTNAT_TEST_ROUNDS", "7")
	require.False(t, labtest.Long())
	text, how := record(t, func(tb testing.TB) {
		tb.Helper()
		require.True(t, labtest.LeaveOut(tb, "a part"))
		require.Equal(t, 30, labtest.Rounds(tb, "rounds", 30, 300))
		require.Equal(t, 7, labtest.RoundsOf(tb, "NFTNAT_TEST_ROUNDS", "rounds", 30, 300))
		require.Equal(t, []int{1, 4}, labtest.Some(tb, "numbers", 3, []int{1, 2, 3, 4}))
		labtest.LongOnly(tb, "all")
		tb.Error("was not skipped")
	})
	require.Equal(t, skipped, how)
	require.Equal(t, "left out: a part\nleft out: 270 of 300 rounds\nleft out: 2 of 4 numbers\nleft out: all\n", text)
}
