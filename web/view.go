// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package web

import (
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/nat"
)

// facts are what was read of the daemon and the gateway.
type facts struct {
	read   time.Time // when the daemon answered last; zero: never
	failed string    // why it does not answer; empty: it does
	status api.Status
	// mappings are in the order of nat.Compare, ranges as one.
	mappings []nat.Mapping
	ids      []string // of the rows
	// flows are the connections of each mapping, by its index, and hits how many it has had.
	flows []int
	hits  []uint64
	total sample
	// diagnosis is what the doctor has found at a time; zero: it has not been asked.
	diagnosis report.Diagnosis
	diagnosed time.Time
	// gateway has the leases; nil: none answers, and absent says why if there is one.
	gateway *api.Gateway
	absent  string
	history history
}

// view is facts as they are shown. It does not change.
type view struct {
	facts
	version uint64
	rows    []row
	parts   []part

	once       sync.Once
	html, json []byte
}

// row is a mapping in the table.
type row struct {
	id    string // of the element: protocol and frontend
	m     nat.Mapping
	flows int
	hits  uint64
	state string // what is wrong with it; empty: nothing that is known
}

// part is a part of the page that is replaced as a whole.
type part struct{ id, html string }

func rowID(m nat.Mapping) string { return m.Proto.String() + "/" + m.FrontendText() }

// newView makes the rows and parts of facts.
func newView(f facts, version uint64) *view {
	v := &view{facts: f, version: version, rows: make([]row, len(f.mappings))}
	for i, m := range f.mappings {
		v.rows[i] = row{id: f.ids[i], m: m, flows: f.flows[i], hits: f.hits[i]}
	}
	v.markRows()
	for _, p := range []struct {
		id    string
		write func(*writer, *view)
	}{
		{"sum", (*writer).summary}, {"wrong", (*writer).wrong}, {"plot", func(w *writer, v *view) { w.plot(v.history.samples(), v.total) }},
		{"count", (*writer).portCount}, {"gateway", (*writer).gateway},
	} {
		var w writer
		p.write(&w, v)
		v.parts = append(v.parts, part{p.id, string(w.b)})
	}
	return v
}

// part returns the markup of a part.
func (v *view) part(id string) string {
	for _, p := range v.parts {
		if p.id == id {
			return p.html
		}
	}
	return ""
}

// markRows says in the rows what the findings say of their mappings. A finding names only the first
// few.
func (v *view) markRows() {
	type port struct {
		proto nat.Proto
		addr  netip.AddrPort
	}
	var single map[port]int
	var ranges []int
	for _, f := range v.diagnosis.Findings {
		if len(f.Mappings) != 0 && single == nil {
			single = make(map[port]int, len(v.rows))
			for i, r := range v.rows {
				if r.m.More != 0 {
					ranges = append(ranges, i)
				}
				single[port{r.m.Proto, r.m.Frontend}] = i
			}
		}
		for _, m := range f.Mappings {
			i, ok := single[port{m.Proto, m.Frontend}]
			for _, r := range ranges {
				x := v.rows[r].m
				if first, p := x.Frontend.Port(), m.Frontend.Port(); x.Proto == m.Proto && x.Frontend.Addr() == m.Frontend.Addr() &&
					first <= p && int(p) <= int(first)+int(x.More) {
					i, ok = r, true
				}
			}
			if ok && v.rows[i].state == "" { // the worst is first
				v.rows[i].state = stateText(f.Severity)
			}
		}
	}
}

func stateText(s report.Severity) string {
	switch s {
	case report.Stops:
		return "stopped"
	case report.MayStop:
		return "may be stopped"
	case report.Notable:
	}
	return ""
}

// counts sums the connections of mappings, which are of single ports, and counts what is new.
type counts struct{ seen map[string]seen }

// seen is what was counted for a mapping.
type seen struct {
	backend    netip.AddrPort
	translated int
	proxied    uint64
	hits       uint64
}

// add returns the connections of mappings, of which both lists are in the order of nat.Compare, and
// how many connections each has had at least since the page's process saw it first. What proxies have
// carried is counted by the daemon. Of flows that netfilter translates only their number is known at
// moments, so that what ends between two moments hides what begins.
func (c *counts) add(ids []string, ms []nat.Mapping, conns []nat.Connections) (flows []int, hits []uint64, total sample) {
	flows, hits = make([]int, len(ms)), make([]uint64, len(ms))
	next := make(map[string]seen, len(conns))
	i := 0
	for j, m := range ms {
		translated, live, ever := 0, int64(0), uint64(0)
		for i < len(conns) && precedes(conns[i].Mapping, m) {
			i++
		}
		for ; i < len(conns) && within(conns[i].Mapping, m); i++ {
			translated += conns[i].Translated
			live += conns[i].Proxied
			ever += conns[i].ProxiedEver
		}
		id := ids[j]
		s, known := c.seen[id]
		if !known && translated == 0 && ever == 0 {
			continue
		}
		if s.backend != m.Backend {
			s = seen{backend: m.Backend}
		}
		if translated > s.translated {
			s.hits += uint64(translated - s.translated)
		}
		if ever < s.proxied { // of another daemon
			s.proxied = 0
		}
		s.hits += ever - s.proxied
		s.translated, s.proxied = translated, ever
		next[id] = s
		flows[j], hits[j] = translated+int(live), s.hits
		if m.Proto == nat.TCP {
			total.tcp += flows[j]
		} else {
			total.udp += flows[j]
		}
	}
	c.seen = next
	return flows, hits, total
}

// precedes reports whether a single port comes before all ports of a mapping.
func precedes(port, m nat.Mapping) bool {
	if port.Proto != m.Proto {
		return port.Proto < m.Proto
	}
	if c := port.Frontend.Addr().Compare(m.Frontend.Addr()); c != 0 {
		return c < 0
	}
	return port.Frontend.Port() < m.Frontend.Port()
}

// within reports whether a single port is one of a mapping's.
func within(port, m nat.Mapping) bool {
	return port.Proto == m.Proto && port.Frontend.Addr() == m.Frontend.Addr() &&
		port.Frontend.Port() >= m.Frontend.Port() && int(port.Frontend.Port()) <= int(m.Frontend.Port())+int(m.More)
}

// title is what the page calls the host.
func title(host string) string { return strings.TrimSpace("nftnat " + host) }
