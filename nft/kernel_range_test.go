// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The tests of this file ask a real kernel for sets and maps of ranges.

// rangeElement is an element of tcp4_range, or of tcp4_host_range for an address.
func rangeElement(first, last uint16, host string) Element {
	e := Element{Set: "tcp4_range", Key: PortRangeKey(first, last), Value: netip.MustParseAddrPort("10.0.0.1:0")}
	if host != "" {
		e.Set = "tcp4_host_range"
		e.Key = RangeKey(Range{First: first, Last: last, Addr: netip.MustParsePrefix(host + "/32")})
	}
	return e
}

// pieces cuts all ports into ranges, of one port and beside each other too.
func pieces(t *testing.T, n int, host string) []Element {
	t.Helper()
	r := newRand(t)
	bounds := map[uint16]bool{0: true}
	for len(bounds) < n {
		p := uint16(r.Uint32())
		bounds[p] = true
		bounds[p+1] = true
	}
	var first []int
	for p := range bounds {
		first = append(first, int(p))
	}
	slices.Sort(first)
	var es []Element
	for i, p := range first {
		end := 1 << 16
		if i+1 < len(first) {
			end = first[i+1]
		}
		e := rangeElement(uint16(p), uint16(end-1), host)
		if i%3 == 0 {
			e.Comment = fmt.Sprintf("from %d", p)
		}
		if i%4 == 0 {
			e.Timeout = time.Hour
		}
		es = append(es, e)
	}
	return es
}

// Ranges come and go one by one, in one transaction and beside others, and are read as they
// were written, by us and by nft(8).
func TestRangesAgainstModel(t *testing.T) {
	for _, host := range []string{"", "192.0.2.1"} {
		t.Run(host, func(t *testing.T) {
			c, ns := kernel(t)
			r := newRand(t)
			require.NoError(t, c.Replace(sample(), nil, 0))
			free, have := pieces(t, 200, host), []Element(nil)
			set := free[0].Set
			compare := func() {
				got, _, err := c.Elements(sample(), set)
				require.NoError(t, err)
				require.Equal(t, sorted(have), sorted(got))
			}
			for _, n := range []int{len(free), 0, 1, 1, 50, 70, 3, 1, 90} {
				var ch Change
				r.Shuffle(len(have), func(i, j int) { have[i], have[j] = have[j], have[i] })
				gone := have[:min(n, len(have))]
				ch.Delete = slices.Clone(gone)
				have = slices.Clone(have[len(gone):])
				r.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
				m := len(free)
				if len(have) != 0 {
					m = min(m, n/2)
				}
				ch.Add = slices.Clone(free[:m])
				have = append(have, ch.Add...)
				free = append(slices.Clone(free[m:]), gone...)
				require.NoError(t, c.Update(sample(), ch))
				compare()
			}
			// What nft(8) saves and loads can be changed as before.
			labtest.ExecInput(t, ns, "flush ruleset\n"+labtest.Exec(t, ns, "nft", "list", "ruleset"), "nft", "-f", "-")
			compare()
			drift, err := c.Drift(sample())
			require.NoError(t, err)
			require.Empty(t, drift)
			require.NoError(t, c.Update(sample(), Change{Delete: have, Add: have[:len(have)/2]}))
			have = have[:len(have)/2]
			compare()
		})
	}
}

// Get finds the range of every port, at its ends and within, beside others and alone.
func TestGetRange(t *testing.T) {
	for _, host := range []string{"", "192.0.2.1"} {
		t.Run(host, func(t *testing.T) {
			c, _ := kernel(t)
			es := []Element{
				rangeElement(0, 0, host), rangeElement(1, 1, host), rangeElement(2, 9, host), rangeElement(10, 10, host),
				rangeElement(100, 199, host), rangeElement(200, 299, host), rangeElement(301, 302, host),
				rangeElement(400, 400, host), rangeElement(60000, 65534, host), rangeElement(65535, 65535, host),
			}
			es[4].Comment, es[5].Timeout = "a comment", time.Hour
			for _, all := range [][]Element{es, es[:9], es[:8], append(slices.Clone(es[:8]), rangeElement(60000, 65535, host))} {
				require.NoError(t, c.Replace(sample(), all, 0))
				for port := range uint16(405) {
					requireRangeOf(t, c, all, port, host)
				}
				for _, port := range []uint16{59999, 60000, 60001, 65533, 65534, 65535} {
					requireRangeOf(t, c, all, port, host)
				}
			}
		})
	}
}

func requireRangeOf(t *testing.T, c *Conn, all []Element, port uint16, host string) {
	t.Helper()
	got, err := c.Get(sample(), rangeElement(port, port, host).ElementKey())
	require.NoError(t, err, port)
	var want []Element
	for _, e := range all {
		if r, _ := e.Key.Range(); r.First <= port && port <= r.Last {
			want = append(want, e)
		}
	}
	require.Equal(t, sorted(want), sorted(got), port)
}

// What overlaps is refused in a tree, and the error names it. Between sets of concatenations
// some is not: callers have to know.
func TestOverlappingRanges(t *testing.T) {
	c, _ := kernel(t)
	there := []Element{rangeElement(1000, 1999, ""), rangeElement(3000, 65535, "")}
	require.NoError(t, c.Replace(sample(), there, 0))
	for _, r := range [][2]uint16{{1000, 1999}, {500, 1999}, {1000, 2500}, {500, 2500}, {1500, 1600}, {500, 1000}, {1999, 2100}, {65535, 65535}} {
		e := rangeElement(r[0], r[1], "")
		err := c.Update(sample(), Change{Add: []Element{rangeElement(1, 2, ""), e}})
		require.ErrorIs(t, err, unix.EEXIST, e)
		got, _, err := c.Elements(sample(), "tcp4_range")
		require.NoError(t, err)
		require.Equal(t, sorted(there), sorted(got))
	}
	err := c.Update(sample(), Change{Add: []Element{rangeElement(1000, 1999, "")}})
	require.EqualError(t, err, "add element tcp4_range { 1000-1999 : 10.0.0.1 }: file exists")
	err = c.Update(sample(), Change{Delete: []Element{rangeElement(1000, 1500, "")}})
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.EqualError(t, err, "delete element tcp4_range { 1000-1500 }: no such file or directory")
	host := rangeElement(1000, 1999, "192.0.2.1")
	require.NoError(t, c.Update(sample(), Change{Add: []Element{host}}))
	require.ErrorIs(t, c.Update(sample(), Change{Add: []Element{rangeElement(1500, 2500, "192.0.2.1")}}), unix.EEXIST)
	require.NoError(t, c.Update(sample(), Change{Add: []Element{rangeElement(1500, 2500, "192.0.2.2")}}))
	require.NoError(t, c.Update(sample(), Change{Add: []Element{rangeElement(900, 2100, "192.0.2.1")}}), "the kernel takes one around another")
}

// Of ranges that have expired neither the range nor its end is read, and others can have the
// ports.
func TestRangesExpire(t *testing.T) {
	c, _ := kernel(t)
	for _, host := range []string{"", "192.0.2.1"} {
		short := rangeElement(1000, 1999, host)
		short.Timeout = 20 * time.Millisecond
		last := rangeElement(60000, 65535, host)
		last.Timeout = 20 * time.Millisecond
		stays := rangeElement(3000, 3999, host)
		require.NoError(t, c.Replace(sample(), []Element{short, stays, last}, 0))
		require.Eventually(t, func() bool {
			got, _, err := c.Elements(sample(), short.Set)
			require.NoError(t, err)
			return slices.Equal(sorted([]Element{stays}), sorted(got))
		}, 10*time.Second, time.Millisecond)
		requireRangeOf(t, c, []Element{stays}, 1500, host)
		others := []Element{rangeElement(500, 1500, host), rangeElement(1501, 2999, host), rangeElement(4000, 65535, host)}
		require.NoError(t, c.Update(sample(), Change{Add: others}))
		got, _, err := c.Elements(sample(), short.Set)
		require.NoError(t, err)
		require.Equal(t, sorted(append(others, stays)), sorted(got))
	}
}

// A change of so many ranges that they need several messages.
func TestManyRanges(t *testing.T) {
	c, _ := kernel(t)
	require.NoError(t, c.Replace(sample(), nil, 0))
	var es []Element
	for p := range 20000 {
		es = append(es, rangeElement(uint16(3*p), uint16(3*p+1), ""))
	}
	require.NoError(t, c.Update(sample(), Change{Add: es}))
	got, _, err := c.Elements(sample(), "tcp4_range")
	require.NoError(t, err)
	require.Equal(t, sorted(es), sorted(got))
	err = c.Update(sample(), Change{Delete: append(slices.Clone(es), es[19999])})
	require.EqualError(t, err, "delete element tcp4_range { 59997-59998 }: no such file or directory")
	require.NoError(t, c.Update(sample(), Change{Delete: es}))
	got, _, err = c.Elements(sample(), "tcp4_range")
	require.NoError(t, err)
	require.Empty(t, got)
}

// Sets and maps of ranges come back as they were from what nft(8) lists as JSON, as from text (see
// TestSaveAndLoad): ranges, those of one port and up to the last, with time-outs and comments.
func TestRangesSavedAsJSON(t *testing.T) {
	c, ns := kernel(t)
	r := newRand(t)
	table := Table{Name: "nftnat"}
	for _, s := range sample().Sets {
		if s.holds() == rangeKey {
			table.Sets = append(table.Sets, s)
		}
	}
	es := randomElements(r, table, 200)
	for i := range es {
		if n, _ := es[i].Key.Range(); n.Link != "" {
			n.Link = "veth0.1" // some names that an interface can have are read as something else
			es[i].Key = RangeKey(n)
		}
		es[i].Timeout = es[i].Timeout.Truncate(time.Second) // JSON has no parts of it
	}
	es = append(es, rangeElement(1, 1, ""))
	es = slices.DeleteFunc(es, func(e Element) bool {
		n := 0
		for _, o := range es {
			if o.Set == e.Set && overlap(o.Key, e.Key) {
				n++
			}
		}
		return n > 1
	})
	require.NoError(t, c.Replace(table, es, 0))
	saved := labtest.Exec(t, ns, "nft", "-j", "list", "ruleset")
	labtest.Exec(t, ns, "nft", "flush", "ruleset")
	labtest.ExecInput(t, ns, saved, "nft", "-j", "-f", "-")
	var names []string
	for _, s := range table.Sets {
		names = append(names, s.Name)
	}
	got, _, err := c.Elements(table, names...)
	require.NoError(t, err)
	require.Equal(t, sorted(es), sorted(got))
	drift, err := c.Drift(table)
	require.NoError(t, err)
	require.Empty(t, drift)
}
