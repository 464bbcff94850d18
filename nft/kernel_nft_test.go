// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The tests of this file compare with nft(8).

func TestReplaceListsAsWritten(t *testing.T) {
	c, ns := kernel(t)
	require.NoError(t, c.Replace(sample(), nil, 0))
	require.Equal(t, sample().String(), list(t, ns, "nftnat"))
	// Whatever stood there before is gone.
	other := Table{Name: "nftnat", Sets: []Set{{Name: "other", Key: Type{InetService}}}}
	require.NoError(t, c.Replace(other, []Element{{Set: "other", Key: PortKey(1)}}, 0))
	require.NoError(t, c.Replace(sample(), nil, 0))
	require.Equal(t, sample().String(), list(t, ns, "nftnat"))
}

// TestRandomTablesListAsWritten has three witnesses: String, the kernel by nft(8), and
// nft(8) loading what it listed.
func TestRandomTablesListAsWritten(t *testing.T) {
	c, ns := kernel(t)
	elsewhere := labtest.NewNS(t, "elsewhere")
	r := newRand(t)
	for i := range 6 {
		table := randomTable(r, fmt.Sprintf("t%d", i), 25)
		require.NoError(t, c.Replace(table, nil, 0), table)
		require.Equal(t, table.String(), list(t, ns, table.Name))
		drift, err := c.Drift(table)
		require.NoError(t, err)
		require.Empty(t, drift, table)
		labtest.ExecInput(t, elsewhere, table.String(), "nft", "-f", "-")
		require.Equal(t, table.String(), list(t, elsewhere, table.Name))
	}
	// What nft(8) loads is what we load, to the last expression.
	there := dialIn(t, elsewhere)
	require.NoError(t, there.Replace(sample(), nil, 0))
	require.NoError(t, there.DeleteTable("nftnat"))
	labtest.ExecInput(t, elsewhere, sample().String(), "nft", "-f", "-")
	drift, err := there.Drift(sample())
	require.NoError(t, err)
	require.Empty(t, drift)
}

func TestPrioritiesListAsWritten(t *testing.T) {
	c, ns := kernel(t)
	table := Table{Name: "t"}
	for _, point := range []string{"prerouting", "output", "forward", "postrouting"} {
		for _, p := range []int32{
			-2147483648, -311, -310, -301, -300, -290, -289, -160, -150, -111, -105, -89, -11, -10, -1,
			0, 10, 11, 40, 50, 61, 89, 90, 95, 100, 110, 111, 2147483647,
		} {
			name := fmt.Sprintf("c%d", len(table.Chains))
			table.Chains = append(table.Chains, Chain{Name: name, Hook: Hook{"filter", point, p}})
		}
	}
	require.NoError(t, c.Replace(table, nil, 0))
	require.Equal(t, table.String(), list(t, ns, "t"))
}

// TestSaveAndLoad is the administrator's way of saving: all elements come back as
// they were, but for what is left of their time-outs.
func TestSaveAndLoad(t *testing.T) {
	c, ns := kernel(t)
	elsewhere := labtest.NewNS(t, "elsewhere")
	there := dialIn(t, elsewhere)
	table, r := sample(), newRand(t)
	es := []Element{
		{Set: "inside4", Key: PairKey(netip.MustParsePrefix("240.0.0.1/32"))},
		{Set: "inside6", Key: PairKey(netip.MustParsePrefix("ff02::1/128"))},
		{Set: "ports", Key: PortKey(0), Comment: `back\slash`},
		{Set: "leases4", Key: AddrKey(netip.IPv4Unspecified()), Comment: "web"},
		{Set: "leases6", Key: AddrKey(netip.MustParseAddr("2001:db8::1")), Comment: "web", Timeout: time.Hour},
		{Set: "links", Key: InterfaceKey("veth0"), Comment: "web"},
		{Set: "segments4", Key: SegmentKey("br0", netip.MustParsePrefix("172.17.0.0/16")), Comment: "on-link"},
		{Set: "segments4", Key: SegmentKey("br-0123456789ab", netip.MustParsePrefix("172.17.0.2/32")), Comment: "on-link"},
		{Set: "segments6", Key: SegmentKey("eth0.10@x", netip.MustParsePrefix("2001:db8::/64"))},
		{Set: "networks4", Key: PrefixKey(netip.MustParsePrefix("0.0.0.0/8")), Comment: "the lowest"},
		{Set: "networks4", Key: PrefixKey(netip.MustParsePrefix("255.255.255.255/32")), Comment: "the highest"},
		{Set: "networks6", Key: PrefixKey(netip.MustParsePrefix("::/0")), Comment: "all"},
		{Set: "away4", Key: PrefixKey(netip.MustParsePrefix("0.0.0.0/0")), Comment: "all", Timeout: time.Hour},
	}
	fixed := es
	for _, e := range randomElements(r, table, 40) {
		if !slices.ContainsFunc(fixed, func(o Element) bool { return o.Set == e.Set && overlap(o.Key, e.Key) }) {
			es = append(es, e)
		}
	}
	require.NoError(t, c.Replace(table, es, 0))
	saved := labtest.Exec(t, ns, "nft", "list", "ruleset")
	labtest.ExecInput(t, elsewhere, saved, "nft", "-f", "-")

	var sets []string
	for _, s := range holdable(table) {
		sets = append(sets, s.Name)
	}
	want, _, err := c.Elements(table, sets...)
	require.NoError(t, err)
	require.Len(t, want, len(es))
	got, _, err := there.Elements(table, sets...)
	require.NoError(t, err)
	require.Equal(t, sorted(want), sorted(got))
	drift, err := there.Drift(table)
	require.NoError(t, err)
	require.Empty(t, drift)
	// And they can be deleted.
	require.NoError(t, there.Update(table, Change{Delete: got}))
}

// TestElementStringLoads adds elements by their String with nft(8).
func TestElementStringLoads(t *testing.T) {
	c, ns := kernel(t)
	table, r := sample(), newRand(t)
	require.NoError(t, c.Replace(table, nil, 0))
	var script string
	es := randomElements(r, table, 30)
	for i := range es {
		es[i].Expires = 0
		script += "add element inet nftnat " + es[i].String() + "\n"
	}
	labtest.ExecInput(t, ns, script, "nft", "-f", "-")
	var sets []string
	for _, s := range holdable(table) {
		sets = append(sets, s.Name)
	}
	got, _, err := c.Elements(table, sets...)
	require.NoError(t, err)
	requireSame(t, es, got)
}

// requireSame compares elements, time-outs to the kernel's tick.
func requireSame(t *testing.T, want, got []Element) {
	t.Helper()
	require.Len(t, got, len(want))
	have := map[ElementKey]Element{}
	for _, e := range got {
		have[e.ElementKey()] = e
	}
	for _, e := range want {
		g, ok := have[e.ElementKey()]
		require.True(t, ok, e)
		require.InDelta(t, e.Timeout, g.Timeout, float64(longestTick), "%s, got %s", e, g)
		left := e.Expires
		if left == 0 {
			left = e.Timeout
		}
		require.LessOrEqual(t, g.Expires, left, e)
		require.Greater(t, g.Expires, left-time.Minute, e)
		e.Timeout, e.Expires, g.Timeout, g.Expires = 0, 0, 0, 0
		require.Equal(t, e, g)
	}
}

// nft(8) lists a table with a tag as any other, and what it loads from that has none.
func TestTagIsNotSaved(t *testing.T) {
	ns := labtest.NewNS(t, "host")
	c := dialIn(t, ns)
	require.NoError(t, c.Replace(sample(), nil, 0))
	plain := labtest.Exec(t, ns, "nft", "list", "ruleset")
	require.Empty(t, mustTable(t, c).Tag)
	tagged := sample()
	tagged.Tag = strings.Repeat("x", maxTag)
	require.NoError(t, c.Replace(tagged, nil, 0))
	require.Equal(t, tagged.Tag, mustTable(t, c).Tag)
	require.Equal(t, "a sample", mustTable(t, c).Comment)
	require.Equal(t, plain, labtest.Exec(t, ns, "nft", "list", "ruleset"))
	require.Equal(t, sample().String(), tagged.String())
	labtest.ExecInput(t, ns, "flush ruleset\n"+plain, "nft", "-f", "-")
	require.Empty(t, mustTable(t, c).Tag)
	tagged.Tag += "x"
	require.ErrorContains(t, c.Replace(tagged, nil, 0), "its tag has 65 bytes")
}
