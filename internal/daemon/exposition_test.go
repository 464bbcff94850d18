// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/nat"
)

// read has Prometheus' own parser read metrics.
func read(t *testing.T, e exposition) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(e.text)))
	require.NoError(t, err, string(e.text))
	for name, f := range families {
		require.NotEmpty(t, f.GetHelp(), name)
		require.NotEqual(t, dto.MetricType_UNTYPED, f.GetType(), name)
		require.Equal(t, f.GetType() == dto.MetricType_COUNTER, strings.HasSuffix(name, "_total"), name)
	}
	return families
}

func TestExposition(t *testing.T) {
	var e exposition
	e.metric("a", gauge, "One figure.", 1.5)
	e.family("b_total", counter, "Two figures.")
	e.sample("b_total", `x="1",y="2"`, 1<<60)
	e.sample("b_total", `x="2",y="1"`, 0)
	require.Equal(t, `# HELP a One figure.
# TYPE a gauge
a 1.5
# HELP b_total Two figures.
# TYPE b_total counter
b_total{x="1",y="2"} 1.152921504606847e+18
b_total{x="2",y="1"} 0
`, string(e.text))
	require.Len(t, read(t, e)["b_total"].GetMetric(), 2)
}

func TestMetricsOfTheEngine(t *testing.T) {
	var e exposition
	n := api.MappingCounts{TCP: api.FamilyCounts{IPv4: 1, IPv6: 2}, UDP: api.FamilyCounts{IPv4: 3, IPv6: 4}}
	writeMappings(&e, n, engine.Status{})
	writeTable(&e, engine.Status{Owned: true, Failures: engine.Failures{Changes: 1, Repairs: 2, Sockets: 3}})
	writeForwarding(&e, engine.Status{Forwarding4: engine.ForwardingOn, Forwarding6: engine.ForwardingPartly})
	writeProxies(&e, engine.Status{Proxies: 5, Absent: 6})
	writeHost(&e, engine.Status{Events: engine.EventCounts{Host: 7}, Warnings: []string{"a", "b"}})
	families := read(t, e)
	counts := map[string]float64{}
	for _, m := range families["nftnat_mappings"].GetMetric() {
		counts[m.GetLabel()[1].GetValue()+" "+m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
	}
	require.Equal(t, map[string]float64{"tcp ipv4": 1, "tcp ipv6": 2, "udp ipv4": 3, "udp ipv6": 4}, counts)
	require.InDelta(t, 1, families["nftnat_table_owned"].GetMetric()[0].GetGauge().GetValue(), 0)
	states := map[string]float64{}
	for _, m := range families["nftnat_forwarding"].GetMetric() {
		states[m.GetLabel()[0].GetValue()+" "+m.GetLabel()[1].GetValue()] = m.GetGauge().GetValue()
	}
	require.Equal(t, map[string]float64{
		"ipv4 on": 1, "ipv4 off": 0, "ipv4 partly": 0, "ipv6 on": 0, "ipv6 off": 0, "ipv6 partly": 1,
	}, states)
	require.InDelta(t, 2, families["nftnat_table_failures_total"].GetMetric()[1].GetCounter().GetValue(), 0)
	require.InDelta(t, 6, families["nftnat_mappings_without_address"].GetMetric()[0].GetGauge().GetValue(), 0)
	require.InDelta(t, 7, families["nftnat_host_events_total"].GetMetric()[0].GetCounter().GetValue(), 0)
	require.InDelta(t, 2, families["nftnat_warnings"].GetMetric()[0].GetGauge().GetValue(), 0)
	require.InDelta(t, 5, families["nftnat_proxies"].GetMetric()[0].GetGauge().GetValue(), 0)
}

func TestMetricsOfTheProcess(t *testing.T) {
	var e exposition
	started := time.Now()
	writeRuntime(&e)
	writeProcess(&e, started)
	families := read(t, e)
	value := func(name string) float64 {
		require.Contains(t, families, name)
		m := families[name].GetMetric()[0]
		return m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	require.Equal(t, runtime.Version(), families["go_info"].GetMetric()[0].GetLabel()[0].GetValue())
	require.NotZero(t, value("go_goroutines"))
	require.NotZero(t, value("go_threads"))
	require.NotZero(t, value("go_memstats_alloc_bytes"))
	require.Positive(t, value("process_cpu_seconds_total"))
	require.GreaterOrEqual(t, value("process_max_fds"), value("process_open_fds"))
	require.Greater(t, value("process_virtual_memory_bytes"), value("process_resident_memory_bytes"))
	require.Greater(t, value("process_resident_memory_bytes"), float64(1<<20))
	require.InDelta(t, float64(started.UnixNano())/1e9, value("process_start_time_seconds"), 1e-3)
}

// What Linux says for itself is what is found by counting.
func TestOpenFiles(t *testing.T) {
	before, err := openFiles()
	require.NoError(t, err)
	f, err := os.Open(os.DevNull)
	require.NoError(t, err)
	after, err := openFiles()
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.Equal(t, before+1, after)
	names, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	require.Equal(t, before, len(names)-1)
}

// Names of mappings are from outside: whatever they hold, they are one label.
func TestLabels(t *testing.T) {
	const name = `a\\"b`
	var e exposition
	e.family("a", gauge, "One figure.")
	e.sample("a", labels("name", name, "other", "line\nbreak"), 1)
	m := read(t, e)["a"].GetMetric()[0]
	require.Equal(t, name, m.GetLabel()[0].GetValue())
	require.Equal(t, "line\nbreak", m.GetLabel()[1].GetValue())
	require.Empty(t, labels())
}

// However many mappings have connections, only so many are listed, and none are lost.
func TestMetricsOfConnections(t *testing.T) {
	var all []nat.Connections
	for i := range 100 {
		all = append(all, nat.Connections{Mapping: mapped(t, "web", fmt.Sprintf("%d->172.17.0.2:80", i+1)), Translated: i, Proxied: 1})
	}
	var e exposition
	writeConnections(&e, all, 10)
	families := read(t, e)
	listed := families["nftnat_mapping_connections"].GetMetric()
	require.Len(t, listed, 2*10)
	sum := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			sum += m.GetGauge().GetValue()
		}
	}
	require.InDelta(t, 99*100/2+100, sum, 0)
	first := map[string]string{}
	for _, l := range listed[0].GetLabel() {
		first[l.GetName()] = l.GetValue()
	}
	require.Equal(t, map[string]string{"proto": "tcp", "frontend": "100", "name": "web", "via": "netfilter"}, first)

	var none exposition
	writeConnections(&none, nil, 10)
	read(t, none)
}
