// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// Ports are reached by each address of a prefix that is routed to the host as local, by
// netfilter and by proxies, over TCP and UDP.
func TestAnyIP(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	any4, any6 := netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("2001:db8:7::5")
	labtest.Exec(t, top.Host, "ip", "route", "add", "local", "203.0.113.0/24", "dev", "lo")
	labtest.Exec(t, top.Host, "ip", "-6", "route", "add", "local", "2001:db8:7::/64", "dev", "lo")
	s := newTestbed(t, top.Host)
	s.serve(t)
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":80")
		for i, backend := range []string{"172.30.0.2:80", "[fd00:30::2]:80"} {
			port := 7000 + 10*i
			for _, frontend := range []string{toward(netip.Addr{}, port, port), at(any4, port+1), at(any6, port+1)} {
				s.succeed(t, "add --quiet "+network+" "+frontend+" "+backend)
			}
			for _, to := range []string{at(any4, port), at(any6, port), at(any4, port+1), at(any6, port+1)} {
				for _, from := range []*lab.NS{top.Client, top.Host} {
					name, _, err := lab.Ask(t.Context(), from, network, to, netip.AddrPort{})
					require.NoError(t, err, "%s asks %s %s", from, network, to)
					require.Equal(t, "backend", name)
				}
			}
		}
	}
}
