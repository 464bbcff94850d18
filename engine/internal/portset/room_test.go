// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

func fewRanges() limits { return limits{cut: 5, holes: 8, ranges: 4, singles: 12} }

func rangeAt(host string, first, more uint16) Port {
	return Port{
		Frontend: Frontend{nat.TCP, netip.AddrPortFrom(netip.MustParseAddr(host), first)}, More: more,
		Target: Target{Backend: netip.AddrPortFrom(netip.MustParseAddr("172.30.0.2"), first)},
	}
}

// change makes a change of the set, if there is room.
func (s *Set) publish(t *testing.T, removed []Port, published ...Port) error {
	t.Helper()
	c := Change{Removed: removed}
	for _, p := range published {
		for part, have := range s.Split(p) {
			if have == nil {
				c.Added = append(c.Added, part)
			} else {
				c.Moved = append(c.Moved, Move{part.Frontend, *have, part.Target, part.More})
			}
		}
	}
	before := s.LenEntries()
	p, err := s.plan(&c, fewRanges())
	if err != nil {
		require.Equal(t, before, s.LenEntries())
		return err
	}
	s.Do(p)
	for _, gone := range removed {
		require.Empty(t, s.in(gone))
	}
	for _, p := range published {
		for part, have := range s.Split(p) {
			require.NotNil(t, have)
			require.Equal(t, part.Target, *have)
		}
	}
	return nil
}

// kinds counts the entries of a set.
func (s *Set) kinds() (n [3]int) {
	for e := range s.Entries {
		n[e.Kind]++
	}
	return n
}

// Ranges that can be single ports leave room for those of the same change that cannot.
func TestWideRangesHaveRoom(t *testing.T) {
	var c Change
	for i := range uint16(5) {
		more := uint16(1)
		if i == 4 {
			more = 99
		}
		at := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), 1000+100*i)
		c.Added = append(c.Added, Port{
			Frontend: Frontend{nat.TCP, at}, Target: Target{Backend: netip.AddrPortFrom(netip.MustParseAddr("172.30.0.2"), at.Port())}, More: more,
		})
	}
	s := NewSet()
	p, err := s.plan(&c, fewRanges())
	require.NoError(t, err)
	s.Do(p)
	require.Equal(t, 3+2+1, s.LenEntries())
	wide, ok := s.Beginning(c.Added[4])
	require.True(t, ok)
	require.Equal(t, c.Added[4], wide)
}

// What a change removes leaves room for what it adds, whichever comes first.
func TestRemovedRangesLeaveRoom(t *testing.T) {
	few, at := fewRanges(), rangeAt
	for _, host := range []string{"192.0.2.1", "192.0.2.5", "192.0.2.9"} { // before, among and after those that go
		s, full := NewSet(), Change{}
		for i := range uint16(4) {
			full.Added = append(full.Added, at("192.0.2.5", 1000+100*i, 9))
		}
		p, err := s.plan(&full, few)
		require.NoError(t, err)
		s.Do(p)
		wide := Change{Added: []Port{at(host, 2000, 99)}}
		_, err = s.plan(&wide, few)
		require.ErrorAs(t, err, new(*nat.RangesError), host)
		wide.Removed = []Port{full.Added[3]}
		p, err = s.plan(&wide, few)
		require.NoError(t, err, host)
		s.Do(p)
		wide.Removed, wide.Added = full.Added[:1], append(wide.Added, at(host, 3000, 99))
		wide.Added = wide.Added[1:]
		p, err = s.plan(&wide, few)
		require.NoError(t, err, host)
		s.Do(p)
		wide = Change{Added: []Port{at(host, 4000, 99)}}
		_, err = s.plan(&wide, few)
		require.ErrorAs(t, err, new(*nat.RangesError), host)
	}
}

// One range that takes the place of several, and of what is between them, is one.
func TestOneRangeInPlaceOfMany(t *testing.T) {
	for _, single := range []bool{false, true} {
		s := NewSet()
		for i := range uint16(4) {
			require.NoError(t, s.publish(t, nil, rangeAt("192.0.2.1", 1000+100*i, 49)))
		}
		if single { // between two of them
			require.NoError(t, s.publish(t, nil, rangeAt("192.0.2.1", 1070, 0)))
		}
		all := rangeAt("192.0.2.1", 990, 400)
		all.Backend = netip.AddrPortFrom(netip.MustParseAddr("172.30.0.3"), 990)
		require.NoError(t, s.publish(t, nil, all))
		require.Equal(t, [3]int{EntryRange: 1}, s.kinds())
		// A part of the first stays.
		some := rangeAt("192.0.2.1", 1000, 1000)
		require.NoError(t, s.publish(t, nil, some))
		require.Equal(t, [3]int{EntryRange: 2}, s.kinds())
	}
}

// A range around others that lead on the same way is one with them, if there is no room for its parts.
func TestRangeJoinsOthers(t *testing.T) {
	s := NewSet()
	for i := range uint16(4) {
		require.NoError(t, s.publish(t, nil, rangeAt("192.0.2.1", 1000+100*i, 49)))
	}
	beside := rangeAt("192.0.2.1", 1350, 0)
	beside.Backend = netip.MustParseAddrPort("172.30.0.3:1350")
	require.NoError(t, s.publish(t, nil, beside)) // it is in the way
	require.NoError(t, s.publish(t, nil, rangeAt("192.0.2.1", 990, 359)))
	require.Equal(t, [3]int{EntryRange: 1, EntrySingle: 1}, s.kinds())
	require.Equal(t, 361, s.Len())
	// Where there is, it is not: to remove it again would cost holes.
	require.NoError(t, s.publish(t, nil, rangeAt("192.0.2.1", 900, 89)))
	require.Equal(t, [3]int{EntryRange: 2, EntrySingle: 1}, s.kinds())
}

// Where there is no room for what is left of a range, ports are taken out of it one by one. A range
// that leads elsewhere in the middle of it is refused, and is the one that the error names.
func TestCutWithoutRoom(t *testing.T) {
	s := NewSet()
	for i := range uint16(4) {
		require.NoError(t, s.publish(t, nil, rangeAt("192.0.2.1", 1000+100*i, 99)))
	}
	require.NoError(t, s.publish(t, []Port{rangeAt("192.0.2.1", 1120, 29)}))
	require.Equal(t, [3]int{EntryRange: 4, EntryHole: 30}, s.kinds())
	middle := rangeAt("192.0.2.1", 1330, 39)
	middle.Backend = netip.AddrPortFrom(netip.MustParseAddr("172.30.0.3"), 1330)
	err := s.publish(t, nil, middle)
	require.Equal(t, &nat.RangesError{Want: middle.Mapping(), Most: 4}, err)
	require.Equal(t, [3]int{EntryRange: 4, EntryHole: 30}, s.kinds())
	// What one of them leaves makes room, whichever comes first.
	for _, gone := range []uint16{1000, 1200} {
		c := s.Clone()
		require.NoError(t, c.publish(t, []Port{rangeAt("192.0.2.1", gone, 99), rangeAt("192.0.2.1", 1300, 29)}, middle))
		require.Equal(t, 4, c.kinds()[EntryRange])
	}
	// Narrow ones are single ports then.
	narrow := middle.Part(1330, 1339)
	require.NoError(t, s.publish(t, nil, narrow))
	require.Equal(t, [3]int{EntryRange: 4, EntrySingle: 10, EntryHole: 30}, s.kinds())
}
