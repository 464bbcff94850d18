// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"cmp"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/nat"
)

// line is what the frontends have in common whose ports are keys of the same maps of the
// kernel: ranges of one line must not overlap there, and an element for a single port of it is
// asked before its ranges. Frontends of any address and of any of one family share a line.
type line struct {
	proto nat.Proto
	// is4 is whether the clients are of IPv4.
	is4 bool
	// host is the one address; zero: any of the family.
	host netip.Addr
	way  way
}

// way is how the ports of a line are served.
type way uint8

const (
	translated way = iota // netfilter looks the line up
	crossing              // by proxies, to the other family
	proxied               // by proxies, because the mapping says so
)

func lineOf(f Frontend, t *Target) line {
	l := line{proto: f.Proto, host: f.Host(), is4: t.Backend.Addr().Is4()}
	switch a := f.AddrPort.Addr(); {
	case a.IsValid() && a.Is4() != l.is4:
		l.is4, l.way = a.Is4(), crossing
	case t.ProxyOnly:
		l.way = proxied
	}
	return l
}

func (p *Port) line() line { return lineOf(p.Frontend, &p.Target) }

// linesOf returns the lines that can have a frontend.
func linesOf(f Frontend) [4]line {
	a, host := f.AddrPort.Addr(), f.Host()
	at := func(is4 bool, w way) line { return line{f.Proto, is4, host, w} }
	if !a.IsValid() {
		return [4]line{at(true, translated), at(false, translated), at(true, proxied), at(false, proxied)}
	}
	return [4]line{at(a.Is4(), translated), at(a.Is4(), proxied), at(a.Is4(), crossing)}
}

// frontends returns the frontends of a port that the line can have; the second is zero if
// there is one.
func (l line) frontends(port uint16) [2]Frontend {
	if l.host.IsValid() {
		return [2]Frontend{{l.proto, netip.AddrPortFrom(l.host, port)}}
	}
	any := Frontend{l.proto, netip.AddrPortFrom(netip.Addr{}, port)}
	unspecified := netip.IPv6Unspecified()
	if l.is4 {
		unspecified = netip.IPv4Unspecified()
	}
	of := Frontend{l.proto, netip.AddrPortFrom(unspecified, port)}
	if l.way == crossing {
		return [2]Frontend{of}
	}
	return [2]Frontend{any, of}
}

// ranges are the ranges of a line.
type ranges struct {
	spans []Port // by their first ports; More may be zero
	// holes are ports that no range of the line serves. The kernel's table has an element for
	// each. over are ports within spans that are single ports of the line as well.
	holes, over bitmap
}

// find returns the index of the span that has a port.
func (r *ranges) find(port uint16) (int, bool) {
	i, ok := slices.BinarySearchFunc(r.spans, port, func(s Port, port uint16) int {
		switch {
		case s.Last() < port:
			return -1
		case s.First() > port:
			return 1
		}
		return 0
	})
	return i, ok
}

// serves reports whether a range serves a port of a span: it was not taken out.
func (r *ranges) serves(port uint16) bool { return !r.holes.has(port) && !r.over.has(port) }

// live returns how many of the ports from first to last, which lie in a span, it serves.
func (r *ranges) live(first, last uint16) int {
	n := int(last) - int(first) + 1
	return n - r.holes.countOr(&r.over, first, last)
}

// runs yields the ports of a part of a span that it serves, as runs.
func (r *ranges) runs(first, last uint16, yield func(first, last uint16) bool) {
	for from := int(first); from <= int(last); {
		begin := r.nextServed(from, int(last))
		if begin > int(last) {
			return
		}
		end := r.nextTaken(begin, int(last))
		if !yield(uint16(begin), uint16(end-1)) {
			return
		}
		from = end
	}
}

// nextTaken returns the first port from one on, up to last, that was taken out of a range; else
// last+1.
func (r *ranges) nextTaken(from, last int) int {
	return min(r.holes.next(from, last), r.over.next(from, last))
}

// nextServed returns the first that was not.
func (r *ranges) nextServed(from, last int) int {
	for from <= last && !r.serves(uint16(from)) {
		from++
	}
	return from
}

// bitmap is a set of ports. The zero value is empty.
type bitmap struct {
	words *[1024]uint64
	n     int
}

func (b *bitmap) has(port uint16) bool {
	return b.words != nil && b.words[port/64]>>(port%64)&1 != 0
}

func (b *bitmap) set(port uint16) {
	if b.has(port) {
		return
	}
	if b.words == nil {
		b.words = new([1024]uint64)
	}
	b.words[port/64] |= 1 << (port % 64)
	b.n++
}

func (b *bitmap) clear(port uint16) {
	if !b.has(port) {
		return
	}
	b.words[port/64] &^= 1 << (port % 64)
	if b.n--; b.n == 0 {
		b.words = nil
	}
}

// next returns the first port of the set from one on, up to last; else last+1.
func (b *bitmap) next(from, last int) int {
	if b.words == nil {
		return last + 1
	}
	for from <= last {
		if w := b.words[from/64] >> (from % 64); w != 0 {
			return min(from+bits.TrailingZeros64(w), last+1)
		}
		from = (from/64 + 1) * 64
	}
	return last + 1
}

// word returns the ports from 64*i on that lie in first to last.
func (b *bitmap) word(i int, first, last uint16) (w uint64) {
	if b.words == nil {
		return 0
	}
	w = b.words[i]
	if i == int(first)/64 {
		w &= ^uint64(0) << (first % 64)
	}
	if i == int(last)/64 {
		w &= ^uint64(0) >> (63 - last%64)
	}
	return w
}

// count returns how many ports of the set are in first to last.
func (b *bitmap) count(first, last uint16) int { return b.countOr(&bitmap{}, first, last) }

// countOr counts those of either set.
func (b *bitmap) countOr(o *bitmap, first, last uint16) (n int) {
	if b.words == nil && o.words == nil {
		return 0
	}
	for i := int(first) / 64; i <= int(last)/64; i++ {
		n += bits.OnesCount64(b.word(i, first, last) | o.word(i, first, last))
	}
	return n
}

func (b bitmap) clone() bitmap {
	if b.words != nil {
		words := *b.words
		b.words = &words
	}
	return b
}

func byFirst(a, b Port) int { return cmp.Compare(a.First(), b.First()) }
