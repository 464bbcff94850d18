// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package finder

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// Each port of a range is found as a mapping of one port, with the options of the range, at its
// ends and within; one that was taken out is not, and one that another mapping has is that one.
func TestFindInRanges(t *testing.T) {
	ns := labtest.NewNS(t, "host")
	file, err := os.Open(ns.Path())
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	conn, err := nft.Dial(&nft.Config{NetNS: int(file.Fd())})
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	now := time.Now()
	sources := func(prefixes ...netip.Prefix) nat.Sources {
		s, err := nat.SourcesOf(prefixes...)
		require.NoError(t, err)
		return s
	}
	v4, v6 := netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")
	from := map[bool]map[bool]nat.Sources{false: {false: sources(v4, v6)}, true: {true: sources(v4), false: sources(v6)}}
	set := portset.NewSet()
	for _, text := range []string{
		"5000-5009->172.30.0.2:5000-5009", "5010-5019->172.30.0.3:5010-5019", "192.0.2.1:6000-6009->172.30.0.2:6000-6009",
		"[::]:5000-5009->[fd00::2]:5000-5009/udp", "0.0.0.0:5000-5009->172.30.0.2:5000-5009/udp", "65000-65535->172.30.0.2:65000-65535",
		"[2001:db8::1]:7000-7009->172.30.0.2:7000-7009",
	} {
		m := nattest.Mapping(t, text)
		p := portset.Whole(&m)
		if p.First() != 5010 {
			p.From = from[p.AddrPort.Addr().IsValid()][p.AddrPort.Addr().Is4()]
		}
		m.From = p.From
		require.NoError(t, m.Validate())
		p.Masquerade = p.First() == 6000
		set.Put(p)
	}
	for _, gone := range []string{"5003->172.30.0.2:1", "192.0.2.1:6004->172.30.0.2:1", "5018->172.30.0.2:1"} {
		set.Delete(portset.FrontendOf(nattest.Mapping(t, gone)))
	}
	set.Put(portset.Of(nattest.Mapping(t, "5005->172.30.0.9:80")))
	var es []nft.Element
	for e := range set.Entries {
		es = append(es, schema.EntryElement(e, now))
	}
	es = append(es, schema.SetOptions(&set, now)...)
	require.NoError(t, conn.Replace(schema.Ruleset("nftnat"), es, 0))
	f, err := Open("nftnat", ns.Path())
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	found := 0
	for _, proto := range []nat.Proto{nat.TCP, nat.UDP} {
		for _, host := range []netip.Addr{{}, netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")} {
			for _, port := range []uint16{4999, 5000, 5001, 5003, 5005, 5009, 5010, 5018, 5019, 5020, 5999, 6000, 6004, 6009, 7000, 7009, 7010, 64999, 65000, 65535} {
				at := portset.Frontend{Proto: proto, AddrPort: netip.AddrPortFrom(host, port)}
				var want []nat.Mapping
				for p := range set.All {
					if p.First() <= port && port <= p.Last() && schema.Serves(p.Part(port, port), at) {
						want = append(want, p.Part(port, port).Mapping())
					}
				}
				got, err := f.Find(t.Context(), proto, at.AddrPort)
				require.NoError(t, err)
				require.ElementsMatch(t, want, got, "%s %s", proto, at.AddrPort)
				found += len(got)
			}
		}
	}
	require.Greater(t, found, 50)
}
