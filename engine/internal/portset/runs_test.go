// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// Ports collapse to what their mappings collapse to.
func TestCollapsedPorts(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		var ports []Port
		seen := map[Frontend]bool{}
		for range r.IntN(60) {
			p := somePort(r)
			if !seen[p.Frontend] {
				seen[p.Frontend] = true
				ports = append(ports, p)
			}
		}
		if seed%2 == 0 {
			r.Shuffle(len(ports), func(i, j int) { ports[i], ports[j] = ports[j], ports[i] })
		}
		before := slices.Clone(ports)
		ms := make([]nat.Mapping, len(ports))
		for i, p := range ports {
			ms[i] = p.Mapping()
		}
		require.Equal(t, nat.Collapse(ms), Collapse(ports), "seed %d", seed)
		require.Equal(t, before, ports, "seed %d", seed)
		slices.SortFunc(ports, func(a, b Port) int { return comparePorts(&a, &b) })
		require.Equal(t, nat.Collapse(ms), Collapse(ports), "seed %d, in order", seed)
	}
}

// What is alike but for one thing is no run.
func TestRunsDifferInNothingElse(t *testing.T) {
	at := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, change := range []func(*nat.Mapping){
		func(m *nat.Mapping) { m.Name = "b" },
		func(m *nat.Mapping) { m.NoProxy = true },
		func(m *nat.Mapping) { m.Expires = at },
		func(m *nat.Mapping) { m.Proto = nat.UDP },
	} {
		one, two := nattest.Mapping(t, "80->172.30.0.2:80"), nattest.Mapping(t, "81->172.30.0.2:81")
		require.Len(t, Collapse([]Port{Of(one), Of(two)}), 1)
		change(&two)
		require.Len(t, Collapse([]Port{Of(one), Of(two)}), 2)
	}
}

// somePort returns one of few ports, of which many are consecutive.
func somePort(r *rand.Rand) Port {
	number := uint16(80 + r.IntN(12))
	hosts := []netip.Addr{{}, netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.MustParseAddr("192.0.2.1"), netip.IPv6Loopback()}
	backends := []netip.Addr{netip.MustParseAddr("172.30.0.2"), netip.MustParseAddr("fd00:30::2")}
	p := Port{
		Frontend{[]nat.Proto{nat.TCP, nat.UDP}[r.IntN(2)], netip.AddrPortFrom(hosts[r.IntN(len(hosts))], number)},
		Target{Backend: netip.AddrPortFrom(backends[r.IntN(2)], number), NoProxy: r.IntN(8) == 0},
	}
	if r.IntN(8) == 0 {
		p.Name = "web"
	}
	if r.IntN(4) == 0 {
		p.Expires = 1_800_000_000_000 + int64(r.IntN(2))*60_000
	}
	return p
}
