// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

func TestParseEndpointSpec(t *testing.T) {
	a, err := nat.ParseEndpointSpec("web", "inside", "172.30.0.2", "8080:80", "53/udp")
	require.NoError(t, err)
	require.Equal(t, nat.EndpointSpec{
		Name: "web", Network: "inside", Address: netip.MustParseAddr("172.30.0.2"),
		Ports: []nat.PortSpec{
			{Proto: nat.TCP, Frontend: netip.AddrPortFrom(netip.Addr{}, 8080), Backend: 80},
			{Proto: nat.UDP, Frontend: netip.AddrPortFrom(netip.Addr{}, 0), Backend: 53},
		},
	}, a)
	a, err = nat.ParseEndpointSpec("web", "", "::ffff:172.30.0.2")
	require.NoError(t, err)
	require.Equal(t, nat.EndpointSpec{Name: "web", Address: netip.MustParseAddr("172.30.0.2")}, a)

	for address, want := range map[string]string{
		"web":      `invalid address "web": "web" is not an IP address`,
		"fe80::%a": `invalid address "fe80::%a": an address with a zone means different hosts on different links`,
	} {
		_, err = nat.ParseEndpointSpec("web", "", address)
		require.ErrorIs(t, err, nat.ErrInvalid)
		require.EqualError(t, err, want)
	}
	_, err = nat.ParseEndpointSpec("web", "", "", "80", "4503/tcp/udp")
	require.EqualError(t, err, `Invalid port format: "4503/tcp/udp"`)
}

func TestValidateNames(t *testing.T) {
	for _, name := range []string{"a", "1", "web-1.example_2", strings.Repeat("x", 63)} {
		require.NoError(t, nat.ValidateEndpointName(name))
		require.NoError(t, nat.ValidateNetworkName(name))
	}
	for _, name := range []string{"", "-a", ".", "..", "a/b", "a b", "ä", "a\n", strings.Repeat("x", 4097)} {
		require.ErrorIs(t, nat.ValidateEndpointName(name), nat.ErrInvalid, name)
		require.ErrorContains(t, nat.ValidateEndpointName(name), "invalid endpoint ")
		require.ErrorContains(t, nat.ValidateNetworkName(name), "invalid network ")
	}
}
