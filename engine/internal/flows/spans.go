// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/order"
)

// spans has values for ports of frontends, those of a range as one, and finds them by the
// frontend of one port.
type spans[T any] map[netip.Addr][]span[T]

type span[T any] struct {
	first, last uint16
	at          uint16 // the port that the value is about
	value       T
}

func (s spans[T]) add(p *portset.Port, value T) {
	a := p.AddrPort.Addr()
	s[a] = append(s[a], span[T]{p.First(), p.Last(), p.First(), value})
}

// index makes get find what was added; of values for one port the last counts.
func (s spans[T]) index() {
	for a, all := range s {
		if disjoint(all) { // as most changes have them
			continue
		}
		byFirst := func(x, y span[T]) int { return cmp.Compare(x.first, y.first) }
		sorted := whole(order.Sorted(slices.Values(all), byFirst))
		for i := 1; i < len(sorted); i++ {
			if sorted[i].first <= sorted[i-1].last {
				sorted = lastOnes(all)
				break
			}
		}
		s[a] = sorted
	}
}

// disjoint reports whether spans are in order and none overlaps the next.
func disjoint[T any](all []span[T]) bool {
	for i := 1; i < len(all); i++ {
		if all[i].first <= all[i-1].last {
			return false
		}
	}
	return true
}

// whole returns spans without those that a later one has the same ports as.
func whole[T any](sorted []span[T]) []span[T] {
	left := sorted[:0]
	for _, x := range sorted {
		if n := len(left); n != 0 && left[n-1].first == x.first && left[n-1].last == x.last {
			left[n-1] = x
		} else {
			left = append(left, x)
		}
	}
	return left
}

// lastOnes returns for each port the last span that has it, in order.
func lastOnes[T any](all []span[T]) (sorted []span[T]) {
	var owner [1<<16 + 1]int // 0: none
	for i, x := range all {
		for port := int(x.first); port <= int(x.last); port++ {
			owner[port] = i + 1
		}
	}
	for port := 0; port < 1<<16; {
		first, i := port, owner[port]
		for port < 1<<16 && owner[port] == i {
			port++
		}
		if i != 0 {
			x := all[i-1]
			x.first, x.last = uint16(first), uint16(port-1)
			sorted = append(sorted, x)
		}
	}
	return sorted
}

// get returns the value for a frontend, and by how much its port is higher than that which the
// value is about.
func (s spans[T]) get(at netip.AddrPort) (value T, by uint16, ok bool) {
	all := s[at.Addr()]
	i, found := slices.BinarySearchFunc(all, at.Port(), func(x span[T], port uint16) int { return cmp.Compare(x.first, port) })
	if !found {
		if i--; i < 0 || all[i].last < at.Port() {
			return value, 0, false
		}
	}
	return all[i].value, at.Port() - all[i].at, true
}

// shifted returns a backend with a port that is higher. None stays none.
func shifted(backend netip.AddrPort, by uint16) netip.AddrPort {
	if !backend.IsValid() {
		return backend
	}
	return netip.AddrPortFrom(backend.Addr(), backend.Port()+by)
}
