// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// ipLines runs ip(8) in a namespace, a line each.
func ipLines(t *testing.T, ns *lab.NS, lines ...string) {
	t.Helper()
	for _, line := range lines {
		labtest.Exec(t, ns, "ip", strings.Fields(line)...)
	}
}

// seenAs is the address that a server of that name sees a client by, which asks from one of
// its addresses; the zero address: the kernel chooses.
func seenAs(t *testing.T, ns *lab.NS, network, addr, name string, from netip.Addr) netip.Addr {
	t.Helper()
	got, peer, err := askWithin(ns, network, addr, netip.AddrPortFrom(from, 0), answerTimeout)
	require.NoError(t, err, "%s asks %s %s from %s", ns, network, addr, from)
	require.Equal(t, name, got)
	return peer.Addr()
}

// segmentLinks are the links that the table has segments of, each once.
func segmentLinks(t *testing.T, ns *lab.NS) []string {
	t.Helper()
	var links []string
	for _, line := range sortedElements(t, ns) {
		if strings.HasPrefix(line, "segments") {
			links = append(links, strings.Fields(line)[1])
		}
	}
	slices.Sort(links)
	return slices.Compact(links)
}

// Siblings are those on the same link, whatever prefixes it has: two of IPv4, a ULA and a
// global one, and those that a route to a single backend does not have. What this host sends
// keeps its address.
func TestSiblingsOfOneLink(t *testing.T) {
	for _, bridgeNF := range []bool{false, true} {
		t.Run(fmt.Sprintf("bridge-nf %t", bridgeNF), func(t *testing.T) {
			top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2, BridgeNF: bridgeNF})
			for i, ns := range []*lab.NS{top.Host, top.Backend1, top.Backend2} {
				dev := " dev " + map[bool]string{true: lab.HostBridge, false: lab.MachineLink}[i == 0]
				ipLines(t, ns, fmt.Sprintf("addr add 10.30.0.%d/24", i+1)+dev, fmt.Sprintf("addr add 2001:db8:30::%d/64", i+1)+dev+" nodad")
			}
			ipLines(t, top.Backend1, "addr add 10.77.0.9/32 dev "+lab.MachineLink, "addr add 2001:db8:77::9/128 dev "+lab.MachineLink+" nodad")
			ipLines(t, top.Host, "route add 10.77.0.9 dev "+lab.HostBridge, "route add 2001:db8:77::9 dev "+lab.HostBridge)
			e := open(t, top.Host, engine.Options{})
			second := []struct{ host, sibling, single netip.Addr }{
				{mustAddr("10.30.0.1"), mustAddr("10.30.0.3"), mustAddr("10.77.0.9")},
				{mustAddr("2001:db8:30::1"), mustAddr("2001:db8:30::3"), mustAddr("2001:db8:77::9")},
			}
			for _, network := range []string{"tcp", "udp"} {
				labtest.Echo(t, top.Backend1, network, "web", ":80")
				for i, f := range families(top) {
					to := second[i]
					any := toward(f.wildcard, 8080, 8080) + "->" + at(f.backend1, 80) + suffix(network)
					single := toward(f.wildcard, 8081, 8081) + "->" + at(to.single, 80) + suffix(network)
					publish(t, e, any, single)
					for _, port := range []int{8080, 8081} {
						for _, host := range []netip.Addr{f.host, f.gateway, to.host} {
							for _, from := range []netip.Addr{f.backend2, to.sibling} {
								seen := seenAs(t, top.Backend2, network, at(host, port), "web", from)
								require.Contains(t, []netip.Addr{f.gateway, to.host}, seen)
							}
						}
					}
					// The backend itself, by any of its addresses.
					for _, from := range []netip.Addr{f.backend1, to.single} {
						seenAs(t, top.Backend1, network, at(f.host, 8080), "web", from)
					}
					require.Equal(t, f.client, seenAs(t, top.Client, network, at(f.host, 8080), "web", netip.Addr{}))
					require.Equal(t, to.host, seenAs(t, top.Host, network, at(f.host, 8080), "web", to.host))
					unpublish(t, e, any, single)
				}
			}
			require.Empty(t, segmentLinks(t, top.Host))
		})
	}
}

// A route through a tunnel that is so wide that the LAN is in it does not make the LAN's
// machines siblings of a backend behind the tunnel, but those behind the tunnel are.
func TestWideRoute(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartFar})
	for _, f := range families(top) {
		wide, behind := "192.0.0.0/3", mustAddr("203.0.113.9")
		if f.bits == 128 {
			wide, behind = "2001:db8::/32", mustAddr("2001:db8:99::9")
		}
		ipLines(t, top.Host, "route add "+wide+" dev "+lab.HostFar)
		ipLines(t, top.Far, fmt.Sprintf("addr add %s/%d dev %s", behind, f.bits, lab.MachineLink))
		e := open(t, top.Host, engine.Options{})
		for _, network := range []string{"tcp", "udp"} {
			labtest.Echo(t, top.Far, network, "far", at(f.far, 80))
			publish(t, e, toward(f.wildcard, 8080, 8080)+"->"+at(f.far, 80)+suffix(network))
			require.Equal(t, f.client, seenAs(t, top.Client, network, at(f.host, 8080), "far", netip.Addr{}))
			hostFar := map[int]netip.Addr{32: mustAddr("198.51.100.1"), 128: mustAddr("2001:db8:2::1")}[f.bits]
			for _, from := range []netip.Addr{f.far, behind} {
				require.Equal(t, hostFar, seenAs(t, top.Far, network, at(f.host, 8080), "far", from))
			}
		}
		require.NoError(t, e.Close())
	}
}

// A client behind a router on the backend's own link keeps its address. A backend behind a
// router on the client's own link is reached, because the client is masqueraded; clients of
// other links keep their addresses.
func TestRoutersOnALink(t *testing.T) {
	for _, bridgeNF := range []bool{false, true} {
		t.Run(fmt.Sprintf("bridge-nf %t", bridgeNF), func(t *testing.T) {
			top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2, BridgeNF: bridgeNF})
			behind := labtest.NewNS(t, "behind")
			require.NoError(t, lab.Wire(
				lab.End{NS: top.Backend2, Link: "behind0", Addrs: []netip.Prefix{mustPrefix("10.50.0.1/24"), mustPrefix("fd00:50::1/64")}},
				lab.End{NS: behind, Link: "eth0", Addrs: []netip.Prefix{mustPrefix("10.50.0.2/24"), mustPrefix("fd00:50::2/64")}},
			))
			for _, name := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
				require.NoError(t, top.Backend2.Sysctl(name, "1"))
			}
			for _, name := range []string{"all", lab.HostBridge} { // it would be right to send them
				require.NoError(t, top.Host.Sysctl("net.ipv4.conf."+name+".send_redirects", "0"))
			}
			for _, name := range []string{"all", lab.MachineLink} {
				require.NoError(t, top.Backend1.Sysctl("net.ipv6.conf."+name+".accept_redirects", "0"))
			}
			ipLines(t, behind, "route add default via 10.50.0.1", "-6 route add default via fd00:50::1")
			ipLines(t, top.Host, "route add 10.50.0.0/24 via "+top.Backend2.V4.String(), "-6 route add fd00:50::/64 via "+top.Backend2.V6.String())
			e := open(t, top.Host, engine.Options{})
			for _, network := range []string{"tcp", "udp"} {
				labtest.Echo(t, top.Backend1, network, "web", ":80")
				labtest.Echo(t, behind, network, "behind", ":80")
				for i, f := range families(top) {
					address := []netip.Addr{mustAddr("10.50.0.2"), mustAddr("fd00:50::2")}[i]
					publish(t, e, toward(f.wildcard, 8080, 8080)+"->"+at(f.backend1, 80)+suffix(network),
						toward(f.wildcard, 8081, 8081)+"->"+at(address, 80)+suffix(network))
					require.Equal(t, address, seenAs(t, behind, network, at(f.gateway, 8080), "web", netip.Addr{}))
					require.Equal(t, f.gateway, seenAs(t, top.Backend1, network, at(f.gateway, 8081), "behind", netip.Addr{}))
					require.Equal(t, f.client, seenAs(t, top.Client, network, at(f.host, 8081), "behind", netip.Addr{}))
				}
			}
		})
	}
}

// The segments follow links, addresses and routes while an engine runs, and the next engine
// finds nothing to do.
func TestSegmentsFollow(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2 | lab.PartFar})
	e, stop := runEngine(t, top.Host, engine.Options{})
	publish(t, e, "8080->172.30.0.2:80", "8081->198.51.100.2:80", "8082->[fd00:30::2]:80", "8083->10.40.0.2:80")
	has := func(what string, want bool, parts ...string) {
		t.Helper()
		await(t, what, func() bool {
			return slices.ContainsFunc(sortedElements(t, top.Host), func(line string) bool {
				return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) })
			}) == want
		})
	}
	has("what is there", true, "segments4 br0 ", "172.30.0.0/24")
	ipLines(t, top.Host, "addr add 10.30.0.1/24 dev br0", "addr add 2001:db8:30::1/64 dev br0 nodad")
	has("another prefix", true, "segments4 br0 ", "10.30.0.0/24")
	has("another prefix of IPv6", true, "segments6 br0 ", "2001:db8:30::/64")
	ipLines(t, top.Host, "addr add 10.30.0.2/16 dev br0")
	has("a wider one", true, "segments4 br0 ", "10.30.0.0/16")
	has("a wider one", false, "segments4 br0 ", "10.30.0.0/24")
	ipLines(t, top.Host, "addr del 10.30.0.1/24 dev br0", "addr del 10.30.0.2/16 dev br0")
	has("a prefix less", false, "segments4 br0 ", "10.30.0.0/16")
	ipLines(t, top.Host, "route add 10.40.0.0/16 dev "+lab.HostFar)
	has("a route to a backend", true, "segments4 "+lab.HostFar, "10.40.0.0/16")
	ipLines(t, top.Host, "link set "+lab.HostFar+" down", "link set "+lab.HostFar+" name away", "link set away up", "route replace 10.40.0.0/16 dev away")
	has("another name", true, "segments4 away ", "198.51.100.0/24")
	has("another name", false, lab.HostFar)
	// A name that nft(8) cannot write.
	labtest.Exec(t, top.Host, "ip", "link", "set", "away", "down")
	labtest.Exec(t, top.Host, "ip", "link", "set", "away", "name", `a*"b`)
	labtest.Exec(t, top.Host, "ip", "link", "set", `a*"b`, "up")
	has("a name that cannot be written", false, "away")
	status, err := e.Status(t.Context())
	require.NoError(t, err)
	require.Contains(t, strings.Join(status.Warnings, "\n"), `the link "a*\"b"`)
	labtest.Exec(t, top.Host, "ip", "link", "set", `a*"b`, "down", "name", lab.HostFar)
	ipLines(t, top.Host, "link set "+lab.HostFar+" up", "route replace 10.40.0.0/16 dev "+lab.HostFar)
	has("the old name", true, "segments4 "+lab.HostFar, "198.51.100.0/24")
	// The bridge makes room for another.
	ipLines(t, top.Host, "link add br7 type bridge", "link set br7 up", "addr flush dev br0", "addr add 172.30.0.1/24 dev br7",
		"addr add fd00:30::1/64 dev br7 nodad", "link set "+lab.HostPort1+" master br7", "link set "+lab.HostPort2+" master br7")
	has("another bridge", true, "segments4 br7 ", "172.30.0.0/24")
	has("another bridge of IPv6", true, "segments6 br7 ", "fd00:30::/64")
	has("another bridge", false, "br0")
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	require.Equal(t, top.Gateway4, seenAs(t, top.Backend2, "tcp", "172.30.0.1:8080", "web", netip.Addr{}))
	stop()
	before := generation(t, top.Host)
	require.NoError(t, e.Close())
	open(t, top.Host, engine.Options{})
	require.Equal(t, before, generation(t, top.Host), "the next engine changes nothing")
}
