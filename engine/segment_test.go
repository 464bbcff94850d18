// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/engine/internal/segment"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// segmentsIn are the prefixes that a dump has in the inside sets.
func segmentsIn(dump string) []string {
	var ps []string
	for _, e := range elementsIn(dump) {
		if rest, ok := strings.CutPrefix(e, "inside"); ok {
			ps = append(ps, strings.Fields(rest)[2])
		}
	}
	return ps
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

// On-link prefixes may lie within one another, as those of bridges and of routes to
// single machines do. What is in the kernel never overlaps, and has every backend
// that is on a link.
func TestNestedSegments(t *testing.T) {
	wide, middle, narrow, single := "10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24", "10.1.1.1/32"
	backends := map[string]string{wide: "10.2.0.1", middle: "10.1.2.1", narrow: "10.1.1.2", single: "10.1.1.1"}
	nested := func() *testbed {
		b := newTestbed()
		b.host.onLink("eth1", wide)
		b.host.onLink("eth2", middle)
		b.host.onLink("br1", narrow)
		b.host.onLink("tap0", single)
		return b
	}
	// All orders of publishing them, and some of unpublishing them.
	order := []string{wide, middle, narrow, single}
	permute(order, func(up []string) {
		for _, down := range [][]string{
			up, {up[3], up[2], up[1], up[0]}, {up[1], up[3], up[0], up[2]}, {up[2], up[0], up[3], up[1]},
		} {
			b := nested()
			e := b.open(t)
			port := func(p string) string {
				return fmt.Sprintf("%d->%s:80", 80+slices.Index(order, p), backends[p])
			}
			for _, p := range up {
				publish(t, e, port(p))
				requireCovers(t, b, e)
			}
			require.Equal(t, []string{wide}, segmentsIn(b.kernel.Dump()))
			for _, p := range down {
				require.NoError(t, unpublishes(port(p))(e))
				requireCovers(t, b, e)
			}
			require.Empty(t, segmentsIn(b.kernel.Dump()))
		}
	})
	// At once, a wider one for a narrower.
	b := nested()
	e := b.open(t)
	publish(t, e, "80->10.1.1.2:80", "81->10.1.1.1:80")
	require.Equal(t, []string{narrow}, segmentsIn(b.kernel.Dump()))
	require.NoError(t, applies("82->10.2.0.1:80", "83->10.1.1.2:80", "84->10.1.2.1:80")(e))
	require.Equal(t, []string{wide}, segmentsIn(b.kernel.Dump()))
	requireConsistent(t, b, e)
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

// requireCovers checks the segments in the kernel against the backends and the
// routing table.
func requireCovers(tb testing.TB, b *testbed, e *Engine) {
	tb.Helper()
	segments := segmentsIn(b.kernel.Dump())
	needed := map[string]bool{}
	for _, m := range must(e.Mappings(tb.Context())) {
		r, err := b.host.Lookup(m.Backend.Addr())
		require.NoError(tb, err)
		if !r.OnLink.IsValid() || m.Frontend.Addr().IsLoopback() || crosses(m) {
			continue
		}
		i := slices.IndexFunc(segments, func(s string) bool { return segment.Within(r.OnLink, netip.MustParsePrefix(s)) })
		require.GreaterOrEqual(tb, i, 0, "%s has no segment among %v", m, segments)
		needed[segments[i]] = true
	}
	require.Len(tb, needed, len(segments), "of %v some have no backend", segments)
	requireConsistent(tb, b, e)
}

// Segments that others wrote, overlapping ones too, do not stay when they are of no
// use, and are in nobody's way.
func TestForeignSegments(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "80->172.30.0.2:80", "81->10.9.0.2:80")
	segment := func(p string) nft.Element { return schema.SegmentElement(netip.MustParsePrefix(p)) }
	b.write(t, segment("172.30.0.0/25"), segment("172.30.0.0/16"), segment("203.0.113.0/24"), segment("fd00:30::/64"))
	e = b.open(t)
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

// Random changes over nested prefixes, checked against the backends each time.
func TestSegmentsAtRandom(t *testing.T) {
	const seed = 7
	r := rand.New(rand.NewPCG(seed, seed))
	b := newTestbed()
	for _, p := range []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24", "10.2.0.0/16", "10.1.1.4/30", "10.3.0.0/24"} {
		b.host.onLink("eth", p)
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
		if r.IntN(20) == 0 {
			e = b.open(t)
		}
		requireCovers(t, b, e)
	}
}
