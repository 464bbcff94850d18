// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

// Package nattest makes mappings for tests.
package nattest

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// Mapping parses the text of a valid mapping.
func Mapping(tb testing.TB, text string) nat.Mapping {
	tb.Helper()
	m, err := nat.ParseMappingText(text)
	require.NoError(tb, err)
	return m
}

// Sources parses valid sources.
func Sources(tb testing.TB, texts ...string) nat.Sources {
	tb.Helper()
	s, err := nat.ParseSources(texts...)
	require.NoError(tb, err)
	return s
}

// Options gives a valid mapping some of the options that its fields allow.
func Options(r *rand.Rand, m *nat.Mapping) {
	with := *m
	with.NoProxy, with.ProxyOnly, with.Masquerade = r.IntN(4) == 0, r.IntN(4) == 0, r.IntN(4) == 0
	if with.Frontend.Port() != 0 && r.IntN(4) == 0 {
		with.Hold = nat.HoldShared
	}
	if r.IntN(4) == 0 {
		four := []string{"192.0.2.0/24", "198.51.100.7/32", "0.0.0.0/0"}[r.IntN(3)]
		six := []string{"2001:db8::/32", "fd00::7/128", "::/0"}[r.IntN(3)]
		texts := [][]string{{four}, {six}, {four, six}}[r.IntN(3)]
		with.From, _ = nat.ParseSources(texts...)
	}
	if with.Valid() {
		*m = with
	}
}

// Random returns a valid mapping from a space small enough for
// neighbours and overlaps to be common.
func Random(r *rand.Rand) nat.Mapping {
	pick := func(of ...string) netip.Addr {
		if s := of[r.IntN(len(of))]; s != "" {
			return netip.MustParseAddr(s)
		}
		return netip.Addr{}
	}
	m := nat.Mapping{Proto: nat.TCP, Name: []string{"", "", "web", "db 1"}[r.IntN(4)]}
	if r.IntN(2) == 0 {
		m.Proto = nat.UDP
	}
	if r.IntN(4) == 0 {
		m.Expires = time.Date(2027, 1, 1+r.IntN(2), 0, 0, 0, r.IntN(2), time.UTC)
	}
	if r.IntN(2) == 0 {
		m.More = uint16(r.IntN(12))
	}
	host, back := pick("", "0.0.0.0", "192.0.2.1", "192.0.2.2"), pick("172.17.0.2", "172.17.0.3")
	if r.IntN(2) == 0 {
		host, back = pick("", "::", "2001:db8::1", "2001:db8::2"), pick("fd00::2", "fd00::3")
	}
	if host.IsValid() && r.IntN(4) == 0 {
		back = pick(map[bool]string{true: "fd00::2", false: "172.17.0.2"}[host.Is4()])
	}
	port := uint16(8000 + r.IntN(40))
	switch r.IntN(12) {
	case 0:
		port = 0
	case 1:
		port = 65535 - m.More
	}
	m.Frontend = netip.AddrPortFrom(host, port)
	m.Backend = netip.AddrPortFrom(back, uint16(80+r.IntN(3)))
	Options(r, &m)
	return m
}
