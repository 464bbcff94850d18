// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// badSpecs are malformed port specs: those of 2013, and more.
func badSpecs() []string {
	return []string{
		"4503/tcp/udp", "4503/", "/", "/udp", ":/udp", "", ":", "::", ":::", "x", "80x", "80/tcp ", " 80", "+80", "0x50", "080", "٨٠",
		"0", ":0", "0:0", "8080:0", "65536", ":65536", "65536:80", "8080:65536", "-1", "80-", "-80", "80-79", "80-81-82", "0-5",
		"8080:", "8080:80:", ":8080:80", "1:2:3", "1:2:3:4", "8000-8009:80", "8000:80-89", "8000-8009:9000-9008", "8000-8009:9000-9010",
		"192.0.2.1", "192.0.2.1:80:", "192.0.2.1::80", "192.0.2.1:8080:0", "192.0.2.256:8080:80", "host:8080:80", "192.0.2.1:x:80",
		"2001:db8::1:8080:80", "[2001:db8::1]", "[2001:db8::1]:80", "[2001:db8::1:8080:80", "[2001:db8::1]8080:80", "[192.0.2.1]:8080:80",
		"[fe80::1%br0]:8080:80", "[]:8080:80", "192.0.2.0/24:8080:80", "80,81", "80->80", "80\n",
	}
}

// Bad input is one line and the right exit status, and changes nothing: no lease, port,
// cursor or table.
func TestEndpointBadInput(t *testing.T) {
	inEachMode(t, lab.PartBackend1, func(t *testing.T, top *lab.Topology, m mode) {
		t.Helper()
		load(t, top.Host, foreignRuleset(t))
		m.do(t, "network create inside 172.30.0.0/24")
		m.do(t, "network create six fd00:30::/64")
		m.do(t, "network create small 10.7.0.0/30")
		m.do(t, "attach web --network inside -p 8080:80 -p 192.0.2.1:53:53/udp")
		m.do(t, "attach last --network small")
		m.do(t, "add tcp 7000-7009 172.30.0.2:70-79 --name holder")
		before := takeSnapshot(t, top.Host)
		const (
			help  = ` (see "nftnat attach --help")`
			label = "name has a byte other than letters, digits, dots, dashes and underscores at byte 2"
		)
		for _, c := range labtest.Some(t, "bad inputs about endpoints", 3, []struct {
			args []string
			code int
			says string
		}{
			// The command line.
			{words("attach"), 2, misused("attach NAME", "attach web -p 8080:80 -p 53/udp")},
			{words("attach a b"), 2, misused("attach NAME", "attach web -p 8080:80 -p 53/udp")},
			{words("attach a -p"), 2, "flag needs an argument: 'p' in -p" + help},
			{words("attach a --nosuch"), 2, "unknown flag: --nosuch" + help},
			{words("detach"), 2, misused("detach NAME", "detach web")},
			{words("ps web"), 2, misused("ps", "")},
			{words("inspect"), 2, misused("inspect NAME", "inspect web")},
			{words("port web"), 2, misused("port NAME PRIVATE[/PROTO]", "port web 80")},
			// Names.
			{[]string{"attach", ""}, 2, `invalid endpoint "": no name is given`},
			{words("attach a/b"), 2, `invalid endpoint "a/b": ` + label},
			{[]string{"attach", "a\nb"}, 2, `invalid endpoint "a\nb": ` + label},
			{words("attach .a"), 2, `invalid endpoint ".a": name does not begin with a letter or digit`},
			{[]string{"attach", strings.Repeat("x", 4097)}, 2, `invalid endpoint "` + strings.Repeat("x", 128) + `"...: name has 4097 bytes, more than 4096`},
			{words("attach a --network a/b"), 2, `invalid network "a/b": ` + label},
			{words("detach a/b"), 2, `invalid endpoint "a/b": ` + label},
			{words("inspect a/b"), 2, `invalid endpoint "a/b": ` + label},
			{words("port a/b 80"), 2, `invalid endpoint "a/b": ` + label},
			{words("attach web --network inside"), 3, "attach web: endpoint web (172.30.0.2) exists already"},
			{words("attach a --network nowhere"), 4, `attach a: there is no network "nowhere"`},
			{words("detach a"), 4, `detach a: there is no endpoint "a"`},
			{words("inspect a"), 4, `there is no endpoint "a"`},
			{words("port a 80"), 4, `there is no endpoint "a"`},
			{words("attach a"), 2, `invalid endpoint "a": say which network it is in: inside, six, small`},
			// Addresses.
			{words("attach a --ip x"), 2, `invalid address "x": "x" is not an IP address`},
			{words("attach a --ip 172.30.0.7/24"), 2, `invalid address "172.30.0.7/24": "172.30.0.7/24" is not an IP address`},
			{words("attach a --ip fe80::1%br0"), 2, `invalid address "fe80::1%br0": an address with a zone means different hosts on different links`},
			{words("attach a --ip 127.0.0.1"), 2, `invalid address "127.0.0.1": it is a loopback address, which packets from outside cannot be sent to`},
			{words("attach a --ip 10.0.0.7"), 2, `invalid address "10.0.0.7": it is in none of the networks`},
			{words("attach a --network six --ip 172.30.0.7"), 2, `invalid address "172.30.0.7": it is not in network six fd00:30::/64`},
			{words("attach a --ip 172.30.0.0"), 2, `invalid address "172.30.0.0": it is the first address of network inside 172.30.0.0/24, which no host has`},
			{words("attach a --ip 172.30.0.1"), 2, `invalid address "172.30.0.1": it is the gateway of network inside 172.30.0.0/24`},
			{words("attach a --ip 172.30.0.255"), 2, `invalid address "172.30.0.255": it is the broadcast address of network inside 172.30.0.0/24`},
			{words("attach a --ip fd00:30::"), 2, `invalid address "fd00:30::": it is the first address of network six fd00:30::/64, which no host has`},
			{words("attach a --ip 172.30.0.2"), 3, "attach a: address 172.30.0.2 is taken by endpoint web"},
			{words("attach a --network small"), 3, "attach a: network small 10.7.0.0/30 is full: lease from 10.7.0.0/30: exhausted"},
			// Ports that are in use, also the last one of a range.
			{words("attach a --network inside -p 8080:81"), 3, `attach a: tcp 8080 is published as 8080->172.30.0.2:80 by "web"`},
			{words("attach a --network inside -p 80 -p 81 -p 192.0.2.1:8080:80"), 3, `attach a: tcp 8080 is published as 8080->172.30.0.2:80 by "web"`},
			{words("attach a --network inside -p 53:53/udp"), 3, `attach a: udp 192.0.2.1:53 is published as 192.0.2.1:53->172.30.0.2:53/udp by "web"`},
			{words("attach a --network inside -p 9000:80 -p 6990-7005:90-105"), 3, `attach a: tcp 6990-7005: tcp 7000-7009 is published as 7000-7009->172.30.0.2:70-79 by "holder"`},
			{words("attach a --network inside -p 90:80 -p 90:81"), 2, "mappings 90->172.30.0.3:80 and 90->172.30.0.3:81 overlap: both claim tcp port 90"},
			{words("attach a --network inside -p 192.0.2.255:90:80"), 2, `invalid mapping "192.0.2.255:90->172.30.0.3:80": the frontend 192.0.2.255 is a broadcast address`},
			// Specs.
			{words("attach a --network inside -p 80/tcpgarbage"), 2, "Invalid port format: unknown protocol tcpgarbage."},
			{words("attach a --network inside -p 4502:4503/UDP"), 2, "Invalid port format: unknown protocol UDP."},
			{words("attach a --network inside -p 80/sctp"), 2, "Invalid port format: unknown protocol sctp."},
			{words("attach a --network inside -p 8081:80 -p 80/tcp/udp"), 2, `Invalid port format: "80/tcp/udp"`},
			{words("port web 80/sctp"), 2, "Invalid port format: unknown protocol sctp."},
			{words("port web 80-81"), 2, `Invalid port format: "80-81"`},
			{words("port web 8080:80"), 2, `Invalid port format: "8080:80"`},
			{words("port web :80"), 2, `Invalid port format: ":80"`},
			{words("port web 0"), 2, `Invalid port format: "0"`},
			{words("port web 80/udp"), 4, "udp 80 of endpoint web is not published"},
			{words("port web 8080"), 4, "tcp 8080 of endpoint web is not published"},
		}) {
			r := m.ask(t, "", c.args...)
			require.Equal(t, "nftnat: "+c.says+"\n", r.Stderr, "%q", c.args)
			require.Equal(t, c.code, r.Code, "%q", c.args)
			require.Empty(t, r.Stdout)
			require.Equal(t, before.ruleset, ruleset(t, top.Host), "%q", c.args)
			require.Equal(t, before.sockets, sockets(t, top.Host), "%q", c.args)
		}
		for _, spec := range badSpecs() {
			if m.testbed != nil {
				break // there are many, and all are checked before anything is contacted
			}
			r := m.ask(t, "", "attach", "a", "--network", "inside", "-p", "8081:80", "-p", spec)
			require.Equal(t, 2, r.Code, "%q: %s", spec, r.Stdout)
			require.Regexp(t, `^nftnat: Invalid port format: [^\n]+\n$`, r.Stderr, spec)
			require.Empty(t, r.Stdout)
		}
		before.unchanged(t, top.Host)
		// Nothing was leased meanwhile.
		require.Equal(t, "172.30.0.3\n", m.do(t, "attach a --network inside"))
	})
}

func words(line string) []string { return strings.Fields(line) }
