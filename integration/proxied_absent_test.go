// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// A confined daemon holds ports that only proxies serve at addresses that the host does not
// have, also one that took over. They are served when the address has come, and nothing is
// left of their connections when it has gone.
func TestProxiedAbsentAddress(t *testing.T) {
	top, s := proxiedHost(t)
	s.serve(t)
	frontends := []string{"192.0.2.77:7000", "[2001:db8:1::77]:7000"}
	for i, network := range []string{"tcp", "udp"} {
		s.succeed(t, "add --quiet "+network+" "+frontends[0]+" [fd00:30::2]:80")
		s.succeed(t, "add --quiet "+network+" "+frontends[1]+" 172.30.0.2:80")
		require.Equal(t, 2*i+2, s.status(t).Proxies)
	}
	s.succeedBy(t)
	require.Equal(t, 4, s.status(t).Proxies)
	for round := range 2 {
		for i, a := range []string{"192.0.2.77/24", "2001:db8:1::77/64"} {
			labtest.Exec(t, top.Host, "ip", "addr", "add", a, "dev", lab.HostLAN, "nodad")
			for _, network := range []string{"tcp", "udp"} {
				await(t, network+" "+frontends[i]+" to be served", func() bool {
					name, peer, err := lab.Ask(t.Context(), top.Client, network, frontends[i], netip.AddrPort{})
					return err == nil && name == "backend" && peer.Addr().Is4() != (i == 0)
				})
			}
			c := dialFlow(t, top.Client, "tcp", frontends[i])
			require.Equal(t, "backend", c.name(t))
			live := s.status(t).Flows
			require.NotZero(t, live.TCP, round)
			require.NotZero(t, live.UDP, round)
			labtest.Exec(t, top.Host, "ip", "addr", "del", a, "dev", lab.HostLAN)
			await(t, "the connections to end", func() bool {
				live := s.status(t).Flows
				return live == api.FlowCounts{}
			})
		}
	}
}
