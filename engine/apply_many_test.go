// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// Mappings that are made one by one become what a list of them becomes, and are refused for the
// same reasons.
func TestApplyMany(t *testing.T) {
	named := nattest.Mapping(t, "[::]:70->[fd00:30::2]:70")
	named.Name = "web"
	over := nattest.Mapping(t, "71->172.30.0.2:71")
	over.Expires = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	all := append(mapAll(t, "53->172.30.0.2:53", "60-69->172.30.0.2:60-69", "80-89->172.30.0.3:90-99", "5000-5999->172.30.0.2:5000-5999/udp"), named, over)
	for name, c := range map[string]struct {
		before, after []nat.Mapping
	}{
		"nothing is published":   {nil, all},
		"others are published":   {mapAll(t, "53->172.30.0.9:53", "1->172.30.0.2:1"), all},
		"the same":               {all[:len(all)-1], all},
		"a backend is this host": {nil, append(mapAll(t, "80->"+local4+":80"), all[1])},
		"masquerade is not the same": {nil, func() []nat.Mapping {
			ms := mapAll(t, "0.0.0.0:80->172.30.0.2:80", "0.0.0.0:81->172.30.0.2:80")
			ms[1].Masquerade = true
			return ms
		}()},
	} {
		list, one := testState(t, c.before), testState(t, c.before)
		want, wantErr := list.e.ApplyState(t.Context(), nat.State{Mappings: c.after})
		have, err := one.e.ApplyMany(t.Context(), nat.State{}, nat.Mappings{Len: len(c.after), All: slices.Values(c.after)})
		require.Equal(t, wantErr, err, name)
		require.Equal(t, linesOf(want), linesOf(have), name)
		require.Equal(t, elementsIn(list.b.kernel.Dump()), elementsIn(one.b.kernel.Dump()), name)
		requireConsistent(t, one.b, one.e)
	}
}

type applied struct {
	e *Engine
	b *testbed
}

func testState(t *testing.T, ms []nat.Mapping) applied {
	t.Helper()
	e, b := openFake(t)
	_, err := e.Apply(t.Context(), ms...)
	require.NoError(t, err)
	return applied{e, b}
}
