// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// A frontend on a loopback address is stored like any other, and never translated: neither
// for the host itself nor for a neighbour that routes 127.0.0.1 to the host, even with
// route_localnet.
func TestLoopbackFrontends(t *testing.T) {
	top := newTopology(t, lab.Options{})
	require.NoError(t, top.RouteLoopback(top.Neighbour))
	loopback := []string{
		"127.0.0.1:8080->172.30.0.2:80", "127.0.0.1:8080->172.30.0.2:80/udp", "127.1.2.3:9000-9009->172.30.0.2:80-89",
		"[::1]:8080->[fd00:30::2]:80", "[::1]:8080->[fd00:30::2]:80/udp",
	}
	e := open(t, top.Host, engine.Options{})
	publish(t, e, loopback...)
	require.Equal(t, canonical(t, loopback), published(e))
	require.Equal(t, elementsOf(must(e.Mappings(t.Context()))), sortedElements(t, top.Host))
	require.Contains(t, nft(t, top.Host, "list", "map", "inet", "nftnat", "tcp4_host"), "127.0.0.1 . 8080 : 172.30.0.2 . 80")
	require.Contains(t, nft(t, top.Host, "list", "map", "inet", "nftnat", "udp6_host"), "::1 . 8080 : fd00:30::2 . 80")

	// Forwarding is on, so that only the guards stop packets.
	require.NoError(t, top.SetForwarding(true))
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":80")
		// A service of the host on a loopback address, which must not be reached either.
		labtest.Echo(t, top.Host, network, "host", "127.0.0.2:8080")
		publish(t, e, "192.0.2.1:8080->172.30.0.2:80"+suffix(network))
	}
	for _, careless := range []string{"0", "1"} {
		require.NoError(t, top.Host.Sysctl("net.ipv4.conf.all.route_localnet", careless))
		for _, network := range []string{"tcp", "udp"} {
			// The neighbour does reach the host.
			labtest.Reaches(t, top.Neighbour, network, "192.0.2.1:8080", "backend")
			noAnswers(t, top.Neighbour, network, "127.0.0.1:8080", "127.1.2.3:9000", "127.0.0.2:8080", "[::1]:8080")
		}
	}
	// What the host sends to itself is not translated.
	for _, network := range []string{"tcp", "udp"} {
		labtest.Reaches(t, top.Host, network, "127.0.0.2:8080", "host")
		for _, a := range []netip.Addr{loopback4, loopback6} {
			_, _, _ = askWithin(top.Host, network, at(a, 8080), netip.AddrPort{}, silence)
			for _, line := range tracked(t, top.Host, network, a) {
				if strings.Contains(line, "dst="+a.String()+" ") {
					require.NotContains(t, line, top.Backend1.V4.String())
					require.NotContains(t, line, top.Backend1.V6.String())
				}
			}
		}
	}
}

// noAnswers checks that none of several addresses answers.
func noAnswers(t *testing.T, ns *lab.NS, network string, addrs ...string) {
	t.Helper()
	failures := make([]error, len(addrs))
	var wg sync.WaitGroup
	for i, addr := range addrs {
		wg.Go(func() { failures[i] = silent(ns, network, addr)(silence) })
	}
	wg.Wait()
	require.NoError(t, errors.Join(failures...))
}
