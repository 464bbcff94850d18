// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/nftnat/nftnat/api"
)

// collector reads the engine's status when it is asked for metrics.
type collector struct{ server *server }

// The metrics, by what names and units they have.
var (
	mappingsDesc = prometheus.NewDesc("nftnat_mappings", "Published ports.", []string{"proto", "family"}, nil)
	networksDesc = prometheus.NewDesc("nftnat_networks", "Declared networks.", nil, nil)
	leasesDesc   = prometheus.NewDesc("nftnat_endpoints", "Endpoints, each with an address of a network.", nil, nil)
	proxiesDesc  = prometheus.NewDesc("nftnat_proxies", "Userland proxies.", nil, nil)
	unservedDesc = prometheus.NewDesc("nftnat_mappings_without_proxy", "Mappings whose port is held by another process.", nil, nil)
	carriedDesc  = prometheus.NewDesc("nftnat_proxy_flows", "TCP connections and UDP flows that the proxies carry.", []string{"proto"}, nil)
	totalDesc    = prometheus.NewDesc("nftnat_proxy_flows_total", "Connections and flows that the open proxies have carried.", nil, nil)
	bytesDesc    = prometheus.NewDesc("nftnat_proxy_bytes_total", "Payload that the open proxies have carried.", []string{"to"}, nil)
	refusedDesc  = prometheus.NewDesc("nftnat_proxy_refused_dials_total", "Backends that refused or did not answer.", nil, nil)
	ownedDesc    = prometheus.NewDesc("nftnat_table_owned", "Whether the kernel refuses changes of the table to others.", nil, nil)
	repairsDesc  = prometheus.NewDesc("nftnat_table_repairs_total", "Times that the table was put right after others had changed it.", nil, nil)
	trackedDesc  = prometheus.NewDesc("nftnat_conntrack_entries", "Flows in the connection tracking table.", nil, nil)
	limitDesc    = prometheus.NewDesc("nftnat_conntrack_entries_limit", "Flows from which the kernel drops new ones.", nil, nil)
)

func (c collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c collector) Collect(ch chan<- prometheus.Metric) {
	st, err := c.server.engine.Status()
	if err != nil && st.Table == "" {
		ch <- prometheus.NewInvalidMetric(mappingsDesc, err)
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	n := api.CountMappings(c.server.engine.Mappings())
	gauge(mappingsDesc, float64(n.TCP.IPv4), "tcp", "ipv4")
	gauge(mappingsDesc, float64(n.TCP.IPv6), "tcp", "ipv6")
	gauge(mappingsDesc, float64(n.UDP.IPv4), "udp", "ipv4")
	gauge(mappingsDesc, float64(n.UDP.IPv6), "udp", "ipv6")
	gauge(networksDesc, float64(st.Networks))
	gauge(leasesDesc, float64(st.Endpoints))
	gauge(proxiesDesc, float64(st.Proxies))
	gauge(unservedDesc, float64(st.Unserved))
	gauge(carriedDesc, float64(st.Connections), "tcp")
	gauge(carriedDesc, float64(st.Flows), "udp")
	counter(totalDesc, st.Carried.Total)
	counter(bytesDesc, st.Carried.BytesToBackend, "backend")
	counter(bytesDesc, st.Carried.BytesToClient, "client")
	counter(refusedDesc, st.Carried.RefusedDials)
	owned := 0.0
	if st.Owned {
		owned = 1
	}
	gauge(ownedDesc, owned)
	counter(repairsDesc, uint64(st.Repaired))
	if err == nil {
		gauge(trackedDesc, float64(st.Tracked))
		gauge(limitDesc, float64(st.TrackedMax))
	}
}

// metrics answers in the Prometheus text format.
func (s *server) metrics() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}
