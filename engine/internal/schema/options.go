// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// Which clients may reach a port, and whether it is masqueraded, is recorded in sets that
// rules look up; no map and no comment says it:
//
//	limited         ports of any address that are for some clients only, by family
//	limited4_host   those of one address
//	tcp4_from       the clients of each, as prefixes; one for each protocol
//	masquerade_to4  backends that see the host as the client, whichever address was called
//	masquerade_to4_host  those that do so for clients that called one address
//
// An element of limited has the time-out of its port and a minute more, because it also closes
// the port to a service that takes it later, and must not end before the port's proxy has. The
// others have none: without a published port they mean nothing. An engine removes them when it
// knows that the port has expired. A prefix would be missing for a moment when it is replaced,
// before Linux 6.18.

const (
	setLimited    = "limited"
	setMasquerade = "masquerade_to"
	hostSuffix    = "_host"
	fromSuffix    = "_from"
)

// optionSets returns the sets.
func optionSets() (sets []nft.Set) {
	sets = append(sets, nft.Set{Name: setLimited, Key: nft.Type{nft.NfProto, nft.InetProto, nft.InetService}, Timeout: true})
	for _, family := range []struct {
		digit string
		addr  nft.DataType
	}{{"4", nft.IPv4Addr}, {"6", nft.IPv6Addr}} {
		service := nft.Type{nft.InetProto, family.addr, nft.InetService}
		clients := nft.Type{family.addr, nft.InetService, family.addr}
		sets = append(sets,
			nft.Set{Name: setLimited + family.digit + hostSuffix, Key: service, Timeout: true},
			nft.Set{Name: "tcp" + family.digit + fromSuffix, Key: clients, Interval: true},
			nft.Set{Name: "udp" + family.digit + fromSuffix, Key: clients, Interval: true},
			nft.Set{Name: setMasquerade + family.digit, Key: service},
			nft.Set{Name: setMasquerade + family.digit + hostSuffix, Key: append(slices.Clone(service), family.addr)},
		)
	}
	return sets
}

// isOption reports whether a set is one of those.
func isOption(set string) bool {
	return strings.HasPrefix(set, setLimited) || strings.HasPrefix(set, setMasquerade) || strings.HasSuffix(set, fromSuffix) ||
		strings.HasPrefix(set, setFrom)
}

// limitOutlasts is how much longer a limit lives than its port, if no engine removes it.
const limitOutlasts = time.Minute

// LimitsPort reports whether the element limits a port. When a port is removed, it stays until
// the port's proxy is closed.
func LimitsPort(el nft.Element) bool { return strings.HasPrefix(el.Set, setLimited) }

// AdmitsClient reports whether the element is clients of a limited port or range.
func AdmitsClient(el nft.Element) bool {
	return strings.HasSuffix(el.Set, fromSuffix) || strings.HasPrefix(el.Set, setFrom)
}

// limitAt returns the frontends of a port in the sets, one for each family that it is of.
// The unspecified address stands for any.
func limitAt(p portset.Port) []portset.Frontend {
	if a := p.AddrPort.Addr(); a.IsValid() {
		return []portset.Frontend{p.Frontend}
	}
	return []portset.Frontend{p.OfFamily(netip.IPv4Unspecified()), p.OfFamily(netip.IPv6Unspecified())}
}

// limitElements returns the elements that limit a port, which begin now.
func limitElements(p portset.Port, now time.Time) (es []nft.Element) {
	for _, f := range limitAt(p) {
		e := nft.Element{Set: setLimited, Key: nft.ServiceKey(uint8(p.Proto), f.AddrPort)}
		if left := timeout(p, now); left != 0 {
			e.Timeout = left + limitOutlasts
		}
		if a := f.AddrPort.Addr(); !a.IsUnspecified() {
			e.Set += familyDigit(a) + hostSuffix
		}
		es = append(es, e)
	}
	return es
}

// clientElements returns the elements of a port's clients.
func clientElements(p portset.Port) (es []nft.Element) {
	at := limitAt(p)
	for _, clients := range p.From.Prefixes() {
		for _, f := range at {
			if f.AddrPort.Addr().Is4() == clients.Addr().Is4() {
				set := p.Proto.String() + familyDigit(clients.Addr()) + fromSuffix
				es = append(es, nft.Element{Set: set, Key: nft.ClientsKey(f.AddrPort, clients)})
			}
		}
	}
	return es
}

func masqueradeElement(c portset.Called) nft.Element {
	set := setMasquerade + familyDigit(c.Backend.Addr())
	if c.Addr.IsValid() {
		return nft.Element{Set: set + hostSuffix, Key: nft.CalledKey(uint8(c.Proto), c.Backend, c.Addr)}
	}
	return nft.Element{Set: set, Key: nft.ServiceKey(uint8(c.Proto), c.Backend)}
}

// LimitElements returns the elements that say who may reach a single port.
func LimitElements(p portset.Port, now time.Time) []nft.Element {
	if p.From.IsZero() {
		return nil
	}
	return append(limitElements(p, now), clientElements(p)...)
}

// OptionElements returns all elements of the options of single ports at that time.
func OptionElements(ports iter.Seq[portset.Port], now time.Time) (es []nft.Element) {
	called := map[portset.Called]bool{}
	for p := range ports {
		es = append(es, LimitElements(p, now)...)
		if p.Masquerade && !called[p.Called()] {
			called[p.Called()] = true
			es = append(es, masqueradeElement(p.Called()))
		}
	}
	return es
}

// SetOptions returns all elements of the options of a set at that time.
func SetOptions(ports *portset.Set, now time.Time) (es []nft.Element) {
	es = OptionElements(func(yield func(portset.Port) bool) {
		for e := range ports.Entries {
			if e.Kind == portset.EntrySingle && !yield(e.Port) {
				return
			}
		}
	}, now)
	for e := range ports.RangeEntries {
		if e.Kind == portset.EntryRange {
			es = append(es, RangeOptions(e, false, now)...)
			es = append(es, ProxiedLimits(ports, e, now)...)
		}
	}
	return es
}

// LimitsDiff returns the elements by which a change differs in who may reach ports. A port
// that only gets another time-out keeps the elements of its clients.
func LimitsDiff(c *portset.Change, now time.Time) (gone, come []nft.Element) {
	for _, p := range c.Removed {
		gone = append(gone, LimitElements(p, now)...)
	}
	for _, p := range c.Added {
		come = append(come, LimitElements(p, now)...)
	}
	for _, m := range c.Moved {
		before, after := m.Before(), m.After()
		was, is := !m.From.From.IsZero(), !m.To.From.IsZero()
		if was && (!is || m.From.Expires != m.To.Expires) {
			gone = append(gone, limitElements(before, now)...)
		}
		if is && (!was || m.From.Expires != m.To.Expires) {
			come = append(come, limitElements(after, now)...)
		}
		if m.From.From != m.To.From {
			had, has := clientElements(before), clientElements(after)
			gone = append(gone, without(had, has)...)
			come = append(come, without(has, had)...)
		}
	}
	return gone, come
}

// without returns the elements that others does not have.
func without(es, others []nft.Element) []nft.Element {
	return slices.DeleteFunc(slices.Clone(es), func(e nft.Element) bool { return slices.Contains(others, e) })
}

// MasqueradesDiff returns the elements by which a change differs in what is masqueraded.
// before is what is so before the change.
func MasqueradesDiff(c *portset.Change, before map[portset.Called]int) (gone, come []nft.Element) {
	var changed map[portset.Called]int
	note := func(p *portset.Port, by int) {
		if p.Masquerade {
			if changed == nil {
				changed = map[portset.Called]int{}
			}
			changed[p.Called()] += by
		}
	}
	for p := range c.Before {
		note(&p, -1)
	}
	for p := range c.After {
		note(&p, 1)
	}
	for called, n := range changed {
		switch was := before[called]; {
		case was > 0 && was+n <= 0:
			gone = append(gone, masqueradeElement(called))
		case was == 0 && n > 0:
			come = append(come, masqueradeElement(called))
		}
	}
	return gone, come
}

// readOptions gives the ports the options that the elements of the sets say. Elements that no
// port needs are orphans: the port has expired. What no engine leaves behind is foreign.
func (c *Contents) readOptions(elements []nft.Element, now time.Time) {
	if len(elements) == 0 {
		return
	}
	limited, clients := map[portset.Frontend]bool{}, map[portset.Frontend][]netip.Prefix{}
	called := map[portset.Called]bool{}
	for _, el := range elements {
		if IsRangeOption(el.Set) {
			continue
		}
		if l4proto, at, ok := el.Key.Service(); ok && strings.HasPrefix(el.Set, setLimited) {
			if f, ok := c.limitedPort(nat.Proto(l4proto), at); ok {
				limited[f] = true
			}
		} else if ok {
			called[portset.Called{Proto: nat.Proto(l4proto), Backend: at}] = true
		}
		if l4proto, at, addr, ok := el.Key.Called(); ok {
			called[portset.Called{Proto: nat.Proto(l4proto), Backend: at, Addr: addr}] = true
		}
		if at, prefix, ok := el.Key.Clients(); ok && at.Port() == el.Key.LastPort() {
			proto := nat.TCP
			if strings.HasPrefix(el.Set, nat.UDP.String()) {
				proto = nat.UDP
			}
			if f, ok := c.limitedPort(proto, at); ok {
				limited[f] = true
				clients[f] = append(clients[f], prefix)
			}
		}
	}
	c.setOptions(limited, clients, called)
	c.keepOptions(elements, now)
}

// limitedPort finds the published single port that an element is about.
func (c *Contents) limitedPort(proto nat.Proto, at netip.AddrPort) (f portset.Frontend, ok bool) {
	f = portset.Frontend{Proto: proto, AddrPort: at}
	if _, ok = c.Ports.Single(f); ok || !at.Addr().IsUnspecified() {
		return f, ok
	}
	f.AddrPort = netip.AddrPortFrom(netip.Addr{}, at.Port())
	_, ok = c.Ports.Single(f)
	return f, ok
}

// setOptions gives the ports their options. A port that is limited to nobody is none that an
// engine makes: it is taken off, since nobody can reach it.
func (c *Contents) setOptions(limited map[portset.Frontend]bool, clients map[portset.Frontend][]netip.Prefix, called map[portset.Called]bool) {
	for f := range limited {
		t, _ := c.Ports.Single(f)
		t.From, _ = nat.SourcesOf(clients[f]...)
		p := portset.Port{Frontend: f, Target: t}
		if m := p.Mapping(); !t.From.IsZero() && m.Valid() {
			c.Ports.Load(portset.Entry{Port: p})
			continue
		}
		c.Ports.Unload(portset.Entry{Port: p})
		i := slices.IndexFunc(c.Elements, func(el nft.Element) bool { return el.ElementKey() == PortKey(p).ElementKey() })
		c.Foreign = append(c.Foreign, c.Elements[i])
		c.Elements = slices.Delete(c.Elements, i, i+1)
	}
	if len(called) == 0 {
		return
	}
	for e := range c.Ports.Entries {
		any := e.Called()
		any.Addr = netip.Addr{}
		if e.Kind == portset.EntrySingle && !e.ProxiedOnly() && (called[e.Called()] || called[any]) {
			e.Masquerade = true
			c.Ports.Load(e)
		}
	}
}

// keepOptions sorts the elements into those that the ports need and orphans, and finds those
// that are missing.
func (c *Contents) keepOptions(elements []nft.Element, now time.Time) {
	missing, wanted := map[nft.ElementKey]nft.Element{}, SetOptions(&c.Ports, now)
	for _, e := range c.Next {
		wanted = append(wanted, RangeOptions(e, true, now)...)
	}
	for _, el := range wanted {
		missing[el.ElementKey()] = el
	}
	for _, el := range elements {
		want, ok := missing[el.ElementKey()]
		delete(missing, el.ElementKey())
		switch {
		case !ok:
			c.Orphans = append(c.Orphans, el)
		case el.Comment != "" || (el.Timeout == 0) != (want.Timeout == 0):
			c.Foreign = append(c.Foreign, el)
			c.Missing = append(c.Missing, want)
		default:
			c.Elements = append(c.Elements, el)
		}
	}
	for _, el := range wanted { // in order
		if _, ok := missing[el.ElementKey()]; ok {
			c.Missing = append(c.Missing, el)
		}
	}
}
