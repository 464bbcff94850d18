// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/state"
)

// When the time of a mapping is over, the flows over UDP end within a second, although their
// packets go on: with a daemon, with the one that starts after it was over, and of proxies.
func TestExpiredFlows(t *testing.T) {
	for _, absent := range []bool{false, true} {
		for _, stored := range []bool{false, true} {
			name := map[bool]string{false: "daemon", true: "no daemon"}[absent] + map[bool]string{false: "", true: ", state file"}[stored]
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				testExpiredFlows(t, absent, stored)
			})
		}
	}
}

func testExpiredFlows(t *testing.T, absent, stored bool) {
	t.Helper()
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoUDP(t, top.Backend1, "web", ":53")
	options := engine.Options{NetNS: top.Host.Path(), NoOwner: true, Loopback: engine.LoopbackProxy}
	path := filepath.Join(t.TempDir(), "state.json")
	file := state.NewFile(path)
	defer func() { require.NoError(t, file.Close()) }()
	if stored {
		options.Store = file
	}
	e, stop := runProxied(t, options)
	ends := time.Now().Add(1500 * time.Millisecond)
	var flows []net.Conn
	dial := func(ns *lab.NS, addr string) {
		c, err := ns.Dial(t.Context(), "udp", addr)
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		require.NoError(t, exchangeWithin(c, answerTimeout), addr)
		flows = append(flows, c)
	}
	for _, f := range families(top) {
		for port, frontend := range map[int]netip.Addr{5301: f.wildcard, 5302: f.host} {
			m := mappings(t, toward(frontend, port, port)+"->"+at(f.backend1, 53)+"/udp")[0]
			m.Expires = ends
			_, err := e.Publish(t.Context(), nat.PublishOptions{}, m)
			require.NoError(t, err)
			dial(top.Client, at(f.host, port))
		}
	}
	dial(top.Host, at(loopback4, 5301)) // by proxies
	dial(top.Host, at(loopback6, 5301))
	if absent {
		stop()
	}
	for time.Now().Before(ends) {
		for _, c := range flows {
			_ = exchangeWithin(c, 10*time.Millisecond)
		}
	}
	if absent {
		if stored {
			require.NoError(t, file.Close())
			file = state.NewFile(path)
			options.Store = file
		}
		_, stop = runProxied(t, options)
	}
	defer stop()
	deadline := time.Now().Add(labtest.Stretch(time.Second))
	for _, c := range flows {
		for exchangeWithin(c, 100*time.Millisecond) == nil {
			require.True(t, time.Now().Before(deadline), "%s goes on", c.RemoteAddr())
		}
	}
	await(t, "the notes to go", func() bool {
		return !slices.ContainsFunc(sortedElements(t, top.Host), func(line string) bool { return strings.Contains(line, "_ended ") })
	})
}

// runProxied opens an engine with proxies and runs it until stop is called, which closes it.
func runProxied(t *testing.T, o engine.Options) (e *engine.Engine, stop func()) {
	t.Helper()
	e, err := engine.Open(t.Context(), o)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = e.Run(ctx) })
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		require.NoError(t, e.Close())
	})
	t.Cleanup(stop)
	return e, stop
}

// exchangeWithin sends a datagram and waits for an answer.
func exchangeWithin(c net.Conn, wait time.Duration) error {
	_, _ = c.Write([]byte("x\n")) // an earlier one may have been refused
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 100))
	return err
}
