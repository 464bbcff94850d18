// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// aboutBackend is a warning that nobody is at the backend, as in most tests of the command line.
var aboutBackend = regexp.MustCompile(`(?m)^nftnat: (tcp|udp) [^\n]*stopped: (backend|neighbour|no route|interface|default via) [^\n]*\n`)

// withoutWarnings leaves out that nobody is at a backend.
func withoutWarnings(r labtest.Result) labtest.Result {
	r.Stderr = aboutBackend.ReplaceAllString(r.Stderr, "")
	return r
}

// What is wrong with a port is said when it is published, with a daemon and without. A busy machine
// may have no time for it.
func TestPublishWarns(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2 | lab.PartFar, Forwarding: true})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	daemon := newTestbed(t, top.Host)
	direct := &testbed{ns: top.Host, args: []string{"--direct", "--table", "other"}}
	daemon.serve(t, "--no-sysctl")
	shell := func(line string) {
		t.Helper()
		labtest.Exec(t, top.Host, "sh", "-c", line)
	}
	warned := func(s *testbed, args string) string {
		t.Helper()
		r := labtest.Run(t, s.ns, s.command(t, strings.Fields(args)...))
		require.Zero(t, r.Code, r.Stderr)
		require.NotContains(t, r.Stdout, "stopped")
		return r.Stderr
	}
	for _, c := range []struct{ name, inject, undo, to, says string }{
		{"refused", "true", "true", "172.30.0.2:81", "tcp 8080: stopped: backend 172.30.0.2:81: nothing listens on it"},
		{"away", "true", "true", "172.30.0.77:80", "tcp 8080: stopped: neighbour 172.30.0.77 dev "},
		{"no route", "true", "true", "10.99.0.2:80", "no route to "},
		{"default route", "ip route add default via 192.0.2.2", "ip route del default", "10.99.0.2:80", "tcp 8080: may be stopped: default via 192.0.2.2 dev "},
		{
			"dropped", "nft 'table inet corpwall { chain passing { type filter hook forward priority 0; policy drop; }; }'", "nft delete table inet corpwall", "172.30.0.2:80",
			"tcp 8080: stopped: table inet corpwall, chain passing (hook forward, priority filter): policy drop",
		},
		{
			"rival", "nft 'table ip elder { chain early { type nat hook prerouting priority dstnat - 10; tcp dport 8080 dnat to 172.30.0.3:81; }; }'", "nft delete table ip elder", "172.30.0.2:80",
			"table ip elder",
		},
		{"forwarding", "sysctl -qw net.ipv4.ip_forward=0", "sysctl -qw net.ipv4.ip_forward=1", "172.30.0.2:80", "ip_forward = 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			shell(c.inject)
			defer shell(c.undo)
			for _, s := range []*testbed{daemon, direct} {
				if s == direct && c.name == "forwarding" {
					continue // it turns it on
				}
				if s == direct { // else the daemon has the port
					daemon.run(t, "rm tcp 8080")
				}
				var said string
				await(t, "the warning: "+c.says, func() bool {
					said = warned(s, "add tcp 8080 "+c.to+" --replace")
					return strings.Contains(said, c.says)
				})
				require.Equal(t, 1, strings.Count(said, c.says), said)
				require.Empty(t, warned(s, "--quiet add tcp 8080 "+c.to))
				r := s.run(t, "--json add tcp 8080 "+c.to)
				var doc []any
				require.NoError(t, json.Unmarshal([]byte(r.Stdout), &doc), r.Stdout)
			}
			direct.run(t, "rm tcp 8080")
		})
	}
	t.Run("healthy", func(t *testing.T) {
		for _, s := range []*testbed{daemon, direct} {
			warned(s, "add tcp 8080 172.30.0.2:80 --replace") // it may turn something on
			for range 3 {
				require.Empty(t, warned(s, "add tcp 8080 172.30.0.2:80"))
			}
			s.succeed(t, "rm tcp 8080")
		}
	})
}
