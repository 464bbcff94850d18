// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// A set does what a map does; a clone changes without it, and what differs leads from the
// one to the other.
func TestSet(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 6))
		s, m := NewSet(), map[Frontend]Target{}
		before := s.Clone()
		for range 200 {
			p := somePort(r)
			if r.IntN(2) == 0 {
				s.Put(p)
				m[p.Frontend] = p.Target
			} else {
				s.Delete(p.Frontend)
				delete(m, p.Frontend)
			}
			got, ok := s.Get(p.Frontend)
			want, known := m[p.Frontend]
			require.Equal(t, known, ok)
			require.Equal(t, want, got)
			require.Equal(t, len(m), s.Len())
			if r.IntN(20) != 0 {
				continue
			}
			all := map[Frontend]Target{}
			for p := range s.All {
				all[p.Frontend] = p.Target
			}
			require.Equal(t, m, all)
			requireDiff(t, &before, &s)
			before = s.Clone()
		}
	}
}

// requireDiff checks that the difference of two sets leads from the one to the other.
func requireDiff(t *testing.T, before, after *Set) {
	t.Helper()
	c, s := Diff(before, after), before.Clone()
	for p := range c.Before {
		have, ok := s.Get(p.Frontend)
		require.True(t, ok)
		require.Equal(t, p.Target, have)
		s.DeleteAll(p)
	}
	for p := range c.After {
		s.Put(p)
	}
	require.Equal(t, after.Len(), s.Len())
	for p := range after.All {
		have, ok := s.Get(p.Frontend)
		require.True(t, ok)
		require.True(t, have.SameAs(p.Target))
	}
	require.Len(t, slices.Collect(c.Before), c.LenBefore())
	require.Len(t, slices.Collect(c.After), c.LenAfter())
	require.Equal(t, c.LenBefore()+c.LenAfter() == 0, c.Empty())
	require.Len(t, c.Lines(), len(Collapse(c.Removed))+len(Collapse(c.Added))+len(c.Moved))
	require.Equal(t, c.Lines(), slices.AppendSeq([]nat.Change{}, c.EachLine))
	less, more := c.Count()
	requireCounts(t, Count(c.Before), less)
	requireCounts(t, Count(c.After), more)
	counts := Count(before.All)
	counts.AddAll(less, -1)
	counts.AddAll(more, 1)
	requireCounts(t, Count(after.All), counts)
}

// requireCounts compares what two have; how it is stored depends on the order in which it came.
func requireCounts(t *testing.T, want, have Counts) {
	t.Helper()
	require.Equal(t, want.Len(), have.Len())
	require.Equal(t, maps.Collect(want.All), maps.Collect(have.All))
}

// A page is left by a yield that has enough, and All may change the set.
func TestAllStops(t *testing.T) {
	s := NewSet()
	for i := range 100 {
		s.Put(Port{Frontend: Frontend{nat.UDP, netip.AddrPortFrom(netip.Addr{}, uint16(1+i))}, Target: Target{Backend: netip.MustParseAddrPort("10.0.0.1:1")}})
	}
	n := 0
	for p := range s.All {
		s.Delete(p.Frontend)
		if n++; n == 70 {
			break
		}
	}
	require.Equal(t, 30, s.Len())
}

// somePort returns one of few ports, of which many are consecutive.
func somePort(r *rand.Rand) Port {
	number := uint16(80 + r.IntN(12))
	hosts := []netip.Addr{{}, netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.MustParseAddr("192.0.2.1"), netip.IPv6Loopback()}
	backends := []netip.Addr{netip.MustParseAddr("172.30.0.2"), netip.MustParseAddr("fd00:30::2")}
	p := Port{
		Frontend: Frontend{[]nat.Proto{nat.TCP, nat.UDP}[r.IntN(2)], netip.AddrPortFrom(hosts[r.IntN(len(hosts))], number)},
		Target:   Target{Backend: netip.AddrPortFrom(backends[r.IntN(2)], number), NoProxy: r.IntN(8) == 0},
	}
	if r.IntN(8) == 0 {
		p.Name = "web"
	}
	if r.IntN(4) == 0 {
		p.Expires = 1_800_000_000_000 + int64(r.IntN(2))*60_000
	}
	return p
}

// Ports collapse to what their mappings collapse to, and stay as they are.
func TestCollapse(t *testing.T) {
	m := nattest.Mapping(t, "80-89->172.30.0.2:80-89")
	ports := slices.Collect(Expand(&m))
	slices.Reverse(ports)
	before := slices.Clone(ports)
	require.Equal(t, []nat.Mapping{m}, Collapse(ports))
	require.Equal(t, before, ports)
	require.Nil(t, Collapse(nil))
}
