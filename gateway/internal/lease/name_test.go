// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

const nonce = "00112233445566778899aabb"

// A lease is what its mapping says, and nothing else is a lease.
func TestNames(t *testing.T) {
	l := Lease{
		Client: netip.MustParseAddr("192.168.1.7"), Proto: nat.UDP, Internal: 5000, External: 6000,
		From:    []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")},
		Expires: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC),
	}
	for _, each := range []struct {
		kind      Kind
		key, text string
		name      string
	}{
		{PMP, "", "", "pmp:"},
		{PCP, nonce, "", "pcp:" + nonce},
		{PCP, nonce, "a b", "pcp:" + nonce + " a b"},
		{IGD, "", "", "igd:"},
		{IGD, "Xbox (192.168.1.7:3074) 3074 UDP", "", "igd:Xbox (192.168.1.7:3074) 3074 UDP"},
	} {
		l.Kind, l.Key, l.Text = each.kind, each.key, each.text
		m, err := l.mapping()
		require.NoError(t, err)
		require.Equal(t, each.name, m.Name)
		require.NoError(t, m.Validate())
		back, ok := leaseOf(&m)
		require.True(t, ok)
		require.Equal(t, l, back)

		for _, change := range []func(*nat.Mapping){
			func(m *nat.Mapping) { m.NoProxy = false },
			func(m *nat.Mapping) { m.Hold = nat.HoldShared },
			func(m *nat.Mapping) { m.Masquerade = true },
			func(m *nat.Mapping) { m.Name = "web" },
			func(m *nat.Mapping) { m.Name = "pcp:1234" },
			func(m *nat.Mapping) { m.Name = "pmp:x" },
			func(m *nat.Mapping) { m.Name = "pmp" },
			func(m *nat.Mapping) { m.Frontend = netip.AddrPortFrom(netip.Addr{}, 6000) },
		} {
			other := m
			change(&other)
			l, ok := leaseOf(&other)
			require.True(t, ok)
			require.Zero(t, l.Kind, other)
		}
		other := m
		other.Frontend = netip.MustParseAddrPort("192.0.2.1:6000")
		_, ok = leaseOf(&other)
		require.False(t, ok)
	}
}

func TestCleanedText(t *testing.T) {
	for text, want := range map[string]string{
		"Xbox":             "Xbox",
		" a\tb\nc ":        "a b c",
		"\xff\"\u202ea":    "a",
		"web [no-proxy]":   "web [no-proxy",
		"[shared]":         "[shared",
		"日本語":              "日本語",
		"a\x1b[2J":         "a [2J",
		"<b>&amp;</b>":     "<b>&amp;</b>",
		"x [unknown word]": "x [unknown word]",
	} {
		require.Equal(t, want, clean(text, 4), text)
	}
	for _, text := range []string{strings.Repeat("é", 64<<10), strings.Repeat("a", 100) + "[no-proxy]", strings.Repeat("x [shared] ", 20)} {
		l := Lease{Kind: IGD, Key: clean(text, 4), Client: netip.MustParseAddr("192.168.1.7"), Proto: nat.TCP, Internal: 1, External: 1}
		m, err := l.mapping()
		require.NoError(t, err)
		require.NoError(t, m.Validate())
		require.LessOrEqual(t, len(m.Name), maxName)
		require.Equal(t, m.Name, nat.Name(m.Name))
		require.Equal(t, m.Name, nat.HarmlessName(m.Name))
	}
}

func TestRemaining(t *testing.T) {
	now := time.Now()
	l := Lease{Expires: now.Add(120*time.Second - 300*time.Microsecond)}
	require.Equal(t, 120*time.Second, l.Remaining(now))
	require.Equal(t, 119*time.Second, l.Remaining(now.Add(time.Second)))
	require.Zero(t, l.Remaining(now.Add(time.Hour)))
	require.Zero(t, new(Lease).Remaining(now))
}

func TestKinds(t *testing.T) {
	require.Equal(t, "pmp pcp igd invalid", strings.Join([]string{PMP.String(), PCP.String(), IGD.String(), Kind(0).String()}, " "))
}
