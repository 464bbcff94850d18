// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package addrmap

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// It does what a Go map does, for addresses of all kinds.
func TestMap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var have Map[int]
	want := map[netip.Addr]int{}
	some := []netip.Addr{{}, netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.MustParseAddr("::ffff:0.0.0.0"), netip.MustParseAddr("fe80::1%a")}
	for i := range 32 {
		some = append(some, netip.AddrFrom4([4]byte{10, 0, byte(i), 1}), netip.AddrFrom16([16]byte{0xfd, 15: byte(i)}))
	}
	for i := range 5000 {
		a := some[r.IntN(len(some))]
		if r.IntN(3) == 0 {
			have.Delete(a)
			delete(want, a)
		} else {
			have.Set(a, i)
			want[a] = i
		}
		n, ok := have.Get(a)
		before, was := want[a]
		require.Equal(t, was, ok)
		require.Equal(t, before, n)
		require.Equal(t, before, have.Of(a))
		require.Equal(t, len(want), have.Len())
	}
	require.Equal(t, want, maps.Collect(have.All))
	require.ElementsMatch(t, slices.Collect(maps.Keys(want)), have.Addrs())
	require.Nil(t, (Map[int]{}).Addrs())
	first := 0
	for range have.Keys {
		first++
		break
	}
	require.Equal(t, 1, first)
}

// What is visited may be deleted meanwhile, and so may the others, which are not visited then.
func TestDeleteWhileVisiting(t *testing.T) {
	var m Map[int]
	for i := range 300 {
		m.Set(netip.AddrFrom4([4]byte{10, 0, byte(i / 200), byte(i)}), i)
		m.Set(netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)}), i)
	}
	visited := 0
	for a, v := range m.All {
		have, ok := m.Get(a)
		require.True(t, ok)
		require.Equal(t, v, have)
		m.Delete(a)
		visited++
		if a.Is4() { // its neighbour
			m.Delete(a.Next())
		}
	}
	require.Zero(t, m.Len())
	require.Less(t, visited, 600)
	require.Greater(t, visited, 400)
}
