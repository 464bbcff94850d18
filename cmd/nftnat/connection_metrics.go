// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"slices"

	"github.com/nftnat/nftnat/engine"
)

// mostMeasured bounds of how many mappings the metrics tell the connections: each is two
// time series, of which Prometheus keeps every one that it has ever seen.
const mostMeasured = 1000

// tellConnections tells the connections of the mappings that have most of them, and all
// others together.
func tellConnections(e *exposition, all []engine.Connections, most int) {
	byCount := slices.Clone(all)
	slices.SortStableFunc(byCount, func(a, b engine.Connections) int { return cmp.Compare(live(b), live(a)) })
	listed := min(most, len(byCount))
	e.family("nftnat_mapping_connections", gauge,
		"TCP connections and UDP flows of the mappings that have most, translated by netfilter or carried by a proxy.")
	for _, c := range byCount[:listed] {
		pairs := []string{"proto", c.Mapping.Proto.String(), "frontend", c.Mapping.FrontendText(), "name", c.Mapping.Name, "via"}
		e.sample("nftnat_mapping_connections", labels(append(pairs, "netfilter")...), float64(c.Translated))
		e.sample("nftnat_mapping_connections", labels(append(pairs, "proxy")...), float64(c.Proxied))
	}
	var translated, proxied float64
	for _, c := range byCount[listed:] {
		translated += float64(c.Translated)
		proxied += float64(c.Proxied)
	}
	e.family("nftnat_other_connections", gauge, "TCP connections and UDP flows of all mappings that nftnat_mapping_connections does not list.")
	e.sample("nftnat_other_connections", labels("via", "netfilter"), translated)
	e.sample("nftnat_other_connections", labels("via", "proxy"), proxied)
}

func live(c engine.Connections) int64 { return int64(c.Translated) + c.Proxied }
