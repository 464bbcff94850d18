// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine/internal/hairpin"
	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/segment"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// What an engine encodes it decodes, whatever the order; nothing of it is foreign or
// missing.
func TestClassifyOwn(t *testing.T) {
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 5))
		ports := portset.NewSet()
		var es []nft.Element
		for range r.IntN(40) {
			m := nattest.Random(r)
			m.More, m.Expires = 0, time.Time{}
			p := portset.Of(m)
			if m.Validate() != nil || p.AddrPort.Port() == 0 || overlaps(&ports, p) || disagrees(&ports, p) {
				continue
			}
			ports.Put(p)
			es = append(es, PortElement(p, now))
		}
		es = append(es, OptionElements(ports.All, now)...)
		state := ipam.New()
		require.NoError(t, state.AddNetwork(nat.Network{Name: "one", Prefix: netip.MustParsePrefix("172.30.0.0/24"), NoGuard: seed%2 == 0}))
		require.NoError(t, state.Add(nat.EndpointSpec{Name: "web", Address: netip.MustParseAddr("172.30.0.9")}))
		segments := []segment.Segment{
			{Link: "br0", Prefix: netip.MustParsePrefix("10.0.0.0/8")}, {Link: "eth0.1", Prefix: netip.MustParsePrefix("10.1.0.0/16")},
			{Link: "br0", Prefix: netip.MustParsePrefix("fd00::/64")},
		}
		hairpins := []hairpin.Record{{Backend: netip.MustParseAddr("fd00::1"), Port: "veth0"}}
		ended := []portset.Port{portset.Of(nattest.Mapping(t, "0.0.0.0:53->172.30.0.2:53/udp"))}
		es = append(es, IPAMElements(state.Networks(), state.Leases())...)
		es = append(es, HairpinElements(hairpins)...)
		es = append(es, EndedElements(ended)...)
		for _, p := range segments {
			es = append(es, SegmentElement(p))
		}
		require.NoError(t, nft.Change{Add: es}.Validate(Ruleset("nftnat")))
		r.Shuffle(len(es), func(i, j int) { es[i], es[j] = es[j], es[i] })
		want := slices.Clone(es)
		require.Empty(t, Missing(want[:0], es))
		c := Classify(es, now)
		require.Empty(t, c.Foreign)
		require.Empty(t, c.Missing)
		require.ElementsMatch(t, want, c.Elements)
		d, byIPAM := portset.Diff(&ports, &c.Ports), ipam.Compare(state, c.IPAM)
		require.True(t, d.Empty() && byIPAM.Empty())
		require.ElementsMatch(t, segments, c.Segments)
		require.Equal(t, hairpins, c.Hairpins)
		require.Equal(t, ended, c.Ended)
		require.Empty(t, c.Correction())
	}
}

// disagrees reports whether netfilter could not tell the port from one that is masqueraded
// otherwise.
func disagrees(ports *portset.Set, p portset.Port) bool {
	for have := range ports.All {
		if !have.ProxiedOnly() && !p.ProxiedOnly() && have.Masquerade != p.Masquerade && have.Called().Meets(p.Called()) {
			return true
		}
	}
	return false
}

// overlaps reports whether a port would conflict with one of the set, or have its element.
func overlaps(ports *portset.Set, p portset.Port) bool {
	for have := range ports.All {
		if have.Proto == p.Proto && have.AddrPort.Port() == p.AddrPort.Port() {
			return true
		}
	}
	return false
}

func element(t *testing.T, m string, now time.Time) nft.Element {
	t.Helper()
	return PortElement(portset.Of(nattest.Mapping(t, m)), now)
}

func TestClassifyForeign(t *testing.T) {
	now := time.Now()
	backend := netip.MustParseAddrPort("172.30.0.2:80")
	own := element(t, "192.0.2.1:80->172.30.0.2:80", now)
	shadowed := element(t, "192.0.2.1:80->[fd00::2]:80", now)
	apart := element(t, "192.0.2.2:80->[fd00::2]:80", now)
	foreign := []nft.Element{
		{Set: "tcp4", Key: nft.PortKey(0), Value: backend},
		{Set: "tcp4_host", Key: nft.AddrPortKey(netip.MustParseAddrPort("0.0.0.0:80")), Value: backend},
		{Set: "tcp4", Key: nft.PortKey(81), Value: netip.MustParseAddrPort("127.0.0.1:80")},
		{Set: "tcp4", Key: nft.PortKey(82), Value: backend, Foreign: "an expression"},
		{Set: "hairpin4", Key: nft.AddrKey(backend.Addr()), Comment: "two words"},
		{Set: "udp4_ended", Key: nft.AddrPortKey(netip.MustParseAddrPort("0.0.0.0:0")), Value: backend},
		{Set: "leases4", Key: nft.AddrKey(backend.Addr()), Comment: "web"},
		SegmentElement(segment.Segment{Link: "br0", Prefix: netip.MustParsePrefix("10.1.0.0/16")}),
		SegmentElement(segment.Segment{Link: "br1", Prefix: netip.MustParsePrefix("0.0.0.0/0")}),
		{Set: "segments4", Key: nft.SegmentKey("br2", netip.MustParsePrefix("10.0.0.0/8")), Comment: "theirs"},
		{Set: "inside4", Key: nft.PairKey(netip.MustParsePrefix("10.0.0.0/8")), Comment: "on-link"},
		shadowed,
	}
	wide := SegmentElement(segment.Segment{Link: "br0", Prefix: netip.MustParsePrefix("10.0.0.0/8")})
	c := Classify(append(slices.Clone(foreign), own, apart, wide), now)
	require.ElementsMatch(t, foreign, c.Foreign)
	require.ElementsMatch(t, []nft.Element{own, apart, wide}, c.Elements)
	require.Equal(t, 2, c.Ports.Len())
}

// A port in the maps of both families is one of each family.
func TestClassifyBothFamilies(t *testing.T) {
	now := time.Now()
	c := Classify([]nft.Element{element(t, "80->172.30.0.2:80", now), element(t, "80->[fd00::2]:80", now)}, now)
	require.Empty(t, c.Foreign)
	var all []string
	for p := range c.Ports.All {
		all = append(all, p.Mapping().String())
	}
	require.ElementsMatch(t, []string{"0.0.0.0:80->172.30.0.2:80", "[::]:80->[fd00::2]:80"}, all)
}

// Comments that nft(8) could not load are written anew; what networks ask for is added.
func TestCorrection(t *testing.T) {
	now := time.Now()
	odd := element(t, "80->172.30.0.2:80", now)
	odd.Comment = "a\"b"
	n := nat.Network{Name: "one", Prefix: netip.MustParsePrefix("172.30.0.0/24")}.WithDefaults()
	n.Next = netip.MustParseAddr("172.30.0.2")
	network := IPAMElements([]nat.Network{n}, nil)
	c := Classify(append([]nft.Element{odd}, network[:len(network)-2]...), now) // without the pair and the cursor
	ch := c.Correction()
	require.Equal(t, []nft.Element{odd}, ch.Delete)
	require.Len(t, ch.Add, 3)
	require.Equal(t, network[len(network)-1], ch.Add[0])
	require.Equal(t, network[len(network)-2], ch.Add[1])
	require.NoError(t, ch.Validate(Ruleset("nftnat")))
}

func TestMissing(t *testing.T) {
	one, lease := SegmentElement(segment.Segment{Link: "br0", Prefix: netip.MustParsePrefix("10.0.0.0/8")}), nft.Element{Set: "leases4", Key: nft.AddrKey(netip.MustParseAddr("10.0.0.2")), Comment: "web"}
	renamed := lease
	renamed.Comment = "other"
	require.Empty(t, Missing([]nft.Element{one, lease}, []nft.Element{lease, one}))
	require.Equal(t, []nft.Element{lease}, Missing([]nft.Element{one, lease}, []nft.Element{one, renamed}))
}

// What differs between two states leads from the elements of one to those of the other.
func TestIPAMDiff(t *testing.T) {
	before, after := ipam.New(), ipam.New()
	n := nat.Network{Name: "one", Prefix: netip.MustParsePrefix("172.30.0.0/24")}
	require.NoError(t, before.AddNetwork(n))
	n.NoGuard = true
	require.NoError(t, after.AddNetwork(n))
	require.NoError(t, after.Add(nat.EndpointSpec{Name: "web", Address: netip.MustParseAddr("172.30.0.2")}))
	removed, added := IPAMDiff(ipam.Compare(before, after))
	set := func(es []nft.Element) (sets []string) {
		for _, el := range es {
			sets = append(sets, el.Set)
		}
		return sets
	}
	require.ElementsMatch(t, []string{"guarded4", "cursors4"}, set(removed))
	require.ElementsMatch(t, []string{"cursors4", "leases4"}, set(added))
}

// The segments of a table become others, and nothing else changes.
func TestSetSegments(t *testing.T) {
	segmentOf := func(link, p string) segment.Segment {
		return segment.Segment{Link: link, Prefix: netip.MustParsePrefix(p)}
	}
	now := time.Now()
	port := element(t, "80->172.30.0.2:80", now)
	stays, goes, comes := segmentOf("br0", "172.30.0.0/24"), segmentOf("br1", "172.30.0.0/24"), segmentOf("br0", "fd00::/64")
	c := Classify([]nft.Element{port, SegmentElement(stays), SegmentElement(goes)}, now)
	c.SetSegments([]segment.Segment{stays, comes})
	require.Equal(t, []segment.Segment{stays, comes}, c.Segments)
	ch := c.Correction()
	require.Equal(t, nft.Change{Delete: []nft.Element{SegmentElement(goes)}, Add: []nft.Element{SegmentElement(comes)}}, ch)
	require.ElementsMatch(t, []nft.Element{port, SegmentElement(stays), SegmentElement(comes)}, c.Elements)
	require.False(t, CanName("a b"))
	require.True(t, WasSegment(nft.Element{Set: "inside4", Key: nft.PairKey(stays.Prefix), Comment: "on-link"}))
	require.False(t, WasSegment(SegmentElement(stays)))
}
