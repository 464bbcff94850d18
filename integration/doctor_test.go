// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// doctor is what doctor finds, by its lines and by its document.
func (m mode) doctor(t *testing.T) (lines []string, doc api.Diagnosis) {
	t.Helper()
	text, r := m.ask(t, "", "doctor"), m.ask(t, "", "doctor", "--json")
	decoder := json.NewDecoder(strings.NewReader(r.Stdout))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&doc), r.Stdout+r.Stderr)
	code := 0
	if len(doc.Findings) > 0 {
		code = 1
	}
	require.Equal(t, code, text.Code, text.Stdout+text.Stderr)
	require.Equal(t, code, r.Code)
	require.Empty(t, text.Stderr)
	if text.Stdout != "" {
		lines = strings.Split(strings.TrimSuffix(text.Stdout, "\n"), "\n")
	}
	return lines, doc
}

// doctor says in one line what one cause stops, and nothing of a healthy host. It changes nothing.
func TestDoctor(t *testing.T) {
	requireBPF(t)
	inEachMode(t, lab.PartBackend1, func(t *testing.T, top *lab.Topology, m mode) {
		t.Helper()
		labtest.EchoTCP(t, top.Backend1, "backend", ":80")
		m.do(t, "add tcp 8080 172.30.0.2:80")
		m.do(t, "add tcp 9000-9009 172.30.0.2:9000-9009")
		m.do(t, "rm tcp 9000-9009")
		m.do(t, "add tcp 8081 172.30.0.2:80")
		lines, doc := m.doctor(t)
		require.Empty(t, lines)
		require.Equal(t, 2, doc.Mappings)
		before := takeSnapshot(t, top.Host)
		m.doctor(t)
		require.Equal(t, before, takeSnapshot(t, top.Host), "nothing was changed")

		load(t, top.Host, corpwall)
		lines, doc = m.doctor(t)
		require.Len(t, lines, 1)
		require.Regexp(t, `^tcp 8080 \(and 1 more\): stopped: table inet corpwall, chain passing .*policy drop.*; remedy: nft `, lines[0])
		require.Equal(t, 2, doc.Findings[0].Count)
		labtest.Exec(t, top.Host, "nft", "delete", "table", "inet", "corpwall")

		m.do(t, "add tcp 8082 172.30.0.2:81")
		lines, _ = m.doctor(t)
		require.Len(t, lines, 1)
		require.Regexp(t, `^tcp 8082: stopped: backend 172.30.0.2:81: nothing listens on it`, lines[0])
		m.do(t, "rm tcp 8082")
		lines, _ = m.doctor(t)
		require.Empty(t, lines)
	})
}

// The confined daemon finds the same.
func TestDoctorByAPI(t *testing.T) {
	requireBPF(t)
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, Forwarding: true})
	labtest.EchoTCP(t, top.Backend1, "backend", ":80")
	s := newTestbed(t, top.Host)
	s.serve(t)
	s.succeed(t, "add tcp 8080 172.30.0.2:80")
	d, err := s.api.Doctor(t.Context())
	require.NoError(t, err)
	// To list programs at hooks of netfilter needs CAP_SYS_ADMIN, which a confined daemon has not.
	require.Equal(t, report.Diagnosis{Mappings: 1, Unread: []string{"list programs of netfilter: operation not permitted"}}, d)
	load(t, top.Host, corpwall)
	d, err = s.api.Doctor(t.Context())
	require.NoError(t, err)
	require.Len(t, d.Findings, 1)
	require.Contains(t, d.Findings[0].String(), "corpwall")
}

// One look at 60,000 mappings beside 10,000 rules of others takes less than 5 s on an idle machine.
func TestDoctorCost(t *testing.T) {
	requireBPF(t)
	labtest.LongOnly(t, "10 s in which 60,000 mappings are published")
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, Forwarding: true})
	m := mode{ns: top.Host}
	m.do(t, "apply -f -", `{"version": 1, "mappings": ["1-30000->172.30.0.2:2-30001", "1-30000->172.30.0.2:2-30001/udp"]}`)
	labtest.ExecInput(t, top.Host, foreignRules(10_000), "nft", "-f", "-")
	load(t, top.Host, corpwall)
	begin := time.Now()
	r := m.ask(t, "", "doctor")
	require.Less(t, time.Since(begin), 10*time.Second)
	require.Equal(t, 1, r.Code)
	first, rest, _ := strings.Cut(r.Stdout, "\n")
	require.Contains(t, first, "(and 59999 more): stopped: table inet corpwall")
	require.Regexp(t, "^not asked, since there are too many: [0-9]+ backends\n$", rest)
}
