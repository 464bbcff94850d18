// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/nat"
)

// Removed are mappings that were published and are not any more, the latest last, ranges as
// one, without their ends. Methods do not change it.
type Removed []nat.Mapping

// MostRemoved is how many mappings a Removed has; the oldest are forgotten.
const MostRemoved = 4096

// kind is what all ports of a range have in common: a mapping without ports, but for how far
// the backend's are from the frontend's, and without an end.
type kind nat.Mapping

func kindOf(m nat.Mapping) kind {
	shift := m.Backend.Port() - m.Frontend.Port()
	m.Frontend = netip.AddrPortFrom(m.Frontend.Addr(), 0)
	m.Backend = netip.AddrPortFrom(m.Backend.Addr(), shift)
	m.More, m.Expires = 0, time.Time{}
	return kind(m)
}

// SameButEnd reports whether two targets of a frontend are equal, ends apart.
func (t Target) SameButEnd(o Target) bool {
	t.Expires = o.Expires
	return t == o
}

// After returns the list after a change: with what it removes, and with the old targets of
// what it moves, and without what it publishes.
func (l Removed) After(c *Change) Removed {
	gone := make([]nat.Mapping, 0, c.LenBefore())
	for p := range c.Before {
		p.Expires = 0
		gone = append(gone, p.Mapping())
	}
	l = slices.Concat(l, nat.Collapse(gone)).Without(c.After)
	return l[max(len(l)-MostRemoved, 0):]
}

// Without returns the list without some ports, whatever their ends.
func (l Removed) Without(ports iter.Seq[Port]) Removed {
	if len(l) == 0 {
		return nil
	}
	published, some := map[kind][]bounds{}, []Port{}
	for p := range ports {
		k := kindOf(p.Mapping())
		published[k] = append(published[k], bounds{p.First(), p.Last()})
		if len(some) <= few {
			some = append(some, p)
		}
	}
	cutAt := func(i int) bool {
		if len(some) <= few && !slices.ContainsFunc(some, func(p Port) bool { return overlap(&l[i], &p) }) {
			return false
		}
		return published[kindOf(l[i])] != nil
	}
	first := 0
	for first < len(l) && !cutAt(first) {
		first++
	}
	if first == len(l) {
		return l
	}
	left := slices.Clone(l[:first])
	for i := first; i < len(l); i++ {
		if cutAt(i) {
			left = append(left, cut(l[i], published[kindOf(l[i])])...)
		} else {
			left = append(left, l[i])
		}
	}
	return left
}

// few ports are compared with each mapping of a list; of more, the kinds are looked up, which
// takes longer for each mapping.
const few = 16

// bounds are the first and the last of some ports.
type bounds struct{ first, last uint16 }

// overlap reports whether a mapping has some frontend of a port or a range.
func overlap(m *nat.Mapping, p *Port) bool {
	return m.Proto == p.Proto && m.Frontend.Port() <= p.Last() && p.First() <= m.Frontend.Port()+m.More && m.Frontend.Addr() == p.AddrPort.Addr()
}

// cut returns what is left of a mapping without some frontend ports.
func cut(m nat.Mapping, ports []bounds) (left []nat.Mapping) {
	order.Sort(ports, func(a, b bounds) int { return cmp.Compare(a.first, b.first) })
	from, last := int(m.Frontend.Port()), int(m.Frontend.Port())+int(m.More)
	keep := func(to int) {
		if from <= to {
			part, by := m, uint16(from)-m.Frontend.Port()
			part.Frontend = netip.AddrPortFrom(m.Frontend.Addr(), m.Frontend.Port()+by)
			part.Backend = netip.AddrPortFrom(m.Backend.Addr(), m.Backend.Port()+by)
			part.More = uint16(to - from)
			left = append(left, part)
		}
	}
	for _, r := range ports {
		if int(r.last) >= from && int(r.first) <= last {
			keep(int(r.first) - 1)
			from = int(r.last) + 1
		}
	}
	keep(last)
	return left
}

// Finder returns a function that yields the parts of a port or a range that the list has,
// whatever its end.
func (l Removed) Finder() func(Port) iter.Seq[Port] {
	ranges := make(map[kind][]bounds, len(l))
	for _, m := range l {
		k := kindOf(m)
		ranges[k] = append(ranges[k], bounds{m.Frontend.Port(), m.Frontend.Port() + m.More})
	}
	for _, of := range ranges {
		order.Sort(of, func(a, b bounds) int { return cmp.Compare(a.first, b.first) })
	}
	return func(p Port) iter.Seq[Port] {
		return func(yield func(Port) bool) {
			next := int(p.First())
			for _, r := range ranges[kindOf(p.Mapping())] {
				first, last := max(int(r.first), next), min(r.last, p.Last())
				if first > int(last) {
					continue
				}
				if !yield(p.Part(uint16(first), last)) {
					return
				}
				next = int(last) + 1
			}
		}
	}
}
