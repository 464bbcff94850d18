// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// An index that has followed changes is one of what is published after them, ranges or not.
func TestIndexFollows(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	x := newIndex(newPorts())
	published := map[slot]nat.Mapping{} // single ports
	now := time.Now()
	for range 3000 {
		port := uint16(1024 + random.IntN(40))
		proto := []nat.Proto{nat.TCP, nat.UDP}[random.IntN(2)]
		more := uint16(0)
		if random.IntN(3) == 0 {
			more = uint16(random.IntN(5))
		}
		m := nat.Mapping{
			Proto: proto, Frontend: netip.AddrPortFrom(netip.IPv4Unspecified(), port), More: more, NoProxy: true,
			Backend: netip.AddrPortFrom(addr(random.IntN(3)), port), Name: []string{"pmp:", "web", "pcp:" + nonce, "igd:x"}[random.IntN(4)],
		}
		if random.IntN(3) == 0 {
			x.drop(&m, now)
			for single := range nat.Expand(m) {
				delete(published, slotOf(&single))
			}
		} else {
			x.put(&m)
			for single := range nat.Expand(m) {
				published[slotOf(&single)] = single
			}
		}
		if random.IntN(20) == 0 {
			now = now.Add(time.Minute)
			x.ports.expire(now)
		}
	}
	x.ports.expire(now.Add(time.Hour))
	again := newIndex(newPorts())
	for _, m := range published {
		again.put(&m)
	}
	require.Len(t, x.entries, len(published))
	require.Equal(t, again.leases, x.leases)
	for at, e := range again.entries {
		require.Equal(t, e.Lease, x.entries[at].Lease)
	}
	for a, c := range again.clients {
		require.Equal(t, c.leases, x.clients[a].leases)
		require.Len(t, x.clients[a].targets, len(c.targets))
	}
	require.Len(t, x.clients, len(again.clients))
	// Of two mappings with a port, of either protocol, the one that came first is named.
	either := strings.NewReplacer("of udp ", "of tcp ")
	for port := uint16(1000); port < 1100; port++ {
		require.Equal(t, either.Replace(again.ports.taken(port, addr(1), false)), either.Replace(x.ports.taken(port, addr(1), false)), port)
	}
}

// The ports of a wide mapping are taken, and free again after it.
func TestWideMappings(t *testing.T) {
	x := newIndex(newPorts())
	one := nat.Mapping{Proto: nat.TCP, Frontend: netip.MustParseAddrPort("0.0.0.0:5000"), Backend: netip.MustParseAddrPort("192.168.0.7:5000"), Name: "pmp", NoProxy: true}
	x.put(&one)
	wide := nat.Mapping{Proto: nat.TCP, Frontend: netip.AddrPortFrom(netip.Addr{}, 2000), More: 60000, Backend: netip.MustParseAddrPort("10.0.0.1:2000")}
	x.put(&wide)
	require.Zero(t, x.leases)
	require.Empty(t, x.clients)
	require.Equal(t, "a mapping of tcp", x.ports.taken(62000, addr(1), false))
	require.Empty(t, x.ports.taken(62001, addr(1), false))
	part := wide
	part.Frontend, part.Backend, part.More = netip.AddrPortFrom(netip.Addr{}, 3000), netip.MustParseAddrPort("10.0.0.1:3000"), 9
	x.drop(&part, time.Now())
	require.Empty(t, x.ports.taken(3009, addr(1), false))
	require.NotEmpty(t, x.ports.taken(3010, addr(1), false))
	port, ok := x.ports.pick([]Ports{{2990, 3020}})
	require.True(t, ok)
	require.EqualValues(t, 3000, port)
	_, ok = x.ports.pick([]Ports{{4000, 4100}})
	require.False(t, ok)
}
