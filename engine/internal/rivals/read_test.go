// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rivals

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// read reads the tables of a namespace.
func read(t *testing.T, ns *lab.NS) *Rivals {
	t.Helper()
	f, err := os.Open(ns.Path())
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	r := NewReader(int(f.Fd()), "nftnat")
	found, err := r.Read(7)
	require.NoError(t, err)
	for _, changes := range []uint64{7, 8} { // of which the first reads nothing
		again, err := r.ReadAfter(changes)
		require.NoError(t, err)
		require.Equal(t, found, again)
		require.Equal(t, changes == 7, found == again)
	}
	require.NoError(t, r.Close())
	return found
}

// claims is what a ruleset says of a port: "" if nothing, else the chain, with "some" for some
// packets.
func (r *Rivals) says(t *testing.T, what string) string {
	t.Helper()
	proto, frontend, _ := strings.Cut(what, " ")
	at, err := netip.ParseAddrPort(frontend)
	if err != nil {
		_, err = fmt.Sscanf(frontend, "%d", new(uint16))
		require.NoError(t, err)
		at, err = netip.ParseAddrPort("0.0.0.0:" + frontend)
		require.NoError(t, err)
		at = netip.AddrPortFrom(netip.Addr{}, at.Port())
	}
	p := nat.TCP
	if proto == "udp" {
		p = nat.UDP
	}
	c, ok := r.Of(p, at.Addr(), at.Port(), []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::1")})
	switch {
	case !ok:
		return ""
	case c.Some:
		return c.Chain + " some"
	}
	return c.Chain
}

// What rules say, as nft(8) and iptables-nft write them.
func TestRead(t *testing.T) {
	const head, end = "table ip t { chain pre { type nat hook prerouting priority dstnat; ", "; }; }"
	for rules, want := range map[string]map[string]string{
		head + "fib daddr type local tcp dport 8080 dnat to 172.30.0.9:80" + end: {
			"tcp 8080": "pre", "tcp 8081": "", "udp 8080": "", "tcp 192.0.2.1:8080": "pre", "tcp [2001:db8::1]:8080": "", "tcp 127.0.0.1:8080": ""},
		head + "fib daddr type != local tcp dport 8080 dnat to 172.30.0.9:80" + end:               {"tcp 8080": ""},
		head + "ip daddr 192.0.2.1 udp dport 53 redirect to :5353" + end:                          {"udp 53": "pre", "udp 192.0.2.1:53": "pre", "udp 192.0.2.9:53": "", "tcp 53": ""},
		head + "ip daddr 192.0.0.0/20 tcp dport 80 dnat to 10.0.0.1" + end:                        {"tcp 192.0.2.1:80": "pre", "tcp 192.0.16.1:80": ""},
		head + "ip daddr 192.0.2.0/24 tcp dport 80 dnat to 10.0.0.1" + end:                        {"tcp 192.0.2.1:80": "pre", "tcp 192.0.3.1:80": ""},
		head + "ip daddr 192.0.2.1-192.0.2.5 tcp dport 80 dnat to 10.0.0.1" + end:                 {"tcp 192.0.2.5:80": "pre", "tcp 192.0.2.6:80": ""},
		head + "tcp dport 8000-8080 dnat to 10.0.0.1" + end:                                       {"tcp 8000": "pre", "tcp 8080": "pre", "tcp 8081": ""},
		head + "tcp dport != 8000-8080 dnat to 10.0.0.1" + end:                                    {"tcp 8000": "", "tcp 8080": "", "tcp 8081": "pre", "tcp 7999": "pre"},
		head + "tcp dport > 8000 tcp dport <= 8002 dnat to 10.0.0.1" + end:                        {"tcp 8000": "", "tcp 8001": "pre", "tcp 8002": "pre", "tcp 8003": ""},
		head + "tcp dport { 80, 443, 8000-8010 } dnat to 10.0.0.1" + end:                          {"tcp 80": "pre", "tcp 443": "pre", "tcp 444": "", "tcp 8010": "pre", "tcp 8011": ""},
		head + "tcp dport != { 80, 443 } dnat to 10.0.0.1" + end:                                  {"tcp 80": "", "tcp 443": "", "tcp 444": "pre"},
		head + "meta l4proto { tcp, udp } th dport 53 dnat to 10.0.0.1" + end:                     {"tcp 53": "pre", "udp 53": "pre", "udp 54": ""},
		head + "ip protocol udp th dport 53 dnat to 10.0.0.1" + end:                               {"tcp 53": "", "udp 53": "pre"},
		head + "ip daddr . tcp dport { 192.0.2.1 . 80, 192.0.2.2 . 81 } dnat to 10.0.0.1" + end:   {"tcp 192.0.2.1:80": "pre", "tcp 192.0.2.1:81": "", "tcp 81": "pre"},
		head + "ip daddr . tcp dport { 192.0.2.0/24 . 80-90 } dnat to 10.0.0.1" + end:             {"tcp 192.0.2.7:85": "pre", "tcp 192.0.3.7:85": "", "tcp 91": ""},
		head + "dnat to tcp dport map { 80 : 10.0.0.1, 81 : 10.0.0.2 }" + end:                     {"tcp 80": "pre", "tcp 81": "pre", "tcp 82": ""},
		head + "dnat to ip daddr . tcp dport map { 192.0.2.1 . 80 : 10.0.0.1 . 8080 }" + end:      {"tcp 192.0.2.1:80": "pre", "tcp 192.0.2.2:80": ""},
		head + "iifname lan tcp dport 80 dnat to 10.0.0.1" + end:                                  {"tcp 80": "pre some"},
		head + "iifname . tcp dport { lan . 80, wan . 81 } dnat to 10.0.0.1" + end:                {"tcp 80": "pre some", "tcp 82": ""},
		head + "ip saddr 10.0.0.0/8 ct state new limit rate 5/second tcp dport 80 redirect" + end: {"tcp 80": "pre some"},
		head + "meta mark 7 tcp sport 1000-2000 tcp dport 80 log counter dnat to 10.0.0.1" + end:  {"tcp 80": "pre some"},
		head + "tcp dport & 0xff == 80 dnat to 10.0.0.1" + end:                                    {"tcp 80": ""},
		head + "ip daddr 203.0.113.0/24 tcp dport 80 redirect" + end:                              {"tcp 80": "", "tcp 0.0.0.0:80": "", "tcp 203.0.113.1:80": "pre"},
		head + "ip daddr 192.0.2.1 dnat to 10.0.0.1" + end:                                        {"tcp 192.0.2.1:80": "pre", "tcp 192.0.2.2:80": "", "udp 99": "pre"},
		head + "iifname wan dnat to 10.0.0.1" + end:                                               {"tcp 80": ""},
		head + "tcp dport 80 return; tcp dport 80-81 dnat to 10.0.0.1" + end:                      {"tcp 80": "", "tcp 81": "pre"},
		head + "iifname lo tcp dport 80 return; tcp dport 80-81 dnat to 10.0.0.1" + end:           {"tcp 80": "pre"},
		head + "tcp dport 80 accept" + end:                                                        {"tcp 80": ""},
		head + "numgen inc mod 2 0 tcp dport 80 dnat to 10.0.0.1" + end:                           {"tcp 80": "pre some"},
		"table ip t { chain in { tcp dport 80 dnat to 10.0.0.1; }; chain pre { type nat hook prerouting priority dstnat; fib daddr type local goto in; }; }": {
			"tcp 80": "in", "tcp 81": ""},
		"table ip t { chain in { dnat to 10.0.0.1; }; chain pre { type nat hook prerouting priority dstnat; tcp dport vmap { 80-90 : jump in, 91 : accept }; tcp dport 91 dnat to 10.0.0.2; }; }": {
			"tcp 80": "in", "tcp 90": "in", "tcp 91": "", "tcp 92": ""},
		"table ip t { map m { type inet_proto . inet_service : verdict; elements = { tcp . 80 : goto in }; }; chain in { dnat to 10.0.0.1; }; chain pre { type nat hook prerouting priority dstnat; meta l4proto . th dport vmap @m; }; }": {
			"tcp 80": "in", "udp 80": "", "tcp 81": ""},
		"table ip t { set s { type inet_service; flags interval; elements = { 60000-65535 }; }; chain pre { type nat hook prerouting priority dstnat; udp dport @s redirect to :1; }; }": {
			"udp 59999": "", "udp 60000": "pre", "udp 65535": "pre"},
		"table ip6 t { chain pre { type nat hook prerouting priority dstnat; ip6 daddr 2001:db8::/61 tcp dport 80 dnat to fd00::1; }; }": {
			"tcp [2001:db8::1]:80": "pre", "tcp [2001:db8:0:8::1]:80": "", "tcp 192.0.2.1:80": ""},
		"table inet t { chain pre { type nat hook prerouting priority dstnat; meta nfproto ipv4 tcp dport 80 redirect; tcp dport 81 dnat ip6 to fd00::1; ip6 daddr 2001:db8::1 udp dport 53 redirect; }; }": {
			"tcp 192.0.2.1:80": "pre", "tcp [2001:db8::1]:80": "", "tcp 192.0.2.1:81": "", "tcp [2001:db8::1]:81": "pre", "udp [2001:db8::1]:53": "pre", "udp [2001:db8::2]:53": ""},
		"table ip t { chain out { type nat hook output priority -100; oifname lo tcp dport 80 dnat to 10.0.0.1; tcp dport 81 redirect; }; }": {
			"tcp 127.0.0.1:81": "out", "tcp 80": "out some", "tcp 81": "out"},
		"table ip t { flags dormant; chain pre { type nat hook prerouting priority dstnat; tcp dport 80 redirect; }; }":                        {"tcp 80": ""},
		"table ip t { chain pre { type filter hook prerouting priority dstnat; tcp dport 80 accept; }; chain un { tcp dport 80 redirect; }; }": {"tcp 80": ""},
		"table inet nftnat { chain pre { type nat hook prerouting priority dstnat; tcp dport 80 redirect; }; }":                                {"tcp 80": ""},
		"table ip t { chain post { type nat hook postrouting priority srcnat; tcp dport 80 snat to 192.0.2.1; }; }":                            {"tcp 80": ""},
	} {
		t.Run(rules, func(t *testing.T) {
			ns := labtest.NewNS(t, "rivals")
			labtest.ExecInput(t, ns, rules, "nft", "-f", "-")
			r := read(t, ns)
			for what, chain := range want {
				require.Equal(t, chain, r.says(t, what), what)
			}
		})
	}
}

// As CNI's portmap, Docker and others write them.
func TestReadIPTables(t *testing.T) {
	labtest.Tool(t, "iptables-nft")
	for rules, want := range map[string]map[string]string{
		"-A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 172.30.0.9:80":                      {"tcp 8080": "PREROUTING", "udp 8080": "", "tcp 8081": ""},
		"-A PREROUTING -p tcp -m tcp --dport 8000:8010 -j DNAT --to-destination 172.30.0.9":             {"tcp 8010": "PREROUTING", "tcp 8011": ""},
		"-A PREROUTING -d 192.0.2.1/32 -p udp -m udp --dport 53 -j REDIRECT --to-ports 5353":            {"udp 192.0.2.1:53": "PREROUTING", "udp 192.0.2.2:53": ""},
		"-A PREROUTING -p tcp -m tcp ! --dport 22 -j DNAT --to-destination 172.30.0.9":                  {"tcp 22": "", "tcp 23": "PREROUTING"},
		"-A PREROUTING -p tcp -m multiport --dports 80,443,8000:8010 -j DNAT --to-destination 10.0.0.1": {"tcp 443": "PREROUTING", "tcp 8005": "PREROUTING", "tcp 81": ""},
		"-A PREROUTING -p tcp -m multiport ! --dports 80,443 -j DNAT --to-destination 10.0.0.1":         {"tcp 443": "", "tcp 80": "", "tcp 81": "PREROUTING"},
		"-N DOCKER;-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER;-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80": {
			"tcp 8080": "DOCKER some", "tcp 80": ""},
		"-N HOST;-N DN;-A PREROUTING -m addrtype --dst-type LOCAL -j HOST;-A HOST -p tcp -m comment --comment x -m multiport --dports 8080,8081 -j DN;-A DN -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.0.0.1:80": {
			"tcp 8080": "DN", "tcp 8081": ""},
		"-A PREROUTING -m addrtype ! --dst-type LOCAL -p tcp --dport 80 -j REDIRECT":                            {"tcp 80": ""},
		"-A PREROUTING -p tcp --syn --dport 80 -m conntrack --ctstate NEW -j REDIRECT":                          {"tcp 80": "PREROUTING some"},
		"-A PREROUTING -p tcp -m string --string x --algo bm --dport 80 -j REDIRECT":                            {"tcp 80": ""},
		"-A OUTPUT -p tcp --dport 80 -m owner --uid-owner 7 -j REDIRECT":                                        {"tcp 80": "OUTPUT some"},
		"-A PREROUTING -i wan -j DNAT --to-destination 10.0.0.1;-A POSTROUTING -p tcp --dport 80 -j MASQUERADE": {"tcp 80": ""},
	} {
		t.Run(rules, func(t *testing.T) {
			ns := labtest.NewNS(t, "rivals")
			for line := range strings.SplitSeq(rules, ";") {
				labtest.Exec(t, ns, "iptables-nft", append([]string{"-t", "nat"}, strings.Fields(line)...)...)
			}
			r := read(t, ns)
			for what, chain := range want {
				require.Equal(t, chain, r.says(t, what), what)
			}
		})
	}
}
