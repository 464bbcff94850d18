// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nfttest

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nft"
)

// read lists the elements of a set of sample.
func read(t *testing.T, c conn, set string) []string {
	t.Helper()
	es, _, err := c.Elements(sample(), set)
	require.NoError(t, err)
	return lines(es)
}

func prefixes(ps ...string) []nft.Element {
	var es []nft.Element
	for _, p := range ps {
		es = append(es, prefixOf("networks4", p))
	}
	return es
}

// TestDeceived is what the random steps leave out: prefixes that reach to the highest
// address, which both kernels take for others, and for new ones.
func TestDeceived(t *testing.T) {
	const strange = "networks4 { strange }"
	for _, c := range []conn{dial(t), New().Conn()} {
		there := prefixes("10.0.0.0/8", "11.0.0.0/8", "240.0.0.0/4")
		all, half, low := prefixes("0.0.0.0/0"), prefixes("128.0.0.0/1"), prefixes("0.0.0.0/8")
		require.NoError(t, c.Replace(sample(), there, 0))
		require.ErrorIs(t, c.Update(sample(), nft.Change{Delete: all}), unix.ENOENT)
		require.ErrorIs(t, c.Update(sample(), nft.Change{Add: prefixes("250.0.0.0/8")}), unix.EEXIST)
		require.ErrorIs(t, c.Update(sample(), nft.Change{Add: prefixes("255.0.0.0/8")}), unix.EEXIST)
		require.ErrorIs(t, c.Update(sample(), nft.Change{Add: there[2:]}), unix.EEXIST)

		require.NoError(t, c.Update(sample(), nft.Change{Add: half}))
		require.Equal(t, []string{"networks4 { 10.0.0.0/8 }", "networks4 { 11.0.0.0/8 }", "networks4 { 240.0.0.0/4 }", strange}, read(t, c, "networks4"))
		require.NoError(t, c.Update(sample(), nft.Change{Add: all}))
		require.ErrorIs(t, c.Update(sample(), nft.Change{Add: prefixes("1.0.0.0/8")}), unix.EEXIST)
		require.Equal(t, []string{
			"networks4 { 10.0.0.0/8 }", "networks4 { 11.0.0.0/8 }", "networks4 { 240.0.0.0/4 }", strange, strange,
		}, read(t, c, "networks4"))
		require.NoError(t, c.Update(sample(), nft.Change{Delete: there}))
		require.Equal(t, []string{"networks4 { 128.0.0.0/1 }", strange}, read(t, c, "networks4"))
		require.NoError(t, c.Update(sample(), nft.Change{Delete: half}))
		require.Equal(t, []string{"networks4 { 0.0.0.0/0 }"}, read(t, c, "networks4"))

		// Another that begins alike loses its beginning.
		require.NoError(t, c.Replace(sample(), append(low, there...), 0))
		require.NoError(t, c.Update(sample(), nft.Change{Delete: all}))
		require.Equal(t, []string{
			"networks4 { 10.0.0.0/8 }", "networks4 { 11.0.0.0/8 }", "networks4 { 240.0.0.0/4 }", strange,
		}, read(t, c, "networks4"))
		require.ErrorIs(t, c.Update(sample(), nft.Change{Add: low}), unix.EEXIST)
		require.ErrorIs(t, c.Update(sample(), nft.Change{Add: prefixes("0.0.0.0/9")}), unix.EEXIST)
		require.ErrorIs(t, c.Update(sample(), nft.Change{Delete: low}), unix.ENOENT)
		// It is not there for the room of the next.
		err := c.Update(sample(), nft.Change{Delete: there[2:], Add: append(prefixes("248.0.0.0/5"), low...)})
		require.EqualError(t, err, "add element networks4 { 0.0.0.0/8 }: file exists")
		require.Contains(t, read(t, c, "networks4"), "networks4 { 240.0.0.0/4 }", "nothing was done")
	}
}

// TestBesideEachOther: two that share a bound are told apart, and what a transaction
// did to one is undone.
func TestBesideEachOther(t *testing.T) {
	for _, c := range []conn{dial(t), New().Conn()} {
		there := prefixes("10.0.0.0/8", "11.0.0.0/8", "12.0.0.0/8")
		require.NoError(t, c.Replace(sample(), there, 0))
		err := c.Update(sample(), nft.Change{Delete: there[:2], Add: prefixes("10.0.0.0/7", "12.0.0.0/9")})
		require.EqualError(t, err, "add element networks4 { 12.0.0.0/9 }: file exists")
		require.Equal(t, lines(there), read(t, c, "networks4"))
		require.NoError(t, c.Update(sample(), nft.Change{Delete: there[1:2]}))
		require.Equal(t, lines(append(there[:1:1], there[2])), read(t, c, "networks4"))
		require.NoError(t, c.Update(sample(), nft.Change{Delete: there[:1], Add: prefixes("10.0.0.0/7")}))
		require.Equal(t, lines(append(prefixes("10.0.0.0/7"), there[2])), read(t, c, "networks4"))
	}
}

// TestHalves: the fake asks whether beginning and end belong together.
func TestHalves(t *testing.T) {
	c := New().Conn()
	there := prefixes("10.0.0.0/8", "11.0.0.0/8")
	require.NoError(t, c.Replace(sample(), there, 0))
	require.ErrorIs(t, c.Update(sample(), nft.Change{Delete: prefixes("10.0.0.0/7")}), unix.ENOENT)
	require.Equal(t, lines(there), read(t, c, "networks4"))
}

// TestPrefixesEnd: what has ended leaves room, for prefixes and for pairs.
func TestPrefixesEnd(t *testing.T) {
	k := New()
	c := k.Conn()
	table := sample()
	table.Sets[3].Timeout = true
	short, long, inside := prefixOf("away4", "10.0.0.0/8"), prefixOf("away4", "11.0.0.0/8"), pairOf("10.0.0.0/8")
	short.Timeout, long.Timeout, inside.Timeout = time.Minute, time.Hour, time.Minute
	require.NoError(t, c.Replace(table, []nft.Element{short, long, inside}, 0))
	around, wide := prefixOf("away4", "10.0.0.0/9"), pairOf("10.0.0.0/9")
	require.ErrorIs(t, c.Update(table, add(around)), unix.EEXIST)
	require.ErrorIs(t, c.Update(table, add(wide)), unix.EEXIST)
	k.Advance(time.Minute)
	require.Equal(t, []string{"away4 { 11.0.0.0/8 timeout 1h }"}, read(t, c, "away4"))
	require.NoError(t, c.Update(table, add(around, wide)))
	require.ErrorIs(t, c.Update(table, nft.Change{Delete: []nft.Element{short}}), unix.ENOENT)
	require.Equal(t, []string{"away4 { 10.0.0.0/9 }", "away4 { 11.0.0.0/8 timeout 1h }"}, read(t, c, "away4"))
}

// TestEveryKindInOrder: Edit and Dump list elements by key.
func TestEveryKindInOrder(t *testing.T) {
	k := New()
	c := k.Conn()
	address := func(a string) nft.Element {
		return nft.Element{Set: "leases4", Key: nft.AddrKey(netip.MustParseAddr(a))}
	}
	link := func(name string) nft.Element { return nft.Element{Set: "links", Key: nft.InterfaceKey(name)} }
	want := []nft.Element{
		prefixOf("networks4", "9.0.0.0/8"), prefixOf("networks4", "10.0.0.0/8"), prefixOf("networks4", "255.255.255.255/32"),
		address("10.0.0.2"), address("10.0.0.10"), link("veth0"), link("veth1"),
		prefixOf("away4", "0.0.0.0/0"),
	}
	given := []nft.Element{want[5], want[3], want[2], want[1], want[7], want[4], want[6], want[0]}
	require.NoError(t, c.Replace(sample(), given, 0))
	k.Edit(func(tables map[string]*Table) {
		table := tables["nftnat"]
		require.Equal(t, want, table.Elements)
		table.Elements = append(table.Elements[:1], nft.Element{Set: "networks4", Foreign: "a range"}, link("veth2"))
	})
	require.Equal(t, []string{"networks4 { 9.0.0.0/8 }", "networks4 { strange }"}, read(t, c, "networks4"))
	require.Equal(t, []string{`links { "veth2" }`}, read(t, c, "links"))
	require.Empty(t, read(t, c, "away4"))
}
