// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"time"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// mapKind says what a map of ports is for.
type mapKind struct {
	proto nat.Proto
	// is4 is whether its frontends are of IPv4, also where the map has only their ports,
	// since only proxies serve the other family.
	is4 bool
	// host is whether each frontend in it has an address of its own.
	host bool
	// apart is whether the backends are of the other family. No rule looks the map up,
	// for netfilter does not translate between families; it records what a proxy serves.
	// A frontend may have the address for any of its family.
	apart bool
}

// kindOfPort returns the kind of the map that holds the port.
func kindOfPort(p portset.Port) mapKind {
	backend := p.Backend.Addr()
	if p.CrossesFamilies() {
		return mapKind{proto: p.Proto, is4: backend.Is6(), apart: true}
	}
	return mapKind{proto: p.Proto, is4: backend.Is4(), host: p.Host().IsValid()}
}

// mapName returns the name of the map of a kind.
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

// mapKinds returns the kinds of all maps of ports, by name.
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

// PortElement returns the element that publishes a port. Its time-out begins now.
func PortElement(p portset.Port, now time.Time) nft.Element {
	e := PortKey(p)
	e.Value = p.Backend
	e.Comment = elementComment(p)
	if p.Expires != 0 {
		// A port that is over already ends at once.
		e.Timeout = max(time.UnixMilli(p.Expires).Sub(now), time.Millisecond)
	}
	return e
}

// PortKey returns as much of the element as identifies it.
func PortKey(p portset.Port) nft.Element {
	kind := kindOfPort(p)
	e := nft.Element{Set: mapName(kind)}
	if kind.host || kind.apart {
		e.Key = nft.AddrPortKey(p.AddrPort)
	} else {
		e.Key = nft.PortKey(p.AddrPort.Port())
	}
	return e
}

// readPort decodes an element of a map of ports. ok is false if no engine can have made it:
// other programs can change a table that is not owned.
func readPort(e *nft.Element, kind mapKind, now time.Time) (p portset.Port, ok bool) {
	at := e.Key.AddrPort()
	name, attributes := nat.ParseComment(e.Comment)
	p.Frontend = portset.Frontend{Proto: kind.proto, AddrPort: at}
	p.Target = portset.Target{Backend: e.Value, Name: name, NoProxy: attributes.NoProxy}
	if e.Timeout != 0 {
		p.Expires = now.Add(e.Expires).UnixMilli()
	}
	if !kind.host && !kind.apart && attributes.OneFamily {
		p.Frontend = p.OfFamily(e.Value.Addr())
	}
	p.NoProxy = p.NoProxy && !p.ProxiedOnly() // Mapping.Validate says why
	if at.Port() == 0 || kind.host && at.Addr().IsUnspecified() {
		return p, false
	}
	m := p.Mapping()
	return p, m.Valid()
}

// elementComment is the name of the mapping, followed by attributes in brackets that a
// map has no field for: `web [no-proxy]`. No name ends like that. The comment is there for
// the administrator to read, and survives when nft(8) saves and loads the table.
func elementComment(p portset.Port) string {
	return nat.CommentText(p.Name, nat.CommentAttributes{
		NoProxy:   p.NoProxy,
		OneFamily: p.AddrPort.Addr().IsValid() && p.AddrPort.Addr().IsUnspecified() && !p.CrossesFamilies(),
	})
}
