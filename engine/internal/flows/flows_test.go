// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// fakeTable keeps the filter of each pass, and applies the function alone.
type fakeTable struct {
	flows   []conntrack.Flow
	filters []conntrack.Filter
}

func (t *fakeTable) Delete(f conntrack.Filter, match func(conntrack.Flow) bool) (int, error) {
	t.filters = append(t.filters, f)
	t.flows = slices.DeleteFunc(t.flows, match)
	return 0, nil
}

const here, alsoHere, elsewhere = "192.0.2.1:8080", "192.0.2.2:8080", "198.51.100.7:8080"

// isHere is the IsLocal of a host with the two addresses.
func isHere(a netip.Addr) (bool, error) {
	return netip.MustParsePrefix("192.0.2.0/24").Contains(a), nil
}

func udp(dst, answers string) conntrack.Flow {
	return conntrack.Flow{Proto: uint8(nat.UDP), Dst: netip.MustParseAddrPort(dst), ReplySrc: netip.MustParseAddrPort(answers)}
}

func portOf(t *testing.T, text string) portset.Port {
	t.Helper()
	return portset.Of(nattest.Mapping(t, text))
}

func TestStale(t *testing.T) {
	const old, other = "172.30.0.2:80", "172.30.0.3:80"
	set := portset.NewSet()
	set.Put(portOf(t, alsoHere+"->"+old+"/udp"))
	before, after := portOf(t, "8080->"+old+"/udp"), portOf(t, "8080->"+other+"/udp")
	change := portset.Change{Moved: []portset.Move{{Frontend: before.Frontend, From: before.Target, To: after.Target}}}
	kept := []conntrack.Flow{
		udp(here, other),    // to the new backend
		udp(alsoHere, old),  // of the mapping for its address
		udp(elsewhere, old), // through this host
		udp("127.0.0.1:8080", old),
		udp("192.0.2.1:8081", old),
	}
	table := fakeTable{flows: append(slices.Clone(kept), udp(here, old), udp(here, here))}
	d := Deleter{&table, isHere}
	require.NoError(t, d.Stale(nat.UDP, &change, &set))
	require.Equal(t, kept, table.flows)
	require.NoError(t, d.Stale(nat.TCP, &change, &set))
	require.Equal(t, []conntrack.Filter{{Proto: uint8(nat.UDP), Dst: netip.IPv4Unspecified(), FirstPort: 8080, LastPort: 8080}}, table.filters)

	table.flows = []conntrack.Flow{udp(here, other), udp(here, here)}
	require.NoError(t, d.Stale(nat.UDP, &portset.Change{Removed: []portset.Port{after}}, &set))
	require.Equal(t, []conntrack.Flow{udp(here, here)}, table.flows, "a service of the host keeps its flows")

	cause, asked := errors.New("no routes"), 0
	d.IsLocal = func(netip.Addr) (bool, error) { asked++; return true, cause }
	require.ErrorIs(t, d.Stale(nat.UDP, &portset.Change{Added: []portset.Port{after}}, &set), cause)
	require.Len(t, table.flows, 1)
	require.Equal(t, 1, asked)
}

func TestLeft(t *testing.T) {
	left := func(src, replyDst string) conntrack.Flow {
		return conntrack.Flow{Proto: uint8(nat.UDP), Src: netip.MustParseAddrPort(src), ReplyDst: netip.MustParseAddrPort(replyDst)}
	}
	const one, two, six = "172.30.0.2:80", "172.30.0.3:81", "[fd00::2]:80"
	kept := []conntrack.Flow{
		left(one, "192.0.2.1:9"),    // not by the port in question
		left(one, one),              // not translated
		left(two, "192.0.2.1:8080"), // of another
	}
	table := fakeTable{flows: append(slices.Clone(kept), left(one, "192.0.2.1:8080"))}
	d := Deleter{&table, isHere}
	contradicts := func(backend, left netip.AddrPort) bool { return left.Port() == 8080 || left == backend }
	backends := func(texts ...string) (all []portset.Backends) {
		for _, text := range texts {
			at := netip.MustParseAddrPort(text)
			all = append(all, portset.Backends{Addr: at.Addr(), First: at.Port(), Last: at.Port()})
		}
		return all
	}
	require.NoError(t, d.Left(nat.UDP, backends(one), contradicts))
	require.Equal(t, kept, table.flows)
	require.NoError(t, d.Left(nat.UDP, nil, contradicts))
	require.NoError(t, d.Left(nat.UDP, backends(one, two), contradicts))
	require.Equal(t, kept[:2], table.flows)
	require.NoError(t, d.Left(nat.TCP, backends(one, six), contradicts))
	require.Equal(t, []conntrack.Filter{
		{Proto: uint8(nat.UDP), Dst: netip.IPv4Unspecified(), Src: netip.MustParseAddr("172.30.0.2"), SrcPort: 80},
		{Proto: uint8(nat.UDP), Dst: netip.IPv4Unspecified()},
		{Proto: uint8(nat.TCP), SrcPort: 80},
	}, table.filters)
}

// The family is in the filter if there is one, for a pass less over the table.
func TestFilterOfBothFamilies(t *testing.T) {
	v4, v6 := portOf(t, "53->172.30.0.2:53/udp"), portOf(t, "53->[fd00::2]:53/udp")
	for _, tt := range []struct {
		change portset.Change
		want   netip.Addr
	}{
		{portset.Change{Added: []portset.Port{v6}}, netip.IPv6Unspecified()},
		{portset.Change{Removed: []portset.Port{v4}}, netip.IPv4Unspecified()},
		{portset.Change{Moved: []portset.Move{{Frontend: v4.Frontend, From: v4.Target, To: v6.Target}}}, netip.Addr{}},
	} {
		require.Equal(t, tt.want, filter(nat.UDP, replacedBackends(nat.UDP, &tt.change)).Dst)
	}
}

func TestOutage(t *testing.T) {
	const outside, inside, sibling = "198.51.100.7:4000", "172.31.0.2:80", "172.31.0.3:80"
	network := nat.Network{Name: "blue", Prefix: netip.MustParsePrefix("172.31.0.0/24")}
	flow := func(src, dst, replySrc, replyDst string, status conntrack.Status) conntrack.Flow {
		return conntrack.Flow{
			Status: status, Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst),
			ReplySrc: netip.MustParseAddrPort(replySrc), ReplyDst: netip.MustParseAddrPort(replyDst),
		}
	}
	kept := []conntrack.Flow{
		flow(outside, inside, inside, outside, conntrack.StatusDNAT),
		flow(outside, inside, inside, outside, conntrack.StatusExpected),
		flow(here, inside, inside, here, 0),
		flow(inside, sibling, sibling, inside, 0),
		flow(inside, outside, outside, here, 0),
		flow(inside, here, here, inside, 0),
		flow(outside, elsewhere, elsewhere, outside, 0),
	}
	ended := []conntrack.Flow{flow(outside, inside, inside, outside, 0), flow(inside, outside, outside, inside, 0)}
	table := fakeTable{flows: append(slices.Clone(kept), ended...)}
	d := Deleter{&table, isHere}
	networkOf := func(a netip.Addr) (nat.Network, bool) { return network, network.Prefix.Contains(a) }
	require.NoError(t, d.Outage(networkOf))
	require.Equal(t, kept, table.flows)
	require.Len(t, table.filters, 4)

	network.NoGuard, network.NoMasquerade = true, true
	table.flows = slices.Clone(ended)
	require.NoError(t, d.Outage(networkOf))
	require.Equal(t, ended, table.flows)
}
