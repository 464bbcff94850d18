// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// While another table drops packets to a published port, the status, the events and the metrics say so.
func TestDaemonFinds(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartFar, Forwarding: true})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	s := newTestbed(t, top.Host)
	s.serve(t, "--doctor-interval", "1s")
	events := s.follow(t)
	s.succeed(t, "add tcp 8080 172.30.0.2:80")
	found := func() bool {
		return strings.Contains(strings.Join(s.status(t).Findings, "\n"), "table inet corpwall")
	}
	told := func(prefix string) (n int) {
		for _, ev := range events() {
			if strings.HasPrefix(ev.Message, prefix) && strings.Contains(ev.Message, "table inet corpwall") {
				n++
			}
		}
		return n
	}
	load(t, top.Host, "table inet corpwall { chain passing { type filter hook forward priority 0; policy drop; }; }")
	s.succeed(t, "add tcp 8081 172.30.0.2:80") // it looks sooner after a change
	await(t, "the finding", found)
	await(t, "the event", func() bool { return told("found: ") == 1 })
	require.Contains(t, s.succeed(t, "status"), "table inet corpwall")
	require.NotZero(t, s.metric(t, `nftnat_findings{severity="stops"}`))

	load(t, top.Host, "delete table inet corpwall")
	s.succeed(t, "rm tcp 8081")
	await(t, "the finding to go", func() bool { return !found() })
	await(t, "the event", func() bool { return told("gone: ") == 1 })
	require.Equal(t, 1, told("found: "))
}
