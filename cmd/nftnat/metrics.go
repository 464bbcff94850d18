// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
)

// metrics answers in the Prometheus text format. What cannot be told of connection
// tracking is left out.
func (s *server) metrics() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		st, err := s.engine.Status()
		if err != nil && st.Table == "" {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		var e exposition
		tellMappings(&e, api.CountMappings(s.engine.Mappings()), st)
		tellProxies(&e, st)
		if err == nil {
			e.metric("nftnat_conntrack_entries", gauge, "Flows in the connection tracking table.", float64(st.Tracked))
			e.metric("nftnat_conntrack_entries_limit", gauge, "Flows from which the kernel drops new ones.", float64(st.TrackedMax))
		}
		tellRuntime(&e)
		tellProcess(&e, s.started)
		w.Header().Set("Content-Type", expositionType)
		_, _ = w.Write(e.text) // whoever has asked may have gone
	})
}

func tellMappings(e *exposition, n api.MappingCounts, st engine.Status) {
	e.family("nftnat_mappings", gauge, "Published ports.")
	e.sample("nftnat_mappings", `family="ipv4",proto="tcp"`, float64(n.TCP.IPv4))
	e.sample("nftnat_mappings", `family="ipv6",proto="tcp"`, float64(n.TCP.IPv6))
	e.sample("nftnat_mappings", `family="ipv4",proto="udp"`, float64(n.UDP.IPv4))
	e.sample("nftnat_mappings", `family="ipv6",proto="udp"`, float64(n.UDP.IPv6))
	e.metric("nftnat_networks", gauge, "Declared networks.", float64(st.Networks))
	e.metric("nftnat_endpoints", gauge, "Endpoints, each with an address of a network.", float64(st.Endpoints))
	owned := 0.0
	if st.Owned {
		owned = 1
	}
	e.metric("nftnat_table_owned", gauge, "Whether the kernel refuses changes of the table to others.", owned)
	e.metric("nftnat_table_repairs_total", counter, "Times that the table was put right after others had changed it.", float64(st.Repaired))
}

func tellProxies(e *exposition, st engine.Status) {
	e.metric("nftnat_proxies", gauge, "Userland proxies.", float64(st.Proxies))
	e.metric("nftnat_mappings_without_proxy", gauge, "Mappings whose port is held by another process.", float64(st.Unserved))
	e.family("nftnat_proxy_flows", gauge, "TCP connections and UDP flows that the proxies carry.")
	e.sample("nftnat_proxy_flows", `proto="tcp"`, float64(st.Connections))
	e.sample("nftnat_proxy_flows", `proto="udp"`, float64(st.Flows))
	e.metric("nftnat_proxy_flows_total", counter, "Connections and flows that the open proxies have carried.", float64(st.Carried.Total))
	e.family("nftnat_proxy_bytes_total", counter, "Payload that the open proxies have carried.")
	e.sample("nftnat_proxy_bytes_total", `to="backend"`, float64(st.Carried.BytesToBackend))
	e.sample("nftnat_proxy_bytes_total", `to="client"`, float64(st.Carried.BytesToClient))
	e.metric("nftnat_proxy_refused_dials_total", counter, "Backends that refused or did not answer.", float64(st.Carried.RefusedDials))
}
