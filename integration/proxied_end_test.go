// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// When a port is unpublished (rm, its time-out, or a replacement without a proxy), it is free
// at once, and its TCP connections go on, by netfilter or by a proxy. UDP follows the mapping.
// Connections that go on are counted, and rm --kill ends them.
func TestProxiedConnectionsGoOn(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "backend", ":80")
	labtest.EchoUDP(t, top.Backend1, "backend", ":80")
	s := newTestbed(t, top.Host)
	s.loopback = "proxy"
	s.serve(t)
	connect := func() []*flow {
		flows := []*flow{
			dialFlow(t, top.Host, "tcp", "127.0.0.1:8080"), dialFlow(t, top.Host, "tcp", "[::1]:8080"),
			dialFlow(t, top.Client, "tcp", "192.0.2.1:8080"),
		}
		for _, f := range flows {
			require.Equal(t, "backend", f.name(t))
		}
		return flows
	}
	var live []*flow
	for _, how := range []struct{ add, end string }{
		{"add --quiet tcp 8080 172.30.0.2:80", "rm tcp 8080"},
		{"add --quiet tcp 8080 172.30.0.2:80 --ttl " + labtest.Stretch(2*time.Second).String(), ""},
		{"add --quiet tcp 8080 172.30.0.2:80", "add --quiet --replace --no-proxy tcp 8080 172.30.0.2:80"},
	} {
		s.succeed(t, how.add)
		live = append(live, connect()...)
		if how.end != "" {
			s.succeed(t, how.end)
		} else {
			await(t, "the end of the mapping", func() bool { return s.status(t).Proxies == 0 })
		}
		for _, address := range []string{"127.0.0.1:8080", "[::1]:8080"} {
			require.ErrorIs(t, labtest.NoAnswer(t, top.Host, "tcp", address), unix.ECONNREFUSED)
		}
		for _, f := range live {
			goesOn(t, f)
		}
		require.Equal(t, api.FlowCounts{TCP: len(live) / 3 * 2}, s.status(t).Flows)
		require.Zero(t, s.status(t).Proxies)
	}
	s.succeed(t, "rm tcp 8080")
	holder, err := occupy(top.Host, "tcp", ":8080", unix.SO_REUSEADDR)
	require.NoError(t, err)
	require.NoError(t, holder.Close())

	// A takeover, and the end of the new daemon, do not affect them.
	s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80")
	killed := connect()
	s.succeed(t, "rm --kill tcp 8080")
	for _, f := range killed {
		require.ErrorIs(t, f.refused(t), unix.ECONNRESET)
	}
	for i, f := range live {
		if i%3 != 2 { // netfilter's were connections to this port as well
			goesOn(t, f)
			require.NoError(t, f.conn.Close())
		}
	}
	await(t, "all proxied connections to be gone", func() bool { return s.status(t).Flows.TCP == 0 })

	s.succeed(t, "add --quiet udp 8080 172.30.0.2:80")
	datagrams := dialFlow(t, top.Host, "udp", "127.0.0.1:8080")
	require.Equal(t, "backend", datagrams.name(t))
	s.succeed(t, "rm udp 8080")
	require.ErrorIs(t, datagrams.refused(t), unix.ECONNREFUSED)
	require.Equal(t, api.FlowCounts{}, s.status(t).Flows)
}

// A daemon that is told to end also waits for connections to unpublished ports.
func TestProxiedConnectionsEndWithTheDaemon(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "backend", ":80")
	s := newTestbed(t, top.Host)
	s.loopback = "proxy"
	p := s.serve(t)
	s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80")
	f := dialFlow(t, top.Host, "tcp", "127.0.0.1:8080")
	require.Equal(t, "backend", f.name(t))
	s.succeed(t, "rm tcp 8080")
	require.NoError(t, p.Signal(unix.SIGTERM))
	await(t, "the daemon to have left its socket", func() bool {
		_, err := os.Stat(s.socket)
		return errors.Is(err, os.ErrNotExist)
	})
	goesOn(t, f)
	require.NoError(t, f.conn.Close())
	require.Zero(t, p.Wait(), p.Output())
}
