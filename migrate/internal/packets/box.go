// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package packets

import (
	"net/netip"
	"slices"
	"strings"
)

// Class is a family and a protocol.
type Class uint8

// The classes. Other is every protocol that is neither TCP nor UDP.
const (
	TCP4 Class = iota
	UDP4
	Other4
	TCP6
	UDP6
	Other6
	classes = iota
)

// String returns the class as nft(8) would begin a rule for it.
func (c Class) String() string {
	names := [...]string{"ip tcp", "ip udp", "ip", "ip6 tcp", "ip6 udp", "ip6"}
	if int(c) >= len(names) {
		return "invalid"
	}
	return names[c]
}

// Is6 reports whether the class is of IPv6.
func (c Class) Is6() bool { return c >= TCP6 }

// Classes is a set of them, a bit for each.
type Classes uint8

// The sets of classes.
const (
	TCP    Classes = 1<<TCP4 | 1<<TCP6
	UDP    Classes = 1<<UDP4 | 1<<UDP6
	Others Classes = 1<<Other4 | 1<<Other6
	IPv4   Classes = 1<<TCP4 | 1<<UDP4 | 1<<Other4
	IPv6   Classes = 1<<TCP6 | 1<<UDP6 | 1<<Other6
	All            = IPv4 | IPv6
)

// Has reports whether the set has a class.
func (s Classes) Has(c Class) bool { return s&(1<<c) != 0 }

// String lists the classes.
func (s Classes) String() string {
	var names []string
	for c := range Class(classes) {
		if s.Has(c) {
			names = append(names, c.String())
		}
	}
	return strings.Join(names, ", ")
}

// Span is a range of addresses of one family, ends included. Zero: any address.
type Span struct{ First, Last netip.Addr }

// SpanOf is the addresses of a prefix.
func SpanOf(p netip.Prefix) Span {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return Span{p.Masked().Addr(), last}
}

// Any reports whether every address is in it.
func (s Span) Any() bool {
	return !s.First.IsValid() || !s.First.Prev().IsValid() && !s.Last.Next().IsValid()
}

// One returns the only address in it, if there is just one.
func (s Span) One() (netip.Addr, bool) { return s.First, s.First.IsValid() && s.First == s.Last }

// Has reports whether an address is in it.
func (s Span) Has(a netip.Addr) bool {
	return !s.First.IsValid() || s.First.Is4() == a.Is4() && s.First.Compare(a) <= 0 && a.Compare(s.Last) <= 0
}

// String is the address, or the first and the last one.
func (s Span) String() string {
	switch {
	case s.Any():
		return "any"
	case s.First == s.Last:
		return s.First.String()
	}
	if ps := s.Prefixes(nil); len(ps) == 1 {
		return ps[0].String()
	}
	return s.First.String() + "-" + s.Last.String()
}

// Prefixes appends the fewest prefixes that have the addresses. Of any address it appends none.
func (s Span) Prefixes(to []netip.Prefix) []netip.Prefix {
	for a := s.First; a.IsValid() && a.Compare(s.Last) <= 0; {
		bits := a.BitLen()
		for bits > 0 {
			wider := netip.PrefixFrom(a, bits-1)
			if wider.Masked().Addr() != a || SpanOf(wider).Last.Compare(s.Last) > 0 {
				break
			}
			bits--
		}
		p := netip.PrefixFrom(a, bits)
		to = append(to, p)
		a = SpanOf(p).Last.Next()
	}
	return to
}

// Join returns the same addresses of one family as the fewest spans, in order.
func Join(spans []Span, six bool) (list []Span) {
	sorted := make([]Span, len(spans))
	for i, s := range spans {
		sorted[i] = s.bounded(six)
	}
	slices.SortFunc(sorted, func(a, b Span) int { return a.First.Compare(b.First) })
	for _, s := range sorted {
		n := len(list)
		if n == 0 || list[n-1].Last.Next().IsValid() && list[n-1].Last.Next().Less(s.First) {
			list = append(list, s)
			continue
		}
		if list[n-1].Last.Less(s.Last) {
			list[n-1].Last = s.Last
		}
	}
	return list
}

// Everyone reports whether spans have all addresses of a family together.
func Everyone(spans []Span, six bool) bool {
	list := Join(spans, six)
	return len(list) == 1 && list[0].Any()
}

func (s Span) intersect(o Span) (Span, bool) {
	switch {
	case !s.First.IsValid():
		return o, true
	case !o.First.IsValid():
		return s, true
	case s.First.Is4() != o.First.Is4():
		return Span{}, false
	}
	if o.First.Compare(s.First) > 0 {
		s.First = o.First
	}
	if o.Last.Compare(s.Last) < 0 {
		s.Last = o.Last
	}
	return s, s.First.Compare(s.Last) <= 0
}

// bounded returns the span with ends, of a family.
func (s Span) bounded(six bool) Span {
	if s.First.IsValid() {
		return s
	}
	if six {
		return SpanOf(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	}
	return SpanOf(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
}

// minus returns the addresses before and behind those of a part of it.
func (s Span) minus(part Span, six bool) (rest []Span) {
	if !part.First.IsValid() {
		return nil
	}
	s = s.bounded(six)
	if s.First.Compare(part.First) < 0 {
		rest = append(rest, Span{s.First, part.First.Prev()})
	}
	if part.Last.Compare(s.Last) < 0 {
		rest = append(rest, Span{part.Last.Next(), s.Last})
	}
	return rest
}

// Links is a set of interfaces: all but some, or only some. Zero: all.
type Links struct {
	Only  bool
	Names []string
}

// Any reports whether every interface is in it.
func (l Links) Any() bool { return !l.Only && len(l.Names) == 0 }

func (l Links) isEmpty() bool { return l.Only && len(l.Names) == 0 }

func (l Links) has(name string) bool { return slices.Contains(l.Names, name) == l.Only }

func (l Links) intersect(o Links) Links {
	switch {
	case l.Any():
		return o
	case o.Any():
		return l
	case l.Only:
		return Links{true, filter(l.Names, o.has)}
	case o.Only:
		return Links{true, filter(o.Names, l.has)}
	}
	return Links{false, append(slices.Clone(l.Names), filter(o.Names, l.has)...)}
}

// Union returns the interfaces of either.
func (l Links) Union(o Links) Links { return l.inverse().intersect(o.inverse()).inverse() }

func (l Links) inverse() Links { return Links{!l.Only, l.Names} }

func filter(names []string, f func(string) bool) (kept []string) {
	for _, n := range names {
		if f(n) {
			kept = append(kept, n)
		}
	}
	return kept
}

// Box is a product of ranges.
type Box struct {
	Classes     Classes
	First, Last uint16 // destination ports
	Dst, Src    Span
	Links       Links
}

// Whole is the box of all packets.
func Whole() Box { return Box{Classes: All, Last: 1<<16 - 1} }

// Of returns the box of all packets of some classes.
func Of(c Classes) Box { return Box{Classes: c, Last: 1<<16 - 1} }

// Ports returns the box of all packets to some ports.
func Ports(first, last uint16) Box { return Box{Classes: All, First: first, Last: last} }

// To returns the box of all packets to some addresses, and From those from them.
func To(s Span) Box {
	b := Of(s.family())
	b.Dst = s
	return b
}

// From returns the box of all packets from some addresses.
func From(s Span) Box {
	b := Of(s.family())
	b.Src = s
	return b
}

// By returns the box of all packets that come in by an interface.
func By(name string) Box {
	b := Whole()
	b.Links = Links{true, []string{name}}
	return b
}

func (s Span) family() Classes {
	switch {
	case !s.First.IsValid():
		return All
	case s.First.Is4():
		return IPv4
	}
	return IPv6
}

// Intersect returns the packets of both.
func (b Box) Intersect(o Box) (both Box, ok bool) {
	b.Classes &= o.Classes
	b.First, b.Last = max(b.First, o.First), min(b.Last, o.Last)
	if b.Classes == 0 || b.First > b.Last {
		return Box{}, false
	}
	if b.Dst, ok = b.Dst.intersect(o.Dst); !ok {
		return Box{}, false
	}
	if b.Src, ok = b.Src.intersect(o.Src); !ok {
		return Box{}, false
	}
	b.Classes &= b.Dst.family() & b.Src.family()
	b.Links = b.Links.intersect(o.Links)
	return b, b.Classes != 0 && !b.Links.isEmpty()
}

// Minus returns the packets of b that o does not have.
func (b Box) Minus(o Box) (rest []Box) {
	both, ok := b.Intersect(o)
	if !ok {
		return []Box{b}
	}
	if others := b.Classes &^ both.Classes; others != 0 {
		part := b
		part.Classes = others
		rest = append(rest, part)
	}
	b.Classes = both.Classes
	if b.First < both.First {
		part := b
		part.Last = both.First - 1
		rest = append(rest, part)
	}
	if both.Last < b.Last {
		part := b
		part.First = both.Last + 1
		rest = append(rest, part)
	}
	b.First, b.Last = both.First, both.Last
	for _, p := range (Part{Dst: b.Dst, Src: b.Src, Links: b.Links}).minus(Part{Dst: both.Dst, Src: both.Src, Links: both.Links}, b.Classes) {
		part := b
		part.Classes, part.Dst, part.Src, part.Links = p.classes, p.Dst, p.Src, p.Links
		rest = append(rest, part)
	}
	return rest
}

// MinusAll returns the packets of boxes that others do not have.
func MinusAll(boxes, others []Box) []Box {
	for _, o := range others {
		var rest []Box
		for _, b := range boxes {
			rest = append(rest, b.Minus(o)...)
		}
		boxes = rest
	}
	return boxes
}
