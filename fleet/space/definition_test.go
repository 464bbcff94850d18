// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package space

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

func define(name, prefix string, block int) Definition {
	return Definition{Name: name, Prefix: netip.MustParsePrefix(prefix), Block: block}
}

func TestBlocksOfDefinition(t *testing.T) {
	for _, d := range []Definition{define("a", "10.60.0.0/16", 0), define("b", "10.48.0.0/12", 26), define("c", "fd00:60::/48", 0), define("d", "10.0.0.0/28", 0)} {
		d = d.WithDefaults()
		require.NoError(t, d.Validate())
		seen := map[netip.Prefix]bool{}
		for i := range d.Blocks() {
			p := d.BlockPrefix(i)
			require.Equal(t, p, p.Masked())
			require.True(t, d.Prefix.Contains(p.Addr()) && !seen[p], "%s %d: %s", d, i, p)
			seen[p] = true
			back, ok := d.BlockOf(p.Addr().Next())
			require.True(t, ok)
			require.Equal(t, i, back)
			require.NoError(t, d.network(i).Validate())
		}
		again, err := ParseDefinition(d.Name, d.String())
		require.NoError(t, err)
		require.Equal(t, d, again)
	}
	require.Equal(t, 26, define("a", "10.60.0.0/16", 0).WithDefaults().Block)
	require.Equal(t, 62, define("a", "fd00:60::/48", 0).WithDefaults().Block)
	d := define("a", "10.60.0.0/16", 0).WithDefaults()
	d.NoMasquerade, d.NoGuard = true, true
	again, err := ParseDefinition("a", d.String())
	require.NoError(t, err)
	require.Equal(t, d, again)
	_, ok := d.BlockOf(netip.MustParseAddr("10.61.0.1"))
	require.False(t, ok)
}

func TestBadDefinitions(t *testing.T) {
	for text, d := range map[string]Definition{
		"it is too small for two blocks; the smallest is a /28":               define("a", "10.60.0.0/29", 0),
		"a block of /16 is not a part of it: blocks have /17 to /29":          define("a", "10.60.0.0/16", 16),
		"a block of /8 is not a part of it":                                   define("a", "10.60.0.0/16", 8),
		"a block of /30 has too few addresses; the smallest is a /29":         define("a", "10.60.0.0/16", 30),
		"a block of /-3 is not a part of it":                                  define("a", "10.60.0.0/16", -3),
		"blocks of /26 would be more than 16384; the smallest is a /22":       define("a", "10.0.0.0/8", 26),
		"the address has bits beyond the prefix; the network is 10.60.0.0/16": define("a", "10.60.0.1/16", 0),
		"loopback addresses":                  define("a", "127.0.0.0/8", 0),
		"its name has 41 bytes, more than 40": define("a1234567890123456789012345678901234567890", "10.60.0.0/16", 0),
		"a name is letters, digits":           define("a/b", "10.60.0.0/16", 0),
		"no prefix is given":                  {Name: "a"},
	} {
		err := d.WithDefaults().Validate()
		require.ErrorIs(t, err, nat.ErrInvalid, text)
		require.ErrorContains(t, err, text)
	}
	for _, value := range []string{"", "{}", "prefix: 10.60.0.0/16", "{prefix: 10.60.0.0/16, block: x}", "{prefix: 10.60.0.0/16, blocks: 26}", "{prefix: 10.60.0.0/16, guard: maybe}", "{prefix: 300.0.0.0/16}"} {
		_, err := ParseDefinition("a", value)
		require.ErrorIs(t, err, nat.ErrInvalid, value)
	}
}

func TestBlockNames(t *testing.T) {
	name, index, ok := ParseBlockName(BlockName("in.side.7", 12))
	require.True(t, ok)
	require.Equal(t, "in.side.7", name)
	require.Equal(t, uint64(12), index)
	for _, bad := range []string{"inside", "space.", "space.7", "space..7", "space.a", "space.a.07", "space.a.-7"} {
		_, _, ok := ParseBlockName(bad)
		require.False(t, ok, bad)
	}
}
