// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"time"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

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
func kindOfPort(p portset.Port) mapKind {
	backend := p.Backend.Addr()
	if p.CrossesFamilies() {
		return mapKind{proto: p.Proto, is4: backend.Is6(), apart: true}
	}
	return mapKind{proto: p.Proto, is4: backend.Is4(), host: p.Host().IsValid()}
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
func elementOf(p portset.Port, now time.Time) nft.Element {
	e := elementKey(p)
	e.Value = p.Backend
	e.Comment = elementComment(p)
	if p.Expires != 0 {
		// What is over already ends at once.
		e.Timeout = max(time.UnixMilli(p.Expires).Sub(now), time.Millisecond)
	}
	return e
}

// elementKey is as much of an element as deleting it takes.
func elementKey(p portset.Port) nft.Element {
	kind := kindOfPort(p)
	e := nft.Element{Set: mapName(kind)}
	if kind.host || kind.apart {
		e.Key = nft.AddrPortKey(p.AddrPort)
	} else {
		e.Key = nft.PortKey(p.AddrPort.Port())
	}
	return e
}

// readPort reads an element of one of the maps back. ok is false if no engine can
// have made it: others can write into a table that nobody owns.
func readPort(e nft.Element, kind mapKind, now time.Time) (p portset.Port, ok bool) {
	p = portIn(&e, kind, now)
	strange := e.Key.AddrPort().Port() == 0 || kind.host && e.Key.AddrPort().Addr().IsUnspecified()
	if strange {
		return p, false
	}
	m := p.Mapping()
	return p, m.Valid()
}

// portIn is readPort of what an engine can have made.
func portIn(e *nft.Element, kind mapKind, now time.Time) (p portset.Port) {
	name, attributes := nat.ParseComment(e.Comment)
	p.Frontend = portset.Frontend{Proto: kind.proto, AddrPort: e.Key.AddrPort()}
	p.Target = portset.Target{Backend: e.Value, Name: name, NoProxy: attributes.NoProxy}
	if e.Timeout != 0 {
		p.Expires = now.Add(e.Expires).UnixMilli()
	}
	if !kind.host && !kind.apart && attributes.OneFamily {
		p.Frontend = p.OfFamily(e.Value.Addr())
	}
	p.NoProxy = p.NoProxy && !p.ProxiedOnly() // Validate says why
	return p
}

// elementComment is the name of the mapping, and what a map has no place for in
// brackets behind it: `web [no-proxy]`. No name ends like that, so that neither can be
// taken for the other. In a comment it is there for the administrator to read, and
// survives nft(8) saving the table and loading it again.
func elementComment(p portset.Port) string {
	return nat.CommentText(p.Name, nat.CommentAttributes{
		NoProxy:   p.NoProxy,
		OneFamily: p.AddrPort.Addr().IsValid() && p.AddrPort.Addr().IsUnspecified() && !p.CrossesFamilies(),
	})
}
