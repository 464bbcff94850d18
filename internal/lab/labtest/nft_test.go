// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

func TestSpellNFT(t *testing.T) {
	for _, tt := range []struct{ listed, want string }{
		{"\t\tsize 65535\t# count 50\n", "\t\tsize 65535\n"},
		{"\t\tsize 65535 # count 50\n", "\t\tsize 65535\n"},
		{"\t\tsize 65535\n", "\t\tsize 65535\n"},
		{"hook output priority dstnat; policy", "hook output priority -100; policy"},
		{"hook output priority dstnat - 5; policy", "hook output priority -105; policy"},
		{"hook output priority dstnat + 10; policy", "hook output priority -90; policy"},
		{"hook prerouting priority dstnat - 5;", "hook prerouting priority dstnat - 5;"},
		{"fib saddr . iif check missing drop", "fib saddr . iif oif missing drop"},
		{"fib daddr type local", "fib daddr type local"},
		{"\t\tmasquerade to :ip saddr . tcp sport map @m\n", "\t\tmeta nfproto ipv4 meta l4proto tcp masquerade to :ip saddr . tcp sport map @m\n"},
		{"ct status dnat masquerade to :ip6 saddr . udp sport map @m", "ct status dnat meta nfproto ipv6 meta l4proto udp masquerade to :ip6 saddr . udp sport map @m"},
		{"meta nfproto ipv4 meta l4proto tcp masquerade to :ip saddr . tcp sport map @m", "meta nfproto ipv4 meta l4proto tcp masquerade to :ip saddr . tcp sport map @m"},
		{"\t\tredirect to :udp dport map @m\n", "\t\tmeta l4proto udp redirect to :udp dport map @m\n"},
		{"\t\tredirect to :ip6 daddr . tcp dport map @m\n", "\t\tmeta nfproto ipv6 meta l4proto tcp redirect to :ip6 daddr . tcp dport map @m\n"},
		{"\t\tmeta l4proto udp redirect to :udp dport map @m\n", "\t\tmeta l4proto udp redirect to :udp dport map @m\n"},
	} {
		require.Equal(t, tt.want, labtest.SpellNFT(tt.listed))
	}
}
