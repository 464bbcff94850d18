// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// A time is taken in any zone, with or without a monotonic reading, and told in UTC. It is the
// same time for every verb.
func TestExpiresInAnyZone(t *testing.T) {
	e, b := openFake(t)
	want := leaseFor(t, b, "80->172.30.0.2:80", time.Hour)
	elsewhere := want
	elsewhere.Expires = want.Expires.In(time.FixedZone("elsewhere", -9*3600))
	require.NoError(t, elsewhere.Validate())
	done, err := e.Publish(t.Context(), nat.PublishOptions{}, elsewhere)
	require.NoError(t, err)
	require.Equal(t, []nat.Mapping{want}, done)
	require.Equal(t, []nat.Mapping{want}, must(e.Mappings(t.Context())))
	for _, m := range []nat.Mapping{want, elsewhere} {
		changes, err := e.Apply(t.Context(), m)
		require.NoError(t, err)
		require.Empty(t, changes)
		state, err := e.State(t.Context())
		require.NoError(t, err)
		state.Mappings = []nat.Mapping{m}
		changes, err = e.ApplyState(t.Context(), state)
		require.NoError(t, err)
		require.Empty(t, changes)
	}
	elsewhere.Expires = elsewhere.Expires.Add(time.Hour)
	want.Expires = want.Expires.Add(time.Hour)
	done, err = e.Publish(t.Context(), nat.PublishOptions{Replace: true}, elsewhere)
	require.NoError(t, err)
	require.Equal(t, []nat.Mapping{want}, done)
	requireConsistent(t, b, e)

	never := nattest.Mapping(t, "81->172.30.0.2:81")
	never.Expires = time.Time{}.In(time.FixedZone("elsewhere", 3600))
	done, err = e.Publish(t.Context(), nat.PublishOptions{}, never)
	require.NoError(t, err)
	require.Equal(t, []nat.Mapping{nattest.Mapping(t, "81->172.30.0.2:81")}, done)

	// Year 10000 in UTC, and 9999 where it is said.
	late := nattest.Mapping(t, "82->172.30.0.2:82")
	late.Expires = time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("west", -2*3600))
	require.ErrorIs(t, late.Validate(), nat.ErrInvalid)
}
