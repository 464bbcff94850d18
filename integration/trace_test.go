// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// startTrace starts "nftnat trace" in a namespace, and returns when it traces.
func startTrace(t *testing.T, s *testbed, ns *lab.NS, args ...string) *labtest.Process {
	t.Helper()
	p := labtest.StartCmd(t, ns, s.command(t, append([]string{"trace"}, args...)...))
	await(t, "the trace to begin", func() bool {
		select {
		case <-p.Done():
			t.Fatalf("it has ended: %s", p.Output())
		default:
		}
		return strings.Contains(p.Output(), "eBPF")
	})
	return p
}

// trace shows packets by netfilter, by a proxy and from another namespace, and ends by itself.
func TestTrace(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	s.serve(t, "--loopback", "proxy") // eBPF leads sockets past all rules
	s.succeed(t, "add tcp 8080 172.30.0.2:80")
	seen := func(p *labtest.Process, lines ...string) {
		t.Helper()
		await(t, strings.Join(lines, ", "), func() bool {
			return !slices.ContainsFunc(lines, func(line string) bool { return !strings.Contains(p.Output(), line) })
		})
	}

	p := startTrace(t, s, top.Host) // all that is published
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
	seen(p, "> 192.0.2.1:8080 from lan0\n", "#1   prerouting  inet nftnat publish: dnat ip to tcp dport map @tcp4\n",
		"#1 left by br0 to 172.30.0.2:80\n", "answer tcp syn,ack 172.30.0.2:80 > 192.0.2.2:", "from 192.0.2.1:8080\n")
	labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "web")
	seen(p, "delivered to this host at 127.0.0.1:8080\n")
	s.succeed(t, "add tcp 8081 172.30.0.2:80")
	await(t, "what is published later", func() bool {
		labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8081", "web")
		return strings.Contains(p.Output(), "> 192.0.2.1:8081 from lan0\n")
	})
	require.NoError(t, p.Signal(unix.SIGINT))
	require.Zero(t, p.Wait())

	// Elsewhere, in the namespace of the daemon whose socket is given; it ends by itself.
	load(t, top.Host, corpwall)
	p = startTrace(t, s, top.Client, "tcp", "192.0.2.1:8080", "--from", "192.0.2.2", "--count", "1", "--json")
	require.Error(t, labtest.NoAnswer(t, top.Client, "tcp", "192.0.2.1:8080"))
	require.Zero(t, p.Wait())
	var types []string
	var last map[string]any
	for line := range strings.Lines(p.Output()) {
		last = nil
		require.NoError(t, json.Unmarshal([]byte(line), &last), line)
		types = append(types, last["type"].(string))
	}
	require.Equal(t, []string{"begin", "note", "packet", "step"}, slices.Compact(slices.Sorted(slices.Values(types))))
	require.Equal(t, "dropped", last["fate"])
	require.Equal(t, "inet corpwall passing: policy drop", last["by"])
	r := s.run(t, "trace tcp 9 --duration 50ms")
	require.Zero(t, r.Code)
	require.Contains(t, r.Stdout, "note: it is not published\n")
}

// Clients on localhost that eBPF leads past all rules are seen as they send to the backend, as the trace says once.
func TestTraceLed(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	s.loopback = "bpf"
	for _, port := range []string{":80", ":81", ":15000"} {
		labtest.EchoTCP(t, top.Backend1, "web", port)
		labtest.EchoUDP(t, top.Backend1, "web", port)
	}
	s.serve(t)
	s.succeed(t, "add tcp 8080 172.30.0.2:80")
	s.succeed(t, "add udp 10000-19999 172.30.0.2:10000-19999")
	const note = "note: eBPF leads clients on localhost straight to the backend: "
	for _, c := range []struct {
		args           string
		network, asked string
		seen           []string
		noted          int
	}{
		{"", "tcp", "127.0.0.1:8080", []string{"> 172.30.0.2:80", "#1 left by br0 to 172.30.0.2:80\n", "answer tcp syn,ack 172.30.0.2:80 > 172.30.0.1:", "delivered to this host at 172.30.0.1:"}, 1},
		{"tcp 8080 --from 127.0.0.1", "tcp", "[::1]:8080", []string{"> 172.30.0.2:80", "answer tcp syn,ack 172.30.0.2:80"}, 1},
		{"udp 15000", "udp", "127.0.0.1:15000", []string{"> 172.30.0.2:15000", "answer udp 172.30.0.2:15000"}, 1},
		{"tcp 8080 --from 192.0.2.2", "tcp", "127.0.0.1:8080", nil, 0},
		{"tcp 192.0.2.1:8080", "tcp", "127.0.0.1:8080", nil, 0},
	} {
		p := startTrace(t, s, top.Host, strings.Fields(c.args)...)
		labtest.Reaches(t, top.Host, "tcp", "172.30.0.2:81", "web") // of nobody
		labtest.Reaches(t, top.Host, c.network, c.asked, "web")
		for _, line := range c.seen {
			await(t, c.args+": "+line, func() bool { return strings.Contains(p.Output(), line) })
		}
		if c.args == "" { // what is published later is noted with it
			s.succeed(t, "add tcp 8081 172.30.0.2:81")
			await(t, "what is published later", func() bool {
				labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8081", "web")
				return strings.Contains(p.Output(), "> 172.30.0.2:81")
			})
			s.succeed(t, "rm tcp 8081")
		} else {
			require.NotContains(t, p.Output(), "172.30.0.2:81", c.args)
		}
		require.NoError(t, p.Signal(unix.SIGINT))
		require.Zero(t, p.Wait())
		require.Equal(t, c.noted, strings.Count(p.Output(), note), "%s: %s", c.args, p.Output())
		if c.seen == nil {
			require.NotContains(t, p.Output(), "172.30.0.2", c.args)
		}
	}
}

// Of a range the packets to one port are traced alone: by the range, by what its port was given to, and to a
// port that was taken out.
func TestTraceRange(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	s.args = []string{"--direct"}
	for _, port := range []string{":80", ":15000", ":15001"} {
		labtest.EchoTCP(t, top.Backend1, "web", port)
	}
	s.succeed(t, "add tcp 10000-60000 172.30.0.2:10000-60000")
	s.succeed(t, "rm tcp 20000")
	s.succeed(t, "add tcp 30000 172.30.0.2:80 --replace")
	for _, c := range []struct {
		port    string
		answers bool
		lines   []string
	}{
		{"15000", true, []string{"dnat ip to tcp dport map @tcp4_range\n", "#1 left by br0 to 172.30.0.2:15000\n", "from 192.0.2.1:15000\n"}},
		{"20000", false, []string{"it is not published\n", "th dport @holes return\n", " this host at 192.0.2.1:20000"}},
		{"30000", true, []string{"dnat ip to tcp dport map @tcp4\n", "#1 left by br0 to 172.30.0.2:80\n"}},
	} {
		p := startTrace(t, s, top.Host, "tcp", c.port)
		labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:15001", "web") // of the same range
		if c.answers {
			labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:"+c.port, "web")
		} else {
			require.Error(t, labtest.NoAnswer(t, top.Client, "tcp", "192.0.2.1:"+c.port))
		}
		for _, line := range c.lines {
			await(t, line, func() bool { return strings.Contains(p.Output(), line) })
		}
		require.NoError(t, p.Signal(unix.SIGINT))
		require.Zero(t, p.Wait())
		require.NotContains(t, p.Output(), "15001")
	}
}

// A trace that is killed leaves nothing, and no command of it changes anything.
func TestTraceLeavesNothing(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	s.args = []string{"--direct"}
	s.succeed(t, "add tcp 8080 172.30.0.2:80")
	before := nft(t, top.Host, "list", "ruleset")
	for _, signal := range []unix.Signal{unix.SIGKILL, unix.SIGTERM} {
		p := startTrace(t, s, top.Host, "tcp", "8080")
		require.NotEqual(t, before, nft(t, top.Host, "list", "ruleset"))
		require.NoError(t, p.Signal(signal))
		p.Wait()
		require.Equal(t, before, nft(t, top.Host, "list", "ruleset"))
	}
	for line, code := range map[string]int{
		"trace tcp": 2, "trace tcp x": 2, "trace sctp 80": 2, "trace tcp 0": 2, "trace tcp 80 --from x": 2, "trace tcp 80 --from 0.0.0.0": 2, "trace tcp 192.0.2.1:80 --from ::1": 2, "trace tcp 80 --count 0": 2,
		"trace tcp 80 --duration -1s": 2, "trace tcp 80 90": 2, "trace --netns none": 2, "trace --table 1": 2,
	} {
		r := s.run(t, line)
		require.Equal(t, code, r.Code, line)
		require.Regexp(t, `^nftnat: [^\n]+\n$`, r.Stderr, line)
		require.Empty(t, r.Stdout, line)
	}
	cmd := s.command(t, "trace", "tcp", "8080")
	drop := []string{"--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs", "--"}
	r := labtest.Run(t, top.Host, command(t, "setpriv", slices.Concat(drop, cmd.Args)...))
	require.Equal(t, 5, r.Code)
	require.Regexp(t, `^nftnat: trace: add table inet nftnat-trace-[0-9]+: operation not permitted \(run it as root, or give it CAP_NET_ADMIN\)\n$`, r.Stderr)
	require.Equal(t, before, nft(t, top.Host, "list", "ruleset"))
}
