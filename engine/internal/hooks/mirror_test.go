// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/nat"
)

// fakeMaps are maps as the programs look them up.
type fakeMaps struct {
	ports  map[uint16]int
	ranges map[key]int
}

func (m *fakeMaps) apply(es []entry[int]) {
	for _, e := range es {
		m.set(e)
	}
}

func (m *fakeMaps) set(e entry[int]) {
	b := e.key()
	switch {
	case !e.isRange && e.gone:
		delete(m.ports, e.first)
	case !e.isRange:
		m.ports[e.first] = e.target
	case e.gone:
		delete(m.ranges, b)
	default:
		m.ranges[b] = e.target
	}
}

func (m *fakeMaps) get(port uint16) int {
	if t, ok := m.ports[port]; ok {
		return t
	}
	for b, t := range m.ranges {
		if b.first <= port && port <= b.last {
			return t
		}
	}
	return 0
}

// TestMirror: after any changes, a port leads where it was said last.
func TestMirror(t *testing.T) {
	space := Space{nat.TCP, netip.IPv4Unspecified()}
	for seed := range uint64(15) {
		r := rand.New(rand.NewPCG(seed, 3))
		m, maps, model := newMirror[int](), &fakeMaps{map[uint16]int{}, map[key]int{}}, map[uint16]int{}
		base := uint16([]int{0, 700, 64000}[r.IntN(3)])
		for range 120 {
			var runs []run[int]
			for range 1 + r.IntN(3) {
				first := base + uint16(r.IntN(1500))
				last := first
				switch r.IntN(3) {
				case 0:
					last += uint16(r.IntN(4))
				case 1:
					last += uint16(r.IntN(1500))
				}
				last = max(first, min(last, base+1500))
				to := r.IntN(4)
				if first != last || r.IntN(2) == 0 { // others replace what is there: it is removed first
					for port := int(first); port <= int(last); port++ {
						if model[uint16(port)] != 0 {
							runs = append(runs, run[int]{space, uint16(port), uint16(port), 0})
						}
					}
				}
				runs = append(runs, run[int]{space, first, last, to})
				for port := int(first); port <= int(last); port++ {
					model[uint16(port)] = to
				}
			}
			maps.apply(m.plan(slices.Values(runs)))
			for range 20 {
				port := base + uint16(r.IntN(1501))
				require.Equal(t, model[port], maps.get(port), "seed %d port %d", seed, port)
			}
		}
		for port := base; port <= base+1500; port++ {
			require.Equal(t, model[port], maps.get(port), "seed %d port %d", seed, port)
		}
		maps.apply(m.plan(slices.Values([]run[int]{{space, 0, 65535, 0}})))
		require.Empty(t, maps.ranges)
		for _, to := range maps.ports {
			require.NotZero(t, to, "a hole without a range")
		}
		require.Empty(t, m.spaces)
	}
}
