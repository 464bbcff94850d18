// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/engine/internal/segment"
	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// Networks and endpoints are recorded in sets of the table, those of each family in
// sets of its own:
//
//	networks     the prefixes; the comment is the name, and the gateway in brackets
//	masqueraded  those of them whose way out is masqueraded
//	guarded      those of them that are guarded
//	inside       each, as a pair: what has both ends in one stays in the network
//	cursors      the address of each at which the next lease is looked for; the comment is
//	             the network's name
//	leases       the addresses of the endpoints; the comment is the endpoint's name
//
// An endpoint's ports are the mappings that have its name and lead to its address.

const (
	setNetworks    = "networks"
	setMasqueraded = "masqueraded"
	setGuarded     = "guarded"
	setCursors     = "cursors"
	setLeases      = "leases"
	setInside      = "inside"
	setSegments    = "segments" // prefixes on link by the interfaces that lead to backends
	setHairpin     = "hairpin"  // bridge ports in hairpin mode
	// see answers.go
	setProxiedSources = "proxied_sources"
	setAnswers        = "answers"
	setAnswerMarks    = "answer_marks"
)

// familyDigit ends the names of the sets and maps of a family.
func familyDigit(a netip.Addr) string { return digitOf(a.Is4()) }

// networkElements returns the elements of a network, that of its cursor last.
func networkElements(n nat.Network) []nft.Element {
	element := func(set, comment string) nft.Element {
		return nft.Element{Set: set + familyDigit(n.Gateway), Key: nft.PrefixKey(n.Prefix), Comment: comment}
	}
	es := []nft.Element{element(setNetworks, n.Name+networkGateway+n.Gateway.String()+"]")}
	if !n.NoMasquerade {
		es = append(es, element(setMasqueraded, n.Name))
	}
	if !n.NoGuard {
		es = append(es, element(setGuarded, n.Name))
	}
	return append(es, insideElement(n), cursorElement(n))
}

func insideElement(n nat.Network) nft.Element {
	return nft.Element{Set: setInside + familyDigit(n.Gateway), Key: nft.PairKey(n.Prefix), Comment: commentOnLink}
}

// commentOnLink is the comment of pairs and segments.
const commentOnLink = "on-link"

// networkGateway stands between a network's name and its gateway in its comment.
const networkGateway = " [gateway "

func cursorElement(n nat.Network) nft.Element {
	return nft.Element{Set: setCursors + familyDigit(n.Next), Key: nft.AddrKey(n.Next), Comment: n.Name}
}

func leaseElement(l *ipam.Lease) nft.Element {
	return nft.Element{Set: setLeases + familyDigit(l.Addr), Key: nft.AddrKey(l.Addr), Comment: l.Name}
}

// Exempts reports whether rules find exemptions in a set of ranges: what is in it they let pass or leave
// alone, and what is not they drop or translate, because another set has it.
func Exempts(set string) bool {
	switch strings.TrimRight(set, "46") {
	case setNetworks, setInside:
		return true
	}
	return strings.HasPrefix(set, "from") || strings.HasSuffix(set, "_from")
}

// IPAMElements returns the elements of networks and leases.
func IPAMElements(networks []nat.Network, leases []*ipam.Lease) (es []nft.Element) {
	for _, n := range networks {
		es = append(es, networkElements(n)...)
	}
	for _, l := range leases {
		es = append(es, leaseElement(l))
	}
	return es
}

// IPAMDiff returns the elements that differ between two states.
func IPAMDiff(d ipam.Diff) (removed, added []nft.Element) {
	removed, added = IPAMElements(d.RemovedNetworks, nil), IPAMElements(d.AddedNetworks, nil)
	for i := 0; i < len(removed); {
		if j := slices.Index(added, removed[i]); j >= 0 { // of a network that is changed
			removed, added = slices.Delete(removed, i, i+1), slices.Delete(added, j, j+1)
		} else {
			i++
		}
	}
	return append(removed, IPAMElements(nil, d.RemovedLeases)...), append(added, IPAMElements(nil, d.AddedLeases)...)
}

// readIPAM decodes the records of networks and leases, which are by their sets.
func (c *Contents) readIPAM(by map[string][]nft.Element) {
	prefixes := func(set string) map[netip.Prefix]bool {
		ps := make(map[netip.Prefix]bool, len(by[set]))
		for _, el := range by[set] {
			p, _ := el.Key.Prefix()
			ps[p] = true
		}
		return ps
	}
	masqueraded, guarded := prefixes(setMasqueraded), prefixes(setGuarded)
	networks := map[netip.Prefix]bool{}
	for _, el := range inOrder(by[setNetworks], by[setCursors]) {
		n, ok := readNetwork(el)
		n.NoMasquerade, n.NoGuard = !masqueraded[n.Prefix], !guarded[n.Prefix]
		ok = ok && c.IPAM.AddNetwork(n) == nil
		networks[n.Prefix] = networks[n.Prefix] || ok
		c.keep(el, ok)
	}
	for _, el := range slices.Concat(by[setMasqueraded], by[setGuarded]) {
		p, _ := el.Key.Prefix()
		c.keep(el, networks[p])
	}
	// Of two leases of a name the lower address is kept, whatever the kernel's order.
	for _, el := range order.Sorted(slices.Values(by[setLeases]), byAddr) {
		at, ok := el.Key.Addr()
		c.keep(el, ok && c.IPAM.Add(nat.EndpointSpec{Name: el.Comment, Address: at}) == nil)
	}
	cursors := map[string]bool{}
	for _, el := range order.Sorted(slices.Values(by[setCursors]), byAddr) {
		at, _ := el.Key.Addr()
		n, ok := c.IPAM.NetworkOf(at)
		ok = ok && n.Name == el.Comment && !cursors[n.Name] && c.IPAM.SetNext(n.Name, at) == nil
		if ok { // else it is not free, and the next one is
			n, _ = c.IPAM.Network(n.Name)
			ok = n.Next == at
			cursors[n.Name] = ok
		}
		c.keep(el, ok)
	}
	inside := map[netip.Prefix]bool{}
	for _, el := range by[setInside] {
		p, ok := el.Key.Pair()
		inside[p] = c.keep(el, ok && networks[p] && el.Comment == commentOnLink) || inside[p]
	}
	for _, n := range c.IPAM.Networks() {
		if !cursors[n.Name] {
			c.Missing = append(c.Missing, cursorElement(n))
		}
		if !inside[n.Prefix] {
			c.Missing = append(c.Missing, insideElement(n))
		}
	}
}

func byAddr(a, b nft.Element) int {
	x, _ := a.Key.Addr()
	y, _ := b.Key.Addr()
	return x.Compare(y)
}

// inOrder orders networks so that of two conflicting ones the first is right: the one with
// a cursor, which all networks of an engine have, else the wider one.
func inOrder(networks, cursors []nft.Element) []nft.Element {
	byName := make(map[string][]netip.Addr, len(cursors))
	for _, c := range cursors {
		at, _ := c.Key.Addr()
		byName[c.Comment] = append(byName[c.Comment], at)
	}
	lacksCursor := func(el nft.Element) int {
		p, _ := el.Key.Prefix()
		name, _, _ := strings.Cut(el.Comment, networkGateway)
		if slices.ContainsFunc(byName[name], p.Contains) {
			return 0
		}
		return 1
	}
	return order.Sorted(slices.Values(networks), func(a, b nft.Element) int {
		x, _ := a.Key.Prefix()
		y, _ := b.Key.Prefix()
		return cmp.Or(lacksCursor(a)-lacksCursor(b), x.Bits()-y.Bits(), segment.Compare(x, y), strings.Compare(a.Comment, b.Comment))
	})
}

// readNetwork reads an element of the networks. Whether it is masqueraded and guarded
// other sets tell.
func readNetwork(el nft.Element) (n nat.Network, ok bool) {
	prefix, ok := el.Key.Prefix()
	name, rest, found := strings.Cut(el.Comment, networkGateway)
	text, closed := strings.CutSuffix(rest, "]")
	gateway, err := netip.ParseAddr(text)
	if !ok || !found || !closed || err != nil || gateway.String() != text {
		return n, false
	}
	n = nat.Network{Name: name, Prefix: prefix, Gateway: gateway}
	return n, n.Validate() == nil
}
