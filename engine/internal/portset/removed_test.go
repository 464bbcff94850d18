// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

func (l Removed) texts() (texts []string) {
	for _, m := range l {
		texts = append(texts, m.String())
	}
	return texts
}

// ports are those of mappings in text.
func portsOf(tb testing.TB, texts ...string) (ps []Port) {
	tb.Helper()
	for _, text := range texts {
		m := nattest.Mapping(tb, text)
		ps = slices.AppendSeq(ps, Expand(&m))
	}
	return ps
}

func TestRemovedAfter(t *testing.T) {
	var l Removed
	l = l.After(&Change{Removed: portsOf(t, "8000-8009->172.17.0.2:9000-9009", "80->172.17.0.2:80")})
	require.Equal(t, []string{"80->172.17.0.2:80", "8000-8009->172.17.0.2:9000-9009"}, l.texts())
	// Published again: in part, with another end; and elsewhere, which is something else.
	again := portsOf(t, "8004->172.17.0.2:9004", "8009->172.17.0.2:9009", "80->172.17.0.3:80")
	again[0].Expires = 1
	l = l.After(&Change{Added: again})
	require.Equal(t, []string{"80->172.17.0.2:80", "8000-8003->172.17.0.2:9000-9003", "8005-8008->172.17.0.2:9005-9008"}, l.texts())
	// Moved: the old target is gone. Renewed: nothing is.
	old, now := portsOf(t, "80->172.17.0.3:80")[0], portsOf(t, "80->172.17.0.2:80")[0]
	renewed := old.Target
	renewed.Expires = 5
	require.Equal(t, l, l.After(&Change{Moved: []Move{{Frontend: old.Frontend, From: old.Target, To: renewed}}}))
	l = l.After(&Change{Moved: []Move{{Frontend: old.Frontend, From: old.Target, To: now.Target}}})
	require.Equal(t, []string{"8000-8003->172.17.0.2:9000-9003", "8005-8008->172.17.0.2:9005-9008", "80->172.17.0.3:80"}, l.texts())
	has := func(p Port) bool { return len(slices.Collect(l.Finder()(p))) != 0 }
	require.True(t, has(old))
	require.False(t, has(now))
	old.Expires = 7
	require.True(t, has(old), "the end does not count")
	old.Name = "x"
	require.False(t, has(old))
}

func TestRemovedIsBounded(t *testing.T) {
	var c Change
	for i := range MostRemoved + 10 {
		m := nat.Mapping{Proto: nat.TCP, Frontend: netip.AddrPortFrom(netip.Addr{}, uint16(2*i+1)), Backend: netip.MustParseAddrPort("172.17.0.2:80")}
		c.Removed = append(c.Removed, Of(m))
	}
	l := Removed(nil).After(&c)
	require.Len(t, l, MostRemoved)
	require.Equal(t, uint16(21), l[0].Frontend.Port(), "the oldest are forgotten")
	last := portsOf(t, "1->172.17.0.2:80")
	l = l.After(&Change{Removed: last})
	require.Len(t, l, MostRemoved)
	require.Equal(t, last[0].Mapping(), l[MostRemoved-1])
}

// The list is that of a set of single ports, whatever was removed and published in which order.
func TestRemovedAgainstSet(t *testing.T) {
	r := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	var l Removed
	model := map[Port]bool{}
	for range 2000 {
		m := nat.Mapping{
			Proto: nat.Proto(1 + r.IntN(2)), Frontend: netip.AddrPortFrom(netip.Addr{}, uint16(65500+r.IntN(36))),
			Backend: netip.AddrPortFrom(netip.MustParseAddr("172.17.0.2"), 100),
		}
		m.More = uint16(r.IntN(65536 - int(m.Frontend.Port())))
		m.Backend = netip.AddrPortFrom(m.Backend.Addr(), m.Frontend.Port()-uint16(r.IntN(2)))
		singles := slices.Collect(nat.Expand(m))
		ports, gone := make([]Port, len(singles)), r.IntN(2) == 0
		for i := range singles {
			ports[i] = Of(singles[i])
		}
		single := slices.Clone(ports)
		if IsRange(&m) && r.IntN(2) == 0 {
			ports = []Port{Whole(&m)}
		}
		c := Change{Added: ports}
		if gone {
			c = Change{Removed: ports}
			l = l.Without(slices.Values(ports)) // which were published until then
		}
		l = l.After(&c)
		for _, p := range single {
			model[p] = gone
		}
		has, n := l.Finder(), 0
		for p, gone := range model {
			require.Equal(t, gone, len(slices.Collect(has(p))) == 1, p.Mapping())
			if gone {
				n++
			}
		}
		require.Len(t, slices.Collect(func(yield func(Port) bool) {
			for _, m := range l {
				for single := range nat.Expand(m) {
					yield(Of(single))
				}
			}
		}), n)
	}
}

func BenchmarkRemovedAfter(b *testing.B) {
	var c Change
	for i := range MostRemoved {
		m := nat.Mapping{Proto: nat.TCP, Frontend: netip.AddrPortFrom(netip.Addr{}, uint16(2*i+1)), Backend: netip.MustParseAddrPort("172.17.0.2:80")}
		c.Removed = append(c.Removed, Of(m))
	}
	l := Removed(nil).After(&c)
	one := Change{Removed: portsOf(b, "10000->172.17.0.2:80")}
	again := Change{Added: one.Removed}
	b.ReportAllocs()
	for b.Loop() {
		l = l.After(&one)
		l = l.After(&again)
	}
}
