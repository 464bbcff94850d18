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

// Exit is the frontend by which a source leaves.
type Exit struct {
	Source
	// Link is the interface that the packet must leave by; empty: any.
	Link string
	// Frontend has no address if it is for any: then that of the interface is taken.
	Frontend netip.AddrPort
	Expires  int64 // as in [portset.Target]
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
}

func candidateOf(p portset.Port) candidate {
	return candidate{netip.AddrPortFrom(p.Host(), p.AddrPort.Port()), p.Expires}
}

// before orders frontends: those for any address first, then by address and port.
func (c candidate) before(o candidate) int {
	return cmp.Or(c.at.Addr().Compare(o.at.Addr()), cmp.Compare(c.at.Port(), o.at.Port()))
}

// exits appends the exits of a source, whose frontends are in order: the first one for any
// address; else the first one for each interface.
func exits(es []Exit, s Source, frontends []candidate, places Places) []Exit {
	from := len(es)
	for _, c := range frontends {
		if !c.at.Addr().IsValid() {
			return append(es, Exit{s, AnyLink, c.at, c.expires})
		}
		for _, link := range places[c.at.Addr()] {
			if !slices.ContainsFunc(es[from:], func(e Exit) bool { return e.Link == link }) {
				es = append(es, Exit{s, link, c.at, c.expires})
			}
		}
	}
	return es
}
