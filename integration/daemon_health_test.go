// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/buildinfo"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// A daemon is healthy from its start to its end, on the socket and over TCP.
func TestDaemonHealth(t *testing.T) {
	top := newTopology(t, lab.Options{})
	s := newTestbed(t, top.Host)
	p := s.serve(t, "--metrics", "127.0.0.1:9100")
	overTCP := func() string {
		return labtest.Exec(t, top.Host, "curl", "--silent", "--show-error", "--fail", "--max-time", "10", "http://127.0.0.1:9100/healthz")
	}
	require.NoError(t, s.api.Health(t.Context()), "without a table")
	require.Equal(t, "ok\n", overTCP())
	s.succeed(t, "add tcp 8080 172.30.0.2:80")
	require.NoError(t, s.api.Health(t.Context()))
	require.Equal(t, "ok\n", overTCP())
	require.NoError(t, p.Signal(syscall.SIGTERM))
	require.Zero(t, p.Wait(), p.Output())
	require.ErrorIs(t, s.api.Health(t.Context()), api.ErrNoServer)
}

// The metrics describe the program, forwarding, changes and, on request, the connections of
// mappings.
func TestDaemonMetrics(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	s := newTestbed(t, top.Host)
	s.loopback = "proxy" // which is what it is about
	s.serve(t, "--metrics", "127.0.0.1:9100", "--metrics-mappings", "1")
	s.succeed(t, "add tcp 8080 172.30.0.2:80 --name web")
	s.succeed(t, "add tcp 8081 172.30.0.2:80")
	require.Equal(t, 3, s.run(t, "add tcp 8080 172.30.0.9:80").Code)
	for range 3 {
		require.Equal(t, "web", dialFlow(t, top.Client, "tcp", "192.0.2.1:8080").name(t))
	}
	for _, address := range []string{"127.0.0.1:8080", "127.0.0.1:8081"} {
		require.Equal(t, "web", dialFlow(t, top.Host, "tcp", address).name(t))
	}
	metrics := labtest.Exec(t, top.Host, "curl", "--silent", "--show-error", "--fail", "--max-time", "10", "http://127.0.0.1:9100/metrics")
	for _, want := range []string{
		`nftnat_build_info{version="` + buildinfo.Version + `",`,
		`nftnat_forwarding{family="ipv4",state="on"} 1`, `nftnat_forwarding{family="ipv4",state="off"} 0`,
		`nftnat_changes_total{operation="publish"} 2`, `nftnat_changes_refused_total{operation="publish",reason="conflict"} 1`,
		`nftnat_changes_refused_total{operation="attach",reason="internal"} 0`, `nftnat_mapping_events_total{event="published"} 2`,
		`nftnat_table_failures_total{operation="change"} 0`,
		`nftnat_mapping_connections{proto="tcp",frontend="8080",name="web",via="netfilter"} 3`,
		`nftnat_mapping_connections{proto="tcp",frontend="8080",name="web",via="proxy"} 1`,
		`nftnat_other_connections{via="netfilter"} 0`, `nftnat_other_connections{via="proxy"} 1`,
	} {
		require.Contains(t, metrics, "\n"+want)
	}
}
