// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/engine/internal/segment"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// segmentsIn are the prefixes of the segments that a dump has, pairsIn those of its pairs.
func segmentsIn(dump string) []string { return prefixesIn(dump, "segments", 6) }

func pairsIn(dump string) []string { return prefixesIn(dump, "inside", 2) }

func prefixesIn(dump, set string, word int) (ps []string) {
	for _, e := range elementsIn(dump) {
		if rest, ok := strings.CutPrefix(e, set); ok {
			ps = append(ps, strings.Fields(rest)[word])
		}
	}
	return ps
}

// withoutSegments leaves the segments out of a dump.
func withoutSegments(dump string) string {
	return regexp.MustCompile(`(?m)^add element inet nftnat segments.*\n`).ReplaceAllString(dump, "")
}

// wantedSegments are the prefixes of the segments for mappings, by what the host says now.
func (b *testbed) wantedSegments(tb testing.TB, ms []nat.Mapping) (texts []string) {
	tb.Helper()
	found := map[segment.Segment]bool{}
	for _, m := range ms {
		if m.Frontend.Addr().IsLoopback() || isApart(m) {
			continue
		}
		r, err := b.host.Lookup(m.Backend.Addr())
		require.NoError(tb, err)
		onLink, err := b.host.OnLink(linksOf(r), m.Backend.Addr().Is4())
		require.NoError(tb, err)
		for link, ps := range onLink {
			for _, p := range ps {
				if !schema.CanName(link) {
					continue
				}
				found[segment.Segment{Link: link, Prefix: p}] = true
			}
		}
	}
	for _, s := range slices.SortedFunc(maps.Keys(found), segment.Segment.Compare) {
		texts = append(texts, strings.TrimSuffix(s.Prefix.String(), "/32"))
	}
	return texts
}

func TestSegments(t *testing.T) {
	e, b := openFake(t)
	steps := []struct {
		call func(*Engine) error
		want []string
	}{
		{publishes("127.0.0.1:80->172.30.0.2:80", "[::1]:80->[fd00:30::2]:80"), nil}, // nothing is translated
		{publishes(local4+":70->[fd00:30::2]:80", "[::]:70->172.30.0.2:80", "0.0.0.0:71->[fd00:30::2]:80/udp"), nil},
		{publishes("81->172.31.0.2:80"), nil}, // behind a gateway
		{publishes("82->172.30.0.2:80"), []string{inside4}},
		{publishes("83->172.30.0.3:80", local4+":84->172.30.0.4:80"), []string{inside4}},
		{publishes("85->[fd00:30::2]:80/udp"), []string{inside4, inside6}},
		{unpublishes("82->172.30.0.2:80"), []string{inside4, inside6}},
		{replaces("83->10.9.0.2:80"), []string{farther4, inside4, inside6}},
		{unpublishes(local4 + ":84->172.30.0.4:80"), []string{farther4, inside6}},
		{replaces("83->172.30.0.2:80", "85->10.9.1.1:80/udp"), []string{farther4, inside4}},
		{applies("127.0.0.1:80->172.30.0.2:80", "90->[fd00:30::9]:90"), []string{inside6}},
		{unpublishes("90->[fd00:30::9]:90", "127.0.0.1:80->172.30.0.2:80"), nil},
		// A frontend whose backend goes to the other family and comes back.
		{publishes(local4 + ":80->172.30.0.2:80"), []string{inside4}},
		{replaces(local4 + ":80->[fd00:30::2]:80"), nil},
		{replaces(local4 + ":80->10.9.0.2:80"), []string{farther4}},
	}
	for i, step := range steps {
		require.NoError(t, step.call(e), i)
		require.Equal(t, step.want, segmentsIn(b.kernel.Dump()), i)
		requireConsistent(t, b, e)
	}
}

// Prefixes on link by different interfaces may lie within one another, as those of bridges
// and of routes to single machines do.
func TestNestedSegments(t *testing.T) {
	wide, middle, narrow, single := "10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24", "10.1.1.1/32"
	backends := map[string]string{wide: "10.2.0.1", middle: "10.1.2.1", narrow: "10.1.1.2", single: "10.1.1.1"}
	// All orders of publishing them, and some of unpublishing them.
	order := []string{wide, middle, narrow, single}
	permute(order, func(up []string) {
		for _, down := range [][]string{
			up, {up[3], up[2], up[1], up[0]}, {up[1], up[3], up[0], up[2]}, {up[2], up[0], up[3], up[1]},
		} {
			b := newTestbed()
			b.host.onLink("eth1", wide)
			b.host.onLink("eth2", middle)
			b.host.onLink("br1", narrow)
			b.host.onLink("tap0", single)
			e := b.open(t)
			port := func(p string) string {
				return fmt.Sprintf("%d->%s:80", 80+slices.Index(order, p), backends[p])
			}
			for _, p := range up {
				publish(t, e, port(p))
				requireSegments(t, b, e)
			}
			require.Len(t, segmentsIn(b.kernel.Dump()), 4)
			for _, p := range down {
				require.NoError(t, unpublishes(port(p))(e))
				requireSegments(t, b, e)
			}
			require.Empty(t, segmentsIn(b.kernel.Dump()))
		}
	})
}

// A link has all its prefixes, and a route by several links leads to each.
func TestSegmentsOfLinks(t *testing.T) {
	e, b := openFake(t)
	b.host.onLink("br0", "10.30.0.0/16", "10.30.1.0/24", "2001:db8:30::/64")
	b.host.onLink("tun0", "10.0.0.0/7")
	publish(t, e, "80->172.30.0.2:80")
	require.Equal(t, []string{"10.30.0.0/16", inside4}, segmentsIn(b.kernel.Dump()))
	publish(t, e, "81->[fd00:30::2]:80", "82->10.4.0.1:80")
	require.Equal(t, []string{"10.0.0.0/7", "10.30.0.0/16", inside4, "2001:db8:30::/64", inside6}, segmentsIn(b.kernel.Dump()))
	require.NoError(t, unpublishes("80->172.30.0.2:80", "81->[fd00:30::2]:80", "82->10.4.0.1:80")(e))
	b.host.routes[netip.MustParsePrefix("10.77.0.0/16")] = hostnet.Route{Kind: hostnet.Unicast, Link: "eth1", More: []string{"br0"}}
	publish(t, e, "80->10.77.0.1:80")
	require.Contains(t, segmentsIn(b.kernel.Dump()), inside4)
	require.Contains(t, segmentsIn(b.kernel.Dump()), farther4)
	requireSegments(t, b, e)
}

// The table follows the host: with the next call of follow, and with the next engine.
func TestFollowSegments(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "80->172.30.0.2:80", "81->172.30.0.3:80", "82->10.9.0.2:80", "83->[fd00:30::2]:80")
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, leaseFor(t, b, "90->10.9.0.9:90", time.Minute))
	require.NoError(t, err)
	follow := func() {
		require.NoError(t, e.core.follow(t.Context()))
		requireSegments(t, b, e)
	}
	reopen := func() { e = b.open(t); requireSegments(t, b, e) }
	for i, change := range []func(){
		func() {},
		func() { b.host.onLink("br0", "10.30.0.0/16", "2001:db8:30::/64") },
		func() {
			b.host.onLink("br0", "10.0.0.0/8")
			delete(b.host.routes, netip.MustParsePrefix("10.30.0.0/16"))
		},
		func() { b.host.onLink("br1", inside4) }, // renamed, or another in its place
		func() { b.host.onLink("a b", inside4) },
		func() { clear(b.host.routes) },
		func() { b.host.onLink("veth2", "172.30.0.2/32"); b.host.onLink("br0", inside4, inside6) },
	} {
		change()
		[]func(){follow, reopen}[i%2]()
		before := b.kernel.Dump()
		follow()
		reopen()
		require.Equal(t, before, b.kernel.Dump())
		if name := "a b"; strings.Contains(fmt.Sprint(b.host.routes), name) {
			require.Contains(t, strings.Join(e.core.warnings(nil), "\n"), `the link "a b"`)
			require.NotContains(t, before, name)
		}
	}
	b.clock.advance(time.Minute)
	_, err = e.Mappings(t.Context())
	require.NoError(t, err)
	require.NoError(t, unpublishes("82->10.9.0.2:80")(e))
	follow()
	// What cannot be looked up stays as it is, and so does what cannot be changed.
	before := b.kernel.Dump()
	b.host.onLink("br0", "10.31.0.0/16")
	b.host.hook = func(op string) error { return map[string]error{"onLink": unix.ENOBUFS}[op] }
	require.ErrorIs(t, e.core.follow(t.Context()), unix.ENOBUFS)
	require.Equal(t, before, b.kernel.Dump())
	b.host.hook = nil
	b.kernel.FailNext("Update", unix.ENOMEM)
	require.ErrorIs(t, e.core.follow(t.Context()), unix.ENOMEM)
	require.Equal(t, before, b.kernel.Dump())
	follow()
	require.Contains(t, segmentsIn(b.kernel.Dump()), "10.31.0.0/16")
	// Where an engine could not look, each change looks first.
	b.host.onLink("br0", "10.32.0.0/16")
	b.host.hook = func(op string) error { return map[string]error{"onLink": unix.ENOBUFS}[op] }
	e = b.open(t)
	require.ErrorIs(t, unpublishes("83->[fd00:30::2]:80")(e), unix.ENOBUFS)
	b.host.hook = nil
	require.NoError(t, unpublishes("83->[fd00:30::2]:80")(e))
	requireSegments(t, b, e)
}

func permute(of []string, f func([]string)) {
	if len(of) == 0 {
		f(nil)
		return
	}
	for i := range of {
		rest := slices.Concat(of[:i], of[i+1:])
		permute(rest, func(p []string) { f(append([]string{of[i]}, p...)) })
	}
}

// requireSegments checks the segments in the kernel against the mappings and the host.
func requireSegments(tb testing.TB, b *testbed, e *Engine) {
	tb.Helper()
	require.Equal(tb, b.wantedSegments(tb, must(e.Mappings(tb.Context()))), segmentsIn(b.kernel.Dump()))
	requireConsistent(tb, b, e)
}

// Segments that others wrote, overlapping ones too, do not stay when they are of no
// use, and are in nobody's way.
func TestForeignSegments(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "80->172.30.0.2:80", "81->10.9.0.2:80")
	element := func(link, p string) nft.Element {
		return schema.SegmentElement(segment.Segment{Link: link, Prefix: netip.MustParsePrefix(p)})
	}
	b.write(t, element("br0", "172.30.0.0/25"), element("br0", "172.30.0.0/16"), element("eth1", "203.0.113.0/24"),
		element("eth9", "10.9.0.0/16"), element("br0", "fd00:30::/64"))
	e = b.open(t)
	requireSegments(t, b, e)
	publish(t, e, "82->172.30.0.3:80", "83->[fd00:30::2]:80")
	require.NotContains(t, segmentsIn(b.kernel.Dump()), "203.0.113.0/24")
	require.Contains(t, segmentsIn(b.kernel.Dump()), inside6)
	_, err := e.Remove(t.Context(), nat.Removal{Mappings: mapAll(t, "80->172.30.0.2:80", "82->172.30.0.2:80", "83->172.30.0.2:80")})
	require.NoError(t, err)
	require.Equal(t, []string{farther4}, segmentsIn(b.kernel.Dump()))
	require.NoError(t, unpublishes("81->10.9.0.2:80")(e))
	require.Empty(t, segmentsIn(b.kernel.Dump()))
}

// A segment whose backends have gone by themselves goes with the next change, also
// if that is one of another engine.
func TestSegmentsOfExpired(t *testing.T) {
	for _, reopened := range []bool{false, true} {
		e, b := openFake(t)
		_, err := e.Publish(t.Context(), nat.PublishOptions{}, leaseFor(t, b, "80->172.30.0.2:80", time.Second))
		require.NoError(t, err)
		publish(t, e, "81->10.9.0.2:80")
		b.clock.advance(time.Second)
		if reopened {
			e = b.open(t)
		}
		publish(t, e, "82->[fd00:30::2]:80")
		require.Equal(t, []string{farther4, inside6}, segmentsIn(b.kernel.Dump()))
		requireConsistent(t, b, e)
	}
}

// Random changes of mappings and of the host, checked each time.
func TestSegmentsAtRandom(t *testing.T) {
	const seed = 7
	r := rand.New(rand.NewPCG(seed, seed))
	b := newTestbed()
	prefixes := []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24", "10.2.0.0/16", "10.1.1.4/30", "10.3.0.0/24"}
	link := func() string { return fmt.Sprint("eth", r.IntN(3)) } // eth0 is that of the default route
	for _, p := range prefixes {
		b.host.onLink(link(), p)
	}
	e := b.open(t)
	for step := range 800 {
		var ms []nat.Mapping
		for range 1 + r.IntN(3) {
			backend := netip.AddrFrom4([4]byte{10, byte(r.IntN(5)), byte(r.IntN(2)), byte(1 + r.IntN(6))})
			ms = append(ms, nattest.Mapping(t, fmt.Sprintf("%d->%s:80", 100+r.IntN(12), backend)))
		}
		if nat.ValidateAll(ms...) != nil {
			continue
		}
		if r.IntN(2) == 0 {
			_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, ms...)
			require.NoError(t, err, step)
		} else {
			for _, m := range ms {
				if _, err := e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{m}}); err != nil {
					require.ErrorIs(t, err, nat.ErrNotFound, step)
				}
			}
		}
		switch r.IntN(20) {
		case 0, 1, 2:
			b.host.onLink(link(), prefixes[r.IntN(len(prefixes))])
			require.NoError(t, e.core.follow(t.Context()))
		case 3:
			delete(b.host.routes, netip.MustParsePrefix(prefixes[r.IntN(len(prefixes))]))
			e = b.open(t)
		}
		requireSegments(t, b, e)
	}
}
