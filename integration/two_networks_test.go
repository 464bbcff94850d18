// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// portOfSideway is the port of backend 1 that answers by its other network.
const portOfSideway = 84

// hostSide is the host's end of the other link of backend 1.
const hostSide = "side0"

// wireSideway connects backend 1 to the host by a second link, and routes by it what the
// backend sends from one port, and its echo replies to the host. The host routes to the backend by the
// bridge, so that those answers come from elsewhere.
func wireSideway(t *testing.T, top *lab.Topology) {
	t.Helper()
	require.NoError(t, lab.Wire(
		lab.End{NS: top.Host, Link: hostSide, Addrs: []netip.Prefix{mustPrefix("172.29.9.1/24"), mustPrefix("fd00:29::1/64")}},
		lab.End{NS: top.Backend1, Link: "eth1", Addrs: []netip.Prefix{mustPrefix("172.29.9.2/24"), mustPrefix("fd00:29::2/64")}},
	))
	for family, by := range map[string]struct {
		gateway    string
		from, host netip.Addr
		protocol   string
	}{
		"-4": {"172.29.9.1", top.Backend1.V4, top.Gateway4, "icmp"}, "-6": {"fd00:29::1", top.Backend1.V6, top.Gateway6, "ipv6-icmp"},
	} {
		labtest.Exec(t, top.Backend1, "ip", family, "route", "add", "default", "via", by.gateway, "dev", "eth1", "src", by.from.String(), "table", "77")
		labtest.Exec(t, top.Backend1, "ip", family, "rule", "add", "sport", strconv.Itoa(portOfSideway), "lookup", "77")
		labtest.Exec(t, top.Backend1, "ip", family, "rule", "add", "to", by.host.String(), "ipproto", by.protocol, "lookup", "77")
	}
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "sideway", ":"+strconv.Itoa(portOfSideway))
	}
}

func mustPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// sidewayProbes are answered by the other link: of published ports, of what the host asks the
// backend itself, and echo requests.
func sidewayProbes(t *testing.T, top *lab.Topology, f family) map[string]probe {
	t.Helper()
	probes := map[string]probe{}
	for _, network := range []string{"tcp", "udp"} {
		probes["client "+network] = reaches(top.Client, network, at(f.host, 8086), "sideway", f.client)
		probes["host "+network] = reaches(top.Host, network, at(f.backend1, portOfSideway), "sideway", f.gateway)
	}
	return probes
}

// A backend on two networks may answer by either, whatever rp_filter is, except 1: then the
// kernel itself drops IPv4 packets from elsewhere. Forged sources do not get in.
func TestTwoNetworks(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2 | lab.PartNeighbour})
	wireSideway(t, top)
	e := open(t, top.Host, engine.Options{})
	for i, f := range families(top) {
		_, err := e.CreateNetwork(t.Context(), nat.Network{Name: f.name, Prefix: []netip.Prefix{top.Inside4, top.Inside6}[i]})
		require.NoError(t, err)
		for _, network := range []string{"tcp", "udp"} {
			publish(t, e, toward(f.wildcard, 8086, 8086)+"->"+at(f.backend1, portOfSideway)+suffix(network),
				toward(f.wildcard, portOfAny, portOfAny)+"->"+at(f.backend1, 80)+suffix(network))
		}
	}
	labtest.EchoUDP(t, top.Backend1, "backend1", ":80")
	watchImpostors(t, top)
	p := prober{top: top, t: t}
	for _, filter := range []string{"0", "1", "2"} {
		t.Run("rp_filter "+filter, func(t *testing.T) {
			for _, link := range []string{"all", hostSide, lab.HostBridge, lab.HostLAN} {
				require.NoError(t, top.Host.Sysctl("net.ipv4.conf."+link+".rp_filter", filter))
			}
			for _, f := range families(top) {
				if filter == "1" && f.bits == 32 {
					require.Error(t, p.run(reaches(top.Client, "udp", at(f.host, 8086), "sideway", f.client), silence))
					continue
				}
				for name, probe := range sidewayProbes(t, top, f) {
					require.NoError(t, p.run(probe, answerTimeout), "%s %s", f.name, name)
				}
				ping(t, top.Host, f.backend1)
			}
			require.Zero(t, impostors(t, top))
		})
	}
	require.NoError(t, top.Host.Sysctl("net.ipv4.conf.all.rp_filter", "0"))
	for _, link := range []string{hostSide, lab.HostBridge, lab.HostLAN} {
		require.NoError(t, top.Host.Sysctl("net.ipv4.conf."+link+".rp_filter", "0"))
	}
	load(t, top.Host, `table inet untracking { chain prerouting { type filter hook prerouting priority raw;
		meta l4proto { tcp, udp } th dport `+strconv.Itoa(portOfImpostors)+` notrack
	}
	}`)
	require.Zero(t, impostors(t, top), "of packets that are not tracked")
	nft(t, top.Host, "delete", "table", "inet", "untracking")

	// Without one of the rules, either an answer does not arrive or a forged packet does.
	rules := rulesOf(nft(t, top.Host, "-s", "-t", "list", "table", "inet", "nftnat"))
	for i, rule := range rules {
		chain, _, _ := strings.Cut(rule, ": ")
		if chain != "from-elsewhere" {
			continue
		}
		t.Run("without "+rule, func(t *testing.T) {
			load(t, top.Host, chainScript(chain, rules, i))
			defer load(t, top.Host, chainScript(chain, rules, -1))
			noticed := impostors(t, top) != 0
			for _, probe := range sidewayProbes(t, top, families(top)[0]) {
				noticed = p.run(probe, silence) != nil || noticed
			}
			require.True(t, noticed)
		})
	}
}

// watchImpostors lets backend 1 count what arrives at a port to which nobody sends but the
// machines of impostors.
func watchImpostors(t *testing.T, top *lab.Topology) {
	t.Helper()
	load(t, top.Backend1, fmt.Sprintf(`table inet watch {
		counter impostors {}
		chain prerouting {
			type filter hook prerouting priority raw;
			meta l4proto { tcp, udp } th dport %d counter name impostors
		}
	}`, portOfImpostors))
	for _, a := range []netip.Addr{top.Backend2.V4, top.Backend2.V6} {
		labtest.Exec(t, top.Neighbour, "ip", "address", "add", a.String(), "dev", "lo", "nodad")
	}
}

// impostors sends packets with the source of backend 2 from the neighbour to backend 1, and
// returns how many arrived.
func impostors(t *testing.T, top *lab.Topology) int {
	t.Helper()
	nft(t, top.Backend1, "reset", "counters")
	for _, network := range []string{"tcp", "udp"} {
		for _, f := range families(top) {
			spray(t, top.Neighbour, network, f.backend2, netip.AddrPortFrom(f.backend1, portOfImpostors), []int{20000})
		}
	}
	// What was sent later on the same way has arrived.
	for _, f := range families(top) {
		labtest.Reaches(t, top.Neighbour, "udp", at(f.host, portOfAny), "backend1")
	}
	return counters(t, top.Backend1)["impostors"]
}
