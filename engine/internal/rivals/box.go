// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rivals

import (
	"net/netip"
	"slices"
)

// families and protocols are sets of them.
type (
	families  uint8
	protocols uint8
)

const (
	ipv4 families = 1 << iota
	ipv6
)

const (
	tcp protocols = 1 << iota
	udp
	otherProtocols
)

// box is a set of packets, by their destination.
type box struct {
	families    families
	protos      protocols
	first, last uint16 // ports
	// low and high are the addresses; zero: any.
	low, high netip.Addr
	// ported is whether a rule has named the port, and some whether one has a condition
	// that a box does not have.
	ported, some bool
}

func whole(f families) box {
	return box{families: f, protos: tcp | udp | otherProtocols, last: 1<<16 - 1}
}

// isEmpty reports whether the box has no packets of TCP or UDP.
func (b box) isEmpty() bool {
	return b.families == 0 || b.protos&(tcp|udp) == 0 || b.first > b.last ||
		b.low.IsValid() && b.low.Compare(b.high) > 0
}

// isFor reports whether the box has packets to an address; the zero Addr is any of the local
// ones, and an unspecified one any of its family.
func (b box) isFor(a netip.Addr, local []netip.Addr) bool {
	switch {
	case a.Is4() && b.families&ipv4 == 0, a.Is6() && b.families&ipv6 == 0:
		return false
	case !b.low.IsValid():
		return true
	case !a.IsValid() || a.IsUnspecified():
		return slices.ContainsFunc(local, func(l netip.Addr) bool {
			return (!a.IsValid() || l.Is4() == a.Is4()) && b.isFor(l, nil)
		})
	}
	return b.low.Compare(a) <= 0 && a.Compare(b.high) <= 0
}

func (b box) withPorts(first, last uint16) box {
	b.first, b.last, b.ported = max(b.first, first), min(b.last, last), true
	if first > last {
		b.protos = 0
	}
	return b
}

func (b box) withAddrs(low, high netip.Addr) box {
	if low.Is4() {
		b.families &= ipv4
	} else {
		b.families &= ipv6
	}
	if !b.low.IsValid() || low.Compare(b.low) > 0 {
		b.low = low
	}
	if !b.high.IsValid() || high.Compare(b.high) < 0 {
		b.high = high
	}
	return b
}

// without returns the parts of a box that another one, which is for any address, has not.
func (b box) without(o box) []box {
	both := b
	both.families &= o.families
	both.protos &= o.protos
	both = both.withPorts(o.first, o.last)
	if both.isEmpty() {
		return []box{b}
	}
	var rest []box
	keep := func(part box) {
		if !part.isEmpty() {
			rest = append(rest, part)
		}
	}
	part := b
	part.families &^= o.families
	keep(part)
	part = b
	part.families &= o.families
	part.protos &^= o.protos
	keep(part)
	part = b
	part.families, part.protos = both.families, both.protos
	if both.first > b.first {
		low := part
		low.last = both.first - 1
		keep(low)
	}
	if both.last < b.last {
		high := part
		high.first = both.last + 1
		keep(high)
	}
	return rest
}
