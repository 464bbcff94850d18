// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/alloc"
	"github.com/nftnat/nftnat/engine/internal/segment"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// Networks and endpoints are recorded in sets of the table, those of each family in
// sets of its own:
//
//	networks     the prefixes; the comment is the name, and the gateway in brackets
//	masqueraded  those of them whose way out is masqueraded
//	guarded      those of them that are guarded
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
)

// recordSets are the names of the sets of records, without the digit of the family.
var recordSets = []string{setNetworks, setMasqueraded, setGuarded, setCursors, setLeases}

// familyDigit ends the names of the sets and maps of a family.
func familyDigit(a netip.Addr) string {
	if a.Is4() {
		return "4"
	}
	return "6"
}

// records is what one change does to the records: elements that come and go.
type records struct{ gone, come []nft.Element }

func (r records) empty() bool { return len(r.gone)+len(r.come) == 0 }

// appliedTo is what the records of all are after the change.
func (r records) appliedTo(all []nft.Element) []nft.Element {
	type place struct {
		set string
		key nft.Key
	}
	gone := make(map[place]struct{}, len(r.gone))
	for _, el := range r.gone {
		gone[place{el.Set, el.Key}] = struct{}{}
	}
	all = slices.DeleteFunc(all, func(el nft.Element) bool {
		_, ok := gone[place{el.Set, el.Key}]
		return ok
	})
	return append(all, r.come...)
}

// network is a Network with its addresses.
type network struct {
	nat.Network
	addrs *alloc.Addrs
	// cursor is the one on record. Zero: none is.
	cursor netip.Addr
}

// newNetwork makes one without leases. The network is valid.
func newNetwork(n nat.Network) (*network, error) {
	n = n.WithDefaults()
	addrs, err := alloc.NewAddrs(n.Prefix, n.Gateway)
	if err != nil {
		return nil, err
	}
	if n.Next.IsValid() {
		if err := addrs.SetCursor(n.Next); err != nil {
			return nil, err
		}
	}
	return &network{Network: n, addrs: addrs}, nil
}

// now is the network as it is now.
func (n *network) now() nat.Network {
	now := n.Network
	now.Next = n.addrs.Cursor()
	return now
}

// element is the network's own element of a set.
func (n *network) element(set, comment string) nft.Element {
	return nft.Element{Set: set + familyDigit(n.Gateway), Key: nft.PrefixKey(n.Prefix), Comment: comment}
}

// declared are the elements that say what the network is.
func (n *network) declared() []nft.Element {
	es := []nft.Element{n.element(setNetworks, n.Name+networkGateway+n.Gateway.String()+"]")}
	if !n.NoMasquerade {
		es = append(es, n.element(setMasqueraded, n.Name))
	}
	if !n.NoGuard {
		es = append(es, n.element(setGuarded, n.Name))
	}
	return es
}

// networkGateway stands between a network's name and its gateway in its comment.
const networkGateway = " [gateway "

func (n *network) cursorElement(at netip.Addr) nft.Element {
	return nft.Element{Set: setCursors + familyDigit(at), Key: nft.AddrKey(at), Comment: n.Name}
}

// moveCursor is what records where the pool's cursor is by now.
func (n *network) moveCursor() (r records) {
	now := n.addrs.Cursor()
	if now == n.cursor {
		return r
	}
	r.come = append(r.come, n.cursorElement(now))
	if n.cursor.IsValid() {
		r.gone = append(r.gone, n.cursorElement(n.cursor))
	}
	return r
}

// recorded are all elements of the network alone, as they are now on record.
func (n *network) recorded() []nft.Element {
	es := n.declared()
	if n.cursor.IsValid() {
		es = append(es, n.cursorElement(n.cursor))
	}
	return es
}

func leaseElement(name string, at netip.Addr) nft.Element {
	return nft.Element{Set: setLeases + familyDigit(at), Key: nft.AddrKey(at), Comment: name}
}

// recordOf tells of an element of which set of records it is, if of one.
func recordOf(e nft.Element) (set string, ok bool) {
	if e.Set == "" {
		return "", false
	}
	set = e.Set[:len(e.Set)-1]
	return set, slices.Contains(recordSets, set)
}

// book is what the records say.
type book struct {
	networks  map[string]*network
	endpoints map[string]*Endpoint
}

func newBook() book { return book{map[string]*network{}, map[string]*Endpoint{}} }

// elements are all records of the book.
func (b book) elements() (es []nft.Element) {
	for _, n := range b.networks {
		es = append(es, n.recorded()...)
	}
	for _, ep := range b.endpoints {
		es = append(es, leaseElement(ep.name, ep.addr))
	}
	return es
}

// readBook reads the records among elements, and sorts out what no engine can have
// written.
func readBook(elements []nft.Element) (b book, strange []nft.Element) {
	b = newBook()
	by := map[string][]nft.Element{}
	for _, el := range behindMappings(elements) {
		set, ok := recordOf(el)
		switch {
		case !ok:
		case el.Foreign != "":
			strange = append(strange, el)
		default:
			by[set] = append(by[set], el)
		}
	}
	for _, el := range inOrder(by[setNetworks], by[setCursors]) {
		if !b.readNetwork(el) {
			strange = append(strange, el)
		}
	}
	prefixes := b.prefixes()
	for _, el := range by[setMasqueraded] {
		if n := prefixes.own(el); n != nil {
			n.NoMasquerade = false
		} else {
			strange = append(strange, el)
		}
	}
	for _, el := range by[setGuarded] {
		if n := prefixes.own(el); n != nil {
			n.NoGuard = false
		} else {
			strange = append(strange, el)
		}
	}
	// Of what is there twice the lowest address is kept, whatever the kernel's order.
	for _, el := range slices.SortedFunc(slices.Values(by[setLeases]), byAddr) {
		if !b.readLease(el, prefixes) {
			strange = append(strange, el)
		}
	}
	for _, el := range slices.SortedFunc(slices.Values(by[setCursors]), byAddr) {
		at, _ := el.Key.Addr()
		n, ok := segment.Around(prefixes, at)
		network := prefixes[n]
		if !ok || network.Name != el.Comment || network.cursor.IsValid() || network.addrs.SetCursor(at) != nil {
			strange = append(strange, el)
			continue
		}
		network.cursor = at
	}
	return b, strange
}

func byAddr(a, b nft.Element) int {
	x, _ := a.Key.Addr()
	y, _ := b.Key.Addr()
	return x.Compare(y)
}

// inOrder orders networks so that of two of which there can be but one the right one is
// kept: that which has a cursor, as all that an engine made have, else the wider.
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
	return slices.SortedFunc(slices.Values(networks), func(a, b nft.Element) int {
		x, _ := a.Key.Prefix()
		y, _ := b.Key.Prefix()
		return cmp.Or(lacksCursor(a)-lacksCursor(b), x.Bits()-y.Bits(), segment.Compare(x, y), strings.Compare(a.Comment, b.Comment))
	})
}

// readNetwork reads an element of the networks. Whether it is masqueraded and guarded
// other sets tell.
func (b book) readNetwork(el nft.Element) bool {
	prefix, ok := el.Key.Prefix()
	name, rest, found := strings.Cut(el.Comment, networkGateway)
	text, closed := strings.CutSuffix(rest, "]")
	gateway, err := netip.ParseAddr(text)
	if !ok || !found || !closed || err != nil || gateway.String() != text {
		return false
	}
	n := nat.Network{Name: name, Prefix: prefix, Gateway: gateway, NoMasquerade: true, NoGuard: true}
	if _, twice := b.networks[name]; twice || n.Validate() != nil {
		return false
	}
	for _, have := range b.networks {
		if have.Prefix.Overlaps(prefix) {
			return false
		}
	}
	made, err := newNetwork(n)
	if err != nil {
		return false
	}
	b.networks[name] = made
	return true
}

func (b book) readLease(el nft.Element, prefixes networkPrefixes) bool {
	at, ok := el.Key.Addr()
	p, found := segment.Around(prefixes, at)
	if _, twice := b.endpoints[el.Comment]; !ok || !found || twice || nat.ValidateEndpointName(el.Comment) != nil {
		return false
	}
	n := prefixes[p]
	if n.addrs.Reserve(at) != nil {
		return false
	}
	b.endpoints[el.Comment] = &Endpoint{name: el.Comment, network: n.Name, prefix: n.Prefix, gateway: n.Gateway, addr: at}
	return true
}

// missing are elements that belong to what the book says and are not among these: each
// network is a segment and has a cursor.
func (b book) missing(elements []nft.Element) (es []nft.Element) {
	segments := map[netip.Prefix]bool{}
	for _, el := range behindMappings(elements) {
		if p, ok := el.Key.Segment(); ok {
			segments[p] = true
		}
	}
	for _, n := range b.networks {
		if !segments[n.Prefix] {
			es = append(es, segmentElement(n.Prefix))
		}
		if !n.cursor.IsValid() {
			n.cursor = n.addrs.Cursor()
			es = append(es, n.cursorElement(n.cursor))
		}
	}
	return es
}

// open makes the book that of the engine. Endpoints that it knows stay the same.
func (e *Engine) open(b book) {
	for name, ep := range b.endpoints {
		ep.engine = e
		if have := e.endpoints[name]; have != nil && *have == *ep {
			b.endpoints[name] = have
		}
	}
	e.book = b
}

// networkPrefixes are networks by their prefixes.
type networkPrefixes map[netip.Prefix]*network

func (b book) prefixes() networkPrefixes {
	by := make(networkPrefixes, len(b.networks))
	for _, n := range b.networks {
		by[n.Prefix] = n
	}
	return by
}

// networkPrefixesOf returns the prefixes of networks.
func networkPrefixesOf(networks map[string]*network) (ps []netip.Prefix) {
	for _, n := range networks {
		ps = append(ps, n.Prefix)
	}
	return ps
}

// segmentElement is the element of a segment.
func segmentElement(p netip.Prefix) nft.Element {
	return nft.Element{Set: insideSet(p.Addr().Is4()), Key: nft.SegmentKey(p), Comment: "on-link"}
}

// own is the network that the element is about, or nil.
func (p networkPrefixes) own(el nft.Element) *network {
	prefix, ok := el.Key.Prefix()
	if !ok {
		return nil
	}
	return p[prefix]
}
