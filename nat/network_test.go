// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseNetwork(t *testing.T) {
	n, err := ParseNetwork("inside", "172.30.0.0/24", "")
	require.NoError(t, err)
	require.NoError(t, n.Validate())
	require.Equal(t, "inside 172.30.0.0/24", n.String())
	require.Equal(t, "172.30.0.1", n.WithDefaults().Gateway.String())
	n, err = ParseNetwork("in-6_x.y", "fd00:30::/64", "fd00:30::ff")
	require.NoError(t, err)
	require.NoError(t, n.Validate())
	require.Equal(t, "fd00:30::ff", n.WithDefaults().Gateway.String())
	for prefix, gateway := range map[string]string{
		"10.0.0.4/30": "10.0.0.5", "10.0.0.4/31": "10.0.0.4", "fd00::/127": "fd00::", "fd00::/126": "fd00::1", "128.0.0.0/2": "128.0.0.1",
	} {
		n, err := ParseNetwork("a", prefix, "")
		require.NoError(t, err)
		require.NoError(t, n.Validate(), prefix)
		require.Equal(t, gateway, n.WithDefaults().Gateway.String(), prefix)
	}
}

func TestNetworkErrors(t *testing.T) {
	tests := []struct{ name, prefix, gateway, want string }{
		{"", "172.30.0.0/24", "", "no name is given"},
		{"a b", "172.30.0.0/24", "", "at byte 2"},
		{"-a", "172.30.0.0/24", "", "begin with a letter or digit"},
		{"a/b", "172.30.0.0/24", "", "at byte 2"},
		{"a\n", "172.30.0.0/24", "", "at byte 2"},
		{"ä", "172.30.0.0/24", "", "begin with"},
		{strings.Repeat("a", 4097), "172.30.0.0/24", "", "4097 bytes"},
		{"a", "172.30.0.0", "", "ADDRESS/LENGTH"},
		{"a", "172.30.0.0/33", "", "ADDRESS/LENGTH"},
		{"a", "172.30.0.5/24", "", "the network is 172.30.0.0/24"},
		{"a", "0.0.0.0/0", "", "whole world"},
		{"a", "::/0", "", "whole world"},
		{"a", "172.30.0.1/32", "", "no room"},
		{"a", "fd00::1/128", "", "no room"},
		{"a", "127.0.0.0/16", "", "loopback"},
		{"a", "0.0.0.0/4", "", "this network"},
		{"a", "224.0.1.0/24", "", "multicast"},
		{"a", "fe80::/64", "", "link-local"},
		{"a", "ff02::/64", "", "multicast"},
		{"a", "::/96", "", "loopback"},
		{"a", "::ffff:10.0.0.0/104", "", "written as IPv6"},
		{"a", "172.30.0.0/24", "172.30.1.1", "not in it"},
		{"a", "172.30.0.0/24", "fd00::1", "not in it"},
		{"a", "172.30.0.0/24", "172.30.0.0", "network's or the broadcast"},
		{"a", "172.30.0.0/24", "172.30.0.255", "network's or the broadcast"},
		{"a", "172.30.0.0/24", "x", "not an IP address"},
		{"a", "fd00::/64", "fd00::1%eth0", "zone"},
	}
	for _, test := range tests {
		n, err := ParseNetwork(test.name, test.prefix, test.gateway)
		if err == nil {
			err = n.Validate()
		}
		require.ErrorIs(t, err, ErrInvalid, "%v", test)
		require.ErrorContains(t, err, test.want, "%v", test)
		require.NotContains(t, err.Error(), "\n")
	}
	n := Network{Name: "a", Prefix: netip.MustParsePrefix("172.30.0.0/24"), Next: netip.MustParseAddr("10.0.0.1")}
	require.ErrorContains(t, n.Validate(), "next address 10.0.0.1 is not in it")
	require.ErrorContains(t, Network{Name: "a"}.Validate(), "no prefix")
}

func TestLastAddr(t *testing.T) {
	for prefix, last := range map[string]string{
		"10.0.0.0/8": "10.255.255.255", "10.0.0.0/30": "10.0.0.3", "10.0.0.7/32": "10.0.0.7", "fd00::/64": "fd00::ffff:ffff:ffff:ffff", "10.0.0.0/13": "10.7.255.255",
	} {
		require.Equal(t, last, lastAddr(netip.MustParsePrefix(prefix)).String())
	}
}
