// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

func expandAll(ms []nat.Mapping) []nat.Mapping {
	var out []nat.Mapping
	for _, m := range ms {
		out = slices.AppendSeq(out, nat.Expand(m))
	}
	return out
}

// disjoint returns up to n valid mappings that do not overlap.
func disjoint(r *rand.Rand, n int) []nat.Mapping {
	var ms []nat.Mapping
	for range n {
		if with := append(slices.Clone(ms), nattest.Random(r)); nat.ValidateAll(with...) == nil {
			ms = with
		}
	}
	return ms
}

func TestExpand(t *testing.T) {
	m := nattest.Mapping(t, "192.0.2.1:8000-8002->172.17.0.2:80-82/udp")
	m.Name, m.NoProxy, m.Expires = "web", true, time.Unix(1<<31, 0).UTC()
	m.Masquerade, m.From = true, nattest.Sources(t, "10.0.0.0/8")
	var got []string
	for one := range nat.Expand(m) {
		require.Zero(t, one.More)
		got = append(got, one.String())
		one.Frontend, one.Backend, one.More = m.Frontend, m.Backend, m.More
		require.Equal(t, m, one, "all else is kept")
	}
	require.Equal(t, []string{
		"192.0.2.1:8000->172.17.0.2:80/udp", "192.0.2.1:8001->172.17.0.2:81/udp", "192.0.2.1:8002->172.17.0.2:82/udp",
	}, got)

	ask := nattest.Mapping(t, "0->172.17.0.2:80-89")
	require.Equal(t, []nat.Mapping{ask}, slices.Collect(nat.Expand(ask)))

	require.Len(t, slices.Collect(nat.Expand(nattest.Mapping(t, "1-65535->172.17.0.2"))), 65535)

	past := nattest.Mapping(t, "65534-65535->172.17.0.2:80-81")
	past.More = 9
	require.Len(t, slices.Collect(nat.Expand(past)), 2, "never wraps to port 0")
	past.Frontend, past.Backend = netip.AddrPortFrom(netip.Addr{}, 80), netip.MustParseAddrPort("172.17.0.2:65535")
	require.Len(t, slices.Collect(nat.Expand(past)), 1)

	for range nat.Expand(m) {
		break // a consumer may stop
	}
}

func TestCollapse(t *testing.T) {
	for _, tt := range []struct {
		name     string
		in, want []string
	}{
		{name: "nothing"},
		{"one", []string{"80->1.2.3.4:80"}, []string{"80->1.2.3.4:80"}},
		{"run", []string{"82->1.2.3.4:82", "80->1.2.3.4:80", "81->1.2.3.4:81"}, []string{"80-82->1.2.3.4:80-82"}},
		{"ranges join", []string{"85-89->1.2.3.4:85-89", "80-84->1.2.3.4:80-84"}, []string{"80-89->1.2.3.4:80-89"}},
		{"a gap", []string{"80->1.2.3.4:80", "82->1.2.3.4:82"}, []string{"80->1.2.3.4:80", "82->1.2.3.4:82"}},
		{"backends must run too", []string{"80->1.2.3.4:80", "81->1.2.3.4:80"}, []string{"80->1.2.3.4:80", "81->1.2.3.4:80"}},
		{"and not backwards", []string{"80->1.2.3.4:81", "81->1.2.3.4:80"}, []string{"80->1.2.3.4:81", "81->1.2.3.4:80"}},
		{"backend address", []string{"80->1.2.3.4:80", "81->1.2.3.5:81"}, []string{"80->1.2.3.4:80", "81->1.2.3.5:81"}},
		{"host", []string{"1.1.1.1:81->1.2.3.4:81", "80->1.2.3.4:80"}, []string{"80->1.2.3.4:80", "1.1.1.1:81->1.2.3.4:81"}},
		{"protocol", []string{"81->1.2.3.4:81/udp", "80->1.2.3.4:80"}, []string{"80->1.2.3.4:80", "81->1.2.3.4:81/udp"}},
		{"free ports stay apart", []string{"0->1.2.3.4:81", "0->1.2.3.4:80", "1->1.2.3.4:82"}, []string{"0->1.2.3.4:80", "0->1.2.3.4:81", "1->1.2.3.4:82"}},
		{"the same twice", []string{"80->1.2.3.4:80", "80->1.2.3.4:80"}, []string{"80->1.2.3.4:80", "80->1.2.3.4:80"}},
		{"order",
			[]string{"1->1.2.3.4:1/udp", "[::]:1->[fd00::2]:1", "9.9.9.9:1->1.2.3.4:1", "10.0.0.1:1->1.2.3.4:1", "[2001:db8::1]:1->[fd00::2]:1", "0.0.0.0:1->1.2.3.4:1", "9->1.2.3.4:9", "10->1.2.3.4:9"},
			[]string{"9->1.2.3.4:9", "10->1.2.3.4:9", "0.0.0.0:1->1.2.3.4:1", "9.9.9.9:1->1.2.3.4:1", "10.0.0.1:1->1.2.3.4:1", "[::]:1->[fd00::2]:1", "[2001:db8::1]:1->[fd00::2]:1", "1->1.2.3.4:1/udp"}},
	} {
		var in []nat.Mapping
		var got []string
		for _, s := range tt.in {
			in = append(in, nattest.Mapping(t, s))
		}
		before := slices.Clone(in)
		for _, m := range nat.Collapse(in) {
			got = append(got, m.String())
		}
		require.Equal(t, tt.want, got, tt.name)
		require.Equal(t, before, in, "the argument is left alone")
	}
}

func TestCollapseKeepsWhatDiffers(t *testing.T) {
	for name, change := range map[string]func(*nat.Mapping){
		"name":    func(m *nat.Mapping) { m.Name = "web" },
		"proxy":   func(m *nat.Mapping) { m.NoProxy = true },
		"only":    func(m *nat.Mapping) { m.ProxyOnly = true },
		"masq":    func(m *nat.Mapping) { m.Masquerade = true },
		"from":    func(m *nat.Mapping) { m.From = nattest.Sources(t, "192.0.2.0/24") },
		"expires": func(m *nat.Mapping) { m.Expires = time.Unix(1<<31, 0).UTC() },
	} {
		a, b := nattest.Mapping(t, "80->1.2.3.4:80"), nattest.Mapping(t, "81->1.2.3.4:81")
		change(&b)
		require.Equal(t, []nat.Mapping{a, b}, nat.Collapse([]nat.Mapping{b, a}), name)
		change(&a)
		require.Len(t, nat.Collapse([]nat.Mapping{b, a}), 1, name)
	}
}

func TestCollapseUndoesExpand(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		m := nattest.Random(r)
		require.Equal(t, []nat.Mapping{m}, nat.Collapse(slices.Collect(nat.Expand(m))))
	}
	full := nattest.Mapping(t, "1-65535->172.17.0.2:1-65535")
	require.Equal(t, []nat.Mapping{full}, nat.Collapse(slices.Collect(nat.Expand(full))))
	for range 200 {
		ms := disjoint(r, 30)
		ones := expandAll(ms)
		r.Shuffle(len(ones), func(i, j int) { ones[i], ones[j] = ones[j], ones[i] })
		joined := nat.Collapse(ones)
		require.True(t, slices.IsSortedFunc(joined, nat.Compare))
		require.NoError(t, nat.ValidateAll(joined...))
		require.Equal(t, joined, nat.Collapse(joined), "collapsing again changes nothing")
		require.Equal(t, joined, slices.Collect(nat.Join(slices.Values(slices.SortedFunc(slices.Values(ones), nat.Compare)))))
		require.Equal(t, joined, slices.Collect(nat.Join(slices.Values(joined))))
		for one := range nat.Join(slices.Values(joined)) {
			require.Equal(t, joined[0], one)
			break
		}
		require.Equal(t, joined, nat.Collapse(ms), "ranges and single ports come to the same")
		require.ElementsMatch(t, ones, expandAll(joined), "nothing lost, nothing made up")
		for i := 1; i < len(joined); i++ { // minimal: no two could be one
			a, b := joined[i-1], joined[i]
			b.Frontend, b.Backend, b.More = a.Frontend, a.Backend, a.More
			last := int(a.Frontend.Port()) + int(a.More)
			require.False(t, a == b && a.Frontend.Port() != 0 && last+1 == int(joined[i].Frontend.Port()) &&
				joined[i].Backend == netip.AddrPortFrom(a.Backend.Addr(), a.Backend.Port()+a.More+1),
				"%s and %s", joined[i-1], joined[i])
		}
	}
}

func TestCompareOrders(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	ms := make([]nat.Mapping, 60)
	for i := range ms {
		ms[i] = nattest.Random(r)
	}
	for _, a := range ms {
		for _, b := range ms {
			require.Equal(t, a == b, nat.Compare(a, b) == 0, "%v %v", a, b)
			require.Equal(t, nat.Compare(a, b), -nat.Compare(b, a))
			for _, c := range ms {
				if nat.Compare(a, b) <= 0 && nat.Compare(b, c) <= 0 {
					require.LessOrEqual(t, nat.Compare(a, c), 0)
				}
			}
		}
	}
}

// Each part of a mapping counts, and the earlier ones before the later ones.
func TestCompareParts(t *testing.T) {
	low := nat.Mapping{Proto: nat.TCP, Frontend: netip.AddrPortFrom(netip.Addr{}, 80), Backend: netip.MustParseAddrPort("1.2.3.4:80")}
	high := low
	for _, raise := range []func(*nat.Mapping){
		func(m *nat.Mapping) { m.Expires = time.Unix(1<<31, 0).UTC() },
		func(m *nat.Mapping) { m.From = nattest.Sources(t, "192.0.2.0/24") },
		func(m *nat.Mapping) { m.Masquerade = true },
		func(m *nat.Mapping) { m.ProxyOnly = true },
		func(m *nat.Mapping) { m.NoProxy = true },
		func(m *nat.Mapping) { m.Name = "web" },
		func(m *nat.Mapping) { m.More = 1 },
		func(m *nat.Mapping) { m.Backend = netip.MustParseAddrPort("1.2.3.4:81") },
		func(m *nat.Mapping) { m.Frontend = netip.AddrPortFrom(netip.Addr{}, 81) },
		func(m *nat.Mapping) { m.Frontend = netip.MustParseAddrPort("0.0.0.0:80") },
		func(m *nat.Mapping) { m.Proto = nat.UDP },
	} {
		next := low
		raise(&next)
		require.Negative(t, nat.Compare(high, next), "%v %v", high, next)
		require.Positive(t, nat.Compare(next, high))
		require.Negative(t, nat.Compare(low, next))
		high = next
	}
}

// many returns n mappings of one port each that make no range.
func many(tb testing.TB, n int) []nat.Mapping {
	tb.Helper()
	ms := make([]nat.Mapping, n)
	for i := range ms {
		ms[i] = nattest.Mapping(tb, fmt.Sprintf("%d->172.17.%d.%d:80", i+1, i>>8, i&255))
	}
	return ms
}

func BenchmarkCollapse(b *testing.B) {
	run := slices.Collect(nat.Expand(nattest.Mapping(b, "1-60000->172.17.0.2")))
	sorted := many(b, 60000)
	shuffled := slices.Clone(sorted)
	r := rand.New(rand.NewPCG(9, 10))
	r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	for name, ms := range map[string][]nat.Mapping{"run": run, "sorted": sorted, "shuffled": shuffled} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				nat.Collapse(ms)
			}
		})
	}
}

func BenchmarkExpand(b *testing.B) {
	m := nattest.Mapping(b, "1-60000->172.17.0.2")
	b.ReportAllocs()
	for b.Loop() {
		for one := range nat.Expand(m) {
			_ = one
		}
	}
}
