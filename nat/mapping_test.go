// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

func TestMappingString(t *testing.T) {
	addr := netip.MustParseAddr
	back4, back6 := addr("172.17.0.2"), addr("fd00::2")
	m := func(p nat.Proto, host netip.Addr, port uint16, back netip.Addr, to, more uint16) nat.Mapping {
		return nat.Mapping{Proto: p, Frontend: netip.AddrPortFrom(host, port), Backend: netip.AddrPortFrom(back, to), More: more}
	}
	for _, tt := range []struct {
		m                    nat.Mapping
		want, front, comment string
	}{
		{m: m(nat.TCP, netip.Addr{}, 8080, back4, 80, 0), want: "8080->172.17.0.2:80", front: "8080"},
		{m: m(nat.UDP, netip.Addr{}, 53, back4, 53, 0), want: "53->172.17.0.2:53/udp", front: "53"},
		{m: m(nat.TCP, addr("192.0.2.1"), 8080, back4, 80, 0), want: "192.0.2.1:8080->172.17.0.2:80", front: "192.0.2.1:8080"},
		{m: m(nat.TCP, addr("2001:db8::1"), 8080, back6, 80, 0), want: "[2001:db8::1]:8080->[fd00::2]:80", front: "[2001:db8::1]:8080"},
		{m: m(nat.TCP, addr("0.0.0.0"), 8080, back4, 80, 0), want: "0.0.0.0:8080->172.17.0.2:80", front: "0.0.0.0:8080"},
		{m: m(nat.TCP, addr("::"), 8080, back6, 80, 0), want: "[::]:8080->[fd00::2]:80", front: "[::]:8080"},
		{m: m(nat.TCP, netip.Addr{}, 8000, back4, 9000, 9), want: "8000-8009->172.17.0.2:9000-9009", front: "8000-8009"},
		{m: m(nat.UDP, addr("2001:db8::1"), 8000, back6, 9000, 9), want: "[2001:db8::1]:8000-8009->[fd00::2]:9000-9009/udp", front: "[2001:db8::1]:8000-8009"},
		{m: m(nat.TCP, netip.Addr{}, 0, back4, 80, 0), want: "0->172.17.0.2:80", front: "0"},
		{m: m(nat.TCP, netip.Addr{}, 0, back4, 80, 9), want: "0->172.17.0.2:80-89", front: "0"},
		{m: m(nat.TCP, addr("192.0.2.1"), 0, back4, 80, 9), want: "192.0.2.1:0->172.17.0.2:80-89", front: "192.0.2.1:0"},
		{m: m(nat.TCP, netip.Addr{}, 1, back4, 1, 65534), want: "1-65535->172.17.0.2:1-65535", front: "1-65535"},
	} {
		require.Equal(t, tt.want, tt.m.String())
		require.Equal(t, tt.front, tt.m.FrontendText())
		require.Equal(t, "x "+tt.want, string(tt.m.AppendTo([]byte("x "))))
		require.Equal(t, tt.m, nattest.Mapping(t, tt.want))
		dressed := tt.m
		dressed.Name, dressed.NoProxy, dressed.Expires = "web", true, time.Unix(1, 0)
		require.Equal(t, tt.want, dressed.String(), "the rest is not part of the text")
	}
}

// Values that no text form stands for are printed as what they are, for errors.
func TestMappingStringOfInvalid(t *testing.T) {
	for want, m := range map[string]nat.Mapping{
		"0->:0/Proto(0)": {},
		"65535-65536->172.17.0.2:80-81": {Proto: nat.TCP, More: 1,
			Frontend: netip.AddrPortFrom(netip.Addr{}, 65535), Backend: netip.MustParseAddrPort("172.17.0.2:80")},
		"8080->[fe80::1%eth0]:80": {Proto: nat.TCP,
			Frontend: netip.AddrPortFrom(netip.Addr{}, 8080), Backend: netip.MustParseAddrPort("[fe80::1%eth0]:80")},
	} {
		require.Equal(t, want, m.String())
	}
}

func TestMappingIsAKey(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	set := map[nat.Mapping]string{}
	for range 2000 {
		m := nattest.Random(r)
		require.NoError(t, m.Validate())
		said := fmt.Sprint(m.String(), "|", m.Name, "|", m.NoProxy, m.ProxyOnly, m.Masquerade, m.Hold, "|", m.From, "|", m.Expires)
		if had, ok := set[m]; ok {
			require.Equal(t, had, said)
		}
		set[m] = said
	}
	texts := map[string]bool{}
	for _, said := range set {
		require.False(t, texts[said], "two values for %s", said)
		texts[said] = true
	}
}

// The buffer of String holds the longest text there is.
func TestMappingStringAllocates(t *testing.T) {
	addr := netip.MustParseAddr("2001:db81:db82:db83:db84:db85:db86:db87")
	m := nat.Mapping{Proto: nat.UDP, More: 5535, Frontend: netip.AddrPortFrom(addr, 60000), Backend: netip.AddrPortFrom(addr, 60000)}
	require.LessOrEqual(t, len(m.String()), 112)
	require.InDelta(t, 1, testing.AllocsPerRun(100, func() { _ = m.String() }), 0)
}

func TestInvalidErrorIsOneLine(t *testing.T) {
	for _, tt := range []struct{ input, want string }{
		{"a\nb\x00", `invalid x "a\nb\x00": no`},
		{strings.Repeat("a", 128), `invalid x "` + strings.Repeat("a", 128) + `": no`},
		{strings.Repeat("a", 129), `invalid x "` + strings.Repeat("a", 128) + `"...: no`},
		{strings.Repeat("a", 127) + "é", `invalid x "` + strings.Repeat("a", 127) + `"...: no`},
		{strings.Repeat("\xbf", 200), `invalid x "` + strings.Repeat(`\xbf`, 124) + `"...: no`},
	} {
		require.EqualError(t, &nat.InvalidError{What: "x", Input: tt.input, Reason: "no"}, tt.want)
	}
}
