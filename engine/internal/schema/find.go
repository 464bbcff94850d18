// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"net/netip"
	"slices"
	"strings"
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
			if !k.apart {
				keys = append(keys, rangeKeys(k, at)...)
			}
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

// rangeKeys returns the keys of the range that has a port, in both maps, and of its hole.
func rangeKeys(k mapKind, at netip.AddrPort) (keys []nft.ElementKey) {
	r := nft.Range{First: at.Port(), Last: at.Port()}
	if k.host {
		r.Addr = single(at.Addr())
	}
	k.ranged = true
	for _, next := range []bool{false, true} {
		k.next = next
		keys = append(keys, nft.ElementKey{Set: mapName(k), Key: nft.RangeKey(r)})
	}
	return append(keys, holeElement(portset.Frontend{Proto: k.proto, AddrPort: at}).ElementKey())
}

// ApartRanges returns the maps of ranges that only proxies serve and that may have a frontend. They
// are found by no key.
func ApartRanges(f portset.Frontend) (sets []string) {
	for _, is4 := range []bool{true, false} {
		if a := f.AddrPort.Addr(); a.IsValid() && a.Is4() != is4 {
			continue
		}
		for _, only := range []bool{false, true} {
			sets = append(sets, mapName(mapKind{proto: f.Proto, is4: is4, apart: true, only: only, ranged: true}))
		}
	}
	if f.AddrPort.Addr().IsValid() { // one for any address is in the map of its backend's family
		sets = append(sets, mapName(mapKind{proto: f.Proto, is4: !f.AddrPort.Addr().Is4(), apart: true, only: true, ranged: true}))
	}
	return sets
}

// Narrow makes an element of a range, or of its options, that of one port of it, in the first map;
// ok is false if it has not the port. Other elements stay as they are.
func Narrow(e nft.Element, port uint16) (_ nft.Element, ok bool) {
	e.Set = strings.TrimSuffix(e.Set, nextSuffix)
	if r, isRange := e.Key.Range(); isRange {
		ok = r.First <= port && port <= r.Last
		r.First, r.Last = port, port
		e.Key = nft.RangeKey(r)
		return e, ok
	}
	if at, clients, isClients := e.Key.Clients(); isClients {
		ok = at.Port() <= port && port <= e.Key.LastPort()
		e.Key = nft.ClientsKey(netip.AddrPortFrom(at.Addr(), port), clients)
		return e, ok
	}
	if kind, isPort := mapKinds()[e.Set]; isPort && kind.apart && kind.ranged {
		at := e.Key.AddrPort()
		ok = at.Port() <= port && port <= e.Value.Port()
		e.Key = nft.AddrPortKey(netip.AddrPortFrom(at.Addr(), port))
		e.Value = netip.AddrPortFrom(e.Value.Addr(), port)
		return e, ok
	}
	return e, true
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
	p.From, p.Masquerade = everybody(p), true
	for _, next := range []bool{false, true} {
		for _, e := range RangeOptions(portset.Entry{Kind: portset.EntryRange, Port: p}, next, time.Time{}) {
			if !strings.HasPrefix(e.Set, setFrom) {
				keys = append(keys, e.ElementKey())
			}
		}
	}
	keys = append(keys, masqueradeElement(called).ElementKey())
	if called.Addr.IsValid() {
		called.Addr = netip.Addr{}
		keys = append(keys, masqueradeElement(called).ElementKey())
	}
	return keys
}

// everybody are clients by which a port is limited.
func everybody(p portset.Port) nat.Sources {
	s, _ := nat.SourcesOf(netip.PrefixFrom(p.Backend.Addr(), 0).Masked())
	return s
}

// ClientSets returns the sets that hold the clients of a limited port.
func ClientSets(p portset.Port) (sets []string) {
	for _, f := range limitAt(p) {
		sets = append(sets, p.Proto.String()+familyDigit(f.AddrPort.Addr())+fromSuffix)
	}
	if p.ProxiedOnly() {
		return sets
	}
	from := setFrom + familyDigit(p.Backend.Addr())
	if p.Host().IsValid() {
		from += hostSuffix
	}
	return append(sets, from+rangeSuffix, from+rangeSuffix+nextSuffix)
}

// IsClient reports whether an element of ClientSets is of that port.
func IsClient(e *nft.Element, p portset.Port) bool {
	if r, ok := e.Key.Range(); ok {
		host := !p.Host().IsValid() || r.Addr == single(p.Host())
		return r.First <= p.First() && p.First() <= r.Last && r.L4Proto == uint8(p.Proto) && host
	}
	at, _, ok := e.Key.Clients()
	return ok && at.Port() <= p.First() && p.First() <= e.Key.LastPort() &&
		slices.ContainsFunc(limitAt(p), func(f portset.Frontend) bool { return f.AddrPort.Addr() == at.Addr() })
}

// EndedKeys returns the keys of the notes on ports that served a frontend and are not published
// any more.
func EndedKeys(f portset.Frontend) (keys []nft.ElementKey) {
	// Notes of ranges are found by their first ports only.
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
