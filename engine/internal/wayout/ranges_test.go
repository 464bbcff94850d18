// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package wayout

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// byRules returns by which frontend the rules let a packet leave, as they look up the exits.
func byRules(es map[Exit]bool, s Source, link string) (netip.AddrPort, bool) {
	for _, by := range []struct {
		any, ranged bool
		link        string
	}{{true, false, ""}, {false, false, link}, {false, false, ""}, {true, true, ""}, {false, true, link}, {false, true, ""}} {
		for e := range es {
			port := s.Backend.Port()
			if e.Frontend.Addr().IsValid() == by.any || e.Ranged != by.ranged || e.Link != by.link || e.sender() != s.sender() ||
				port < e.Backend.Port() || port > e.Backend.Port()+e.More {
				continue
			}
			if e.Ranged {
				return netip.AddrPortFrom(e.Frontend.Addr(), port), true
			}
			return e.Frontend, true
		}
	}
	return netip.AddrPort{}, false
}

func singly(all *portset.Set) iter.Seq[portset.Port] {
	return func(yield func(portset.Port) bool) {
		for p := range all.All {
			for single := range p.Singles {
				if !yield(single) {
					return
				}
			}
		}
	}
}

func requireSameIndex(t *testing.T, want, got *Index) {
	t.Helper()
	text := func(x *Index) (all []string) {
		for s, of := range x.frontends {
			all = append(all, fmt.Sprintf("%v: %v", s, of))
		}
		for s, of := range x.ranges {
			all = append(all, fmt.Sprintf("%v: %v", s, of))
		}
		slices.Sort(all)
		return all
	}
	require.Equal(t, text(want), text(got))
}

// Packets leave as if the ports of ranges were published one by one; an index that follows
// changes has the same exits as one that is made anew; and no two elements have one key.
func TestRangesLeaveAsTheirPorts(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	random := func() portset.Port {
		hosts := []string{"", "", "192.0.2.1:", "192.0.2.2:", "198.51.100.1:", "203.0.113.1:", "192.0.2.9:", "0.0.0.0:"}
		nets := []string{"172.30.0.2", "172.30.0.3", "172.31.0.2"}
		first := 1 + r.IntN(14)
		back := first
		if r.IntN(3) == 0 {
			back = 1 + r.IntN(14)
		}
		p := ports(t, fmt.Sprintf("%s%d->%s:%d/%s", hosts[r.IntN(len(hosts))], first, nets[r.IntN(len(nets))], back, []string{"tcp", "udp"}[r.IntN(4)/3]))[0]
		p.Expires = r.Int64N(2)
		if back == first && r.IntN(2) == 0 {
			p.More = uint16(r.IntN(8))
		}
		return p
	}
	x, all := New(), portset.NewSet()
	has := map[Exit]bool{}
	follow := func(removed, added []Exit) {
		for _, e := range removed {
			require.True(t, has[e], "%v", e)
			delete(has, e)
		}
		for _, e := range added {
			require.False(t, has[e], "%v", e)
			has[e] = true
		}
	}
	for range 500 {
		after := all.Clone()
		for range 1 + r.IntN(3) {
			if p := random(); r.IntN(2) == 0 {
				after.Put(p)
			} else {
				after.DeleteAll(p)
			}
		}
		c := portset.Diff(&all, &after)
		plan, err := all.Plan(&c)
		require.NoError(t, err)
		after = all.Clone()
		after.Do(plan)
		d := x.Draft(&c, func() iter.Seq[portset.Port] { return after.All }, masqueraded)
		follow(d.Diff(places))
		listed := d.Exits(places)
		d.Commit()
		if r.IntN(4) == 0 {
			require.NoError(t, d.Revert())
			requireSameIndex(t, Of(all.All, masqueraded), x)
			d.Commit()
		}
		all = after
		requireSameIndex(t, Of(all.All, masqueraded), x)
		require.ElementsMatch(t, x.Exits(places), listed)
		require.Len(t, has, len(listed))
		for _, e := range listed {
			require.True(t, has[e], "%v", e)
		}

		one := Of(singly(&all), masqueraded)
		keys := map[string]bool{}
		for e := range has {
			for port := int(e.Backend.Port()); port <= int(e.Backend.Port())+int(e.More); port++ {
				key := fmt.Sprint(e.sender(), port, e.Link, e.Frontend.Addr().IsValid(), e.Ranged)
				require.False(t, keys[key], key)
				keys[key] = true
			}
		}
		for port := range uint16(24) {
			s := Source{[]nat.Proto{nat.TCP, nat.UDP}[r.IntN(2)], netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 30, 0, byte(2 + r.IntN(2))}), port)}
			for _, link := range []string{"lan0", "wan0", "eth9"} {
				want, known := map[Exit]bool{}, map[Exit]bool{}
				for _, e := range exits(nil, s, x.of(s), places) {
					known[e] = true
				}
				for _, e := range exits(nil, s, one.of(s), places) {
					want[e] = true
				}
				by, ok := byRules(has, s, link)
				knownBy, knownOK := byRules(known, s, link)
				require.Equal(t, knownOK, ok, "%v by %s", s, link)
				require.Equal(t, knownBy, by, "%v by %s", s, link)
				// Singly, an exit for the link goes before one for all.
				wantBy, wantOK := byRules(want, s, link)
				require.Equal(t, wantOK, ok, "%v by %s", s, link)
				if wantBy != by {
					require.Equal(t, "203.0.113.1", by.Addr().String(), "%v by %s", s, link)
				}
			}
		}
	}
	moved := Places{netip.MustParseAddr("192.0.2.1"): {"wan0"}, netip.MustParseAddr("192.0.2.2"): {"lan0"}}
	follow(x.Moved(places, moved))
	require.Len(t, has, len(x.Exits(moved)))
	// All expire, in any order.
	for p := range slices.Values(slices.Collect(all.All)) {
		x.Delete(p, moved)
	}
	requireSameIndex(t, New(), x)
}

// A flow contradicts a change of ranges as it contradicts that of their ports.
func TestRangesContradictAsTheirPorts(t *testing.T) {
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	for range 300 {
		before, after := portset.NewSet(), portset.NewSet()
		for range 1 + r.IntN(4) {
			first := 1 + r.IntN(10)
			host := []string{"", "192.0.2.1:", "198.51.100.1:"}[r.IntN(3)]
			p := ports(t, fmt.Sprintf("%s%d->172.30.0.2:%d/udp", host, first, first))[0]
			p.More = uint16(r.IntN(8))
			if r.IntN(3) != 0 {
				before.Put(p)
			}
			if r.IntN(3) != 0 {
				after.Put(p)
			}
		}
		c := portset.Diff(&before, &after)
		beforeOne, afterOne := portset.NewSet(), portset.NewSet()
		for p := range singly(&before) {
			beforeOne.Put(p)
		}
		for p := range singly(&after) {
			afterOne.Put(p)
		}
		cOne := portset.Diff(&beforeOne, &afterOne)
		check := Of(before.All, masqueraded).Draft(&c, func() iter.Seq[portset.Port] { return after.All }, masqueraded).Check(places)
		made := Of(after.All, masqueraded).Check(&c, masqueraded, places)
		want := Of(beforeOne.All, masqueraded).Draft(&cOne, nil, masqueraded).Check(places)
		wantMade := Of(afterOne.All, masqueraded).Check(&cOne, masqueraded, places)
		for _, b := range want.Backends(nat.UDP) {
			at := func(o portset.Backends) bool { return o.First <= b.First && b.Last <= o.Last }
			require.True(t, slices.ContainsFunc(check.Backends(nat.UDP), at), b)
			require.True(t, slices.ContainsFunc(made.Backends(nat.UDP), at), b)
			s := Source{nat.UDP, netip.AddrPortFrom(b.Addr, b.First)}
			for _, left := range []string{"192.0.2.1:40000", "198.51.100.1:40000", fmt.Sprintf("192.0.2.1:%d", b.First), fmt.Sprintf("192.0.2.7:%d", b.First)} {
				at := netip.MustParseAddrPort(left)
				require.Equal(t, want.Contradicts(s, at), check.Contradicts(s, at), "%v %v", s, at)
				require.Equal(t, wantMade.Contradicts(s, at), made.Contradicts(s, at), "%v %v", s, at)
			}
		}
	}
}
