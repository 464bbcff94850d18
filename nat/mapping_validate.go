// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Validate reports whether m can be published on some host, as far as that depends on m
// alone. The error is an [*InvalidError].
func (m Mapping) Validate() error { return m.validate() }

// Valid reports whether Validate returns nil, without making an error.
func (m *Mapping) Valid() bool { return m.fault() == "" }

func (m *Mapping) validate() error {
	if reason := m.fault(); reason != "" {
		return &InvalidError{What: WhatMapping, Input: m.String(), Reason: reason}
	}
	return nil
}

// fault returns the first thing wrong with m, or "".
func (m *Mapping) fault() string {
	front, back := m.Frontend.Addr(), m.Backend.Addr()
	switch {
	case m.Proto == 0:
		return "no protocol is given"
	case m.Proto != TCP && m.Proto != UDP:
		return fmt.Sprintf("protocol %d is neither tcp (6) nor udp (17)", m.Proto)
	case !back.IsValid():
		return "no backend address is given"
	case m.Backend.Port() == 0:
		return "the backend port is 0"
	case int(m.Frontend.Port())+int(m.More) > 65535:
		return "the frontend range passes port 65535"
	case int(m.Backend.Port())+int(m.More) > 65535:
		return "the backend range passes port 65535"
	}
	if kind := notBackend(back); kind != "" {
		return "the backend is " + kind
	}
	if front.IsValid() {
		if kind := notFrontend(front); kind != "" {
			return "the frontend is " + kind
		}
	}
	if fault := waysFault(m); fault != "" {
		return fault
	}
	if fault := fromFault(m); fault != "" {
		return fault
	}
	if fault := holdFault(m); fault != "" {
		return fault
	}
	if fault := nameFault(m.Name); fault != "" {
		return fault
	}
	return expiryFault(m)
}

// notBackend returns the reason why a cannot be a backend, or "".
func notBackend(a netip.Addr) string {
	switch {
	case a.Zone() != "":
		return "an address with a zone, which means different hosts on different links"
	case a.Is4In6():
		return "an IPv4 address written as IPv6"
	case a.IsUnspecified():
		return "the unspecified address, which is no host"
	case a.IsLoopback():
		// The martian checks of net/ipv4/route.c drop it unless route_localnet
		// is set, which would open every local service to the neighbours.
		return "a loopback address, which packets from outside cannot be sent to"
	case a.IsMulticast():
		return "a multicast address"
	case a == broadcast():
		return "the broadcast address"
	case a.Is4() && a.As4()[0] == 0:
		return `in 0.0.0.0/8, "this network" (RFC 1122 section 3.2.1.3)`
	case a.Is6() && a.IsLinkLocalUnicast():
		// DNAT carries an address and no interface, so routing cannot know
		// which link is meant (RFC 4007 section 6).
		return "an IPv6 link-local address, which needs a zone and cannot be the target of DNAT"
	}
	return ""
}

// notFrontend returns the reason why clients cannot use the address a, or "".
func notFrontend(a netip.Addr) string {
	switch {
	case a.Zone() != "":
		return "an address with a zone, which means different hosts on different links"
	case a.Is4In6():
		return "an IPv4 address written as IPv6"
	case a.IsMulticast():
		return "a multicast address"
	case a == broadcast():
		return "the broadcast address"
	case a.Is6() && a.IsLinkLocalUnicast():
		return "an IPv6 link-local address, which needs a zone"
	}
	return ""
}

// waysFault refuses what contradicts how the mapping can be served.
func waysFault(m *Mapping) string {
	if m.ProxyOnly {
		switch {
		case m.NoProxy:
			return "it is for a proxy only, and has no proxy"
		case m.Masquerade:
			return "it is for a proxy only, whose backend sees this host as the client without masquerade too"
		}
	}
	if !m.NoProxy && !m.Masquerade || !m.Frontend.Addr().IsValid() {
		return ""
	}
	switch kind := proxyFrontend(m.Frontend.Addr(), m.Backend.Addr()); {
	case kind == "":
		return ""
	case m.NoProxy:
		return "the frontend is " + kind + ", which only a proxy serves, and the mapping has none"
	default:
		return "the frontend is " + kind + ", which only a proxy serves: the backend sees this host as the client without masquerade too"
	}
}

// fromFault refuses sources that cannot be those of clients of the frontend.
func fromFault(m *Mapping) string {
	front := m.Frontend.Addr()
	if m.From.IsZero() || !front.IsValid() {
		return ""
	}
	if front.IsLoopback() {
		return "the frontend is a loopback address, which only this host reaches, from wherever others may come"
	}
	for _, p := range m.From.Prefixes() {
		if p.Addr().Is4() != front.Is4() {
			return "the frontend is of " + family(front) + ", and no client from " + p.String() + " can reach it"
		}
	}
	return ""
}

// holdFault refuses what cannot be shared.
func holdFault(m *Mapping) string {
	switch {
	case m.Hold > HoldShared:
		return m.Hold.String() + " is neither own nor shared"
	case m.Hold == HoldShared && m.Frontend.Port() == 0:
		return "the port is shared, so that it has to be given: a free one is nobody's"
	}
	return ""
}

// proxyFrontend returns the reason why only a proxy can serve a frontend, or "".
func proxyFrontend(front, back netip.Addr) string {
	switch {
	case front.IsLoopback():
		// Never DNATed: after DNAT in prerouting a LAN neighbour could reach it too.
		return "a loopback address"
	case front.Is4() != back.Is4():
		return "of " + family(front) + " and the backend of " + family(back)
	}
	return ""
}

func broadcast() netip.Addr { return netip.AddrFrom4([4]byte{255, 255, 255, 255}) }

func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// ValidateName reports whether a mapping can have that name, which must not be empty. The
// error is an [*InvalidError].
func ValidateName(name string) error {
	fault := nameFault(name)
	if name == "" {
		fault = "it is empty"
	}
	if fault != "" {
		return &InvalidError{What: "name", Input: name, Reason: fault}
	}
	return nil
}

// nameFault refuses names that would not survive as the comment of an element: nft(8) prints
// comments between double quotes without escaping, and a name that ends like attributes would
// be read as a name with attributes. Bytes are counted from 1.
func nameFault(name string) string {
	if len(name) > maxLongName {
		return fmt.Sprintf("name has %d bytes, more than %d", len(name), maxLongName)
	}
	for i := 0; i < len(name); {
		r, n := utf8.DecodeRuneInString(name[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			return fmt.Sprintf("name is not UTF-8 at byte %d", i+1)
		case unicode.IsControl(r):
			return fmt.Sprintf("name has a control character at byte %d", i+1)
		case r == '"':
			return fmt.Sprintf("name has a %c at byte %d", r, i+1)
		}
		i += n
	}
	if before, _, ok := cutAttributes(Name(name)); ok {
		return fmt.Sprintf("name ends in %s, which says how a mapping is published", strings.TrimSpace(name[len(before):]))
	}
	return ""
}

// expiryFault refuses the years that RFC 3339 cannot write.
func expiryFault(m *Mapping) string {
	if m.Expires.IsZero() {
		return "" // never
	}
	if y := m.Expires.UTC().Year(); y < 1 || y > 9999 {
		return fmt.Sprintf("expires in year %d, which is not of four digits", y)
	}
	return ""
}

// ValidateAll reports whether all of ms can be published together: each is
// valid, and no two of a protocol claim the same port at the same address. Any
// address overlaps every other, 0.0.0.0 every IPv4 address and :: every IPv6
// address; 0.0.0.0 and :: do not overlap each other. Frontends with port 0
// claim nothing yet. The error is an [*InvalidError] or an [*OverlapError].
func ValidateAll(ms ...Mapping) error {
	for i := range ms {
		if err := ms[i].validate(); err != nil {
			return err
		}
	}
	// Sort one word for each mapping, which is faster: protocol, first port, position.
	keys := make([]uint64, 0, len(ms))
	for i := range ms {
		if port := ms[i].Frontend.Port(); port != 0 {
			keys = append(keys, uint64(ms[i].Proto)<<48|uint64(port)<<32|uint64(uint32(i)))
		}
	}
	slices.Sort(keys)
	var seen claims
	proto := Proto(0)
	for _, k := range keys {
		j := int32(uint32(k))
		m := &ms[j]
		if m.Proto != proto {
			proto, seen = m.Proto, claims{}
		}
		if i, ok := seen.add(m, j); !ok {
			i, j = min(i, j), max(i, j)
			return &OverlapError{A: ms[i], B: ms[j], I: int(i), J: int(j)}
		}
	}
	return nil
}

// claim is the highest port claimed so far by one kind of frontend, and the position of its
// mapping. The zero claim is none, as there is no port 0.
type claim struct {
	last uint16
	by   int32
}

// claims checks the mappings of one protocol in the order of their first ports. A mapping
// overlaps an earlier one if the earlier last port is not below its first one, so it is
// enough to store the highest last port.
type claims struct {
	any            claim
	wild4, wild6   claim // 0.0.0.0, ::
	hosts4, hosts6 claim // the highest of all single addresses
	hosts          map[netip.Addr]claim
}

// add adds m, or returns the claim that already has its first port.
func (c *claims) add(m *Mapping, by int32) (holder int32, ok bool) {
	host, first := m.Frontend.Addr(), m.Frontend.Port()
	wild, all := &c.wild4, &c.hosts4
	if host.Is6() {
		wild, all = &c.wild6, &c.hosts6
	}
	mine := claim{last: first + m.More, by: by}
	var rivals [5]claim
	switch {
	case !host.IsValid():
		rivals = [5]claim{c.any, c.wild4, c.wild6, c.hosts4, c.hosts6}
	case host.IsUnspecified():
		rivals = [5]claim{c.any, *wild, *all}
	default:
		rivals = [5]claim{c.any, *wild, c.hosts[host]}
	}
	for _, r := range rivals {
		if r.last >= first {
			return r.by, false
		}
	}
	switch {
	case !host.IsValid():
		c.any = mine
	case host.IsUnspecified():
		*wild = mine
	default:
		if c.hosts == nil {
			c.hosts = make(map[netip.Addr]claim)
		}
		c.hosts[host] = mine
		if mine.last > all.last {
			*all = mine
		}
	}
	return 0, true
}
