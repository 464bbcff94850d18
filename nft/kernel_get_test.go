// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"io/fs"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
)

// configOf is that of a namespace.
func configOf(t *testing.T, ns *lab.NS) *Config {
	t.Helper()
	f, err := os.Open(ns.Path())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return &Config{NetNS: int(f.Fd())}
}

// Elements of every type of hash set are found by their keys, and no others.
func TestGet(t *testing.T) {
	c, _ := kernel(t)
	r, table := newRand(t), sample()
	none, err := c.Get(table, ElementKey{"tcp4", PortKey(1)})
	require.NoError(t, err, "there is no table")
	require.Empty(t, none)
	var want []Element
	var keys []ElementKey
	for i, e := range randomElements(r, table, 400) {
		if set, _ := table.Set(e.Set); set.Interval {
			continue
		}
		keys = append(keys, e.ElementKey())
		if i%2 == 0 {
			want = append(want, e)
		}
	}
	require.NoError(t, c.Replace(table, want, 0))
	got, err := c.Get(table, keys...)
	require.NoError(t, err)
	requireSame(t, want, got)
}

func TestGetExpired(t *testing.T) {
	c, _ := kernel(t)
	table, es := sample(), ports(1, "")
	es[0].Timeout = time.Millisecond
	require.NoError(t, c.Replace(table, es, 0))
	require.Eventually(t, func() bool {
		got, err := c.Get(table, es[0].ElementKey())
		require.NoError(t, err)
		return len(got) == 0
	}, 10*time.Second, time.Millisecond)
}

func TestGetRefuses(t *testing.T) {
	c, _ := kernel(t)
	for _, k := range []ElementKey{
		{"nothing", PortKey(1)}, {"tcp4", AddrKey(netip.MustParseAddr("192.0.2.1"))}, {"tcp4", Key{}},
		{"networks4", PrefixKey(netip.MustParsePrefix("192.0.2.0/24"))},
	} {
		_, err := c.Get(sample(), k)
		require.Error(t, err, k)
	}
}

func TestFilter(t *testing.T) {
	c, _ := kernel(t)
	table := sample()
	var want, all []Element
	for port := range uint16(3000) {
		at := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port+1)
		e := Element{Set: "tcp4_from", Key: ClientsKey(at, netip.MustParsePrefix("198.51.100.0/24"))}
		if all = append(all, e); port%100 == 0 {
			want = append(want, e)
		}
	}
	keep := func(e *Element) bool { at, _, _ := e.Key.Clients(); return at.Port()%100 == 1 }
	_, err := c.Filter(table, "tcp4_from", keep)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, c.Replace(table, all, 0))
	got, err := c.Filter(table, "tcp4_from", keep)
	require.NoError(t, err)
	requireSame(t, want, got)
	for _, set := range []string{"nothing", "networks4", "tcp4"} {
		_, err = c.Filter(table, set, keep)
		require.Error(t, err, set)
	}
}

// A sample ends with a map that is not read to its end.
func TestSample(t *testing.T) {
	c, ns := kernel(t)
	cfg, table, es := configOf(t, ns), sample(), ports(2000, "")
	_, _, err := Sample(cfg, table, "tcp4", 10)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, _, err = Sample(cfg, table, "networks4", 10)
	require.Error(t, err)
	require.NoError(t, c.Replace(table, es, 0))
	for _, limit := range []int{0, 10, 1999} {
		got, all, err := Sample(cfg, table, "tcp4", limit)
		require.NoError(t, err)
		require.False(t, all)
		require.Len(t, got, limit)
	}
	got, all, err := Sample(cfg, table, "tcp4", 2000)
	require.NoError(t, err)
	require.True(t, all)
	requireSame(t, es, got)
}
