// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package addrmap

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
	"sync/atomic"
)

// Map is a map by addresses. The zero value is empty. Like a Go map, copies of it that was
// written to share what they hold.
type Map[V any] struct {
	four   *pages[V] // of IPv4; nil: none was set
	others map[netip.Addr]V
}

// pages has pages by all but the last bits of their addresses.
type pages[V any] struct {
	pages map[uint32]*page[V]
	count int // of addresses
	// last is the page that was found last, where the next address often is too. Several may read
	// at once.
	last atomic.Pointer[page[V]]
}

// page has the values of up to 64 addresses in a row, in their order.
type page[V any] struct {
	key    uint32
	has    uint64 // a bit for each address
	values []V
}

// find returns a page, or nil.
func (ps *pages[V]) find(key uint32) *page[V] {
	p := ps.last.Load()
	if p != nil && p.key == key {
		return p
	}
	if p = ps.pages[key]; p != nil {
		ps.last.Store(p)
	}
	return p
}

const pageBits = 6

// locate returns the key of the page of an IPv4 address, and its bit there.
func locate(a netip.Addr) (key uint32, bit uint64) {
	b := a.As4()
	n := binary.BigEndian.Uint32(b[:])
	return n >> pageBits, 1 << (n % (1 << pageBits))
}

// before returns how many addresses of the page are before that of a bit.
func (p *page[V]) before(bit uint64) int { return bits.OnesCount64(p.has & (bit - 1)) }

// Get returns the value of an address; ok is false if there is none.
func (m Map[V]) Get(a netip.Addr) (v V, ok bool) {
	if !a.Is4() {
		v, ok = m.others[a]
		return v, ok
	}
	if m.four == nil {
		return v, false
	}
	key, bit := locate(a)
	p := m.four.find(key)
	if p == nil || p.has&bit == 0 {
		return v, false
	}
	return p.values[p.before(bit)], true
}

// Of returns the value of an address, or the zero value.
func (m Map[V]) Of(a netip.Addr) V {
	v, _ := m.Get(a)
	return v
}

// Set sets the value of an address.
func (m *Map[V]) Set(a netip.Addr, v V) {
	if !a.Is4() {
		if m.others == nil {
			m.others = map[netip.Addr]V{}
		}
		m.others[a] = v
		return
	}
	if m.four == nil {
		m.four = &pages[V]{pages: map[uint32]*page[V]{}}
	}
	key, bit := locate(a)
	p := m.four.find(key)
	if p == nil {
		p = &page[V]{key: key}
		m.four.pages[key] = p
	}
	i := p.before(bit)
	if p.has&bit != 0 {
		p.values[i] = v
		return
	}
	p.has |= bit
	p.values = slices.Insert(p.values, i, v)
	m.four.count++
}

// Delete removes an address.
func (m Map[V]) Delete(a netip.Addr) {
	if !a.Is4() {
		delete(m.others, a)
		return
	}
	if m.four == nil {
		return
	}
	key, bit := locate(a)
	p := m.four.find(key)
	if p == nil || p.has&bit == 0 {
		return
	}
	i := p.before(bit)
	p.values = slices.Delete(p.values, i, i+1)
	p.has &^= bit
	m.four.count--
	if p.has == 0 {
		delete(m.four.pages, key)
		m.four.last.Store(nil)
	}
}

// Len returns how many addresses there are.
func (m Map[V]) Len() int {
	if m.four == nil {
		return len(m.others)
	}
	return m.four.count + len(m.others)
}

// All yields the addresses and their values, in no order. As of a Go map, those that are visited
// may be deleted meanwhile.
func (m Map[V]) All(yield func(netip.Addr, V) bool) {
	if m.four != nil {
		for _, p := range m.four.pages {
			if !p.all(yield) {
				return
			}
		}
	}
	for a, v := range m.others {
		if !yield(a, v) {
			return
		}
	}
}

// all yields those of a page. It reports whether more are wanted.
func (p *page[V]) all(yield func(netip.Addr, V) bool) bool {
	for left := p.has; left != 0; left &= left - 1 {
		bit := left & -left
		if p.has&bit == 0 {
			continue // deleted meanwhile
		}
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], p.key<<pageBits|uint32(bits.TrailingZeros64(bit)))
		if !yield(netip.AddrFrom4(b), p.values[p.before(bit)]) {
			return false
		}
	}
	return true
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
