// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"cmp"
	"net/http"
	"slices"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/buildinfo"
)

// metricsHandler answers in the Prometheus text format. Figures of connection tracking that
// cannot be read are left out.
func (s *server) metricsHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		st, err := s.engine.Status(r.Context())
		if err != nil && st.Table == "" {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		var e exposition
		writeBuild(&e, buildinfo.Read())
		writeMappings(&e, mappingCounts(st), st)
		writeTable(&e, st)
		writeForwarding(&e, st)
		writeProxies(&e, st)
		s.changes.writeMetrics(&e, st.Events)
		if s.MetricsMappings > 0 {
			if connections, err := s.engine.Connections(r.Context()); err == nil {
				writeConnections(&e, connections, s.MetricsMappings)
			} else {
				s.log.Warn("connections could not be counted", "error", err)
			}
		}
		if err == nil {
			writeConntrack(&e, st)
		}
		writeRuntime(&e)
		writeProcess(&e, s.started)
		w.Header().Set("Content-Type", expositionType)
		_, _ = w.Write(e.text) // the client may have ended
	})
}

func writeMappings(e *exposition, n api.MappingCounts, st engine.Status) {
	e.family("nftnat_mappings", gauge, "Published ports.")
	e.sample("nftnat_mappings", `family="ipv4",proto="tcp"`, float64(n.TCP.IPv4))
	e.sample("nftnat_mappings", `family="ipv6",proto="tcp"`, float64(n.TCP.IPv6))
	e.sample("nftnat_mappings", `family="ipv4",proto="udp"`, float64(n.UDP.IPv4))
	e.sample("nftnat_mappings", `family="ipv6",proto="udp"`, float64(n.UDP.IPv6))
	e.metric("nftnat_networks", gauge, "Declared networks.", float64(st.Networks))
	e.metric("nftnat_endpoints", gauge, "Endpoints, each with an address of a network.", float64(st.Endpoints))
}

// writeBuild writes what program this is, in labels of a figure that is always 1.
func writeBuild(e *exposition, b buildinfo.Info) {
	e.family("nftnat_build_info", gauge, "The program: its version, the commit it was built from, and the version of Go.")
	e.sample("nftnat_build_info", labels("version", b.Version, "commit", b.Commit, "goversion", b.Go), 1)
}

func writeTable(e *exposition, st engine.Status) {
	e.metric("nftnat_table_owned", gauge, "Whether the kernel refuses changes of the table to others.", oneIf(st.Owned))
	e.metric("nftnat_table_repairs_total", counter, "Times that the table was repaired after others had changed it.", float64(st.Repaired))
	e.family("nftnat_table_failures_total", counter, "Changes of the kernel's table, and repairs of it, that failed and not because of the caller.")
	e.sample("nftnat_table_failures_total", `operation="change"`, float64(st.Failures.Changes))
	e.sample("nftnat_table_failures_total", `operation="repair"`, float64(st.Failures.Repairs))
	e.metric("nftnat_netlink_sockets_replaced_total", counter, "Netlink sockets that failed and were replaced.", float64(st.Failures.Sockets))
}

// writeForwarding writes the state of each family as a set of figures of which one is 1.
func writeForwarding(e *exposition, st engine.Status) {
	e.family("nftnat_forwarding", gauge, "Whether the kernel forwards packets: on, off, or partly, which is for some interfaces only.")
	f := forwardingOf(st)
	states := []api.ForwardingState{api.ForwardingOn, api.ForwardingOff, api.ForwardingPartly}
	for _, state := range states {
		e.sample("nftnat_forwarding", labels("family", "ipv4", "state", string(state)), oneIf(f.IPv4 == state))
	}
	for _, state := range states {
		e.sample("nftnat_forwarding", labels("family", "ipv6", "state", string(state)), oneIf(f.IPv6 == state))
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func writeConntrack(e *exposition, st engine.Status) {
	e.metric("nftnat_conntrack_entries", gauge, "Flows in the connection tracking table.", float64(st.Tracked))
	e.metric("nftnat_conntrack_entries_limit", gauge, "Flows from which the kernel drops new ones; 0: it never does.", float64(st.TrackedMax))
}

func writeProxies(e *exposition, st engine.Status) {
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

// writeConnections writes the connections of the mappings that have most of them, and the sum of
// all others.
func writeConnections(e *exposition, all []engine.Connections, most int) {
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
