// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"net/netip"
	"strings"
	"time"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// The options of a range are elements of sets of ranges with the bounds of the range, whatever
// ports were taken out of it: they are asked behind the holes, and right before the map of the
// range. Those of a range in the second map are in second sets:
//
//	limited_range        ranges of any address that are for some clients only, by family
//	limited4_host_range  those of one address
//	from4_range          their clients; from4_host_range
//	masquerade_to4_range backends that see the host as the client; masquerade_to4_host_range
//
// Where proxies serve ports of a range, for clients of the other family or all, each has an
// element of the sets for single ports.
//
// A range is masqueraded at all ports between its ends, also at those that were taken out:
// mappings to the same backend must agree with it, or the range be cut.

// IsRangeOption reports whether a set has options of ranges that rules look up.
func IsRangeOption(set string) bool {
	return strings.HasSuffix(strings.TrimSuffix(set, nextSuffix), rangeSuffix)
}

// RangeOptions returns the elements of the options of a range, but for [ProxiedLimits]: those of the
// first map, or of the second.
func RangeOptions(e portset.Entry, next bool, now time.Time) (es []nft.Element) {
	if kindOfPort(e.Port).apart || e.From.IsZero() && !e.Masquerade {
		return nil
	}
	suffix := rangeSuffix
	if next {
		suffix += nextSuffix
	}
	r := nft.Range{First: e.First(), Last: e.Last(), L4Proto: uint8(e.Proto)}
	digit, host := familyDigit(e.Backend.Addr()), e.Host()
	if e.Masquerade {
		to := r
		to.Addr = single(e.Backend.Addr())
		set := setMasquerade + digit
		if host.IsValid() {
			set, to.Other = set+hostSuffix, single(host)
		}
		es = append(es, nft.Element{Set: set + suffix, Key: nft.RangeKey(to)})
	}
	if e.From.IsZero() {
		return es
	}
	limit, from := nft.Element{Set: setLimited + suffix}, setFrom+digit
	if left := timeout(e.Port, now); left != 0 {
		limit.Timeout = left + limitOutlasts
	}
	of := r
	if host.IsValid() {
		limit.Set, from = setLimited+digit+hostSuffix+suffix, from+hostSuffix
		of.Addr = single(host)
	} else {
		of.Family = 6
		if e.Backend.Addr().Is4() {
			of.Family = 4
		}
	}
	limit.Key = nft.RangeKey(of)
	es = append(es, limit)
	for _, clients := range e.From.Prefixes() {
		if clients.Addr().Is4() != e.Backend.Addr().Is4() {
			continue
		}
		of := r
		of.Addr = clients
		if host.IsValid() {
			of.Addr, of.Other = single(host), clients
		}
		es = append(es, nft.Element{Set: from + suffix, Key: nft.RangeKey(of)})
	}
	return es
}

// proxiedAt returns the addresses in the sets for single ports of the clients of a range that
// proxies serve.
func proxiedAt(p portset.Port) (at []netip.Addr) {
	switch a := p.AddrPort.Addr(); {
	case kindOfPort(p).apart && a.IsValid():
		return []netip.Addr{a}
	case a.IsValid():
		return nil
	}
	for _, a := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if p.ProxyOnly || a.Is4() != p.Backend.Addr().Is4() {
			at = append(at, a)
		}
	}
	return at
}

// ProxiedLimits returns the elements that limit the clients of a range of the set that proxies
// serve: one for each port that was not taken out.
func ProxiedLimits(ports *portset.Set, e portset.Entry, now time.Time) (es []nft.Element) {
	if e.From.IsZero() {
		return nil
	}
	for _, a := range proxiedAt(e.Port) {
		for piece := range ports.Served(e) {
			of := piece
			of.AddrPort = netip.AddrPortFrom(a, of.First())
			for p := range of.Singles {
				es = append(es, limitElements(p, now)...)
			}
			for _, clients := range e.From.Prefixes() {
				if clients.Addr().Is4() == a.Is4() {
					es = append(es, nft.Element{
						Set: e.Proto.String() + familyDigit(a) + fromSuffix,
						Key: nft.ClientsOfKey(of.AddrPort, of.Last(), clients),
					})
				}
			}
		}
	}
	return es
}

// rangeAt identifies a range by its options.
type rangeAt struct {
	proto       nat.Proto
	is4         bool
	host        netip.Addr
	first, last uint16
	next        bool
}

// maskedAt identifies a range that is masqueraded.
type maskedAt struct {
	rangeAt
	backend netip.Addr
}

// rangeOptions are the options of ranges as the sets have them.
type rangeOptions struct {
	limited map[rangeAt]bool
	clients map[rangeAt][]netip.Prefix
	masked  map[maskedAt]bool
	// single are limited ports, and from the clients of several.
	single map[portset.Frontend]bool
	from   []nft.Element
}

// readRangeOptions gives the ranges the options that the elements say. taken reports whether a port
// was taken out of its range.
func readRangeOptions(ranges []found, elements []nft.Element, taken func(portset.Port) bool) {
	o := rangeOptions{
		limited: map[rangeAt]bool{}, clients: map[rangeAt][]netip.Prefix{}, masked: map[maskedAt]bool{},
		single: map[portset.Frontend]bool{},
	}
	for _, el := range elements {
		o.add(&el)
	}
	for i := range ranges {
		r := &ranges[i]
		limited, clients := o.proxied(r, taken)
		if !kindOfPort(r.Port).apart {
			at := rangeAt{r.Proto, r.Backend.Addr().Is4(), r.Host(), r.First(), r.Last(), r.next}
			limited = limited || o.limited[at]
			clients = append(clients, o.clients[at]...)
			r.Masquerade = o.masked[maskedAt{at, r.Backend.Addr()}]
		}
		if limited {
			r.From, _ = nat.SourcesOf(clients...)
			r.bad = r.From.IsZero()
		}
	}
}

func (o *rangeOptions) add(el *nft.Element) {
	r, ok := el.Key.Range()
	if !ok {
		if l4proto, at, ok := el.Key.Service(); ok && LimitsPort(*el) {
			o.single[portset.Frontend{Proto: nat.Proto(l4proto), AddrPort: at}] = true
		} else if _, _, ok := el.Key.Clients(); ok {
			o.from = append(o.from, *el)
		}
		return
	}
	at := rangeAt{proto: nat.Proto(r.L4Proto), is4: r.Family == 4 || r.Addr.Addr().Is4(), first: r.First, last: r.Last}
	set, next := strings.CutSuffix(el.Set, nextSuffix)
	at.next = next
	host := strings.HasSuffix(set, hostSuffix+rangeSuffix)
	switch {
	case LimitsPort(*el):
		if host {
			at.host = r.Addr.Addr()
		}
		o.limited[at] = true
	case strings.HasPrefix(set, setFrom):
		clients := r.Addr
		if host {
			at.host, clients = r.Addr.Addr(), r.Other
		}
		o.clients[at] = append(o.clients[at], clients)
	default:
		if host {
			at.host = r.Other.Addr()
		}
		o.masked[maskedAt{at, r.Addr.Addr()}] = true
	}
}

// proxied returns who may reach the ports of a range that proxies serve, by the first one that was
// not taken out.
func (o *rangeOptions) proxied(r *found, taken func(portset.Port) bool) (limited bool, clients []netip.Prefix) {
	if len(o.single) == 0 {
		return false, nil
	}
	for _, a := range proxiedAt(r.Port) {
		for p := range r.Singles {
			if taken(p) {
				continue
			}
			at := portset.Frontend{Proto: p.Proto, AddrPort: netip.AddrPortFrom(a, p.First())}
			if !o.single[at] {
				break
			}
			limited = true
			for i := range o.from {
				el := &o.from[i]
				of, prefix, _ := el.Key.Clients()
				if of.Addr() == a && strings.HasPrefix(el.Set, p.Proto.String()) && of.Port() <= p.First() && p.First() <= el.Key.LastPort() {
					clients = append(clients, prefix)
				}
			}
			break
		}
	}
	return limited, clients
}
