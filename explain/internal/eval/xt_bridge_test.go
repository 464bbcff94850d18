// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/internal/rules/xt"
)

// newBridged has client and server on a bridge of the host.
func newBridged(t *testing.T) *counted {
	t.Helper()
	w := &counted{t: t, host: labtest.NewNS(t, "host"), client: labtest.NewNS(t, "client"), server: labtest.NewNS(t, "server")}
	shell := func(ns *lab.NS, commands ...string) {
		for _, c := range commands {
			args := strings.Fields(c)
			labtest.Exec(t, ns, args[0], args[1:]...)
		}
	}
	shell(w.host,
		"ip link add br0 type bridge",
		"ip link add eth0 type veth peer name eth0 address "+clientMAC+" netns "+w.client.Path(),
		"ip link add eth1 type veth peer name eth0 address "+serverMAC+" netns "+w.server.Path(),
		"ip link set eth0 master br0", "ip link set eth1 master br0",
		"ip link set br0 up", "ip link set eth0 up", "ip link set eth1 up",
	)
	shell(w.client,
		"ip link set eth0 up", "ip addr add 192.0.2.2/24 dev eth0", "ip addr add 2001:db8::2/64 dev eth0 nodad",
		"ip neigh add 192.0.2.3 lladdr "+serverMAC+" dev eth0 nud permanent",
		"ip neigh add 2001:db8::3 lladdr "+serverMAC+" dev eth0 nud permanent",
	)
	shell(w.server,
		"ip link set eth0 up", "ip addr add 192.0.2.3/24 dev eth0", "ip addr add 2001:db8::3/64 dev eth0 nodad",
		"ip neigh add 192.0.2.2 lladdr "+clientMAC+" dev eth0 nud permanent",
		"ip neigh add 2001:db8::2 lladdr "+clientMAC+" dev eth0 nud permanent",
	)
	f, err := os.Open(w.host.Path())
	require.NoError(t, err)
	w.fd = int(f.Fd())
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	w.in = Interface{Index: 1, Name: "eth0", Type: unix.ARPHRD_ETHER, Bridge: "br0"}
	w.out = Interface{Index: 2, Name: "eth1", Type: unix.ARPHRD_ETHER, Bridge: "br0"}
	return w
}

const serverMAC = "02:00:00:00:01:02"

// bridgedProbes are frames from the client to the server.
func (w *counted) bridgedProbes() []probe {
	mac := func(s string) []byte {
		a, err := net.ParseMAC(s)
		require.NoError(w.t, err)
		return a
	}
	var list []probe
	for _, six := range []bool{false, true} {
		p := Packet{
			EtherType: unix.ETH_P_IP, Src: netip.MustParseAddr("192.0.2.2"), Dst: netip.MustParseAddr("192.0.2.3"), TTL: 64,
			In: w.in, Out: w.out, SrcMAC: mac(clientMAC), DstMAC: mac(serverMAC), PktType: unix.PACKET_OTHERHOST,
		}
		header, icmp, echo := 20, uint8(unix.IPPROTO_ICMP), uint8(8)
		if six {
			p.EtherType, p.Src, p.Dst = unix.ETH_P_IPV6, netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8::3")
			header, icmp, echo = 40, unix.IPPROTO_ICMPV6, 128
		}
		udp := p
		udp.Proto, udp.SrcPort, udp.DstPort, udp.TOS, udp.Len = unix.IPPROTO_UDP, 5353, 53, 0x10, header+13
		tcp := p
		tcp.Proto, tcp.SrcPort, tcp.DstPort, tcp.TCPFlags, tcp.Len = unix.IPPROTO_TCP, 41000, 8080, tcpSYN, header+40
		ping := p
		ping.Proto, ping.ICMPType, ping.Len = icmp, echo, header+8
		list = append(list,
			probe{"udp " + p.Src.String(), udp, func() error {
				return w.sendUDP(w.client, netip.AddrPortFrom(p.Src, 5353), netip.AddrPortFrom(p.Dst, 53), 0x10, "hello")
			}},
			probe{"tcp " + p.Src.String(), tcp, func() error { return w.sendTCP(w.client, 41000, netip.AddrPortFrom(p.Dst, 8080)) }},
			probe{"ping " + p.Src.String(), ping, func() error { return w.sendPing(w.client, p.Dst, echo) }},
		)
	}
	request := Packet{
		EtherType: unix.ETH_P_ARP, ARPOp: 1, Src: netip.MustParseAddr("192.0.2.2"), Dst: netip.MustParseAddr("192.0.2.77"),
		In: w.in, Out: w.out, SrcMAC: mac(clientMAC), DstMAC: mac("ff:ff:ff:ff:ff:ff"), PktType: unix.PACKET_BROADCAST,
	}
	return append(list, probe{"arp", request, func() error {
		return w.sendUDP(w.client, netip.AddrPortFrom(request.Src, 5355), netip.AddrPortFrom(request.Dst, 53), 0, "hello")
	}})
}

// TestBridgeKernel is TestXTKernel for ebtables.
func TestBridgeKernel(t *testing.T) {
	w := newBridged(t)
	text, err := os.ReadFile("testdata/xt_bridge.rules")
	require.NoError(t, err)
	way := []hop{{"nat", "PREROUTING", BridgePrerouting}, {"filter", "FORWARD", BridgeForward}, {"nat", "POSTROUTING", BridgePostrouting}}
	add := func(h hop, rule string) {
		labtest.Exec(t, w.host, "ebtables-nft", append([]string{"-t", h.table, "-A", h.chain}, strings.Fields(rule)...)...)
	}
	for _, h := range way {
		add(h, "-s ! "+clientMAC+" -j RETURN")
		for line := range strings.Lines(string(text)) {
			if rule, ok := strings.CutPrefix(line, h.table+" "+h.chain+" "); ok {
				add(h, rule)
			}
		}
		add(h, "-j CONTINUE")
	}
	p := rules.Printer{XT: xt.Printer{}}
	n := 0
	for _, probe := range w.bridgedProbes() {
		before := w.chains(way, false, unix.NFPROTO_BRIDGE)
		answers := w.answers(probe.packet, way, before, time.Now())
		require.NoError(t, probe.send(), probe.name)
		var after [][]*rules.Rule
		last := func(chains [][]*rules.Rule) uint64 {
			c := chains[len(chains)-1]
			return packets(c[len(c)-1])
		}
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			if after = w.chains(way, false, unix.NFPROTO_BRIDGE); last(after) > last(before) {
				break
			}
			require.True(t, time.Now().Before(end), "%s does not arrive", probe.name)
		}
		for i, chain := range after {
			for j, rule := range chain[1:] {
				n++
				a, counted := answers[i][j+1], packets(rule)-packets(before[i][j+1])
				if a == Maybe || (a == Yes) != (counted > 0) {
					t.Errorf("%s: %s %s: %s, and it counted %d", probe.name, rule.Chain.Table.Name, p.Rule(rule), a, counted)
				}
			}
		}
	}
	t.Logf("%d answers", n)
}
