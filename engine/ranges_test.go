// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// rangeElements are the elements of ports, ranges and holes in the table.
func rangeElements(b *testbed) (lines []string) {
	for _, el := range elementsIn(b.kernel.Dump()) {
		if set, _, _ := strings.Cut(el, " "); strings.HasPrefix(set, "tcp4") || strings.HasPrefix(set, "udp4") || strings.HasPrefix(set, "holes") {
			lines = append(lines, el)
		}
	}
	return lines
}

// A range is one element, whatever its width. Ports that are taken out are holes or elements of
// their own, and go when the ports are returned.
func TestWideRange(t *testing.T) {
	e, b := openFake(t)
	publish(t, e, "10000-60000->172.30.0.2:10000-60000")
	require.Equal(t, []string{"tcp4_range { 10000-60000 : 172.30.0.2 }"}, rangeElements(b))
	remove(t, e, "20000->172.30.0.2:20000")
	replace(t, e, "20001->172.30.0.3:20001")
	require.ElementsMatch(t, []string{
		"tcp4_range { 10000-60000 : 172.30.0.2 }", "holes { ipv4 . tcp . 20000 }", "tcp4 { 20001 : 172.30.0.3 . 20001 }",
	}, rangeElements(b))
	require.Equal(t, []string{
		"10000-19999->172.30.0.2:10000-19999", "20001->172.30.0.3:20001", "20002-60000->172.30.0.2:20002-60000",
	}, publishedBy(e))
	requireConsistent(t, b, e)
	publish(t, e, "20000->172.30.0.2:20000")
	replace(t, e, "20001->172.30.0.2:20001")
	require.Equal(t, []string{"tcp4_range { 10000-60000 : 172.30.0.2 }"}, rangeElements(b))
	publish(t, e, "10000-60000->172.30.0.2:10000-60000") // the same again
	require.Equal(t, []string{"tcp4_range { 10000-60000 : 172.30.0.2 }"}, rangeElements(b))

	_, err := e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, "59990-60010->172.30.0.3:59990-60010"))
	require.ErrorContains(t, err, "publish tcp 59990-60010: tcp 10000-60000 is published as 10000-60000->172.30.0.2:10000-60000")
	replace(t, e, "59990-60010->172.30.0.3:59990-60010")
	require.Equal(t, []string{
		"tcp4_range { 10000-59989 : 172.30.0.2 }", "tcp4_range { 59990-60000 : 172.30.0.3 }", "tcp4_range { 60001-60010 : 172.30.0.3 }",
	}, slices.Sorted(slices.Values(rangeElements(b))))
	requireConsistent(t, b, e)
	_, err = e.Remove(t.Context(), nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "10000-60010->172.30.0.9:10000-60010")}})
	require.NoError(t, err)
	require.Empty(t, rangeElements(b))
	requireConsistent(t, b, e)
}

// A conflict names the range that is published, whichever of its ports were asked for.
func TestRangeConflict(t *testing.T) {
	e, _ := openFake(t)
	publish(t, e, "10000-60000->172.30.0.2:10000-60000")
	remove(t, e, "20000->172.30.0.2:20000")
	replace(t, e, "30000->172.30.0.3:30000")
	const low, high = "tcp 10000-19999 is published as 10000-19999->172.30.0.2:10000-19999", "tcp 30001-60000 is published as 30001-60000->172.30.0.2:30001-60000"
	for text, says := range map[string]string{
		"10000->172.30.0.9:80":                    "publish tcp 10000: " + low,
		"15000-16000->172.30.0.9:15000-16000":     "publish tcp 15000-16000: " + low,
		"15000-15001->172.30.0.9:80-81":           "publish tcp 15000-15001: " + low,
		"10000-60000->172.30.0.9:10000-60000":     "publish tcp 10000-60000: " + low,
		"192.0.2.1:50000->172.30.0.9:80":          "publish tcp 192.0.2.1:50000: " + high,
		"[::]:50000-65000->[fd30::2]:50000-65000": "publish tcp [::]:50000-65000: " + high,
		"30000->172.30.0.2:30000":                 "publish tcp 30000: tcp 30000 is published as 30000->172.30.0.3:30000",
	} {
		m := nattest.Mapping(t, text)
		_, err := e.Publish(t.Context(), nat.PublishOptions{}, m)
		require.EqualError(t, err, says)
		var conflict *nat.ConflictError
		require.ErrorAs(t, err, &conflict)
	}
	named := nattest.Mapping(t, "40000-50000->172.30.0.2:40000-50000")
	named.NoProxy = true
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, named)
	require.EqualError(t, err, "publish tcp 40000-50000: "+high+" with a proxy")
	_, err = e.Remove(t.Context(), nat.Removal{Exact: true, Mappings: []nat.Mapping{nattest.Mapping(t, "10000-19999->172.30.0.9:10000-19999")}})
	require.EqualError(t, err, "unpublish tcp 10000-19999: 10000-19999->172.30.0.9:10000-19999 is not published: "+low)
}

// What ends by itself within a range does not give its port back to it, and a range that ends
// leaves what was published within it.
func TestRangeExpires(t *testing.T) {
	e, b := openFake(t)
	lease := func(text string, d time.Duration) {
		m := leaseFor(t, b, text, d)
		_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, m)
		require.NoError(t, err)
	}
	publish(t, e, "1000-1999->172.30.0.2:1000-1999")
	lease("1500->172.30.0.3:1500", time.Minute)
	b.clock.advance(time.Minute)
	require.Equal(t, []string{"1000-1499->172.30.0.2:1000-1499", "1501-1999->172.30.0.2:1501-1999"}, publishedBy(e))
	requireConsistent(t, b, e)
	lease("1000-1999->172.30.0.2:1000-1999", time.Hour)
	replace(t, e, "1700->172.30.0.3:1700")
	remove(t, e, "1800->172.30.0.2:1800")
	b.clock.advance(time.Hour)
	require.Equal(t, []string{"1700->172.30.0.3:1700"}, publishedBy(e))
	b.clock.advance(time.Second)
	requireConsistent(t, b, e)
	publish(t, e, "1800-1899->172.30.0.3:1800-1899")
	require.Equal(t, []string{"1700->172.30.0.3:1700", "1800-1899->172.30.0.3:1800-1899"}, publishedBy(e))
	requireConsistent(t, b, e)
}

// An engine that is killed at any step of a change of ranges leaves what was before, or what is
// after; the next one brings the table to rest.
func TestRangeKilled(t *testing.T) {
	changes := map[string]func(context.Context, *Engine) error{
		"replace a part": func(ctx context.Context, e *Engine) error {
			_, err := e.Publish(ctx, nat.PublishOptions{Replace: true}, nattest.Mapping(t, "1300-1600->172.30.0.3:1300-1600"))
			return err
		},
		"cut": func(ctx context.Context, e *Engine) error {
			_, err := e.Remove(ctx, nat.Removal{Mappings: []nat.Mapping{nattest.Mapping(t, "1600-1900->172.30.0.2:1600-1900")}})
			if errors.Is(err, nat.ErrNotFound) { // it was cut before
				return nil
			}
			return err
		},
		"apply": func(ctx context.Context, e *Engine) error {
			_, err := e.Apply(ctx, mapAll(t, "900-1400->172.30.0.3:900-1400", "1401-1500->172.30.0.2:2401-2500", "1501->172.30.0.2:1501")...)
			return err
		},
		"take out": func(ctx context.Context, e *Engine) error {
			_, err := e.Publish(ctx, nat.PublishOptions{Replace: true}, nattest.Mapping(t, "1700->172.30.0.3:17"))
			return err
		},
	}
	for name, change := range changes {
		for at := 1; at <= 8; at++ {
			for _, dead := range []bool{true, false} {
				t.Run(fmt.Sprint(name, " ", at, " ", dead), func(t *testing.T) {
					rangeFails(t, change, at, dead, "1000-1999->172.30.0.2:1000-1999")
				})
			}
		}
	}
	// One range takes the place of several, and of what is between them.
	join := func(ctx context.Context, e *Engine) error {
		_, err := e.Publish(ctx, nat.PublishOptions{Replace: true}, nattest.Mapping(t, "192.0.2.1:900-2500->172.30.0.3:900-2500/udp"))
		return err
	}
	for at := 1; at <= 8; at++ {
		for _, dead := range []bool{true, false} {
			t.Run(fmt.Sprint("join ", at, " ", dead), func(t *testing.T) {
				es := rangeFails(t, join, at, dead, "1000-1999->172.30.0.2:1000-1999",
					"192.0.2.1:1000-1099->172.30.0.2:1000-1099/udp", "192.0.2.1:1200-1299->172.30.0.2:1200-1299/udp", "192.0.2.1:2000-2099->172.30.0.2:2000-2099/udp")
				ranges := slices.DeleteFunc(es, func(el string) bool { return !strings.HasPrefix(el, "udp4_host_range") })
				require.Contains(t, []int{1, 3}, len(ranges), "its pieces are not settled: %v", ranges)
			})
		}
	}
}

// rangeFails has a call to the kernel fail, and those after it as well if the engine is dead then.
func rangeFails(t *testing.T, change func(context.Context, *Engine) error, at int, dead bool, published ...string) (elements []string) {
	t.Helper()
	e, b := openFake(t)
	publish(t, e, published...)
	remove(t, e, "1500->172.30.0.2:1500")
	replace(t, e, "1501->172.30.0.3:1501")
	before := publishedBy(e)
	n := 0
	b.kernel.Hook(func(op string) error {
		if op != "Update" {
			return nil
		}
		if n++; n == at || dead && n > at {
			return unix.EIO
		}
		return nil
	})
	err := change(t.Context(), e)
	b.kernel.Hook(nil)
	if !dead {
		is := publishedBy(e)
		require.Equal(t, err != nil, slices.Equal(before, is), "%v: %v", err, is)
		requireConsistent(t, b, e)
	}
	next := b.open(t)
	if is := publishedBy(next); !slices.Equal(before, is) {
		require.NoError(t, change(t.Context(), next)) // it is what the change was to bring about
		require.Equal(t, is, publishedBy(next))
	}
	for _, el := range rangeElements(b) {
		require.NotContains(t, el, "_next")
	}
	requireConsistent(t, b, next)
	return rangeElements(b)
}

// Of one address there are at most so many ranges. One that takes the place of several is one; what there is no room for is
// refused, by the name that it was asked for by, and changes nothing.
func TestRangesOfOneAddress(t *testing.T) {
	e, b := openFake(t)
	var ms []nat.Mapping
	for i := range portset.MostOfOneAddress {
		ms = append(ms, nattest.Mapping(t, fmt.Sprintf("192.0.2.1:%d-%d->172.30.0.2:%[1]d-%[2]d/udp", 1000+300*i, 1009+300*i)))
	}
	ms[0] = nattest.Mapping(t, "192.0.2.1:50000-59999->172.30.0.2:50000-59999/udp")
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, ms...)
	require.NoError(t, err)
	ranges := func() int { return strings.Count(b.kernel.Dump(), "add element inet nftnat udp4_host_range ") }
	require.Equal(t, portset.MostOfOneAddress, ranges())
	before := b.kernel.Dump()
	refused := func(err error, want, says string) {
		t.Helper()
		require.EqualError(t, err, says)
		var many *nat.RangesError
		require.ErrorAs(t, err, &many)
		require.ErrorIs(t, err, nat.ErrConflict)
		require.Equal(t, nat.RangesError{Want: nattest.Mapping(t, want), Most: portset.MostOfOneAddress}, *many)
		require.Equal(t, before, b.kernel.Dump())
		requireConsistent(t, b, e)
	}
	const wide, middle = "192.0.2.9:1000-4000->172.30.0.2:1000-4000/udp", "192.0.2.1:52000-54000->172.30.0.3:52000-54000/udp"
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, nattest.Mapping(t, wide))
	refused(err, wide, "publish udp 192.0.2.9:1000-4000: udp 192.0.2.9:1000-4000 would be one of more than 128 ranges of one address")
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, append(mapAll(t, "80->172.30.0.2:80", "81->172.30.0.2:81"), nattest.Mapping(t, wide))...)
	refused(err, wide, "publish tcp 80 and 2 more: udp 192.0.2.9:1000-4000 would be one of more than 128 ranges of one address")
	_, err = e.Publish(t.Context(), nat.PublishOptions{Replace: true}, nattest.Mapping(t, middle))
	refused(err, middle, "publish udp 192.0.2.1:52000-54000: udp 192.0.2.1:52000-54000 would be one of more than 128 ranges of one address")
	_, err = e.Apply(t.Context(), append(slices.Clone(ms), nattest.Mapping(t, wide))...)
	refused(err, wide, "apply 129 mappings: udp 192.0.2.9:1000-4000 would be one of more than 128 ranges of one address")

	replace(t, e, "192.0.2.1:50000-59999->172.30.0.3:50000-59999/udp")
	require.Equal(t, portset.MostOfOneAddress, ranges())
	remove(t, e, "192.0.2.1:51000-51999->172.30.0.3:51000-51999/udp") // by holes: there is no room for what is left
	require.Equal(t, portset.MostOfOneAddress, ranges())
	require.Equal(t, 1000, strings.Count(b.kernel.Dump(), "nftnat holes4_host "))
	publish(t, e, "192.0.2.9:1000-1099->172.30.0.2:1000-1099/udp") // as single ports
	require.Equal(t, portset.MostOfOneAddress, ranges())
	remove(t, e, "192.0.2.9:1000-1099->172.30.0.2:1000-1099/udp")

	// What one call removes makes room in it.
	_, err = e.Apply(t.Context(), append(slices.Clone(ms[2:]), nattest.Mapping(t, wide))...)
	require.NoError(t, err)
	require.Equal(t, portset.MostOfOneAddress-1, ranges())
	require.NotContains(t, b.kernel.Dump(), "element inet nftnat holes4_host")
	// 126 narrow ones, and what is between them, become one, also if they lead to the same backend.
	before = b.kernel.Dump()
	publish(t, e, "192.0.2.1:50000-59999->172.30.0.2:50000-59999/udp")
	_, err = e.Publish(t.Context(), nat.PublishOptions{Replace: true}, nattest.Mapping(t, "192.0.2.1:1000-49999->172.30.0.2:1000-49999/udp"))
	require.NoError(t, err)
	require.Equal(t, 2, ranges())
	requireConsistent(t, b, e)
	_, err = e.Apply(t.Context(), append(slices.Clone(ms[2:]), nattest.Mapping(t, wide))...)
	require.NoError(t, err)
	require.Equal(t, before, b.kernel.Dump())
	replace(t, e, "192.0.2.1:1000-49999->172.30.0.3:1000-49999/udp")
	require.Equal(t, 2, ranges())
	requireConsistent(t, b, e)
	publish(t, e, "192.0.2.9:5000-9000->172.30.0.2:5000-9000/udp")
	require.Equal(t, 3, ranges())
}

// The table has the options of ranges as those of single ports: what follows from what is
// published, and no more.
func TestRangeOptions(t *testing.T) {
	e, b := openFake(t)
	do := func(text, from string, masquerade bool) {
		t.Helper()
		m := nattest.Mapping(t, text)
		m.Masquerade = masquerade
		if from != "" {
			m.From = must(nat.ParseSources(from))
		}
		_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, m)
		require.NoError(t, err)
		requireOptions(t, b, e)
	}
	do("1000-1999->172.30.0.2:1000-1999", "192.0.2.0/24", false)
	do("1500->172.30.0.3:1500", "", false)
	do("1501->172.30.0.3:1501", "192.0.2.9/32", true)
	remove(t, e, "1600->172.30.0.2:1600")
	requireOptions(t, b, e)
	do("1000-1999->172.30.0.2:1000-1999", "198.51.100.0/24", false)
	do("1000-1999->172.30.0.2:1000-1999", "", true)
	do("900-1999->172.30.0.3:900-1999", "192.0.2.0/24", true)
	do("3000-3999->172.30.0.2:3000-3999", "192.0.2.0/24", true)
	do("192.0.2.1:5000-5099->172.30.0.2:5000-5099", "192.0.2.0/24", false)
	remove(t, e, "3000-3499->172.30.0.2:3000-3499")
	requireOptions(t, b, e)
	require.NotEmpty(t, publishedBy(e))
	for _, m := range must(e.State(t.Context())).Mappings {
		remove(t, e, m.String())
		requireOptions(t, b, e)
	}
}

func requireOptions(t *testing.T, b *testbed, e *Engine) {
	t.Helper()
	requireConsistent(t, b, e)
	var want, have []string
	for _, el := range schema.SetOptions(&e.core.mappings, b.clock.Now()) {
		want = append(want, withoutTimeout(el.String()))
	}
	for _, el := range elementsIn(b.kernel.Dump()) {
		set, _, _ := strings.Cut(el, " ")
		if strings.HasPrefix(set, "limited") || strings.HasPrefix(set, "masquerade_to") || strings.HasPrefix(set, "from") || strings.HasSuffix(set, "_from") {
			have = append(have, withoutTimeout(el))
		}
	}
	require.ElementsMatch(t, want, have)
}

// A range that ends leaves no note, whatever was taken out of it.
func TestNotesOfRangeThatEnds(t *testing.T) {
	e, b := openFake(t)
	lease := func(text string, d time.Duration) {
		_, err := e.Publish(t.Context(), nat.PublishOptions{Replace: true}, leaseFor(t, b, text, d))
		require.NoError(t, err)
	}
	publish(t, e, "99->172.30.0.2:99")
	lease("1000-1999->172.30.0.2:1000-1999/udp", time.Minute)
	replace(t, e, "1500->172.30.0.3:1500/udp")
	lease("1600->172.30.0.2:1600/udp", time.Hour)
	b.clock.advance(2 * time.Minute)
	require.Equal(t, []string{"99->172.30.0.2:99", "1500->172.30.0.3:1500/udp", "1600->172.30.0.2:1600/udp until 01:00:00"}, publishedBy(e))
	publish(t, e, "100->172.30.0.2:100")
	require.NotContains(t, strings.Join(rangeElements(b), "\n"), "udp4_ended_range")
	requireConsistent(t, b, e)
}
