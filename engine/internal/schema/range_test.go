// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/wayout"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

func rangeOf(t *testing.T, m string) portset.Port {
	t.Helper()
	mapping := nattest.Mapping(t, m)
	return portset.Whole(&mapping)
}

func rangeEntry(p portset.Port) portset.Entry {
	return portset.Entry{Kind: portset.EntryRange, Port: p}
}

// The element of each kind of range, and what is read from it.
func TestRangeElements(t *testing.T) {
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	for m, want := range map[string]string{
		"5000-5999->172.30.0.2:5000-5999":                  "tcp4_range { 5000-5999 : 172.30.0.2 }",
		"1-65535->[fd00::2]:1-65535/udp":                   "udp6_range { 1-65535 : fd00::2 }",
		"0.0.0.0:5000-5999->172.30.0.2:5000-5999":          "tcp4_range { 5000-5999 comment \"[one-family]\" : 172.30.0.2 }",
		"192.0.2.1:5000-5999->172.30.0.2:5000-5999/udp":    "udp4_host_range { 5000-5999 . 192.0.2.1 : 172.30.0.2 }",
		"[2001:db8::1]:60000-65535->[fd00::2]:60000-65535": "tcp6_host_range { 60000-65535 . 2001:db8::1 : fd00::2 }",
		"127.0.0.1:5000-5999->172.30.0.2:5000-5999":        "tcp4_host_range { 5000-5999 . 127.0.0.1 : 172.30.0.2 }",
		"[::]:5000-5999->172.30.0.2:5000-5999/udp":         "udp6_to4_range { :: . 5000 : 172.30.0.2 . 5999 }",
		"192.0.2.1:5000-65535->[fd00::2]:5000-65535":       "tcp4_to6_range { 192.0.2.1 . 5000 : fd00::2 . 65535 }",
	} {
		p := rangeOf(t, m)
		e := rangeEntry(p)
		el := EntryElement(e, now)
		require.Equal(t, want, el.String(), m)
		require.Equal(t, el, PortElement(p, now))
		require.Equal(t, el.ElementKey(), PortKey(p).ElementKey())
		c := Classify([]nft.Element{el}, now)
		require.Empty(t, c.Foreign)
		require.Equal(t, []portset.Entry{e}, slices.Collect(c.Ports.Entries), m)
		next, ok := NextElement(e, now)
		require.Equal(t, !p.ProxiedOnly() || p.AddrPort.Addr().IsLoopback(), ok)
		if !ok {
			continue
		}
		require.Equal(t, el.Set+"_next", next.Set)
		c = Classify([]nft.Element{next}, now)
		require.Equal(t, []portset.Entry{e}, c.Next)
		require.Zero(t, c.Ports.Len())
		require.Empty(t, c.Foreign)
		require.NoError(t, nft.Change{Add: []nft.Element{el, next}}.Validate(Ruleset("nftnat")))
	}
	only := rangeOf(t, "5000-5999->172.30.0.2:5000-5999")
	only.ProxyOnly, only.Name, only.Expires = true, "rtp", now.Add(time.Hour).UnixMilli()
	require.Equal(t, `tcp4_to4_range { 0.0.0.0 . 5000 timeout 1h comment "rtp" : 172.30.0.2 . 5999 }`, PortElement(only, now).String())
	one := rangeEntry(rangeOf(t, "5000-5001->172.30.0.2:5000-5001").Part(5000, 5000))
	require.Equal(t, "tcp4_range { 5000 : 172.30.0.2 }", EntryElement(one, now).String())
}

func TestHoleElements(t *testing.T) {
	for at, want := range map[string]string{
		"0.0.0.0:53":       "holes { ipv4 . udp . 53 }",
		"[::]:53":          "holes { ipv6 . udp . 53 }",
		"192.0.2.1:53":     "holes4_host { udp . 192.0.2.1 . 53 }",
		"[2001:db8::1]:53": "holes6_host { udp . 2001:db8::1 . 53 }",
	} {
		e := portset.Entry{Kind: portset.EntryHole, Port: portset.Port{Frontend: portset.Frontend{Proto: nat.UDP, AddrPort: netip.MustParseAddrPort(at)}}}
		el := EntryElement(e, time.Time{})
		require.Equal(t, want, el.String())
		require.NoError(t, nft.Change{Add: []nft.Element{el}}.Validate(Ruleset("nftnat")))
		c := Classify([]nft.Element{el}, time.Time{})
		require.Equal(t, []portset.Entry{e}, slices.Collect(c.Ports.Entries))
		require.Equal(t, []portset.Entry{e}, c.Ports.Redundant(), "it has no range")
	}
}

// randomRanges is a set after random changes of ranges and single ports, with options.
func randomRanges(r *rand.Rand, now time.Time) portset.Set {
	s := portset.NewSet()
	hosts := []netip.Addr{{}, netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("2001:db8::1")}
	backends := []netip.Addr{netip.MustParseAddr("172.30.0.2"), netip.MustParseAddr("172.30.0.3"), netip.MustParseAddr("fd00::2")}
	for range r.IntN(30) {
		first := uint16(5000 + r.IntN(30))
		p := portset.Port{Frontend: portset.Frontend{Proto: []nat.Proto{nat.TCP, nat.UDP}[r.IntN(2)], AddrPort: netip.AddrPortFrom(hosts[r.IntN(len(hosts))], first)}}
		p.More = uint16(r.IntN(20))
		p.Backend = netip.AddrPortFrom(backends[r.IntN(len(backends))], first)
		if r.IntN(4) == 0 {
			p.From, _ = nat.SourcesOf([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("192.0.2.0/24")}[:1+r.IntN(3)]...)
		}
		if r.IntN(4) == 0 {
			p.Expires = now.Add(time.Hour).UnixMilli()
		}
		p.ProxyOnly = r.IntN(6) == 0
		p.Masquerade = r.IntN(4) == 0 && !p.ProxiedOnly()
		if r.IntN(4) == 0 {
			p.Name = "rtp"
		}
		conflict := false
		for have := range s.All { // as reservations do
			a, b := have.AddrPort.Addr(), p.AddrPort.Addr()
			overlap := have.Proto == p.Proto && have.First() <= p.Last() && p.First() <= have.Last()
			meets := a != b && (!a.IsValid() || !b.IsValid() || (a.IsUnspecified() || b.IsUnspecified()) && a.Is4() == b.Is4())
			disagree := have.Masquerade != p.Masquerade && have.Backend.Addr() == p.Backend.Addr()
			conflict = conflict || overlap && meets || disagree
		}
		m := p.Mapping()
		if conflict || !m.Valid() {
			continue
		}
		if r.IntN(3) == 0 {
			s.DeleteAll(p)
		} else {
			s.Put(p)
		}
	}
	return s
}

// What is encoded of ranges, holes and options is decoded, whatever the order.
func TestClassifyRanges(t *testing.T) {
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	ranges, holes := 0, 0
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 50))
		s := randomRanges(r, now)
		var es []nft.Element
		empty := false
		for e := range s.Entries {
			es = append(es, EntryElement(e, now))
			switch e.Kind {
			case portset.EntryRange:
				ranges++
				empty = empty || len(slices.Collect(s.Served(e))) == 0
			case portset.EntryHole:
				holes++
			case portset.EntrySingle:
			}
		}
		if empty {
			continue // nothing says who may reach it
		}
		es = append(es, SetOptions(&s, now)...)
		es = append(es, Notes(entryPorts(&s))...)
		require.NoError(t, nft.Change{Add: es}.Validate(Ruleset("nftnat")))
		keys := map[nft.ElementKey]bool{}
		for i := range es {
			require.False(t, keys[es[i].ElementKey()], "seed %d: twice: %s", seed, es[i])
			keys[es[i].ElementKey()] = true
			es[i].Expires = es[i].Timeout
		}
		r.Shuffle(len(es), func(i, j int) { es[i], es[j] = es[j], es[i] })
		want := slices.Clone(es)
		c := Classify(es, now)
		require.Empty(t, texts(c.Foreign), "seed %d", seed)
		require.Empty(t, texts(c.Missing), "seed %d", seed)
		require.Empty(t, texts(c.Orphans), "seed %d", seed)
		require.Empty(t, c.Ended)
		require.Empty(t, c.Unnoted)
		require.ElementsMatch(t, texts(want), texts(c.Elements), "seed %d", seed)
		require.ElementsMatch(t, entryTexts(&s), entryTexts(&c.Ports), "seed %d", seed)
	}
	require.Greater(t, ranges, 1000)
	require.Greater(t, holes, 1000)
}

func entryTexts(s *portset.Set) (lines []string) {
	for e := range s.Entries {
		lines = append(lines, fmt.Sprintf("%s %s %+v", e.Kind, e.AddrPort, e.Mapping()))
	}
	return lines
}

func TestClassifyForeignRanges(t *testing.T) {
	now := time.Now()
	value, v6 := netip.MustParseAddrPort("172.30.0.2:0"), netip.MustParseAddrPort("[fd00::2]:0")
	own := PortElement(rangeOf(t, "5000-5999->172.30.0.2:5000-5999"), now)
	foreign := []nft.Element{
		{Set: "tcp4_range", Key: nft.PortRangeKey(0, 10), Value: value},
		{Set: "tcp4_range", Key: nft.PortRangeKey(5500, 6500), Value: value}, // within another
		{Set: "tcp6_range", Key: nft.PortRangeKey(5900, 6000), Value: v6},    // of the other family, and for both
		{Set: "tcp4_to6_range", Key: nft.AddrPortKey(netip.MustParseAddrPort("192.0.2.1:80")), Value: netip.MustParseAddrPort("[fd00::2]:79")},
		{Set: "udp4_host_range", Key: nft.RangeKey(nft.Range{First: 1, Last: 2, Addr: netip.MustParsePrefix("192.0.2.0/24")}), Value: value},
		{Set: "udp4_range", Key: nft.PortRangeKey(1, 2), Value: netip.MustParseAddrPort("127.0.0.1:0")},
		{Set: "holes", Key: nft.ServiceKey(1, netip.MustParseAddrPort("0.0.0.0:5000"))},
		{Set: "holes", Key: nft.ServiceKey(6, netip.MustParseAddrPort("0.0.0.0:5001")), Comment: "theirs"},
		{Set: "tcp4_range", Foreign: "an end"},
		{Set: "udp4_ended_range", Key: nft.AddrPortKey(netip.MustParseAddrPort("0.0.0.0:80")), Value: netip.MustParseAddrPort("172.30.0.2:80")},
	}
	c := Classify(append([]nft.Element{own}, foreign...), now)
	require.ElementsMatch(t, texts(foreign), texts(c.Foreign))
	require.Equal(t, []nft.Element{own}, c.Elements)
	require.Equal(t, 1000, c.Ports.Len())
}

// Notes and exits of ranges.
func TestNotesAndExitsOfRanges(t *testing.T) {
	p := rangeOf(t, "5000-5999->172.30.0.2:5000-5999/udp")
	es := EndedElements([]portset.Port{p})
	require.Equal(t, []string{"udp4_ended_range { 0.0.0.0 . 5000 : 172.30.0.2 . 5999 }"}, texts(es))
	c := Classify(slices.Clone(es), time.Now())
	require.Len(t, c.Ended, 1)
	require.Equal(t, p.More, c.Ended[0].More)
	require.Equal(t, p.Backend, c.Ended[0].Backend)
	source := wayout.Source{Proto: nat.UDP, Backend: netip.MustParseAddrPort("172.30.0.2:5000")}
	outs := OutElements([]wayout.Exit{
		{Source: source, Frontend: netip.MustParseAddrPort("192.0.2.1:5000"), Ranged: true, More: 9, Link: "eth0"},
		{Source: source, Frontend: netip.MustParseAddrPort("192.0.2.1:5000"), Ranged: true, More: 9},
		{Source: source, Frontend: netip.AddrPortFrom(netip.Addr{}, 5000), Ranged: true},
	}, time.Now())
	require.Equal(t, []string{
		`udp4_link_out_range { "eth0" . 5000-5009 . 172.30.0.2 : 192.0.2.1 }`, "udp4_host_out_range { 5000-5009 . 172.30.0.2 : 192.0.2.1 }",
		"udp4_out_range { 5000 . 172.30.0.2 }",
	}, texts(outs))
	require.NoError(t, nft.Change{Add: outs}.Validate(Ruleset("nftnat")))
	require.Equal(t, outs, Classify(slices.Clone(outs), time.Now()).Out)
}

func TestRangeOptions(t *testing.T) {
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	p := rangeOf(t, "5000-5999->172.30.0.2:5000-5999/udp")
	p.From, _ = nat.SourcesOf(netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32"))
	p.Masquerade, p.Expires = true, now.Add(time.Hour).UnixMilli()
	s := portset.NewSet()
	s.Put(p)
	require.Equal(t, []string{
		"masquerade_to4_range { 5000-5999 . 172.30.0.2 . udp }", "limited_range { 5000-5999 . ipv4 . udp timeout 1h1m }", "from4_range { 5000-5999 . 10.0.0.0/8 . udp }",
	}, texts(RangeOptions(rangeEntry(p), false, now)))
	limits := ProxiedLimits(&s, rangeEntry(p), now)
	require.Len(t, limits, 1001)
	require.Equal(t, []string{"limited { ipv6 . udp . 5000 timeout 1h1m }", "udp6_from { ::/0 . 5000-5999 . 2001:db8::/32 }"}, texts([]nft.Element{limits[0], limits[1000]}))
	s.Delete(p.Part(5500, 5500).Frontend)
	require.Len(t, ProxiedLimits(&s, rangeEntry(p), now), 999+2)
	p.AddrPort = netip.MustParseAddrPort("192.0.2.1:5000")
	require.Equal(t, []string{
		"masquerade_to4_host_range_next { 5000-5999 . 172.30.0.2 . udp . 192.0.2.1 }", "limited4_host_range_next { 5000-5999 . 192.0.2.1 . udp timeout 1h1m }",
		"from4_host_range_next { 5000-5999 . 192.0.2.1 . udp . 10.0.0.0/8 }",
	}, texts(RangeOptions(rangeEntry(p), true, now)))
	require.Empty(t, ProxiedLimits(&s, rangeEntry(p), now))
}
