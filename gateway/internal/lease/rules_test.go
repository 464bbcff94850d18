// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

func TestRules(t *testing.T) {
	rules, err := ParseRules(strings.NewReader(`
# as in miniupnpd.conf
deny 22 0.0.0.0/0 0-65535
allow 1024-65535 192.168.0.0/24 1024-65535   # the LAN
allow 1024-65535 192.168.1.0/255.255.255.0 1024-65535
allow 12345 192.168.7.113 54321
deny 0-65535 0.0.0.0/0 0-65535
`))
	require.NoError(t, err)
	require.Len(t, rules, 5)
	for _, each := range []struct {
		client             string
		external, internal uint16
		want               bool
	}{
		{"192.168.0.5", 8080, 8080, true},
		{"192.168.1.5", 65535, 1024, true},
		{"192.168.0.5", 22, 2222, false},
		{"192.168.0.5", 1023, 2222, false},
		{"192.168.0.5", 8080, 80, false},
		{"192.168.2.5", 8080, 8080, false},
		{"192.168.7.113", 12345, 54321, true},
		{"192.168.7.113", 12345, 54322, false},
	} {
		require.Equal(t, each.want, rules.allow(netip.MustParseAddr(each.client), each.external, each.internal), each)
	}
	require.Equal(t, []Ports{{12345, 12345}}, rules.allowed(netip.MustParseAddr("192.168.7.113"), 54321))
	require.Empty(t, rules.allowed(netip.MustParseAddr("192.168.2.5"), 8080))
	require.Equal(t, []Ports{{1024, 65535}}, DefaultRules().allowed(netip.MustParseAddr("10.0.0.1"), 5000))
	require.Empty(t, Rules{}.allowed(netip.MustParseAddr("10.0.0.1"), 5000))
}

func TestBadRules(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "it does not begin with allow or deny",
		"permit":                           "it does not begin with allow or deny",
		"allow":                            "it is not written like allow 1024-65535 192.168.1.0/24 1024-65535",
		"allow 1-2 10.0.0.0/8 1-2 3":       "it is not written like allow 1024-65535 192.168.1.0/24 1024-65535",
		`allow 1-2 10.0.0.0/8 1-2 "^Xbox"`: "conditions on descriptions are not supported, since clients choose those",
		"allow 65536 10.0.0.0/8 1":         `"65536" is no port or range of ports from 0 to 65535`,
		"allow 1- 10.0.0.0/8 1":            `"1-" is no port or range of ports from 0 to 65535`,
		"allow 2-1 10.0.0.0/8 1":           "the range 2-1 ends before it begins",
		"allow 1 10.0.0.0/33 1":            `"10.0.0.0/33" is no IPv4 address or prefix`,
		"allow 1 10.0.0.0/255.0.255.0 1":   "255.0.255.0 is no mask: it has ones after zeros",
		"allow 1 fd00::/8 1":               `"fd00::/8" is no IPv4 address or prefix`,
		"allow 1 lan 1":                    `"lan" is no IPv4 address or prefix`,
		"allow 1-2 10.0.0.0/8 -3":          `"-3" is no port or range of ports from 0 to 65535`,
	} {
		_, err := ParseRule(text)
		var bad *nat.InvalidError
		require.ErrorAs(t, err, &bad, text)
		require.Equal(t, want, bad.Reason, text)
	}
	_, err := ParseRules(strings.NewReader("\nallow 1 10.0.0.0/8 1\nallow\n"))
	require.ErrorContains(t, err, "line 3: ")
	_, err = ParseRules(strings.NewReader(strings.Repeat("allow 1 10.0.0.0/8 1\n", maxRules+1)))
	require.ErrorIs(t, err, nat.ErrInvalid)
}

// The ranges of allowed ports are those that allow allows.
func TestAllowedPorts(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	port := func() Ports {
		a, b := uint16(random.Uint32()), uint16(random.Uint32())
		return Ports{min(a, b), max(a, b)}
	}
	client := netip.MustParseAddr("192.168.1.7")
	for range 40 {
		var rules Rules
		for range random.IntN(6) {
			length := []int{0, 24, 32}[random.IntN(3)]
			rules = append(rules, Rule{
				Allow: random.IntN(2) == 0, External: port(), Internal: port(),
				Clients: netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("192.168.1.%d", 6+random.IntN(2))), length).Masked(),
			})
		}
		internal := uint16(random.Uint32())
		var have [1 << 16]bool
		for _, p := range rules.allowed(client, internal) {
			for n := int(p.First); n <= int(p.Last); n++ {
				require.False(t, have[n], "in two ranges")
				have[n] = true
			}
		}
		for n := 1; n < len(have); n++ {
			if have[n] != rules.allow(client, uint16(n), internal) {
				t.Fatalf("port %d of %v: %v", n, rules, have[n])
			}
		}
	}
}
