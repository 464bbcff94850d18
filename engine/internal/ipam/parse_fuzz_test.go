// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// FuzzParseNetwork reads words of a command line as a network and as an endpoint of it.
// What is taken is written and read again as the same.
func FuzzParseNetwork(f *testing.F) {
	f.Add("inside", "172.30.0.0/24", "172.30.0.1")
	f.Add("six", "fd00:30::/64", "")
	f.Add("a/b", "::ffff:10.0.0.0/120", "::ffff:10.0.0.1")
	f.Add("\x1b[2J", "fe80::%lan0/64", "fe80::1%lan0")
	f.Add("..", "0.0.0.0/0", "256.0.0.1")
	f.Fuzz(func(t *testing.T, name, prefix, gateway string) {
		n, err := nat.ParseNetwork(name, prefix, gateway)
		if err == nil {
			err = n.Validate()
		}
		requireInvalid(t, err)
		a, attachErr := nat.ParseEndpointSpec(name, name, gateway)
		if attachErr == nil {
			attachErr = a.Validate()
		}
		requireInvalid(t, attachErr)
		if err == nil {
			state := New()
			require.NoError(t, state.AddNetwork(n))
			made, _ := state.Network(n.Name)
			require.True(t, made.Prefix.Contains(made.Gateway))
			again, err := nat.ParseNetwork(n.Name, n.Prefix.String(), made.Gateway.String())
			require.NoError(t, err)
			require.Equal(t, n.WithDefaults(), again)
		}
		if attachErr == nil && a.Address.IsValid() {
			again, err := nat.ParseEndpointSpec(a.Name, a.Network, a.Address.String())
			require.NoError(t, err)
			require.Equal(t, a, again)
		}
	})
}

// requireInvalid: bad input is told in one line that a terminal can show.
func requireInvalid(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	require.ErrorIs(t, err, nat.ErrInvalid)
	require.Equal(t, -1, strings.IndexFunc(err.Error(), func(r rune) bool { return r < ' ' || r == 0x7f }), "%q", err.Error())
}
