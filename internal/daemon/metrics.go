// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"cmp"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/buildinfo"
	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/nat"
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
		writeHost(&e, st)
		s.findings.writeMetrics(r.Context(), &e)
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

// writeHost writes how the host is followed.
func writeHost(e *exposition, st engine.Status) {
	e.metric("nftnat_host_events_total", counter, "Changes of the host that the daemon has followed, as events tell.", float64(st.Events.Host))
	e.metric("nftnat_host_looks_total", counter, "Times that the daemon has looked at the host, because something had changed on it.", float64(st.Looks))
	e.metric("nftnat_warnings", gauge, "What keeps published ports from working, as the status says.", float64(len(st.Warnings)))
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
	e.family("nftnat_loopback", gauge, "How clients on loopback addresses are served.")
	for _, way := range []engine.Loopback{engine.LoopbackBPF, engine.LoopbackProxy} {
		e.sample("nftnat_loopback", labels("by", way.String()), oneIf(st.Loopback == way))
	}
	e.metric("nftnat_mappings_without_proxy", gauge, "Mappings whose port is held by another process.", float64(st.Unserved))
	e.metric("nftnat_mappings_without_address", gauge, "Mappings whose frontend's address is not one of this host's.", float64(st.Absent))
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
func writeConnections(e *exposition, all []nat.Connections, most int) {
	byCount := slices.Clone(all)
	order.Sort(byCount, func(a, b nat.Connections) int { return cmp.Compare(live(b), live(a)) })
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

func live(c nat.Connections) int64 { return int64(c.Translated) + c.Proxied }

// expositionType is the content type of the format, without which Prometheus 3 does not
// read it.
const expositionType = "text/plain; version=0.0.4; charset=utf-8"

// metricKind is how the figures of a metric are to be read.
type metricKind string

const (
	gauge   metricKind = "gauge"   // it rises and falls
	counter metricKind = "counter" // it only rises, until the process ends
	summary metricKind = "summary" // a count and a sum of what was observed
)

// exposition is metrics in Prometheus' text format, version 0.0.4
// (https://prometheus.io/docs/instrumenting/exposition_formats/). Names, help and labels
// are taken as they are: labels that come from outside are made by [labels].
type exposition struct{ text []byte }

// family begins a metric, whose samples follow.
func (e *exposition) family(name string, kind metricKind, help string) {
	e.text = fmt.Appendf(e.text, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// sample adds a figure, with labels as they are between the braces; empty: it has none.
func (e *exposition) sample(name, labels string, figure float64) {
	e.text = append(e.text, name...)
	if labels != "" {
		e.text = append(append(append(e.text, '{'), labels...), '}')
	}
	e.text = append(strconv.AppendFloat(append(e.text, ' '), figure, 'g', -1, 64), '\n')
}

// metric adds a metric that is one figure.
func (e *exposition) metric(name string, kind metricKind, help string, figure float64) {
	e.family(name, kind, help)
	e.sample(name, "", figure)
}

// labels returns names and values in turn as they stand between the braces of a sample,
// values escaped.
func labels(pairs ...string) string {
	var b strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(pairs[i] + `="`)
		_, _ = labelEscaper().WriteString(&b, pairs[i+1]) // a Builder takes all
		b.WriteByte('"')
	}
	return b.String()
}

func labelEscaper() *strings.Replacer {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
}

// writeRuntime writes figures of Go's runtime, by the names that Prometheus' own library for Go
// gives them.
func writeRuntime(e *exposition) {
	e.family("go_info", gauge, "The version of Go that the program is built with.")
	e.sample("go_info", fmt.Sprintf("version=%q", runtime.Version()), 1)
	e.metric("go_goroutines", gauge, "Goroutines that exist.", float64(runtime.NumGoroutine()))
	threads, _ := runtime.ThreadCreateProfile(nil)
	e.metric("go_threads", gauge, "Threads that have been started.", float64(threads))
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	e.family("go_gc_duration_seconds", summary, "Pauses of the program by garbage collections.")
	e.sample("go_gc_duration_seconds_sum", "", time.Duration(m.PauseTotalNs).Seconds())
	e.sample("go_gc_duration_seconds_count", "", float64(m.NumGC))
	e.metric("go_memstats_alloc_bytes", gauge, "Bytes on the heap, in use or not collected yet.", float64(m.Alloc))
	e.metric("go_memstats_alloc_bytes_total", counter, "Bytes that have been allocated on the heap.", float64(m.TotalAlloc))
	e.metric("go_memstats_mallocs_total", counter, "Objects that have been allocated on the heap.", float64(m.Mallocs))
	e.metric("go_memstats_frees_total", counter, "Objects that have been freed on the heap.", float64(m.Frees))
	e.metric("go_memstats_heap_objects", gauge, "Objects on the heap.", float64(m.HeapObjects))
	e.metric("go_memstats_heap_inuse_bytes", gauge, "Bytes of the heap's spans that hold objects.", float64(m.HeapInuse))
	e.metric("go_memstats_heap_idle_bytes", gauge, "Bytes of the heap's spans that hold none.", float64(m.HeapIdle))
	e.metric("go_memstats_heap_released_bytes", gauge, "Bytes of these that the system has back.", float64(m.HeapReleased))
	e.metric("go_memstats_stack_inuse_bytes", gauge, "Bytes of spans that hold stacks.", float64(m.StackInuse))
	e.metric("go_memstats_sys_bytes", gauge, "Bytes that the runtime has of the system.", float64(m.Sys))
	e.metric("go_memstats_next_gc_bytes", gauge, "Size of the heap at which the next collection begins.", float64(m.NextGC))
	e.metric("go_memstats_last_gc_time_seconds", gauge, "When the last collection ended, in seconds since 1970.", float64(m.LastGC)/1e9)
}

// writeProcess writes the figures of any process
// (https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics), as far as the
// kernel has them.
func writeProcess(e *exposition, started time.Time) {
	var used unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &used) == nil {
		e.metric("process_cpu_seconds_total", counter, "Processor time, of user and system.", time.Duration(used.Nano()).Seconds())
	}
	if n, err := openFiles(); err == nil {
		e.metric("process_open_fds", gauge, "Open file descriptors.", float64(n))
	}
	if n, err := mostFiles(); err == nil {
		e.metric("process_max_fds", gauge, "Most file descriptors that may be open.", float64(n))
	}
	if virtual, resident, err := memory(); err == nil {
		e.metric("process_virtual_memory_bytes", gauge, "Size of virtual memory.", float64(virtual))
		e.metric("process_resident_memory_bytes", gauge, "Size of resident memory.", float64(resident))
	}
	e.metric("process_start_time_seconds", gauge, "When the process started, in seconds since 1970.", float64(started.UnixMilli())/1e3)
}

// openFiles counts the descriptors. A daemon may have a hundred thousand of them; since Linux 6.2
// their number is the size of the directory, and their names need not be read.
func openFiles() (int, error) {
	info, err := os.Stat("/proc/self/fd")
	if err != nil {
		return 0, err
	}
	if n := info.Size(); n > 0 {
		return int(n), nil
	}
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0, err
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	return len(names) - 1, err // without dir
}

// mostFiles is the limit that is in force. It is read from a file because a confined daemon may
// not call prlimit.
func mostFiles() (n uint64, err error) {
	limits, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(limits), "\nMax open files ")
	_, err = fmt.Sscan(after, &n)
	return n, err
}

// memory is the size of the process, and how much of it is resident, in bytes
// (proc_pid_statm(5)).
func memory() (virtual, resident int, err error) {
	pages, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscan(string(pages), &virtual, &resident)
	return virtual * os.Getpagesize(), resident * os.Getpagesize(), err
}
