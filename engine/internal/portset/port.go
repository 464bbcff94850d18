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

// Port is one published port, or a range of ports that are the same at the backend.
type Port struct {
	Frontend // of the first port
	Target   // of the first port
	// More is the number of further ports after the first; then frontend and backend have the
	// same ports.
	More uint16
}

// First returns the first port of the frontend.
func (p *Port) First() uint16 { return p.AddrPort.Port() }

// Last returns the last port of the frontend.
func (p *Port) Last() uint16 { return p.AddrPort.Port() + p.More }

// Len returns the number of ports.
func (p *Port) Len() int { return int(p.More) + 1 }

// Contains reports whether the port is, or the range has, a frontend.
func (p *Port) Contains(f Frontend) bool {
	at := f.AddrPort.Port()
	return p.Proto == f.Proto && at >= p.First() && at <= p.Last() && p.AddrPort.Addr() == f.AddrPort.Addr()
}

// Part returns the ports of a range from first to last.
func (p Port) Part(first, last uint16) Port {
	p.Target = p.shifted(first - p.First())
	p.AddrPort = netip.AddrPortFrom(p.AddrPort.Addr(), first)
	p.More = last - first
	return p
}

// Singles yields the ports of a range one by one.
func (p Port) Singles(yield func(Port) bool) {
	for i := 0; i < p.Len(); i++ {
		at := p.First() + uint16(i)
		if !yield(p.Part(at, at)) {
			return
		}
	}
}

// Distinct returns ports and ranges without the frontends that one before has, in order.
func Distinct(ports []Port) []Port {
	order.Sort(ports, func(a, b Port) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), a.AddrPort.Compare(b.AddrPort))
	})
	left := ports[:0]
	for _, p := range ports {
		if n := len(left); n != 0 && left[n-1].Proto == p.Proto && left[n-1].AddrPort.Addr() == p.AddrPort.Addr() {
			switch last := left[n-1].Last(); {
			case last >= p.Last():
				continue
			case last >= p.First():
				p = p.Part(last+1, p.Last())
			}
		}
		left = append(left, p)
	}
	return left
}

// Backends are ports of a backend, from the first to the last.
type Backends struct {
	Addr        netip.Addr
	First, Last uint16
}

// shifted returns the target of a range for the port that is so many after its first.
func (t Target) shifted(by uint16) Target {
	t.Backend = netip.AddrPortFrom(t.Backend.Addr(), t.Backend.Port()+by)
	return t
}

// at returns the frontend with another port.
func (f Frontend) at(port uint16) Frontend {
	return Frontend{f.Proto, netip.AddrPortFrom(f.AddrPort.Addr(), port)}
}

// Frontend is where a published port listens: the key of a mapping of a single port.
type Frontend struct {
	Proto    nat.Proto
	AddrPort netip.AddrPort // as in [nat.Mapping]
}

// Target is what a port has besides its frontend.
type Target struct {
	Backend netip.AddrPort
	Name    string
	Expires int64 // milliseconds since 1970; zero: never
	NoProxy bool
	// These are as in [nat.Mapping].
	ProxyOnly, Masquerade bool
	Hold                  nat.Hold
	From                  nat.Sources
}

// Of returns the first port of a mapping.
func Of(m nat.Mapping) Port { return Port{Frontend: FrontendOf(m), Target: TargetOf(m)} }

// IsRange reports whether a mapping is one Port: a range whose ports are the same at the
// backend.
func IsRange(m *nat.Mapping) bool {
	return m.More > 0 && m.Frontend.Port() != 0 && m.Frontend.Port() == m.Backend.Port()
}

// Whole returns the mapping of a range as one Port; see [IsRange].
func Whole(m *nat.Mapping) Port {
	p := Of(*m)
	p.More = m.More
	return p
}

// FrontendOf returns the frontend of the first port of a mapping.
func FrontendOf(m nat.Mapping) Frontend { return Frontend{m.Proto, m.Frontend} }

// TargetOf returns the target of the first port of a mapping, with its name as it is kept.
func TargetOf(m nat.Mapping) Target {
	t := Target{
		Backend: m.Backend, Name: nat.Name(m.Name), NoProxy: m.NoProxy,
		ProxyOnly: m.ProxyOnly, Masquerade: m.Masquerade, Hold: m.Hold, From: m.From,
	}
	if !m.Expires.IsZero() {
		t.Expires = m.Expires.UnixMilli()
	}
	return t
}

// wholeRanges is whether Expand yields ranges whole.
const wholeRanges = true

// Expand yields the ports of a mapping: a range as one if [IsRange] says so, else one by one.
func Expand(m *nat.Mapping) iter.Seq[Port] {
	return func(yield func(Port) bool) {
		if wholeRanges && IsRange(m) {
			yield(Whole(m))
			return
		}
		for single := range nat.Expand(*m) {
			if !yield(Of(single)) {
				return
			}
		}
	}
}

// Mapping returns the port as callers know it.
func (p Port) Mapping() nat.Mapping {
	m := p.Frontend.Mapping(p.Target)
	m.More = p.More
	return m
}

// Mapping returns the mapping of the frontend to a target.
func (f Frontend) Mapping(t Target) nat.Mapping {
	m := nat.Mapping{
		Proto: f.Proto, Frontend: f.AddrPort, Backend: t.Backend, Name: t.Name, NoProxy: t.NoProxy,
		ProxyOnly: t.ProxyOnly, Masquerade: t.Masquerade, Hold: t.Hold, From: t.From,
	}
	if t.Expires != 0 {
		m.Expires = time.UnixMilli(t.Expires).UTC()
	}
	return m
}

// Host returns the one address that the frontend is for. It is the zero Addr if there are
// several.
func (f Frontend) Host() netip.Addr {
	if a := f.AddrPort.Addr(); !a.IsUnspecified() {
		return a
	}
	return netip.Addr{}
}

// OfFamily narrows a frontend for any address to the family of an address.
func (f Frontend) OfFamily(a netip.Addr) Frontend {
	any := netip.IPv6Unspecified()
	if a.Is4() {
		any = netip.IPv4Unspecified()
	}
	return Frontend{f.Proto, netip.AddrPortFrom(any, f.AddrPort.Port())}
}

// follows reports whether the frontend is the next port after a port or a range.
func (f Frontend) follows(o *Port) bool {
	return f.Proto == o.Proto && f.AddrPort.Addr() == o.AddrPort.Addr() && int(f.AddrPort.Port()) == int(o.Last())+1
}

// CrossesFamilies reports whether the frontend is of one family and the backend of the
// other.
func (p Port) CrossesFamilies() bool {
	front := p.AddrPort.Addr()
	return front.IsValid() && front.Is4() != p.Backend.Addr().Is4()
}

// ProxiedOnly reports whether netfilter never translates packets to the frontend: the
// mapping is in the table, and its proxy alone serves it.
func (p Port) ProxiedOnly() bool {
	return p.ProxyOnly || p.AddrPort.Addr().IsLoopback() || p.CrossesFamilies()
}

// ExpiryTolerance is the difference up to which expiries are equal. The kernel returns the
// time that is left, from which each engine that adopts the table computes the expiry.
const ExpiryTolerance = time.Second

// SameAs reports whether two targets are equal, within the ExpiryTolerance.
func (t Target) SameAs(o Target) bool {
	apart := time.Duration(t.Expires-o.Expires) * time.Millisecond
	expiry := (t.Expires == 0) == (o.Expires == 0) && apart.Abs() <= ExpiryTolerance
	t.Expires = o.Expires
	return expiry && t == o
}

// RenewedBy reports whether the target is a lease, and o differs from it only in the
// expiry.
func (t Target) RenewedBy(o Target) bool {
	leased := t.Expires != 0
	t.Expires = o.Expires
	return leased && t == o
}

// joined yields what [Collapse] returns, of ports that are in order without memory for all.
func joined(ports []Port) iter.Seq[nat.Mapping] {
	return func(yield func(nat.Mapping) bool) {
		all := func(yield func(nat.Mapping) bool) {
			for i := range ports {
				if !yield(ports[i].Mapping()) {
					return
				}
			}
		}
		var last nat.Mapping
		for m := range all {
			if nat.Compare(last, m) > 0 {
				slices.Values(Collapse(ports))(yield)
				return
			}
			last = m
		}
		nat.Join(all)(yield)
	}
}

// Collapse is [nat.Collapse] of ports.
func Collapse(ports []Port) []nat.Mapping {
	ms := make([]nat.Mapping, len(ports))
	for i := range ports {
		ms[i] = ports[i].Mapping()
	}
	return nat.Collapse(ms)
}
