// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"cmp"
	"slices"

	"github.com/nftnat/nftnat/internal/order"
)

// assignment says what ports of a line are after a change: to, or nothing.
type assignment struct {
	first, last uint16
	to          *Port
}

// part returns what a part of the ports will be.
func (a *assignment) part(first, last uint16) Port { return a.to.Part(first, last) }

// disjoint sorts assignments, and joins those of one range. What is removed and is assigned as
// well was another frontend of the line, and the assignment counts.
func disjoint(as []assignment) []assignment {
	first := func(a, b assignment) int { return cmp.Compare(a.first, b.first) }
	order.Sort(as, first)
	overlap := false
	for i := 1; i < len(as) && !overlap; i++ {
		overlap = as[i].first <= as[i-1].last
	}
	if overlap {
		as = withoutRemoved(as)
		order.Sort(as, first)
	}
	joined := as[:0:0]
	for _, a := range as {
		if n := len(joined); n != 0 && joined[n-1].join(&a) {
			continue
		}
		joined = append(joined, a)
	}
	return joined
}

// withoutRemoved removes from the assignments of nothing the ports that others assign.
func withoutRemoved(as []assignment) []assignment {
	var wanted, gone bitmap
	for _, a := range as {
		for port := int(a.first); port <= int(a.last); port++ {
			if a.to != nil {
				wanted.set(uint16(port))
			} else {
				gone.set(uint16(port))
			}
		}
	}
	left := slices.DeleteFunc(as, func(a assignment) bool { return a.to == nil })
	for port := gone.next(0, 65535); port <= 65535; port = gone.next(port+1, 65535) {
		if !wanted.has(uint16(port)) {
			left = append(left, assignment{first: uint16(port), last: uint16(port)})
		}
	}
	return left
}

// join adds b to a if both are parts of one range, or of nothing.
func (a *assignment) join(b *assignment) bool {
	switch {
	case int(a.last)+1 != int(b.first), (a.to == nil) != (b.to == nil):
		return false
	case a.to == nil:
	case a.to.More == 0 && b.to.More == 0 || a.to.AddrPort.Addr() != b.to.AddrPort.Addr() || b.to.Target != a.to.shifted(b.first-a.first):
		return false
	case a.to.Backend.Port() != a.first: // single ports that are shifted
		return false
	default:
		whole := *a.to
		whole.More = b.last - a.first
		a.to = &whole
	}
	a.last = b.last
	return true
}

// clip returns the parts of assignments that lie in a span.
func clip(as []assignment, sp *Port) (in []assignment) {
	for _, a := range as {
		if a.first > sp.Last() {
			break
		}
		if a.last < sp.First() {
			continue
		}
		first, last := max(a.first, sp.First()), min(a.last, sp.Last())
		if a.to != nil {
			to := a.part(first, last)
			a.to = &to
		}
		in = append(in, assignment{first, last, a.to})
	}
	return in
}
