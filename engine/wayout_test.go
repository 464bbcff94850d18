// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/internal/nfttest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// openMasqueraded opens an engine with a network, on a host with two interfaces.
func openMasqueraded(t *testing.T) (*Engine, *testbed) {
	t.Helper()
	e, b := openFake(t)
	b.host.interfaces = []hostnet.Interface{
		{Name: "lo", Loopback: true, Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}},
		{Name: "lan0", Addrs: []netip.Addr{netip.MustParseAddr(local4), netip.MustParseAddr(local6)}},
		{Name: "wan0", Addrs: []netip.Addr{netip.MustParseAddr(otherLocal4)}},
	}
	_, err := e.CreateNetwork(t.Context(), nat.Network{Name: "in4", Prefix: netip.MustParsePrefix(inside4)})
	require.NoError(t, err)
	return e, b
}

// outs are the elements of exits in the kernel.
func outs(b *testbed) (lines []string) {
	for _, el := range elementsIn(b.kernel.Dump()) {
		if set, _, _ := strings.Cut(el, " "); schema.IsOut(set) {
			lines = append(lines, el)
		}
	}
	slices.Sort(lines)
	return lines
}

func TestExitsInTheTable(t *testing.T) {
	e, b := openMasqueraded(t)
	publish(t, e, "27015->172.30.0.2:27016/udp", local4+":80->172.30.0.2:81", "9->10.9.0.2:9", "0.0.0.0:8->172.30.0.3:8")
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, leaseFor(t, b, "90->172.30.0.2:90", time.Minute))
	require.NoError(t, err)
	want := []string{
		`tcp4_link_out { "lan0" . 172.30.0.2 . 81 : 192.0.2.1 . 80 }`,
		"tcp4_out { 172.30.0.2 . 90 timeout 1m : 90 }",
		"tcp4_out { 172.30.0.3 . 8 : 8 }",
		"udp4_out { 172.30.0.2 . 27016 : 27015 }",
	}
	require.Equal(t, want, outs(b))
	requireConsistent(t, b, e)

	// Another engine finds them as they are.
	e, log := b.reopen(t)
	require.NotContains(t, log, "drift")
	require.Equal(t, want, outs(b))
	require.NoError(t, e.RemoveNetwork(t.Context(), "in4"))
	require.Empty(t, outs(b))
	_, err = e.CreateNetwork(t.Context(), nat.Network{Name: "in4", Prefix: netip.MustParsePrefix(inside4)})
	require.NoError(t, err)
	require.Equal(t, want, outs(b))
	requireConsistent(t, b, e)
}

// What other programs do to the maps of exits is undone, while an engine is open and when one
// opens.
func TestExitsAreRepaired(t *testing.T) {
	for name, damage := range map[string]func(*nfttest.Table){
		"missing": func(t *nfttest.Table) {
			t.Elements = slices.DeleteFunc(t.Elements, func(el nft.Element) bool { return schema.IsOut(el.Set) })
		},
		"foreign": func(t *nfttest.Table) {
			t.Elements = append(t.Elements, nft.Element{
				Set: "udp4_out", Key: nft.AddrPortKey(netip.MustParseAddrPort("172.30.0.9:1")), Value: netip.AddrPortFrom(netip.Addr{}, 53),
			}, nft.Element{
				Set: "udp4_link_out", Key: nft.LinkKey("wan0", netip.MustParseAddrPort("172.30.0.9:1")), Value: netip.MustParseAddrPort("192.0.2.9:53"),
			})
		},
		"other": func(t *nfttest.Table) {
			for i := range t.Elements {
				if el := &t.Elements[i]; schema.IsOut(el.Set) {
					el.Value = netip.AddrPortFrom(el.Value.Addr(), 53)
				}
			}
		},
		"rules": func(t *nfttest.Table) { t.Chains[4].Rules = nil },
		"old schema": func(t *nfttest.Table) {
			t.Comment = "nftnat schema 2"
			t.Elements = slices.DeleteFunc(t.Elements, func(el nft.Element) bool { return schema.IsOut(el.Set) })
			t.Sets = slices.DeleteFunc(t.Sets, func(s nft.Set) bool { return schema.IsOut(s.Name) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, b := openMasqueraded(t)
			publish(t, e, "27015->172.30.0.2:27016/udp", local4+":80->172.30.0.2:81/udp")
			want := outs(b)
			require.Len(t, want, 2)
			b.edit(t, damage)
			e.core.table.MarkStale()
			publish(t, e, "1->172.30.0.2:1")
			require.Subset(t, outs(b), want)
			require.Len(t, outs(b), 3)
			require.Equal(t, 1, e.core.table.Counts().Repaired)
			requireConsistent(t, b, e)

			b.edit(t, damage)
			e, _ = b.reopen(t)
			require.Subset(t, outs(b), want)
			requireConsistent(t, b, e)
		})
	}
}

// Exits of one address follow it, and the flows that left by it end.
func TestExitsFollowAddresses(t *testing.T) {
	e, b := openMasqueraded(t)
	publish(t, e, local4+":80->172.30.0.2:81/udp", "5->172.30.0.2:5/udp")
	const byLAN, any = `udp4_link_out { "lan0" . 172.30.0.2 . 81 : 192.0.2.1 . 80 }`, "udp4_out { 172.30.0.2 . 5 : 5 }"
	require.Equal(t, []string{byLAN, any}, outs(b))
	left := conntrack.Flow{
		Proto: uint8(nat.UDP), Src: netip.MustParseAddrPort("172.30.0.2:81"), Dst: netip.MustParseAddrPort("198.51.100.1:9"),
		ReplySrc: netip.MustParseAddrPort("198.51.100.1:9"), ReplyDst: netip.MustParseAddrPort(local4 + ":80"),
	}
	b.flows.flows = append(b.flows.flows, left)
	require.NoError(t, e.core.follow(t.Context()))
	require.Contains(t, b.flows.flows, left)

	b.host.interfaces[1].Addrs, b.host.interfaces[2].Addrs = nil, []netip.Addr{netip.MustParseAddr(local4)}
	require.NoError(t, e.core.follow(t.Context()))
	require.Equal(t, []string{strings.Replace(byLAN, "lan0", "wan0", 1), any}, outs(b))
	require.Contains(t, b.flows.flows, left, "the address is the host's still")
	b.host.interfaces[2].Dummy = true
	require.NoError(t, e.core.follow(t.Context()))
	require.Equal(t, []string{"udp4_host_out { 172.30.0.2 . 81 : 192.0.2.1 . 80 }", any}, outs(b))
	b.host.interfaces[2].Addrs = nil
	delete(b.host.routes, netip.PrefixFrom(netip.MustParseAddr(local4), 32))
	require.NoError(t, e.core.follow(t.Context()))
	require.Equal(t, []string{any}, outs(b))
	require.NotContains(t, b.flows.flows, left)
	requireConsistent(t, b, e)
}

// The next frontend takes the place of one that expires, once the kernel has removed it.
func TestExitsOfExpired(t *testing.T) {
	e, b := openMasqueraded(t)
	publish(t, e, "27015->172.30.0.2:27016/udp")
	_, err := e.Publish(t.Context(), nat.PublishOptions{}, leaseFor(t, b, "90->172.30.0.2:27016/udp", time.Minute))
	require.NoError(t, err)
	require.Equal(t, []string{"udp4_out { 172.30.0.2 . 27016 timeout 1m : 90 }"}, outs(b))
	b.clock.advance(time.Minute)
	e.expire()
	require.False(t, e.core.exits.due)
	require.Equal(t, []string{"udp4_out { 172.30.0.2 . 27016 : 27015 }"}, outs(b))
	requireConsistent(t, b, e)
}
