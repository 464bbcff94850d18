// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"net/netip"
	"strconv"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/nat"
)

// port is what tells a published port from others.
type port struct {
	proto    nat.Proto
	frontend netip.AddrPort
}

// connectionsOf returns the wanted mappings, in order, with how many connections each has.
func connectionsOf(ctx context.Context, p publisher, wanted func(nat.Mapping) bool) ([]nat.Connections, error) {
	counted, err := p.Connections(ctx)
	if err != nil {
		return nil, err
	}
	counts := make(map[port]nat.Connections, len(counted))
	for _, c := range counted {
		counts[port{c.Mapping.Proto, c.Mapping.Frontend}] = c
	}
	ms, err := p.Mappings(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]nat.Connections, 0, len(ms))
	for _, m := range ms {
		if wanted(m) {
			c := counts[port{m.Proto, m.Frontend}]
			c.Mapping = m
			all = append(all, c)
		}
	}
	return all, nil
}

// wideMapping is the document of a mapping with its connections.
type wideMapping struct {
	api.Mapping
	Translated  int    `json:"translated"`
	Proxied     int64  `json:"proxied"`
	ProxiedEver uint64 `json:"proxied_ever"`
}

func wideMappings(all []nat.Connections) []wideMapping {
	docs := make([]wideMapping, len(all))
	for i, c := range all {
		docs[i] = wideMapping{api.Mappings([]nat.Mapping{c.Mapping})[0], c.Translated, c.Proxied, c.ProxiedEver}
	}
	return docs
}

// listWide prints mappings, and for each how many connections it has now, by netfilter and by
// proxies.
func listWide(w io.Writer, all []nat.Connections) error {
	ms, counts := make([]nat.Mapping, len(all)), make(map[port]int64, len(all))
	for i, c := range all {
		ms[i] = c.Mapping
		counts[port{c.Mapping.Proto, c.Mapping.Frontend}] = int64(c.Translated) + c.Proxied
	}
	return listColumns(w, nat.Collapse(ms), "CONNECTIONS", func(m nat.Mapping) string {
		var sum int64
		for single := range nat.Expand(m) {
			sum += counts[port{single.Proto, single.Frontend}]
		}
		return strconv.FormatInt(sum, 10)
	})
}
