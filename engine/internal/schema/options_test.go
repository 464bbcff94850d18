// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

func limited(t *testing.T, text string, sources ...string) portset.Port {
	t.Helper()
	m := nattest.Mapping(t, text)
	m.From = nattest.Sources(t, sources...)
	return portset.Of(m)
}

func texts(es []nft.Element) (lines []string) {
	for _, el := range es {
		lines = append(lines, el.String())
	}
	return lines
}

func TestOptionElements(t *testing.T) {
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	any := limited(t, "80->172.30.0.2:80", "192.0.2.0/24", "2001:db8::/32")
	any.Expires = now.Add(time.Hour).UnixMilli()
	one := limited(t, "192.0.2.1:53->172.30.0.2:53/udp", "0.0.0.0/0")
	one.Masquerade = true
	other := one
	other.AddrPort = netip.MustParseAddrPort("192.0.2.1:54")
	wild := limited(t, "0.0.0.0:81->172.30.0.2:80", "10.0.0.1")
	wild.Masquerade = true
	es := OptionElements(slices.Values([]portset.Port{any, one, other, wild}), now)
	require.Equal(t, []string{
		"limited { ipv4 . tcp . 80 timeout 1h1m }", "limited { ipv6 . tcp . 80 timeout 1h1m }",
		"tcp4_from { 0.0.0.0/0 . 80 . 192.0.2.0/24 }", "tcp6_from { ::/0 . 80 . 2001:db8::/32 }",
		"limited4_host { udp . 192.0.2.1 . 53 }", "udp4_from { 192.0.2.1 . 53 . 0.0.0.0/0 }",
		"masquerade_to4_host { udp . 172.30.0.2 . 53 . 192.0.2.1 }",
		"limited4_host { udp . 192.0.2.1 . 54 }", "udp4_from { 192.0.2.1 . 54 . 0.0.0.0/0 }",
		"limited { ipv4 . tcp . 81 }", "tcp4_from { 0.0.0.0/0 . 81 . 10.0.0.1 }",
		"masquerade_to4 { tcp . 172.30.0.2 . 80 }",
	}, texts(es))
	require.NoError(t, nft.Change{Add: es}.Validate(Ruleset("nftnat")))
}

// A renewal leaves the prefixes of the clients alone, and so does a change of other prefixes.
func TestLimitsDiff(t *testing.T) {
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	before := limited(t, "80->172.30.0.2:80", "192.0.2.0/24", "10.0.0.0/8")
	before.Expires = now.Add(time.Hour).UnixMilli()
	move := func(change func(*portset.Target)) portset.Change {
		to := before.Target
		change(&to)
		return portset.Change{Moved: []portset.Move{{Frontend: before.Frontend, From: before.Target, To: to}}}
	}
	c := move(func(t *portset.Target) { t.Expires += 60_000 })
	gone, come := LimitsDiff(&c, now)
	require.Equal(t, []string{"limited { ipv4 . tcp . 80 timeout 1h1m }", "limited { ipv6 . tcp . 80 timeout 1h1m }"}, texts(gone))
	require.Equal(t, []string{"limited { ipv4 . tcp . 80 timeout 1h2m }", "limited { ipv6 . tcp . 80 timeout 1h2m }"}, texts(come))
	c = move(func(to *portset.Target) { to.From = nattest.Sources(t, "192.0.2.0/24", "10.1.0.0/16") })
	gone, come = LimitsDiff(&c, now)
	require.Equal(t, []string{"tcp4_from { 0.0.0.0/0 . 80 . 10.0.0.0/8 }"}, texts(gone))
	require.Equal(t, []string{"tcp4_from { 0.0.0.0/0 . 80 . 10.1.0.0/16 }"}, texts(come))
	c = move(func(to *portset.Target) { to.From = nat.Sources{} })
	gone, come = LimitsDiff(&c, now)
	require.ElementsMatch(t, texts(LimitElements(before, now)), texts(gone))
	require.Empty(t, come)
	c = move(func(to *portset.Target) { to.Name = "web" })
	gone, come = LimitsDiff(&c, now)
	require.Empty(t, append(gone, come...))
}

// What others did to the sets: a port that is limited to nobody is taken off, what has no port
// is an orphan, what is missing is added.
func TestClassifyOptions(t *testing.T) {
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	p := limited(t, "80->172.30.0.2:80", "192.0.2.0/24")
	p.Masquerade = true
	port := PortElement(p, now)
	all := append([]nft.Element{port}, OptionElements(slices.Values([]portset.Port{p}), now)...)
	without := func(text string) []nft.Element {
		return slices.DeleteFunc(slices.Clone(all), func(el nft.Element) bool { return el.String() == text })
	}
	for _, tt := range []struct {
		gone                      string
		foreign, missing, orphans int
		ports                     int
	}{
		{"", 0, 0, 0, 1},
		{"limited { ipv6 . tcp . 80 }", 0, 1, 0, 1},
		{"tcp4_from { 0.0.0.0/0 . 80 . 192.0.2.0/24 }", 1, 0, 3, 0},
		{"masquerade_to4 { tcp . 172.30.0.2 . 80 }", 0, 0, 0, 1},
		{port.String(), 0, 0, 4, 0},
	} {
		c := Classify(without(tt.gone), now)
		require.Len(t, c.Foreign, tt.foreign, tt.gone)
		require.Len(t, c.Missing, tt.missing, tt.gone)
		require.Len(t, c.Orphans, tt.orphans, tt.gone)
		require.Equal(t, tt.ports, c.Ports.Len(), tt.gone)
		c.Correction()
		again := Classify(c.Elements, now)
		require.Empty(t, slices.Concat(again.Foreign, again.Missing, again.Orphans), tt.gone)
	}
	commented := slices.Clone(all)
	commented[1].Comment = "mine"
	c := Classify(commented, now)
	require.Len(t, c.Foreign, 1)
	require.Len(t, c.Missing, 1)
}
