// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"
	"strings"
)

// Expand yields the mappings of the single ports of m, in order. They differ from m in their
// ports and in More, which is zero. A mapping with frontend port 0 is yielded unchanged,
// because its ports are not known yet and have to be consecutive.
func Expand(m Mapping) iter.Seq[Mapping] {
	return func(yield func(Mapping) bool) {
		if m.Frontend.Port() == 0 {
			yield(m)
			return
		}
		one := m
		one.More = 0
		for i := 0; i <= int(m.More); i++ {
			front, back := int(m.Frontend.Port())+i, int(m.Backend.Port())+i
			if front > 65535 || back > 65535 {
				return // not a valid mapping; port 0 would mean any port
			}
			one.Frontend = netip.AddrPortFrom(m.Frontend.Addr(), uint16(front))
			one.Backend = netip.AddrPortFrom(m.Backend.Addr(), uint16(back))
			if !yield(one) {
				return
			}
		}
	}
}

// Collapse returns the mappings of ms in canonical order ([Compare]). Mappings of consecutive
// ports that do not differ otherwise become one range. Mappings with frontend port 0 are not
// joined, because each needs ports of its own. ms is not changed.
func Collapse(ms []Mapping) []Mapping {
	if len(ms) == 0 {
		return nil
	}
	// A Mapping has 136 bytes, so indices are sorted, and the results are counted first to
	// allocate memory once.
	order := make([]int32, len(ms))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return compare(&ms[a], &ms[b]) })
	runs := 1
	for i := 1; i < len(order); i++ {
		if !follows(&ms[order[i-1]], &ms[order[i]]) {
			runs++
		}
	}
	out := make([]Mapping, 1, runs)
	out[0] = ms[order[0]]
	for i := 1; i < len(order); i++ {
		m := &ms[order[i]]
		if follows(&ms[order[i-1]], m) {
			out[len(out)-1].More += m.More + 1
			continue
		}
		out = append(out, *m)
	}
	return out
}

// Join yields the mappings of a sequence in canonical order ([Compare]) as [Collapse] returns
// them.
func Join(ms iter.Seq[Mapping]) iter.Seq[Mapping] {
	return func(yield func(Mapping) bool) {
		var joined Mapping
		some := false
		for m := range ms {
			switch {
			case some && follows(&joined, &m):
				joined.More += m.More + 1
			case some && !yield(joined):
				return
			default:
				joined, some = m, true
			}
		}
		if some {
			yield(joined)
		}
	}
}

// follows reports whether b begins where a ends, and is the same otherwise.
func follows(a, b *Mapping) bool {
	next := int(a.More) + 1
	return a.Frontend.Port() != 0 &&
		int(a.Frontend.Port())+next == int(b.Frontend.Port()) &&
		int(a.Backend.Port())+next == int(b.Backend.Port()) &&
		a.Proto == b.Proto &&
		a.Frontend.Addr() == b.Frontend.Addr() &&
		a.Backend.Addr() == b.Backend.Addr() &&
		a.Name == b.Name &&
		a.NoProxy == b.NoProxy &&
		a.ProxyOnly == b.ProxyOnly &&
		a.Masquerade == b.Masquerade &&
		a.From == b.From &&
		a.Hold == b.Hold &&
		a.Expires.Equal(b.Expires)
}

// Compare orders mappings canonically: tcp before udp; then any address before
// IPv4 before IPv6 addresses, each by value; then by frontend port; then by
// the other fields. For valid mappings it is 0 only if a == b.
func Compare(a, b Mapping) int { return compare(&a, &b) }

// compare does not use cmp.Or, which would evaluate all parts.
func compare(a, b *Mapping) int {
	if c := cmp.Compare(a.Proto, b.Proto); c != 0 {
		return c
	}
	// netip orders the zero Addr first, then by family.
	if c := a.Frontend.Addr().Compare(b.Frontend.Addr()); c != 0 {
		return c
	}
	if c := cmp.Compare(a.Frontend.Port(), b.Frontend.Port()); c != 0 {
		return c
	}
	if c := a.Backend.Compare(b.Backend); c != 0 {
		return c
	}
	if c := cmp.Compare(a.More, b.More); c != 0 {
		return c
	}
	if c := strings.Compare(a.Name, b.Name); c != 0 {
		return c
	}
	for _, differ := range [...]struct{ a, b bool }{
		{a.NoProxy, b.NoProxy}, {a.ProxyOnly, b.ProxyOnly}, {a.Masquerade, b.Masquerade},
		{a.Hold == HoldShared, b.Hold == HoldShared},
	} {
		if differ.a != differ.b {
			if differ.b {
				return -1
			}
			return 1
		}
	}
	if a.From != b.From {
		return strings.Compare(a.From.String(), b.From.String())
	}
	return a.Expires.Compare(b.Expires)
}
