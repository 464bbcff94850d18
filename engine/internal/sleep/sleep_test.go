// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package sleep

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFor(t *testing.T) {
	begin := time.Now()
	require.NoError(t, For(t.Context(), 2*time.Millisecond))
	require.GreaterOrEqual(t, time.Since(begin), 2*time.Millisecond)
	require.NoError(t, For(t.Context(), 0))

	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(time.Millisecond, cancel)
	require.ErrorIs(t, For(ctx, time.Hour), context.Canceled)
	require.ErrorIs(t, For(ctx, 0), context.Canceled, "also if there is nothing to wait for")
}
