// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rivals

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// The claims to a range are those to its ports, as few parts as there can be.
func TestPartsAreThoseOfThePorts(t *testing.T) {
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	here := netip.MustParseAddr("192.0.2.1")
	for range 300 {
		var r Rivals
		for i := range rnd.IntN(5) {
			b := whole(ipv4 | ipv6)
			first := uint16(100 + rnd.IntN(40))
			b = b.withPorts(first, first+uint16(rnd.IntN(20)))
			if rnd.IntN(4) == 0 {
				b.protos = udp
			}
			if rnd.IntN(4) == 0 {
				b = b.withAddrs(here, here)
			}
			r.add(Claim{Table: string(rune('a' + i)), Order: Order(rnd.IntN(3)), Hook: Hook(rnd.IntN(2)), box: b})
		}
		at := []netip.Addr{{}, here, netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("127.0.0.1")}[rnd.IntN(4)]
		first := uint16(90 + rnd.IntN(60))
		last := first + uint16(rnd.IntN(40))
		parts := r.In(nat.TCP, at, first, last, []netip.Addr{here})
		next := 0
		for port := first; port <= last; port++ {
			want, ok := r.Of(nat.TCP, at, port, []netip.Addr{here})
			for next < len(parts) && parts[next].Last < port {
				next++
			}
			require.Equal(t, ok, next < len(parts) && parts[next].First <= port, port)
			if ok {
				require.Equal(t, want, parts[next].Claim, port)
			}
		}
		for i := 1; i < len(parts); i++ {
			require.False(t, parts[i-1].Last+1 == parts[i].First && parts[i-1].Claim == parts[i].Claim)
		}
	}
	var none Rivals
	require.Empty(t, none.In(nat.TCP, here, 1, 65535, nil))
}
