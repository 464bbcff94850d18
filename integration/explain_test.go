// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/explain/report"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// clientAddress is that of the topology's client.
const clientAddress = "192.0.2.2"

// explained is how explain ends for a command line, with its document.
func (m mode) explained(t *testing.T, line string, code int) api.Explanation {
	t.Helper()
	text := m.ask(t, "", append([]string{"explain"}, strings.Fields(line)...)...)
	require.Equal(t, code, text.Code, "explain %s: %s%s", line, text.Stdout, text.Stderr)
	require.Empty(t, text.Stderr)
	require.NotEmpty(t, text.Stdout)
	require.LessOrEqual(t, strings.Count(text.Stdout, "\n"), 40)
	r := m.ask(t, "", append([]string{"explain", "--json"}, strings.Fields(line)...)...)
	require.Equal(t, code, r.Code)
	var doc api.Explanation
	decoder := json.NewDecoder(strings.NewReader(r.Stdout))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&doc), r.Stdout)
	require.Contains(t, map[string]int{"passes": 0, "stopped": 1, "uncertain": 1, "not-published": 4}, doc.Verdict)
	require.Equal(t, code, map[string]int{"passes": 0, "stopped": 1, "uncertain": 1, "not-published": 4}[doc.Verdict])
	return doc
}

// requireBPF skips a test in a user namespace, where nobody may ask which programs of eBPF are attached
// to an interface, so that it cannot be known whether they stop a packet.
func requireBPF(t *testing.T) {
	t.Helper()
	requireUsers(t)
}

// corpwall drops what is forwarded.
const corpwall = `table inet corpwall {
	chain passing { type filter hook forward priority filter; policy drop; ct state established,related accept; }
}`

// explain names what stops a packet, and exits with its verdict. It changes nothing and starts no
// daemon.
func TestExplain(t *testing.T) {
	requireBPF(t)
	inEachMode(t, lab.PartBackend1, func(t *testing.T, top *lab.Topology, m mode) {
		t.Helper()
		labtest.EchoTCP(t, top.Backend1, "backend", ":80")
		before := takeSnapshot(t, top.Host)
		doc := m.explained(t, "tcp 8080", 4)
		require.Empty(t, doc.Near)
		require.Equal(t, before, takeSnapshot(t, top.Host), "nothing was made or started")

		m.do(t, "add tcp 8080 172.30.0.2:80 --name web")
		m.do(t, "add udp 53 172.30.0.2:53")
		doc = m.explained(t, "tcp 8080 --from "+clientAddress, 0)
		require.Equal(t, "netfilter", doc.Path)
		require.Equal(t, clientAddress, doc.Source)
		require.Equal(t, "web", doc.Mapping.Name)
		require.NotEmpty(t, doc.Steps)
		require.Nil(t, doc.Cause)

		doc = m.explained(t, "tcp 53", 4)
		require.Len(t, doc.Near, 1)
		require.Equal(t, "over udp", doc.Near[0].Why)
		require.Equal(t, "udp", doc.Near[0].Mapping.Proto)

		load(t, top.Host, corpwall)
		before = takeSnapshot(t, top.Host)
		doc = m.explained(t, "tcp 8080 --from "+clientAddress, 1)
		require.Equal(t, "stopped", doc.Verdict)
		require.Equal(t, report.KindPolicy, doc.Cause.Kind)
		require.Contains(t, doc.Cause.Thing, "corpwall")
		require.NotEmpty(t, doc.Cause.Remedy)
		requireOnPage(t, "nftnat explain tcp 8080 --from "+clientAddress, m.ask(t, "", "explain", "tcp", "8080", "--from", clientAddress).Stdout)
		require.Equal(t, before, takeSnapshot(t, top.Host), "nothing was changed")
	})
}

// requireOnPage requires that docs/commands.md has what a command has printed. With -update it gets it.
func requireOnPage(t *testing.T, command, printed string) {
	t.Helper()
	const page = "../docs/commands.md"
	blocks := docBlocks(t, "docs/commands.md")
	i := slices.IndexFunc(blocks, func(b docBlock) bool { return b.runBy == "TestExplain" })
	require.GreaterOrEqual(t, i, 0)
	want := "$ sudo " + command + "\n" + printed
	if *update {
		text := strings.Replace(textOf(t, page), blocks[i].text, want, 1)
		require.NoError(t, os.WriteFile(page, []byte(text), 0o644))
		return
	}
	require.Equal(t, want, blocks[i].text, "go test ./integration -run TestExplain -update writes it")
}

// A user without privilege is answered by the daemon, if one runs and lets him; otherwise it is
// said what is missing.
func TestExplainWithoutPrivilege(t *testing.T) {
	requireUsers(t)
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, Forwarding: true})
	labtest.EchoTCP(t, top.Backend1, "backend", ":80")
	s := newTestbed(t, top.Host)
	s.in(t)
	const group = 4242
	prepare := programForAll(t)
	ask := func(gid uint32, args ...string) labtest.Result {
		args = append([]string{"--socket", s.socket, "explain", "tcp", "8080", "--from", clientAddress}, args...)
		return labtest.Run(t, top.Host, prepare(gid, args...))
	}
	r := ask(group)
	require.Equal(t, 5, r.Code, r.Stderr)
	require.Contains(t, r.Stderr, "nftnat: find tcp 8080: list table inet nftnat: operation not permitted (run it as root, or give it CAP_NET_ADMIN)\n")
	require.Empty(t, daemons(t, filepath.Dir(s.socket)), "none was started")

	s.serve(t, "--group", "4242")
	s.succeed(t, "add tcp 8080 172.30.0.2:80")
	r = ask(group)
	require.Zero(t, r.Code, r.Stdout+r.Stderr)
	r = ask(group, "--direct")
	require.Equal(t, 5, r.Code, r.Stderr)
	r = ask(4343)
	require.Equal(t, 5, r.Code, r.Stderr)
	require.Contains(t, r.Stderr, "or as a member of the group 4242")
	load(t, top.Host, corpwall)
	r = ask(group)
	require.Equal(t, 1, r.Code, r.Stderr)
	require.Contains(t, r.Stdout, "corpwall")
}

// With --socket, it is explained where that daemon is, and in its table.
func TestExplainByDaemonOfAnotherNamespace(t *testing.T) {
	requireBPF(t)
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, Forwarding: true})
	labtest.EchoTCP(t, top.Backend1, "backend", ":80")
	s := newTestbed(t, top.Host)
	s.serve(t, "--table", "other")
	s.succeed(t, "add tcp 8080 172.30.0.2:80")
	elsewhere := &testbed{ns: top.Client, socket: s.socket, args: s.args}
	line := "explain tcp 8080 --from " + clientAddress
	require.Zero(t, elsewhere.run(t, line).Code)
	r := elsewhere.run(t, line+" --table nftnat")
	require.Equal(t, 2, r.Code, r.Stderr)
	r = elsewhere.run(t, line+" --direct")
	require.Equal(t, 4, r.Code, r.Stdout)
}

// The confined daemon explains as the command does, and refuses what is malformed.
func TestExplainByAPI(t *testing.T) {
	requireBPF(t)
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, Forwarding: true})
	labtest.EchoTCP(t, top.Backend1, "backend", ":80")
	s := newTestbed(t, top.Host)
	s.serve(t)
	s.succeed(t, "add tcp 8080 172.30.0.2:80")
	q, err := report.ParseQuery("tcp", "8080", clientAddress)
	require.NoError(t, err)
	r, err := s.api.Explain(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, report.Passes, r.Verdict, r.Text())
	require.Equal(t, report.ByNetfilter, r.Path)
	load(t, top.Host, corpwall)
	r, err = s.api.Explain(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, report.Stopped, r.Verdict, r.Text())
	require.Contains(t, r.Cause.Thing, "corpwall")
	for query, status := range map[string]int{
		"": 400, "?proto=tcp": 400, "?proto=tcp&frontend=0": 422, "?proto=tcp&frontend=8081": 404, "?proto=tcp&frontend=8080&from=x": 422,
	} {
		resp, err := s.client().Get("http://nftnat/v1/explain" + query)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, status, resp.StatusCode, query)
	}
}

// Explaining beside 60,000 mappings and 10,000 rules of others takes little more than to start the
// program: 50 ms on an idle machine, and 16 MiB.
func TestExplainCost(t *testing.T) {
	requireBPF(t)
	labtest.LongOnly(t, "5 s in which 60,000 mappings are published")
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, Forwarding: true})
	labtest.EchoTCP(t, top.Backend1, "backend", ":80")
	m := mode{ns: top.Host}
	m.do(t, "apply -f -", `{"version": 1, "mappings": ["1-30000->172.30.0.2:1-30000", "1-30000->172.30.0.2:1-30000/udp"]}`)
	var rules strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&rules, "ip saddr 10.%d.%d.0/24 tcp dport %d drop\n", i>>8, i&255, i+1)
	}
	load(t, top.Host, "table inet others {\nchain passing { type filter hook forward priority filter;\n"+rules.String()+"}\n}")
	cost := func(args ...string) (least time.Duration, memory int) {
		for i := range 10 {
			begin := time.Now()
			p := labtest.StartCmd(t, top.Host, bare(t, args...))
			for running := true; running; {
				select {
				case <-p.Done():
					running = false
				default:
					memory = max(memory, peakWhileRunning(p.Pid))
				}
			}
			took := time.Since(begin)
			require.Zero(t, p.Wait(), p.Output())
			if i == 0 || took < least {
				least = took
			}
		}
		return least, memory
	}
	idle, base := cost("version")
	took, memory := cost("--direct", "explain", "tcp", "80", "--from", clientAddress)
	t.Logf("%v and %d KiB more than version", took-idle, (memory-base)>>10)
	require.Less(t, took-idle, labtest.Stretch(150*time.Millisecond))
	require.Less(t, memory-base, 16<<20)
}
