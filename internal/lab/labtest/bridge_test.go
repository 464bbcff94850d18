// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package labtest_test

import (
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// counted returns what a rule with a counter has counted.
func counted(t *testing.T, ns *lab.NS, table ...string) int {
	t.Helper()
	out := labtest.Exec(t, ns, "nft", append([]string{"list", "table"}, table...)...)
	m := regexp.MustCompile(`counter packets ([0-9]+)`).FindStringSubmatch(out)
	require.NotNil(t, m, out)
	n, err := strconv.Atoi(m[1])
	require.NoError(t, err)
	return n
}

// What crosses the bridge is forwarded by the kernel's IP layer or it is not.
func TestBridgeNF(t *testing.T) {
	labtest.Tool(t, "nft")
	for _, on := range []bool{false, true} {
		top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2, BridgeNF: on})
		serve(t, top.Backend2)
		for _, family := range []string{"ip", "ip6"} {
			labtest.ExecInput(t, top.Host, "table "+family+" seen { chain c { type filter hook forward priority 0; counter; }; }", "nft", "-f", "-")
		}
		labtest.Reaches(t, top.Backend1, "tcp", at(top.Backend2.V4), "backend2")
		labtest.Reaches(t, top.Backend1, "tcp", at(top.Backend2.V6), "backend2")
		require.Equal(t, on, counted(t, top.Host, "ip", "seen") > 0)
		require.Equal(t, on, counted(t, top.Host, "ip6", "seen") > 0)

		require.NoError(t, top.SetBridgeNF(!on))
		before := counted(t, top.Host, "ip", "seen")
		labtest.Reaches(t, top.Backend1, "tcp", at(top.Backend2.V4), "backend2")
		require.Equal(t, !on, counted(t, top.Host, "ip", "seen") > before)
	}
}

func TestHairpin(t *testing.T) {
	for _, on := range []bool{false, true} {
		top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2, Hairpin: on})
		h, err := top.Host.Handle()
		require.NoError(t, err)
		defer h.Close()
		for _, name := range []string{lab.HostPort1, lab.HostPort2} {
			link, err := h.LinkByName(name)
			require.NoError(t, err)
			port, err := h.LinkGetProtinfo(link)
			require.NoError(t, err)
			require.Equal(t, on, port.Hairpin)
		}
	}
}

// The attacker's packets do arrive: a host that is careless answers them.
func TestRouteLoopback(t *testing.T) {
	labtest.Tool(t, "nft")
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartNeighbour})
	require.NoError(t, top.RouteLoopback(top.Neighbour))
	labtest.EchoTCP(t, top.Host, "host", "127.0.0.1:7000")
	labtest.EchoUDP(t, top.Host, "host", "127.0.0.1:7000")
	labtest.EchoTCP(t, top.Host, "host", "[::1]:7000")
	labtest.ExecInput(t, top.Host, `table netdev seen { chain c {
		type filter hook ingress device "`+lab.HostLAN+`" priority 0; ip6 daddr ::1 counter; }; }`, "nft", "-f", "-")

	for _, network := range []string{"tcp", "udp"} {
		require.NoError(t, top.Host.Sysctl("net.ipv4.conf.all.route_localnet", "0"))
		require.Error(t, labtest.NoAnswer(t, top.Neighbour, network, "127.0.0.1:7000"))
		require.NoError(t, top.Host.Sysctl("net.ipv4.conf.all.route_localnet", "1"))
		peer := labtest.Reaches(t, top.Neighbour, network, "127.0.0.1:7000", "host")
		require.Equal(t, top.Neighbour.V4, peer.Addr())
	}
	// The kernel takes no ::1 off a wire, whatever its settings
	// (net/ipv6/ip6_input.c, ip6_rcv_core).
	require.Error(t, labtest.NoAnswer(t, top.Neighbour, "tcp", "[::1]:7000"))
	require.Positive(t, counted(t, top.Host, "netdev", "seen"))
}
