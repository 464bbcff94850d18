// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTableString compares with a file that nft(8) loads and lists so, which
// TestReplaceListsAsWritten is the witness of.
func TestTableString(t *testing.T) {
	golden, err := os.ReadFile("testdata/sample.nft")
	require.NoError(t, err)
	require.Equal(t, string(golden), sample().String())
}

func TestStatementString(t *testing.T) {
	for _, tt := range []struct {
		stmt Stmt
		want string
	}{
		{DaddrLocal(), `fib daddr type local`},
		{DaddrBroadcast(), `fib daddr type broadcast`},
		{SaddrElsewhere(), `fib saddr . iif oif missing`},
		{Within(IPDaddr, netip.MustParsePrefix("127.0.0.0/8")), `ip daddr 127.0.0.0/8`},
		{Within(IPSaddr, netip.MustParsePrefix("192.0.2.77/26")), `ip saddr 192.0.2.64/26`},
		{Within(IP6Daddr, netip.MustParsePrefix("::1/128")), `ip6 daddr ::1`},
		{Within(IP6Saddr, netip.MustParsePrefix("fe80::/10")), `ip6 saddr fe80::/10`},
		{In("s", IPSaddr), `ip saddr @s`},
		{In("s", IP6Saddr, IP6Daddr), `ip6 saddr . ip6 daddr @s`},
		{NotIn("s", IPDaddr, UDPDport), `ip daddr . udp dport != @s`},
		{NotFromInterface("lo"), `iifname != "lo"`},
		{CTStatusDNAT(), `ct status dnat`},
		{CTDirectionReply(), `ct direction reply`},
		{MarkIs(0), `meta mark 0x00000000`},
		{MarkIsNot(0), `meta mark != 0x00000000`},
		{SetMark(0x1001), `meta mark set 0x00001001`},
		{SetMarkFrom("m", CTOriginalIPDaddr), `meta mark set ct original ip daddr map @m`},
		{SetMarkFrom("m", CTOriginalIP6Daddr), `meta mark set ct original ip6 daddr map @m`},
		{In("s", MetaMark), `meta mark @s`},
		{CTStateEstablished(), `ct state established,related`},
		{DNATv4("m", IPDaddr, TCPDport), `dnat ip to ip daddr . tcp dport map @m`},
		{DNATv4SamePort("m", TCPDport, IPDaddr), `dnat ip to tcp dport . ip daddr map @m`},
		{DNATv6SamePort("m", UDPDport), `dnat ip6 to udp dport map @m`},
		{SNATv4SamePort("m", UDPSport, OIFName, UDPSport, IPSaddr), `snat ip to oifname . udp sport . ip saddr map @m:udp sport`},
		{SNATv6SamePort("m", TCPSport, TCPSport, IP6Saddr), `snat ip6 to tcp sport . ip6 saddr map @m:tcp sport`},
		{MasqueradeSamePort(UDPSport), `masquerade to :udp sport`},
		{SNATv4("m", OIFName, IPSaddr, TCPSport), `snat ip to oifname . ip saddr . tcp sport map @m`},
		{SNATv6("m", IP6Saddr, UDPSport), `snat ip6 to ip6 saddr . udp sport map @m`},
		{MasqueradeTo("m", IPSaddr, TCPSport), `masquerade to :ip saddr . tcp sport map @m`},
		{RedirectTo("m", IPDaddr, TCPDport), `redirect to :ip daddr . tcp dport map @m`},
		{OverIPv4(), `meta nfproto ipv4`},
		{OverIPv6(), `meta nfproto ipv6`},
		{DNATv6("m", UDPDport), `dnat ip6 to udp dport map @m`},
		{MasqueradeFullyRandom(), `masquerade fully-random`},
		{MasqueradeFullyRandomTo(32768, 49152), `masquerade to :32768-49152 fully-random`},
		{OverTCP(), `meta l4proto tcp`},
		{OverUDP(), `meta l4proto udp`},
		{Accept(), `accept`},
		{Drop(), `drop`},
		{Return(), `return`},
		{Jump("publish"), `jump publish`},
	} {
		require.Equal(t, tt.want, tt.stmt.String())
	}
}

func TestHookString(t *testing.T) {
	for _, tt := range []struct {
		hook Hook
		want string
	}{
		{Hook{"filter", "prerouting", -300}, "type filter hook prerouting priority raw; policy accept;"},
		{Hook{"filter", "prerouting", -310}, "type filter hook prerouting priority raw - 10; policy accept;"},
		{Hook{"filter", "prerouting", -311}, "type filter hook prerouting priority -311; policy accept;"},
		{Hook{"filter", "forward", -145}, "type filter hook forward priority mangle + 5; policy accept;"},
		{Hook{"nat", "prerouting", -100}, "type nat hook prerouting priority dstnat; policy accept;"},
		{Hook{"nat", "output", -100}, "type nat hook output priority -100; policy accept;"},
		{Hook{"nat", "postrouting", 101}, "type nat hook postrouting priority srcnat + 1; policy accept;"},
		{Hook{"nat", "prerouting", 100}, "type nat hook prerouting priority 100; policy accept;"},
		{Hook{"filter", "forward", 0}, "type filter hook forward priority filter; policy accept;"},
		{Hook{"filter", "forward", 49}, "type filter hook forward priority security - 1; policy accept;"},
		{Hook{"filter", "forward", 2147483647}, "type filter hook forward priority 2147483647; policy accept;"},
		{Hook{"filter", "forward", -2147483648}, "type filter hook forward priority -2147483648; policy accept;"},
	} {
		require.Equal(t, tt.want, tt.hook.String())
	}
}

func TestElementString(t *testing.T) {
	web := netip.MustParseAddrPort("172.17.0.2:80")
	for _, tt := range []struct {
		e    Element
		want string
	}{
		{Element{Set: "m", Key: PortKey(8080), Value: web}, `m { 8080 : 172.17.0.2 . 80 }`},
		{Element{Set: "m", Key: PortKey(0), Value: web}, `m { 0 : 172.17.0.2 . 80 }`},
		{Element{Set: "s", Key: AddrPortKey(netip.MustParseAddrPort("[2001:db8::1]:53"))}, `s { 2001:db8::1 . 53 }`},
		{Element{Set: "s", Key: PairKey(netip.MustParsePrefix("10.1.2.3/16"))}, `s { 10.1.0.0/16 . 10.1.0.0/16 }`},
		{Element{Set: "s", Key: AddrKey(netip.MustParseAddr("10.0.0.1"))}, `s { 10.0.0.1 }`},
		{Element{Set: "s", Key: AddrKey(netip.MustParseAddr("2001:db8::1")), Comment: "x"}, `s { 2001:db8::1 comment "x" }`},
		{Element{Set: "s", Key: InterfaceKey("veth0"), Comment: "x"}, `s { "veth0" comment "x" }`},
		{Element{Set: "m", Key: LinkKey("lan0", netip.MustParseAddrPort("10.0.0.2:53")), Value: netip.MustParseAddrPort("192.0.2.1:53")}, `m { "lan0" . 10.0.0.2 . 53 : 192.0.2.1 . 53 }`},
		{Element{Set: "m", Key: LinkKey("lan0", netip.MustParseAddrPort("[fd00::2]:53")), Timeout: time.Hour}, `m { "lan0" . fd00::2 . 53 timeout 1h }`},
		{Element{Set: "m", Key: AddrPortKey(netip.MustParseAddrPort("10.0.0.2:53")), Value: netip.AddrPortFrom(netip.Addr{}, 53)}, `m { 10.0.0.2 . 53 : 53 }`},
		{Element{Set: "s", Key: MarkKey(0x1001), Comment: "x"}, `s { 0x00001001 comment "x" }`},
		{Element{Set: "m", Key: AddrKey(netip.MustParseAddr("10.0.0.1")), Mark: 0x1001}, `m { 10.0.0.1 : 0x00001001 }`},
		{Element{Set: "s", Key: PrefixKey(netip.MustParsePrefix("10.0.0.9/24"))}, `s { 10.0.0.0/24 }`},
		{Element{Set: "s", Key: PrefixKey(netip.MustParsePrefix("10.0.0.9/32"))}, `s { 10.0.0.9 }`},
		{Element{Set: "s", Key: PrefixKey(netip.MustParsePrefix("::/0")), Timeout: time.Hour}, `s { ::/0 timeout 1h }`},
		{Element{Set: "s", Key: PrefixKey(netip.MustParsePrefix("::1/128"))}, `s { ::1 }`},
		{Element{Set: "s"}, `s { invalid }`},
		{
			Element{Set: "m", Key: PortKey(1), Value: web, Comment: `C:\web`, Timeout: 90 * time.Minute},
			`m { 1 timeout 1h30m comment "C:\web" : 172.17.0.2 . 80 }`,
		},
		{Element{Set: "m", Key: PortKey(1), Timeout: 49*time.Hour + 1500*time.Millisecond}, `m { 1 timeout 2d1h1s500ms }`},
		{Element{Set: "m", Key: PortKey(1), Timeout: time.Nanosecond}, `m { 1 timeout 1ms }`},
		// What others wrote cannot end the quotes, or the line.
		{Element{Set: "m", Key: PortKey(1), Comment: "a\" }\n\xff"}, `m { 1 comment "a\" }\n\xff" }`},
	} {
		require.Equal(t, tt.want, tt.e.String())
	}
}

func TestTypeString(t *testing.T) {
	require.Equal(t, "ipv4_addr . inet_service", Type{IPv4Addr, InetService}.String())
	require.Equal(t, "invalid", DataType(0).String())
	require.Equal(t, "invalid", DataType(200).String())
	require.Equal(t, "invalid", Selector(200).String())
}
