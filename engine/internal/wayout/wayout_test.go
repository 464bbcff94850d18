// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package wayout

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

func ports(t *testing.T, texts ...string) (ps []portset.Port) {
	t.Helper()
	for _, text := range texts {
		ps = append(ps, portset.Of(nattest.Mapping(t, text)))
	}
	return ps
}

// masqueraded is the network of the tests.
func masqueraded(a netip.Addr) bool {
	return netip.MustParsePrefix("172.30.0.0/24").Contains(a) || netip.MustParsePrefix("fd00::/64").Contains(a)
}

var places = Places{
	netip.MustParseAddr("192.0.2.1"):    {"lan0"},
	netip.MustParseAddr("192.0.2.2"):    {"lan0"},
	netip.MustParseAddr("198.51.100.1"): {"wan0"},
	netip.MustParseAddr("203.0.113.1"):  {AnyLink},
	netip.MustParseAddr("2001:db8::1"):  {"lan0", "wan0"},
}

// lines are exits as text, in order.
func lines(es []Exit) []string {
	all := make([]string, len(es))
	for i, e := range es {
		all[i] = fmt.Sprintf("%s %s by %s", e.Proto, e.Backend, e.Frontend)
		if e.Link != AnyLink {
			all[i] += " on " + e.Link
		}
		all[i] = strings.Replace(all[i], "invalid AddrPort", fmt.Sprint(e.Frontend.Port()), 1)
	}
	slices.Sort(all)
	return all
}

func TestExits(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ports []string
		want  []string
	}{
		{"any address", []string{"27015->172.30.0.2:27016/udp"}, []string{"udp 172.30.0.2:27016 by 27015"}},
		{"other protocol", []string{"80->172.30.0.2:53", "81->172.30.0.2:53/udp"}, []string{"tcp 172.30.0.2:53 by 80", "udp 172.30.0.2:53 by 81"}},
		{"the lowest port", []string{"9->172.30.0.2:1", "7->172.30.0.2:1", "8->172.30.0.2:1"}, []string{"tcp 172.30.0.2:1 by 7"}},
		{"any address first", []string{"192.0.2.1:1->172.30.0.2:1", "9->172.30.0.2:1"}, []string{"tcp 172.30.0.2:1 by 9"}},
		{"one address", []string{"192.0.2.1:5->172.30.0.2:1"}, []string{"tcp 172.30.0.2:1 by 192.0.2.1:5 on lan0"}},
		{"the lowest address of each link", []string{"192.0.2.2:4->172.30.0.2:1", "198.51.100.1:3->172.30.0.2:1", "192.0.2.1:5->172.30.0.2:1"}, []string{
			"tcp 172.30.0.2:1 by 192.0.2.1:5 on lan0", "tcp 172.30.0.2:1 by 198.51.100.1:3 on wan0",
		}},
		{"an address of no link", []string{"203.0.113.1:5->172.30.0.2:1"}, []string{"tcp 172.30.0.2:1 by 203.0.113.1:5"}},
		{"an address of two links", []string{"[2001:db8::1]:5->[fd00::2]:1"}, []string{
			"tcp [fd00::2]:1 by [2001:db8::1]:5 on lan0", "tcp [fd00::2]:1 by [2001:db8::1]:5 on wan0",
		}},
		{"an absent address", []string{"192.0.2.9:5->172.30.0.2:1"}, nil},
		{"an absent address and another", []string{"192.0.2.9:5->172.30.0.2:1", "192.0.2.1:6->172.30.0.2:1"}, []string{"tcp 172.30.0.2:1 by 192.0.2.1:6 on lan0"}},
		{"no network", []string{"5->172.31.0.2:1"}, nil},
		{"loopback", []string{"127.0.0.1:5->172.30.0.2:1"}, nil},
		{"other family", []string{"192.0.2.1:5->[fd00::2]:1"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := Of(slices.Values(ports(t, tt.ports...)), masqueraded)
			require.ElementsMatch(t, tt.want, lines(x.Exits(places)))
		})
	}
}

// An index that follows changes has the same exits as one that is made anew, and the
// differences lead from one state to the next.
func TestChangesLeadToTheSameExits(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func() portset.Port {
		hosts := []string{"", "192.0.2.1:", "192.0.2.2:", "198.51.100.1:", "203.0.113.1:", "192.0.2.9:", "127.0.0.1:"}
		nets := []string{"172.30.0.2", "172.30.0.3", "172.31.0.2"}
		text := fmt.Sprintf("%s%d->%s:%d/%s", hosts[r.IntN(len(hosts))], 1+r.IntN(5), nets[r.IntN(len(nets))], 1+r.IntN(3), []string{"tcp", "udp"}[r.IntN(2)])
		p := ports(t, text)[0]
		p.Expires = r.Int64N(3)
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
	for range 3000 {
		p := random()
		var c portset.Change
		have, taken := all.Get(p.Frontend)
		switch {
		case !taken:
			c.Added = []portset.Port{p}
		case r.IntN(2) == 0:
			c.Removed = []portset.Port{{Frontend: p.Frontend, Target: have}}
		default:
			c.Moved = []portset.Move{{Frontend: p.Frontend, From: have, To: p.Target}}
		}
		if len(c.Removed) == 1 && r.IntN(3) == 0 { // it expires
			added := x.Delete(c.Removed[0], places)
			for e := range has {
				if e.Source == (Source{p.Proto, have.Backend}) && e.Frontend == candidateOf(c.Removed[0]).at {
					delete(has, e)
				}
			}
			follow(nil, added)
		} else {
			d := x.Draft(&c, func() iter.Seq[portset.Port] {
				after := all.Clone()
				for p := range c.Before {
					after.DeleteAll(p)
				}
				for p := range c.After {
					after.Put(p)
				}
				return after.All
			}, masqueraded)
			follow(d.Diff(places))
			after := d.Exits(places)
			d.Commit()
			require.ElementsMatch(t, x.Exits(places), after)
		}
		for p := range c.Before {
			all.Delete(p.Frontend)
		}
		for p := range c.After {
			all.Put(p)
		}
		want := Of(all.All, masqueraded)
		require.ElementsMatch(t, want.Exits(places), x.Exits(places))
		require.Len(t, has, len(x.Exits(places)))
	}
	// All networks go, and come again.
	d := x.Replace(New())
	follow(d.Diff(places))
	d.Commit()
	require.Empty(t, has)
	require.Zero(t, x.Len())
	d = x.Replace(Of(all.All, masqueraded))
	follow(d.Diff(places))
	d.Commit()
	require.Len(t, has, len(x.Exits(places)))
	// An address moves to another link, and one leaves.
	moved := Places{netip.MustParseAddr("192.0.2.1"): {"wan0"}, netip.MustParseAddr("192.0.2.2"): {"lan0"}}
	follow(x.Moved(places, moved))
	require.Len(t, has, len(x.Exits(moved)))
}

func TestContradicts(t *testing.T) {
	for _, tt := range []struct {
		name          string
		before, after []string
		left          string
		udp, tcp      bool
	}{
		{"published: a random port", nil, []string{"5->172.30.0.2:1"}, "192.0.2.1:40000", true, false},
		{"published: its port", nil, []string{"5->172.30.0.2:1"}, "198.51.100.1:5", false, false},
		{"unpublished: its port", []string{"5->172.30.0.2:1"}, nil, "192.0.2.1:5", true, true},
		{"unpublished: a random port", []string{"5->172.30.0.2:1"}, nil, "192.0.2.1:40000", false, false},
		{"a lower port", []string{"5->172.30.0.2:1"}, []string{"4->172.30.0.2:1", "5->172.30.0.2:1"}, "192.0.2.1:5", true, false},
		{"a higher port", []string{"5->172.30.0.2:1"}, []string{"5->172.30.0.2:1", "6->172.30.0.2:1"}, "192.0.2.1:5", false, false},
		{"the first goes", []string{"4->172.30.0.2:1", "5->172.30.0.2:1"}, []string{"5->172.30.0.2:1"}, "192.0.2.1:4", true, true},
		{"one address: a random port of its link", nil, []string{"192.0.2.1:5->172.30.0.2:1"}, "192.0.2.2:40000", true, false},
		{"one address: a random port of another link", nil, []string{"192.0.2.1:5->172.30.0.2:1"}, "198.51.100.1:40000", false, false},
		{"one address: its port", nil, []string{"192.0.2.1:5->172.30.0.2:1"}, "192.0.2.1:5", false, false},
		{"one address goes", []string{"192.0.2.1:5->172.30.0.2:1"}, nil, "192.0.2.1:5", true, true},
		{"one address goes: the port of another", []string{"192.0.2.1:5->172.30.0.2:1"}, nil, "192.0.2.2:5", false, false},
		{"an address of no link: a random port", nil, []string{"203.0.113.1:5->172.30.0.2:1"}, "198.51.100.1:40000", true, false},
		{"an absent address: a random port", nil, []string{"192.0.2.9:5->172.30.0.2:1"}, "192.0.2.1:40000", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for proto, want := range map[nat.Proto]bool{nat.UDP: tt.udp, nat.TCP: tt.tcp} {
				of := func(texts []string) (ps []portset.Port) {
					for _, text := range texts {
						ps = append(ps, ports(t, text+"/"+proto.String())...)
					}
					return ps
				}
				before, after := of(tt.before), of(tt.after)
				a, b := portset.NewSet(), portset.NewSet()
				for _, p := range before {
					a.Put(p)
				}
				for _, p := range after {
					b.Put(p)
				}
				c := portset.Diff(&a, &b)
				x := Of(slices.Values(before), masqueraded)
				s := Source{proto, netip.MustParseAddrPort("172.30.0.2:1")}
				left := netip.MustParseAddrPort(tt.left)
				check := x.Draft(&c, nil, masqueraded).Check(places)
				require.Equal(t, []portset.Backends{{Addr: s.Backend.Addr(), First: 1, Last: 1}}, check.Backends(proto))
				require.Equal(t, want, check.Contradicts(s, left), proto)
				made := Of(slices.Values(after), masqueraded).Check(&c, masqueraded, places)
				require.Equal(t, want, made.Contradicts(s, left), proto)
			}
		})
	}
}
