// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"net/netip"
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
	// only is whether the backends of an apart map are of the same family, and the mappings
	// ProxyOnly.
	only bool
	// ranged is whether the map holds ranges, and next whether it is the second such map.
	ranged, next bool
}

// kindOfPort returns the kind of the map that holds the port.
func kindOfPort(p portset.Port) mapKind {
	backend := p.Backend.Addr()
	if p.CrossesFamilies() {
		return mapKind{proto: p.Proto, is4: backend.Is6(), apart: true}
	}
	if p.ProxyOnly {
		return mapKind{proto: p.Proto, is4: backend.Is4(), apart: true, only: true}
	}
	return mapKind{proto: p.Proto, is4: backend.Is4(), host: p.Host().IsValid()}
}

// mapName returns the name of the map of a kind.
func mapName(k mapKind) string {
	variant, proto, family := 0, 0, 0
	switch {
	case k.only:
		variant = 3
	case k.apart:
		variant = 2
	case k.host:
		variant = 1
	}
	switch {
	case k.next:
		variant += 8
	case k.ranged:
		variant += 4
	}
	if k.proto == nat.UDP {
		proto = 1
	}
	if !k.is4 {
		family = 1
	}
	return mapNames[proto][family][variant]
}

// mapNames are the names of the maps, of both protocols and families, in the order of mapName.
var mapNames = [2][2][10]string{
	{{
		"tcp4", "tcp4_host", "tcp4_to6", "tcp4_to4", "tcp4_range", "tcp4_host_range", "tcp4_to6_range", "tcp4_to4_range",
		"tcp4_range_next", "tcp4_host_range_next",
	}, {
		"tcp6", "tcp6_host", "tcp6_to4", "tcp6_to6", "tcp6_range", "tcp6_host_range", "tcp6_to4_range", "tcp6_to6_range",
		"tcp6_range_next", "tcp6_host_range_next",
	}},
	{{
		"udp4", "udp4_host", "udp4_to6", "udp4_to4", "udp4_range", "udp4_host_range", "udp4_to6_range", "udp4_to4_range",
		"udp4_range_next", "udp4_host_range_next",
	}, {
		"udp6", "udp6_host", "udp6_to4", "udp6_to6", "udp6_range", "udp6_host_range", "udp6_to4_range", "udp6_to6_range",
		"udp6_range_next", "udp6_host_range_next",
	}},
}

// mapKinds returns the kinds of all maps of ports, by name.
func mapKinds() map[string]mapKind {
	kinds := make(map[string]mapKind, 40)
	for _, proto := range []nat.Proto{nat.TCP, nat.UDP} {
		for _, is4 := range []bool{true, false} {
			for _, k := range []mapKind{
				{proto: proto, is4: is4},
				{proto: proto, is4: is4, host: true},
				{proto: proto, is4: is4, apart: true},
				{proto: proto, is4: is4, apart: true, only: true},
			} {
				kinds[mapName(k)] = k
				k.ranged = true
				kinds[mapName(k)] = k
				if k.next = !k.apart; k.next {
					kinds[mapName(k)] = k
				}
			}
		}
	}
	return kinds
}

// SetOf returns the name of the map or set that has the element of an entry.
func SetOf(e *portset.Entry) string {
	if e.Kind == portset.EntrySingle {
		return mapName(kindOfPort(e.Port))
	}
	return EntryElement(*e, time.Time{}).Set
}

// EntryElement returns the element of an entry. Its time-out begins now.
func EntryElement(e portset.Entry, now time.Time) nft.Element {
	switch e.Kind {
	case portset.EntryHole:
		return holeElement(e.Frontend)
	case portset.EntryRange:
		return rangeElement(e.Port, false, now)
	case portset.EntrySingle:
	}
	return PortElement(e.Port, now)
}

// NextElement returns the element of a range in the second map; ok is false if there is no such
// map, because no rule looks the range up.
func NextElement(e portset.Entry, now time.Time) (el nft.Element, ok bool) {
	if kindOfPort(e.Port).apart {
		return nft.Element{}, false
	}
	return rangeElement(e.Port, true, now), true
}

// PortElement returns the element that publishes a port or a range. Its time-out begins now.
func PortElement(p portset.Port, now time.Time) nft.Element {
	if p.More != 0 {
		return rangeElement(p, false, now)
	}
	e := PortKey(p)
	e.Value = p.Backend
	e.Comment = elementComment(p)
	e.Timeout = timeout(p, now)
	return e
}

// timeout returns the time-out of a port's elements; zero: none.
func timeout(p portset.Port, now time.Time) time.Duration {
	if p.Expires == 0 {
		return 0
	}
	// A port that is over already ends at once.
	return max(time.UnixMilli(p.Expires).Sub(now), time.Millisecond)
}

// rangeElement returns the element of a range, which may have one port.
func rangeElement(p portset.Port, next bool, now time.Time) nft.Element {
	kind := kindOfPort(p)
	kind.ranged, kind.next = true, next
	e := nft.Element{Set: mapName(kind), Comment: elementComment(p), Timeout: timeout(p, now)}
	switch {
	case kind.apart:
		at := p.Frontend
		if !at.AddrPort.Addr().IsValid() {
			at = p.OfFamily(p.Backend.Addr())
		}
		e.Key, e.Value = nft.AddrPortKey(at.AddrPort), netip.AddrPortFrom(p.Backend.Addr(), p.Last())
		return e
	case kind.host:
		e.Key = nft.RangeKey(nft.Range{First: p.First(), Last: p.Last(), Addr: single(p.Host())})
	default:
		e.Key = nft.PortRangeKey(p.First(), p.Last())
	}
	e.Value = netip.AddrPortFrom(p.Backend.Addr(), 0)
	return e
}

// single returns the prefix of one address.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// holeElement returns the element of a port that no range serves.
func holeElement(f portset.Frontend) nft.Element {
	e := nft.Element{Set: setHoles, Key: nft.ServiceKey(uint8(f.Proto), f.AddrPort)}
	if a := f.Host(); a.IsValid() {
		e.Set += familyDigit(a) + hostSuffix
	}
	return e
}

// readHole decodes the element of a hole.
func readHole(e *nft.Element) (hole portset.Entry, ok bool) {
	l4proto, at, ok := e.Key.Service()
	hole = portset.Entry{Kind: portset.EntryHole, Port: portset.Port{Frontend: portset.Frontend{Proto: nat.Proto(l4proto), AddrPort: at}}}
	return hole, ok && e.Comment == "" && at.Port() != 0 && (hole.Proto == nat.TCP || hole.Proto == nat.UDP)
}

// PortKey returns as much of the element as identifies it.
func PortKey(p portset.Port) nft.Element {
	if p.More != 0 {
		e := rangeElement(p, false, time.Time{})
		return nft.Element{Set: e.Set, Key: e.Key}
	}
	kind := kindOfPort(p)
	e := nft.Element{Set: mapName(kind)}
	switch {
	case kind.only && !p.AddrPort.Addr().IsValid():
		e.Key = nft.AddrPortKey(p.OfFamily(p.Backend.Addr()).AddrPort)
	case kind.host || kind.apart:
		e.Key = nft.AddrPortKey(p.AddrPort)
	default:
		e.Key = nft.PortKey(p.AddrPort.Port())
	}
	return e
}

// readPort decodes an element of a map of ports. ok is false if no engine can have made it:
// other programs can change a table that is not owned.
func readPort(e *nft.Element, kind mapKind, now time.Time) (p portset.Port, ok bool) {
	at, backend := e.Key.AddrPort(), e.Value
	if kind.ranged {
		if at, backend, p.More = boundsOf(e, kind); at.Port() == 0 {
			return p, false
		}
	}
	name, attributes := nat.ParseComment(e.Comment)
	p.Frontend = portset.Frontend{Proto: kind.proto, AddrPort: at}
	p.Target = portset.Target{Backend: backend, Name: name, NoProxy: attributes.NoProxy, Hold: holdOf(attributes)}
	if e.Timeout != 0 {
		p.Expires = now.Add(e.Expires).UnixMilli()
	}
	switch {
	case kind.only:
		p.ProxyOnly = true
		if at.Addr().IsUnspecified() && !attributes.OneFamily {
			p.AddrPort = netip.AddrPortFrom(netip.Addr{}, at.Port())
		}
	case kind.apart:
		p.ProxyOnly = attributes.ProxyOnly
	case !kind.host && attributes.OneFamily:
		p.Frontend = p.OfFamily(e.Value.Addr())
	}
	p.NoProxy = p.NoProxy && !p.ProxiedOnly() // Mapping.Validate says why
	if at.Port() == 0 || kind.host && at.Addr().IsUnspecified() {
		return p, false
	}
	m := p.Mapping()
	return p, m.Valid()
}

// boundsOf returns the frontend and the backend of the first port of a range, and how many more
// there are. The port is zero if no engine can have made the element.
func boundsOf(e *nft.Element, kind mapKind) (at, backend netip.AddrPort, more uint16) {
	if kind.apart {
		at = e.Key.AddrPort()
		if e.Value.Port() < at.Port() {
			return netip.AddrPort{}, backend, 0
		}
		return at, netip.AddrPortFrom(e.Value.Addr(), at.Port()), e.Value.Port() - at.Port()
	}
	r, _ := e.Key.Range()
	if kind.host != r.Addr.IsSingleIP() {
		return netip.AddrPort{}, backend, 0
	}
	at, backend = netip.AddrPortFrom(r.Addr.Addr(), r.First), netip.AddrPortFrom(e.Value.Addr(), r.First)
	return at, backend, r.Last - r.First
}

// elementComment is the name of the mapping, followed by attributes in brackets that a
// map has no field for: `web [no-proxy]`. No name ends like that. The comment is there for
// the administrator to read, and survives when nft(8) saves and loads the table.
func elementComment(p portset.Port) string {
	return nat.CommentText(p.Name, nat.CommentAttributes{
		NoProxy:   p.NoProxy,
		ProxyOnly: p.ProxyOnly && p.CrossesFamilies(),
		Shared:    p.Hold == nat.HoldShared,
		OneFamily: p.AddrPort.Addr().IsValid() && p.AddrPort.Addr().IsUnspecified() && !p.CrossesFamilies(),
	})
}

// holdOf is how a comment says that a port is held.
func holdOf(a nat.CommentAttributes) nat.Hold {
	if a.Shared {
		return nat.HoldShared
	}
	return nat.HoldOwn
}
