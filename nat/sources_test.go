// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

func TestParseSources(t *testing.T) {
	for _, tt := range []struct {
		in   []string
		want string
	}{
		{nil, ""},
		{[]string{"192.0.2.0/24"}, "192.0.2.0/24"},
		{[]string{"192.0.2.7/24"}, "192.0.2.0/24"},
		{[]string{"192.0.2.7"}, "192.0.2.7/32"},
		{[]string{"2001:db8::1"}, "2001:db8::1/128"},
		{[]string{"2001:DB8:0::/32", "10.1.2.3/8"}, "10.0.0.0/8,2001:db8::/32"},
		{[]string{"10.0.0.0/8", "10.0.0.0/8"}, "10.0.0.0/8"},
		{[]string{"10.1.0.0/16", "10.0.0.0/8", "10.2.3.4"}, "10.0.0.0/8"},
		{[]string{"10.0.0.0/9", "10.128.0.0/9"}, "10.0.0.0/9,10.128.0.0/9"},
		{[]string{"10.0.0.0/8", "0.0.0.0/0", "::1"}, "0.0.0.0/0,::1/128"},
		{[]string{"::/0", "fe80::/10"}, "::/0"},
	} {
		s, err := nat.ParseSources(tt.in...)
		require.NoError(t, err, tt.in)
		require.Equal(t, tt.want, s.String())
		require.Equal(t, tt.want == "", s.IsZero())
		again, err := nat.ParseSources(s.Texts()...)
		require.NoError(t, err)
		require.Equal(t, s, again)
	}
	for _, in := range []string{"", "/", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/08", "10.0.0.0/8,10.0.0.1", "::ffff:10.0.0.0/104",
		"::ffff:10.0.0.1", "fe80::1%eth0", "fe80::%eth0/64", "web", " 10.0.0.1", "any", "::/129", "010.0.0.1"} {
		_, err := nat.ParseSources("192.0.2.1", in)
		require.ErrorIs(t, err, nat.ErrInvalid, in)
		require.NotContains(t, err.Error(), "192.0.2.1\"", "the wrong one is named")
	}
	_, err := nat.SourcesOf(netip.Prefix{})
	require.ErrorIs(t, err, nat.ErrInvalid)
}

// What is within another prefix does not count.
func TestMaxSources(t *testing.T) {
	texts := []string{"198.51.100.0/24", "198.51.100.1", "198.51.100.2"}
	for i := range nat.MaxSources - 1 {
		texts = append(texts, fmt.Sprintf("10.0.%d.0/24", i))
	}
	s, err := nat.ParseSources(texts...)
	require.NoError(t, err)
	require.Len(t, s.Prefixes(), nat.MaxSources)
	_, err = nat.ParseSources(append(texts, "2001:db8::/32")...)
	require.EqualError(t, err, `invalid source "2001:db8::/32": there are 65 prefixes, more than 64`)
}

// Sources allow what one of the given prefixes has, and have one form.
func TestSourcesAllow(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 36))
	addr := func() netip.Addr {
		if r.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(32))})
		}
		return netip.AddrFrom16([16]byte{0xfd, 15: byte(r.IntN(32))})
	}
	for range 500 {
		given := make([]netip.Prefix, 1+r.IntN(8))
		for i := range given {
			a := addr()
			given[i] = netip.PrefixFrom(a, a.BitLen()-r.IntN(5))
		}
		s, err := nat.SourcesOf(given...)
		require.NoError(t, err)
		shuffled := append(slices.Clone(given), given[0])
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		same, err := nat.SourcesOf(shuffled...)
		require.NoError(t, err)
		require.Equal(t, s, same)
		for range 50 {
			a := addr()
			want := slices.ContainsFunc(given, func(p netip.Prefix) bool { return p.Masked().Contains(a) })
			require.Equal(t, want, s.Allow(a), "%s and %s", s, a)
		}
		ps := s.Prefixes()
		for i := range ps {
			for j := range i {
				require.False(t, ps[i].Overlaps(ps[j]))
			}
		}
	}
	require.True(t, nat.Sources{}.Allow(addr()))
}

func TestValidateOptions(t *testing.T) {
	for _, tt := range []struct {
		text   string
		change func(*nat.Mapping)
		reason string // "": valid
	}{
		{"80->1.2.3.4:80", func(m *nat.Mapping) { m.Masquerade = true }, ""},
		{"80->1.2.3.4:80", func(m *nat.Mapping) { m.Masquerade, m.NoProxy = true, true }, ""},
		{"80->1.2.3.4:80", func(m *nat.Mapping) { m.ProxyOnly = true }, ""},
		{"127.0.0.1:80->1.2.3.4:80", func(m *nat.Mapping) { m.ProxyOnly = true }, ""},
		{"0.0.0.0:80->[fd00::2]:80", func(m *nat.Mapping) { m.ProxyOnly = true }, ""},
		{"80->1.2.3.4:80", func(m *nat.Mapping) { m.ProxyOnly, m.NoProxy = true, true }, "has no proxy"},
		{"80->1.2.3.4:80", func(m *nat.Mapping) { m.ProxyOnly, m.Masquerade = true, true }, "without masquerade too"},
		{"127.0.0.1:80->1.2.3.4:80", func(m *nat.Mapping) { m.Masquerade = true }, "the frontend is a loopback address, which only a proxy"},
		{"0.0.0.0:80->[fd00::2]:80", func(m *nat.Mapping) { m.Masquerade = true }, "the frontend is of IPv4 and the backend of IPv6"},
		{"80->1.2.3.4:80", func(m *nat.Mapping) { m.From = nattest.Sources(t, "10.0.0.0/8", "fd00::/8") }, ""},
		{"80->1.2.3.4:80", func(m *nat.Mapping) { m.From = nattest.Sources(t, "fd00::/8") }, ""},
		{"0.0.0.0:80->[fd00::2]:80", func(m *nat.Mapping) { m.From = nattest.Sources(t, "10.0.0.0/8") }, ""},
		{"[::]:80->[fd00::2]:80", func(m *nat.Mapping) { m.From = nattest.Sources(t, "10.0.0.0/8", "fd00::/8") },
			"the frontend is of IPv6, and no client from 10.0.0.0/8 can reach it"},
		{"192.0.2.1:80->1.2.3.4:80", func(m *nat.Mapping) { m.From = nattest.Sources(t, "fd00::/8") }, "no client from fd00::/8"},
		{"[::1]:80->1.2.3.4:80", func(m *nat.Mapping) { m.From = nattest.Sources(t, "::1") }, "only this host reaches"},
	} {
		m := nattest.Mapping(t, tt.text)
		tt.change(&m)
		err := m.Validate()
		require.Equal(t, tt.reason == "", m.Valid())
		if tt.reason == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, nat.ErrInvalid)
		require.ErrorContains(t, err, tt.reason)
	}
}

// What gob has written it reads.
func TestSourcesBinary(t *testing.T) {
	for _, texts := range [][]string{nil, {"192.0.2.0/24"}, {"192.0.2.7", "2001:db8::/32"}} {
		s, err := nat.ParseSources(texts...)
		require.NoError(t, err)
		b, err := s.MarshalBinary()
		require.NoError(t, err)
		read := nat.Sources{}
		require.NoError(t, read.UnmarshalBinary(b))
		require.Equal(t, s, read)
	}
	require.ErrorIs(t, new(nat.Sources).UnmarshalBinary([]byte("nonsense")), nat.ErrInvalid)
}
