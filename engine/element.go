// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"iter"
	"net/netip"
	"time"

	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// frontend is where one published port listens: the key under which the engine
// keeps a mapping of a single port.
type frontend struct {
	proto nat.Proto
	ap    netip.AddrPort // as Mapping.Frontend
}

// target is what the engine keeps of a single published port beside its frontend.
type target struct {
	backend netip.AddrPort
	name    string
	expires int64 // milliseconds since 1970; zero: never
	noProxy bool
}

func frontendOf(m nat.Mapping) frontend { return frontend{m.Proto, m.Frontend} }

func portOf(m nat.Mapping) port { return port{frontendOf(m), targetOf(m)} }

// portsOf yields the ports of a valid mapping whose frontend port is known.
func portsOf(m *nat.Mapping) iter.Seq[port] {
	return func(yield func(port) bool) {
		p := portOf(*m)
		for i := range int(m.More) + 1 {
			p.ap = netip.AddrPortFrom(m.Frontend.Addr(), m.Frontend.Port()+uint16(i))
			p.backend = netip.AddrPortFrom(m.Backend.Addr(), m.Backend.Port()+uint16(i))
			if !yield(p) {
				return
			}
		}
	}
}

// expiryTolerance is by how much a mapping's end may differ and be the same: the
// kernel tells how much time is left, from which the end is worked out anew by each
// engine that adopts the table.
const expiryTolerance = time.Second

func (t target) same(o target) bool {
	apart := time.Duration(t.expires-o.expires) * time.Millisecond
	expiry := (t.expires == 0) == (o.expires == 0) && apart.Abs() <= expiryTolerance
	return expiry && t.backend == o.backend && t.name == o.name && t.noProxy == o.noProxy
}

// renewedBy reports whether the target is a lease and the other one the same but for when
// it ends.
func (t target) renewedBy(o target) bool {
	leased := t.expires != 0
	t.expires = o.expires
	return leased && t == o
}

func targetOf(m nat.Mapping) target {
	t := target{backend: m.Backend, name: m.Name, noProxy: m.NoProxy}
	if !m.Expires.IsZero() {
		t.expires = m.Expires.UnixMilli()
	}
	return t
}

// mapping puts the two together again.
func (f frontend) mapping(t target) nat.Mapping {
	m := nat.Mapping{Proto: f.proto, Frontend: f.ap, Backend: t.backend, Name: t.name, NoProxy: t.noProxy}
	if t.expires != 0 {
		m.Expires = time.UnixMilli(t.expires).UTC()
	}
	return m
}

// host is the one address that the frontend is for, or zero if it is for any.
func (f frontend) host() netip.Addr {
	if a := f.ap.Addr(); !a.IsUnspecified() {
		return a
	}
	return netip.Addr{}
}

// mapKind says what a map is for; the maps that there are differ in it.
type mapKind struct {
	proto nat.Proto
	// is4 is whether the addresses of its frontends are of IPv4, also where the map
	// has only their ports: those of the other family, proxies alone serve.
	is4 bool
	// host is whether each frontend in it has an address of its own.
	host bool
	// apart is whether the backends are of the other family. No rule looks such a map
	// up, for netfilter does not translate between families; it is the record of what
	// a proxy serves. The address of a frontend may be that which is any of its family.
	apart bool
}

// kindOfPort is that of the map which holds the port.
func kindOfPort(p port) mapKind {
	backend := p.backend.Addr()
	if p.crosses() {
		return mapKind{proto: p.proto, is4: backend.Is6(), apart: true}
	}
	return mapKind{proto: p.proto, is4: backend.Is4(), host: p.host().IsValid()}
}

// mapName is the name of the map of a kind.
func mapName(k mapKind) string {
	name, other := "tcp4", "_to6"
	switch {
	case k.proto == nat.UDP && k.is4:
		name = "udp4"
	case k.proto == nat.TCP && !k.is4:
		name, other = "tcp6", "_to4"
	case k.proto == nat.UDP:
		name, other = "udp6", "_to4"
	}
	switch {
	case k.apart:
		name += other
	case k.host:
		name += "_host"
	}
	return name
}

// mapKinds are the kinds of all maps by name.
func mapKinds() map[string]mapKind {
	kinds := make(map[string]mapKind, 12)
	for _, proto := range []nat.Proto{nat.TCP, nat.UDP} {
		for _, is4 := range []bool{true, false} {
			for _, k := range []mapKind{
				{proto: proto, is4: is4},
				{proto: proto, is4: is4, host: true},
				{proto: proto, is4: is4, apart: true},
			} {
				kinds[mapName(k)] = k
			}
		}
	}
	return kinds
}

// elementOf is the element that publishes one port, at a time from which its
// time-out is counted.
func elementOf(p port, now time.Time) nft.Element {
	e := elementKey(p)
	e.Value = p.backend
	e.Comment = elementComment(p)
	if p.expires != 0 {
		// What is over already ends at once.
		e.Timeout = max(time.UnixMilli(p.expires).Sub(now), time.Millisecond)
	}
	return e
}

// elementKey is as much of an element as deleting it takes.
func elementKey(p port) nft.Element {
	kind := kindOfPort(p)
	e := nft.Element{Set: mapName(kind)}
	if kind.host || kind.apart {
		e.Key = nft.AddrPortKey(p.ap)
	} else {
		e.Key = nft.PortKey(p.ap.Port())
	}
	return e
}

// readPort reads an element of one of the maps back. ok is false if no engine can
// have made it: others can write into a table that nobody owns.
func readPort(e nft.Element, kind mapKind, now time.Time) (p port, ok bool) {
	p = portIn(&e, kind, now)
	strange := e.Key.AddrPort().Port() == 0 || kind.host && e.Key.AddrPort().Addr().IsUnspecified()
	if strange {
		return p, false
	}
	m := p.mapping()
	return p, m.Valid()
}

// portIn is readPort of what an engine can have made.
func portIn(e *nft.Element, kind mapKind, now time.Time) (p port) {
	name, attributes := nat.ParseComment(e.Comment)
	p.frontend = frontend{kind.proto, e.Key.AddrPort()}
	p.target = target{backend: e.Value, name: name, noProxy: attributes.NoProxy}
	if e.Timeout != 0 {
		p.expires = now.Add(e.Expires).UnixMilli()
	}
	if !kind.host && !kind.apart && attributes.OneFamily {
		p.frontend = p.ofFamily(e.Value.Addr())
	}
	p.noProxy = p.noProxy && !p.proxiedOnly() // Validate says why
	return p
}

// ofFamily is the frontend for any address, narrowed to the family of an address.
func (f frontend) ofFamily(a netip.Addr) frontend {
	any := netip.IPv6Unspecified()
	if a.Is4() {
		any = netip.IPv4Unspecified()
	}
	return frontend{f.proto, netip.AddrPortFrom(any, f.ap.Port())}
}

// follows reports whether the frontend is the one after the other.
func (f frontend) follows(o frontend) bool {
	return f.proto == o.proto && f.ap.Addr() == o.ap.Addr() && int(f.ap.Port()) == int(o.ap.Port())+1
}

// loopback reports whether the frontend is an address of which the host speaks to
// itself alone.
func (f frontend) loopback() bool { return f.ap.Addr().IsLoopback() }

// crosses reports whether the frontend is of one family and the backend of the other.
func (p port) crosses() bool {
	front := p.ap.Addr()
	return front.IsValid() && front.Is4() != p.backend.Addr().Is4()
}

// proxiedOnly reports whether netfilter never translates what comes to the frontend:
// such a mapping is stored in the table, and served by its proxy alone.
func (p port) proxiedOnly() bool { return p.loopback() || p.crosses() }

// elementComment is the name of the mapping, and what a map has no place for in
// brackets behind it: `web [no-proxy]`. No name ends like that, so that neither can be
// taken for the other. In a comment it is there for the administrator to read, and
// survives nft(8) saving the table and loading it again.
func elementComment(p port) string {
	return nat.CommentText(p.name, nat.CommentAttributes{
		NoProxy:   p.noProxy,
		OneFamily: p.ap.Addr().IsValid() && p.ap.Addr().IsUnspecified() && !p.crosses(),
	})
}
