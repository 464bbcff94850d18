// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOnLink(t *testing.T) {
	prefixes := func(texts ...string) (ps []netip.Prefix) {
		for _, s := range texts {
			ps = append(ps, netip.MustParsePrefix(s))
		}
		return ps
	}
	d := Device{Name: "br0", Addrs: prefixes("192.168.1.1/24", "10.0.0.1/31", "10.9.0.1/32", "fd00::1/64", "fe80::1/64")}
	d.onLink = prefixes("192.168.1.0/24", "10.0.0.0/31", "10.9.0.2/32", "fd00::/64", "fe80::/64")
	for text, want := range map[string]bool{
		"192.168.1.7":     true,
		"192.168.1.1":     false, // our own
		"192.168.1.0":     false,
		"192.168.1.255":   false,
		"192.168.2.7":     false,
		"10.0.0.0":        true,
		"10.0.0.1":        false,
		"10.9.0.2":        true, // a peer
		"10.9.0.3":        false,
		"0.0.0.0":         false,
		"127.0.0.1":       false,
		"224.0.0.1":       false,
		"255.255.255.255": false,
		"fd00::7":         true,
		"fd01::7":         false,
		"fe80::7%br0":     true,
		"fe80::1%br0":     false,
		"::":              false,
		"ff02::1":         false,
	} {
		require.Equal(t, want, d.OnLink(netip.MustParseAddr(text)), text)
	}
	require.False(t, d.OnLink(netip.Addr{}))
	require.Equal(t, "192.168.1.1", d.Addr4().String())
	require.Equal(t, "fe80::1%br0", d.Link6().String())
	require.False(t, new(Device).Addr4().IsValid())
	require.False(t, new(Device).Link6().IsValid())
}

func TestRate(t *testing.T) {
	l := newLimiter(Rate{PerSecond: 10, Burst: 5})
	now := time.Now()
	sent := func(a string, n int) (passed int) {
		for range n {
			if l.allow(netip.MustParseAddr(a), now) {
				passed++
			}
		}
		return passed
	}
	require.Equal(t, 5, sent("192.168.1.7", 100))
	require.Equal(t, 5, sent("192.168.1.8", 100))
	now = now.Add(300 * time.Millisecond)
	require.Equal(t, 3, sent("192.168.1.7", 100))
	now = now.Add(time.Hour)
	require.Equal(t, 5, sent("192.168.1.7", 100))

	// However many sources there are, those that are known are bounded, and so is what the others send.
	passed := 0
	for i := range 3 * maxSources {
		passed += sent(fmt.Sprintf("10.%d.%d.1", i>>8, i&255), 1)
	}
	require.Less(t, passed, maxSources+10)
	require.LessOrEqual(t, len(l.sources), maxSources)
	now = now.Add(time.Minute)
	require.Equal(t, 1, sent("10.255.0.1", 1))
	require.Len(t, l.sources, 1, "the others are forgotten")
}
