// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// FuzzRecords reads records that others have forged, one a line: set, key, comment. What
// is taken for a network or an endpoint is one that could have been declared or
// attached on the command line; no two are in each other's way; written and read again
// it is the same; and what is not taken is told of.
func FuzzRecords(f *testing.F) {
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
		c := Classify(slices.Clone(es), time.Time{})
		state, foreign := c.IPAM, c.Foreign
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
		again := Classify(IPAMElements(networks, state.Leases()), time.Time{})
		require.Empty(t, again.Foreign)
		require.Equal(t, networks, again.IPAM.Networks())
		require.Equal(t, state.Leases(), again.IPAM.Leases())
		c.Correction()
		again = Classify(c.Elements, time.Time{})
		require.Empty(t, append(again.Foreign, again.Missing...), "what is corrected is right")
		require.Equal(t, networks, again.IPAM.Networks())
		require.Equal(t, state.Leases(), again.IPAM.Leases())
	})
}

// forgedRecord reads a line as the element that the kernel could hold.
func forgedRecord(line string) (e nft.Element, ok bool) {
	set, rest, _ := strings.Cut(line, " ")
	key, comment, _ := strings.Cut(rest, " ")
	e = nft.Element{Set: set, Comment: comment}
	if set == "" || !isRecord(set[:len(set)-1]) || strings.HasPrefix(set, setHairpin) {
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
