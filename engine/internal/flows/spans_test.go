// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// Of overlapping spans the last one has a port, as in a map.
func TestSpansAgainstMap(t *testing.T) {
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	for range 300 {
		s, want := spans[int]{}, map[netip.AddrPort][2]int{}
		for value := range r.IntN(6) {
			host := []string{"", "192.0.2.1:"}[r.IntN(2)]
			first := []int{1, 65500}[r.IntN(2)] + r.IntN(20)
			p := portset.Of(nattest.Mapping(t, fmt.Sprintf("%s%d->10.0.0.1:%d", host, first, first)))
			p.More = uint16(min(r.IntN(20), 65535-first))
			s.add(&p, value)
			for single := range p.Singles {
				want[single.AddrPort] = [2]int{value, int(single.First()) - first}
			}
		}
		s.index()
		for _, a := range []netip.Addr{{}, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")} {
			for _, first := range []int{0, 65490} {
				for port := first; port < first+46; port++ {
					at := netip.AddrPortFrom(a, uint16(port))
					value, by, ok := s.get(at)
					values, wantOK := want[at]
					require.Equal(t, wantOK, ok, at)
					got := [2]int{value, int(by)}
					require.Equal(t, values, got, at)
				}
			}
		}
	}
}

// A change of ranges ends the flows that the changes of their ports would.
func TestRangesEndTheFlowsOfTheirPorts(t *testing.T) {
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 2))
	random := func() portset.Port {
		host := []string{"", "192.0.2.1:", "192.0.2.2:", "0.0.0.0:"}[r.IntN(4)]
		first := 8000 + r.IntN(30)
		p := portset.Of(nattest.Mapping(t, fmt.Sprintf("%s%d->172.30.0.%d:%d/udp", host, first, 2+r.IntN(2), first)))
		p.More, p.Masquerade = uint16(r.IntN(10)), r.IntN(2) == 0
		if r.IntN(3) == 0 {
			p.From = nattest.Sources(t, "198.51.100.0/24")
		}
		return p
	}
	expand := func(ps []portset.Port) (all []portset.Port) {
		for _, p := range ps {
			all = slices.AppendSeq(all, p.Singles)
		}
		return all
	}
	for range 300 {
		before, after := portset.NewSet(), portset.NewSet()
		for range r.IntN(4) {
			p := random()
			before.Put(p)
			if r.IntN(2) == 0 {
				after.Put(p)
			}
		}
		for range r.IntN(3) {
			after.Put(random())
		}
		c := portset.Diff(&before, &after)
		singles := portset.Change{Removed: expand(c.Removed), Added: expand(c.Added)}
		for _, m := range c.Moved {
			from, to := expand([]portset.Port{m.Before()}), expand([]portset.Port{m.After()})
			for i := range from {
				singles.Moved = append(singles.Moved, portset.Move{Frontend: from[i].Frontend, From: from[i].Target, To: to[i].Target})
			}
		}
		var all []conntrack.Flow
		for range 200 {
			port := uint16(7998 + r.IntN(44))
			client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(100 + r.IntN(2)), 7}), 4000)
			f := conntrack.Flow{Proto: uint8(nat.UDP), Src: client, ReplyDst: client}
			f.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + r.IntN(3))}), port)
			f.ReplySrc = netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 30, 0, byte(2 + r.IntN(2))}), port+uint16(r.IntN(5)/4))
			if r.IntN(2) == 0 {
				f.ReplyDst = netip.MustParseAddrPort("192.0.2.1:40000")
			}
			all = append(all, f)
		}
		left := func(c *portset.Change) ([]conntrack.Flow, []conntrack.Filter) {
			table := fakeTable{flows: slices.Clone(all)}
			d := Deleter{&table, isHere}
			require.NoError(t, d.Stale(nat.UDP, c, &after))
			require.NoError(t, d.Options(nat.UDP, c, &after, false))
			return table.flows, table.filters
		}
		want, wantFilters := left(&singles)
		got, filters := left(&c)
		require.Equal(t, want, got)
		require.Equal(t, wantFilters, filters)
	}
}
