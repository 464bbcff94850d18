// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"net/netip"
	"slices"
	"time"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// A mapping can be found by its frontend, one key at a time: see package finder. What is found
// is decoded by Classify, as the whole table is.

// ServingKeys returns the keys of the ports that may serve a frontend: that of its own, and
// those for more addresses. [Serves] says which of them do.
func ServingKeys(f portset.Frontend) (keys []nft.ElementKey) {
	at := f.AddrPort
	any4, any6 := netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port()), netip.AddrPortFrom(netip.IPv6Unspecified(), at.Port())
	add := func(is4 bool, at netip.AddrPort, kinds ...mapKind) {
		for _, k := range kinds {
			k.proto, k.is4 = f.Proto, is4
			key := nft.ElementKey{Set: mapName(k), Key: nft.PortKey(at.Port())}
			if k.host || k.apart {
				key.Key = nft.AddrPortKey(at)
			}
			keys = append(keys, key)
		}
	}
	across, only := mapKind{apart: true}, mapKind{apart: true, only: true}
	if f.Host().IsValid() {
		add(at.Addr().Is4(), at, mapKind{host: true}, across, only)
	}
	// Those for any address of both families are in the maps of their backend's, and a proxy
	// serves the other.
	add(true, any4, mapKind{}, only)
	add(false, any6, mapKind{}, only)
	if !at.Addr().IsValid() || at.Addr().Is4() {
		add(true, any4, across)
	}
	if !at.Addr().IsValid() || at.Addr().Is6() {
		add(false, any6, across)
	}
	return keys
}

// Serves reports whether what is sent to a frontend is for the port. A frontend for any address
// is served by those for any of one family, too.
func Serves(p portset.Port, f portset.Frontend) bool {
	have, at := p.AddrPort.Addr(), f.AddrPort.Addr()
	switch {
	case p.Proto != f.Proto || p.AddrPort.Port() != f.AddrPort.Port():
		return false
	case !have.IsValid() || have == at:
		return true
	case !at.IsValid():
		return have.IsUnspecified()
	}
	return have.IsUnspecified() && have.Is4() == at.Is4()
}

// OptionKeys returns the keys by which the options of a port are found, apart from the clients
// of a limited one.
func OptionKeys(p portset.Port) (keys []nft.ElementKey) {
	for _, e := range limitElements(portset.Port{Frontend: p.Frontend}, time.Time{}) {
		keys = append(keys, e.ElementKey())
	}
	if p.ProxiedOnly() {
		return keys
	}
	called := p.Called()
	keys = append(keys, masqueradeElement(called).ElementKey())
	if called.Addr.IsValid() {
		called.Addr = netip.Addr{}
		keys = append(keys, masqueradeElement(called).ElementKey())
	}
	return keys
}

// ClientSets returns the sets that hold the clients of a limited port.
func ClientSets(p portset.Port) (sets []string) {
	for _, f := range limitAt(p) {
		sets = append(sets, p.Proto.String()+familyDigit(f.AddrPort.Addr())+fromSuffix)
	}
	return sets
}

// IsClient reports whether an element of ClientSets is of that port.
func IsClient(e *nft.Element, p portset.Port) bool {
	at, _, ok := e.Key.Clients()
	return ok && slices.ContainsFunc(limitAt(p), func(f portset.Frontend) bool { return f.AddrPort == at })
}

// EndedKeys returns the keys of the notes on ports that served a frontend and are not published
// any more.
func EndedKeys(f portset.Frontend) (keys []nft.ElementKey) {
	for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		at := f.AddrPort.Addr()
		if at.IsValid() && at.Is4() != any.Is4() {
			continue
		}
		set := endedMap(f.Proto, any)
		keys = append(keys, nft.ElementKey{Set: set, Key: nft.AddrPortKey(f.OfFamily(any).AddrPort)})
		if f.Host().IsValid() {
			keys = append(keys, nft.ElementKey{Set: set, Key: nft.AddrPortKey(f.AddrPort)})
		}
	}
	return keys
}

// PortMaps returns the names of the maps of the ports of a protocol, those with the address of
// the frontend in the key first.
func PortMaps(proto nat.Proto) (withAddr, without []string) {
	for _, is4 := range []bool{true, false} {
		k := mapKind{proto: proto, is4: is4}
		without = append(without, mapName(k))
		k.host = true
		withAddr = append(withAddr, mapName(k))
		k.host, k.apart = false, true
		withAddr = append(withAddr, mapName(k))
		k.only = true
		withAddr = append(withAddr, mapName(k))
	}
	return withAddr, without
}
