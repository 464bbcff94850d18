// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"iter"
	"net/netip"
	"slices"
	"time"

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
	published, some := map[kind][]uint16{}, []Frontend{}
	for p := range ports {
		k := kindOf(p.Mapping())
		published[k] = append(published[k], p.AddrPort.Port())
		if len(some) <= few {
			some = append(some, p.Frontend)
		}
	}
	cutAt := func(i int) bool {
		if len(some) <= few && !slices.ContainsFunc(some, func(f Frontend) bool { return covers(&l[i], f) }) {
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

// covers reports whether a mapping has a frontend.
func covers(m *nat.Mapping, f Frontend) bool {
	first, at := m.Frontend.Port(), f.AddrPort.Port()
	return m.Proto == f.Proto && at >= first && at-first <= m.More && m.Frontend.Addr() == f.AddrPort.Addr()
}

// cut returns what is left of a mapping without some frontend ports.
func cut(m nat.Mapping, ports []uint16) (left []nat.Mapping) {
	slices.Sort(ports)
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
	for _, port := range ports {
		if p := int(port); p >= from && p <= last {
			keep(p - 1)
			from = p + 1
		}
	}
	keep(last)
	return left
}

// Finder returns a function that reports whether the list has a port, whatever its end.
func (l Removed) Finder() func(Port) bool {
	type ports struct{ first, last uint16 }
	ranges := make(map[kind][]ports, len(l))
	for _, m := range l {
		k := kindOf(m)
		ranges[k] = append(ranges[k], ports{m.Frontend.Port(), m.Frontend.Port() + m.More})
	}
	return func(p Port) bool {
		at := p.AddrPort.Port()
		return slices.ContainsFunc(ranges[kindOf(p.Mapping())], func(r ports) bool { return at >= r.first && at <= r.last })
	}
}
