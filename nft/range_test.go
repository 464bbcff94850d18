// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRangeKey(t *testing.T) {
	one, wide, v6 := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("10.1.0.0/8"), netip.MustParsePrefix("2001:db8::/32")
	mapped := netip.MustParsePrefix("::ffff:10.0.0.0/104")
	for _, tt := range []struct {
		r    Range
		want string
	}{
		{Range{First: 1, Last: 1}, "1"},
		{Range{First: 1, Last: 65535}, "1-65535"},
		{Range{First: 1, Last: 2, Family: 4, L4Proto: 17}, "1-2 . ipv4 . udp"},
		{Range{First: 1, Last: 2, Family: 6, L4Proto: 200}, "1-2 . ipv6 . 200"},
		{Range{First: 1, Last: 2, Addr: one}, "1-2 . 192.0.2.1"},
		{Range{First: 1, Last: 2, Addr: one, Other: wide}, "1-2 . 192.0.2.1 . 10.0.0.0/8"},
		{Range{First: 1, Last: 2, L4Proto: 6, Addr: v6, Other: v6}, "1-2 . 2001:db8::/32 . tcp . 2001:db8::/32"},
		{Range{First: 1, Last: 2, Link: "eth0", Addr: one}, `"eth0" . 1-2 . 192.0.2.1`},
		{Range{First: 2, Last: 1}, "invalid"},
		{Range{First: 1, Last: 2, Family: 5}, "invalid"},
		{Range{First: 1, Last: 2, Family: 4, Addr: one}, "invalid"},
		{Range{First: 1, Last: 2, Addr: one, Other: v6}, "invalid"},
		{Range{First: 1, Last: 2, Other: one}, "invalid"},
		{Range{First: 1, Last: 2, Addr: mapped}, "invalid"},
		{Range{First: 1, Last: 2, Addr: v6, Other: mapped}, "invalid"},
		{Range{First: 1, Last: 2, Link: "a b", Addr: one}, "invalid"},
		{Range{First: 1, Last: 2, Link: "eth0"}, "invalid"},
		{Range{First: 1, Last: 2, Link: "eth0", Addr: one, Other: one}, "invalid"},
		{Range{First: 1, Last: 2, Addr: netip.PrefixFrom(one.Addr(), 33)}, "invalid"},
	} {
		k := RangeKey(tt.r)
		require.Equal(t, tt.want, k.String())
		r, ok := k.Range()
		require.Equal(t, tt.want != "invalid", ok)
		if ok {
			require.Equal(t, k, RangeKey(r))
			require.Equal(t, tt.r.Addr.Masked(), r.Addr)
			require.Equal(t, tt.r.Other.Masked(), r.Other)
			require.Zero(t, k.AddrPort())
		}
	}
	_, ok := PortKey(1).Range()
	require.False(t, ok)
}

// Keys fit the types that have their fields, and no others.
func TestRangeKeyFits(t *testing.T) {
	r := newRand(t)
	var sets []Set
	for _, c := range sample().Sets {
		if c.holds() == rangeKey {
			sets = append(sets, c)
		}
	}
	require.NotEmpty(t, sets)
	for _, c := range sets {
		for _, other := range sets {
			k := RangeKey(randomRange(r, c.Key))
			require.Equal(t, c.Key.String() == other.Key.String(), other.checkKey(&k) == nil, "%s in %s", k, other.Key)
		}
	}
	for _, typ := range []Type{
		{}, {IfName}, {Mark}, {IPv4Addr, InetService}, {InetService, IPv4Addr, IPv6Addr}, {IfName, InetService},
		{IfName, InetService, IPv4Addr, IPv4Addr}, {InetService, NfProto}, {InetService, InetProto}, {InetService, InetService},
		{InetService, NfProto, InetProto, IPv4Addr}, {IfName, InetService, NfProto, InetProto}, {IfName, InetService, IPv4Addr, InetProto}, {InetService, InetProto, IPv4Addr},
		{InetService, IPv4Addr, InetProto, IPv6Addr},
	} {
		require.False(t, typ.isRange(), typ)
	}
}

func TestDecodeRangeRefuses(t *testing.T) {
	from := named(sample(), "from4_range").Key
	for name, ends := range map[string][2][]byte{
		"two protocols":  {{0, 1, 0, 0, 10, 0, 0, 0, 6, 0, 0, 0}, {0, 2, 0, 0, 10, 0, 0, 0, 17, 0, 0, 0}},
		"no protocol":    {{0, 1, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0}, {0, 2, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0}},
		"no prefix":      {{0, 1, 0, 0, 10, 0, 0, 1, 6, 0, 0, 0}, {0, 2, 0, 0, 10, 0, 0, 2, 6, 0, 0, 0}},
		"backwards":      {{0, 2, 0, 0, 10, 0, 0, 0, 6, 0, 0, 0}, {0, 1, 0, 0, 10, 0, 0, 0, 6, 0, 0, 0}},
		"another length": {{0, 1, 0, 0, 10, 0, 0, 0, 6, 0, 0, 0}, {0, 1}},
	} {
		_, err := from.decodeRange(ends[0], ends[1])
		require.ErrorContains(t, err, "is no inet_service . ipv4_addr . inet_proto", name)
	}
	limited := named(sample(), "limited_range").Key
	_, err := limited.decodeRange([]byte{0, 1, 0, 0, 3, 0, 0, 0, 6, 0, 0, 0}, nil)
	require.ErrorContains(t, err, "is no inet_service . nf_proto . inet_proto")
	k, err := limited.decodeRange([]byte{0, 1, 0, 0, 2, 0, 0, 0, 6, 0, 0, 0}, nil)
	require.NoError(t, err)
	require.Equal(t, "1 . ipv4 . tcp", k.String())
}
