// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"io"
	"net/netip"
	"slices"
	"strconv"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

// wideList is what is listed with its connections: mappings in order, and those ports that have
// any connections, in order as well.
type wideList struct {
	mappings []nat.Mapping
	ports    []nat.Connections
}

// connectionsOf returns the wanted mappings with how many connections they have.
func connectionsOf(ctx context.Context, p publisher, wanted func(nat.Mapping) bool) (l wideList, err error) {
	if l.ports, err = p.Connections(ctx); err != nil {
		return l, err
	}
	ms, err := p.Mappings(ctx)
	l.mappings = nat.Collapse(slices.DeleteFunc(ms, func(m nat.Mapping) bool { return !wanted(m) }))
	return l, err
}

// of returns the connections of the ports of a mapping.
func (l *wideList) of(m nat.Mapping) []nat.Connections {
	from, _ := slices.BinarySearchFunc(l.ports, m, compareFrontends)
	m.Frontend = netip.AddrPortFrom(m.Frontend.Addr(), m.Frontend.Port()+m.More)
	to, found := slices.BinarySearchFunc(l.ports, m, compareFrontends)
	if found {
		to++
	}
	return l.ports[from:to]
}

func compareFrontends(c nat.Connections, m nat.Mapping) int {
	return cmp.Or(cmp.Compare(c.Mapping.Proto, m.Proto), c.Mapping.Frontend.Addr().Compare(m.Frontend.Addr()),
		cmp.Compare(c.Mapping.Frontend.Port(), m.Frontend.Port()))
}

// wideMapping is the document of a mapping with its connections.
type wideMapping struct {
	api.Mapping
	Translated  int    `json:"translated"`
	Proxied     int64  `json:"proxied"`
	ProxiedEver uint64 `json:"proxied_ever"`
}

// wideDocs are the documents of mappings with their connections; those of a range are added up.
func (g *global) wideDocs(l wideList) []wideMapping {
	docs := make([]wideMapping, 0, len(l.mappings)) // never nil
	add := func(m nat.Mapping) {
		doc := wideMapping{Mapping: api.Ranges([]nat.Mapping{m})[0]}
		for _, c := range l.of(m) {
			doc.Translated, doc.Proxied, doc.ProxiedEver = doc.Translated+c.Translated, doc.Proxied+c.Proxied, doc.ProxiedEver+c.ProxiedEver
		}
		docs = append(docs, doc)
	}
	for _, m := range l.mappings {
		if g.ranges {
			add(m)
			continue
		}
		for single := range nat.Expand(m) {
			add(single)
		}
	}
	return docs
}

// print prints mappings, and for each how many connections it has now, by netfilter and by proxies.
func (l wideList) print(w io.Writer) error {
	return listColumns(w, l.mappings, "CONNECTIONS", func(m nat.Mapping) string {
		var sum int64
		for _, c := range l.of(m) {
			sum += int64(c.Translated) + c.Proxied
		}
		return strconv.FormatInt(sum, 10)
	})
}
