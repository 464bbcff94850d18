// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// FuzzBook reads records that others have forged, one a line: set, key, comment. What
// is taken for a network or an endpoint is one that could have been declared or
// attached on the command line; no two are in each other's way; written and read again
// it is the same; and what is not taken is told of.
func FuzzBook(f *testing.F) {
	const inside = "networks4 172.30.0.0/24 inside [gateway 172.30.0.1]\n"
	for _, s := range []string{
		inside + "guarded4 172.30.0.0/24 inside\nmasqueraded4 172.30.0.0/24 inside\ncursors4 172.30.0.7 inside\nleases4 172.30.0.5 web",
		inside + "leases4 172.30.0.5 web\nleases4 172.30.0.6 web\nleases4 172.30.0.1 gateway\nleases4 10.0.0.1 elsewhere",
		inside + "networks4 172.30.0.0/25 inside [gateway 172.30.0.1]\nnetworks4 172.30.0.0/23 outer [gateway 172.30.0.1]",
		inside + "leases4 172.30.0.9 a/b\nleases4 172.30.0.10 \x1b[2J\nleases4 172.30.0.11 " + strings.Repeat("x", 256) + "\nleases4 172.30.0.12 \xff",
		"networks6 fd00::/64 six [gateway fd00::1]\nleases6 ::ffff:172.30.0.2 x\ncursors6 fd00::9 six\ncursors6 fd00::8 six",
		"networks4 0.0.0.0/0 world [gateway 0.0.0.1]\nnetworks4 127.0.0.0/8 lo [gateway 127.0.0.1]\nnetworks4 10.0.0.0/31 two [gateway 10.0.0.0]",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var es []nft.Element
		for line := range strings.Lines(text) {
			if e, ok := forgedRecord(strings.TrimSuffix(line, "\n")); ok {
				es = append(es, e)
			}
		}
		state, foreign := readIPAM(es)
		require.LessOrEqual(t, len(foreign), len(es))
		networks := state.Networks()
		for _, n := range networks {
			require.NoError(t, n.Validate())
			for _, o := range networks {
				require.True(t, o.Name == n.Name || !o.Prefix.Overlaps(n.Prefix), "%s and %s", n, o)
			}
		}
		taken := map[netip.Addr]string{}
		for _, l := range state.Leases() {
			require.NoError(t, nat.ValidateEndpointName(l.Name))
			n, ok := state.Network(l.Network)
			require.True(t, ok, "an endpoint of no network")
			require.True(t, n.Prefix.Contains(l.Addr) && l.Addr != n.Gateway)
			require.Empty(t, taken[l.Addr])
			taken[l.Addr] = l.Name
			require.Contains(t, es, leaseElement(l), "nobody leased it")
		}
		again, nothing := readIPAM(ipamElements(networks, state.Leases()))
		require.Empty(t, nothing)
		require.Equal(t, networks, again.Networks())
		require.Equal(t, state.Leases(), again.Leases())
	})
}

// forgedRecord reads a line as the element that the kernel could hold.
func forgedRecord(line string) (e nft.Element, ok bool) {
	set, rest, _ := strings.Cut(line, " ")
	key, comment, _ := strings.Cut(rest, " ")
	e = nft.Element{Set: set, Comment: comment}
	if _, ok := recordOf(e); !ok {
		return e, false
	}
	is4 := strings.HasSuffix(set, "4")
	if p, err := netip.ParsePrefix(key); err == nil && p == p.Masked() && p.Addr().Is4() == is4 {
		e.Key = nft.PrefixKey(p)
	} else if a, err := netip.ParseAddr(key); err == nil && a.Zone() == "" && a.Is4() == is4 {
		e.Key = nft.AddrKey(a)
	}
	isPrefix := strings.HasPrefix(set, setNetworks) || strings.HasPrefix(set, setMasqueraded) || strings.HasPrefix(set, setGuarded)
	_, prefix := e.Key.Prefix()
	return e, e.Key != (nft.Key{}) && prefix == isPrefix
}

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
			state := ipam.New()
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
