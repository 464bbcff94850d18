// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package wayout

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// Source is a port that a backend sends from.
type Source struct {
	Proto   nat.Proto
	Backend netip.AddrPort
}

// sender is what the sources of a backend have in common.
type sender struct {
	proto nat.Proto
	addr  netip.Addr
}

func (s Source) sender() sender { return sender{s.Proto, s.Backend.Addr()} }

// Exit is the frontend by which a source leaves.
type Exit struct {
	Source
	// Link is the interface that the packet must leave by; empty: any.
	Link string
	// Frontend has no address if it is for any: then that of the interface is taken.
	Frontend netip.AddrPort
	Expires  int64 // as in [portset.Target]
	// Ranged is whether it is the exit of a range: Source and Frontend have its first port, More
	// is how many further ports it has, and each leaves by the frontend's port of the same number.
	// It counts for a port that has no exit of its own by which the packet could leave.
	Ranged bool
	More   uint16
}

// Places has the interfaces by which packets with an address of this host as their source
// may leave. An address that the host does not have has none, because the answers would go
// elsewhere.
type Places map[netip.Addr][]string

// AnyLink in Places is every interface: the address is on none that leads anywhere.
const AnyLink = ""

// candidate is a frontend of a source.
type candidate struct {
	at      netip.AddrPort // without an address: any
	expires int64
	ranged  bool // it is a port of a range
}

// piece is a range of frontends of as many sources with the same ports. Of the candidate, at has
// the first port.
type piece struct {
	candidate
	last uint16
}

func candidateOf(p portset.Port) candidate {
	return candidate{at: netip.AddrPortFrom(p.Host(), p.AddrPort.Port()), expires: p.Expires}
}

func pieceOf(p portset.Port) piece {
	c := candidateOf(p)
	c.ranged = true
	return piece{c, p.Last()}
}

// port returns the frontend of one port of the piece.
func (p *piece) port(port uint16) candidate {
	c := p.candidate
	c.at = netip.AddrPortFrom(c.at.Addr(), port)
	return c
}

func (p *piece) has(port uint16) bool { return p.at.Port() <= port && port <= p.last }

// before orders frontends: those for any address first, then by address and port.
func (c candidate) before(o candidate) int {
	return cmp.Or(c.at.Addr().Compare(o.at.Addr()), cmp.Compare(c.at.Port(), o.at.Port()))
}

// exits appends the exits of a source, whose frontends are in order: the first one for any
// address; else the first one for each interface. Rules look up those of ranges last: a single
// port's exit for all interfaces leaves a range none.
func exits(es []Exit, s Source, frontends []candidate, places Places) []Exit {
	from := len(es)
	for _, c := range frontends {
		if !c.at.Addr().IsValid() {
			return append(es, Exit{Source: s, Link: AnyLink, Frontend: c.at, Expires: c.expires, Ranged: c.ranged})
		}
		for _, link := range places[c.at.Addr()] {
			if !slices.ContainsFunc(es[from:], func(e Exit) bool { return e.Link == link }) {
				es = append(es, Exit{Source: s, Link: link, Frontend: c.at, Expires: c.expires, Ranged: c.ranged})
			}
		}
	}
	if slices.ContainsFunc(es[from:], func(e Exit) bool { return e.Link == AnyLink && !e.Ranged }) {
		return withoutRanged(es, from)
	}
	return es
}

// withoutRanged removes the exits of ranges after the first ones.
func withoutRanged(es []Exit, first int) []Exit {
	left := slices.DeleteFunc(es[first:], func(e Exit) bool { return e.Ranged })
	return es[:first+len(left)]
}

// singleExits is exits without those of ranges.
func singleExits(es []Exit, s Source, frontends []candidate, places Places) []Exit {
	from := len(es)
	return withoutRanged(exits(es, s, frontends, places), from)
}

// rangeExits appends the exits of ranges, which are in order. Those for any address do not
// overlap; of the others the first one for each interface has a port.
func rangeExits(es []Exit, s sender, ranges []piece, places Places) []Exit {
	exit := func(p piece, link string) Exit {
		first := p.at.Port()
		return Exit{
			Source: Source{s.proto, netip.AddrPortFrom(s.addr, first)}, Link: link, Frontend: p.at,
			Expires: p.expires, Ranged: true, More: p.last - first,
		}
	}
	var ofLinks map[string][]piece
	for _, p := range ranges {
		if !p.at.Addr().IsValid() {
			es = append(es, exit(p, AnyLink))
			continue
		}
		for _, link := range places[p.at.Addr()] {
			if ofLinks == nil {
				ofLinks = map[string][]piece{}
			}
			for _, left := range p.without(ofLinks[link]) {
				es = append(es, exit(left, link))
				ofLinks[link] = append(ofLinks[link], left)
			}
		}
	}
	return es
}

// without returns what is left of a piece without the ports of others.
func (p piece) without(others []piece) []piece {
	left := []piece{p}
	for i := range others {
		var rest []piece
		for _, q := range left {
			rest = append(rest, q.cut(others[i].at.Port(), others[i].last)...)
		}
		left = rest
	}
	return left
}

// cut returns what is left of a piece without the ports from first to last.
func (p piece) cut(first, last uint16) (left []piece) {
	if last < p.at.Port() || p.last < first {
		return []piece{p}
	}
	if p.at.Port() < first {
		left = append(left, piece{p.candidate, first - 1})
	}
	if last < p.last {
		left = append(left, piece{p.port(last + 1), p.last})
	}
	return left
}
