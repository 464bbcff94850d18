// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package addrmap

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// Map is a map by addresses. The zero value is empty. Like a Go map, copies of it that was
// written to share what they hold.
type Map[V any] struct {
	four   map[uint32]V // of IPv4
	others map[netip.Addr]V
}

// Grow makes room for addresses in a map that is empty.
func (m *Map[V]) Grow(addrs []netip.Addr) {
	four := 0
	for i := range addrs {
		if addrs[i].Is4() {
			four++
		}
	}
	m.four = make(map[uint32]V, four)
	m.others = make(map[netip.Addr]V, len(addrs)-four)
}

// keyOf returns the key of an IPv4 address.
func keyOf(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

// Get returns the value of an address; ok is false if there is none.
func (m Map[V]) Get(a netip.Addr) (v V, ok bool) {
	if a.Is4() {
		v, ok = m.four[keyOf(a)]
	} else {
		v, ok = m.others[a]
	}
	return v, ok
}

// Of returns the value of an address, or the zero value.
func (m Map[V]) Of(a netip.Addr) V {
	v, _ := m.Get(a)
	return v
}

// Set sets the value of an address.
func (m *Map[V]) Set(a netip.Addr, v V) {
	switch {
	case !a.Is4():
		if m.others == nil {
			m.others = map[netip.Addr]V{}
		}
		m.others[a] = v
	default:
		if m.four == nil {
			m.four = map[uint32]V{}
		}
		m.four[keyOf(a)] = v
	}
}

// Delete removes an address.
func (m Map[V]) Delete(a netip.Addr) {
	if a.Is4() {
		delete(m.four, keyOf(a))
	} else {
		delete(m.others, a)
	}
}

// Len returns how many addresses there are.
func (m Map[V]) Len() int { return len(m.four) + len(m.others) }

// All yields the addresses and their values, in no order. As of a Go map, those that are visited
// may be deleted meanwhile.
func (m Map[V]) All(yield func(netip.Addr, V) bool) {
	for key, v := range m.four {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], key)
		if !yield(netip.AddrFrom4(b), v) {
			return
		}
	}
	for a, v := range m.others {
		if !yield(a, v) {
			return
		}
	}
}

// Addrs returns the addresses, in no order.
func (m Map[V]) Addrs() []netip.Addr {
	if m.Len() == 0 {
		return nil
	}
	return slices.AppendSeq(make([]netip.Addr, 0, m.Len()), m.Keys)
}

// Keys yields the addresses.
func (m Map[V]) Keys(yield func(netip.Addr) bool) {
	for a := range m.All {
		if !yield(a) {
			return
		}
	}
}
