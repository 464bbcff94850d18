// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// What the commands for networks print, one after another.
func TestNetworkVerbs(t *testing.T) {
	inEachMode(t, lab.PartBackend1|lab.PartFar, func(t *testing.T, top *lab.Topology, m mode) {
		t.Helper()
		require.Equal(t, "NAME  PREFIX  GATEWAY  MASQUERADE  GUARD  ENDPOINTS\n", m.do(t, "network ls"))
		require.Equal(t, "[]\n", m.do(t, "network ls --json"))
		require.Equal(t, "inside 172.30.0.0/24\n", m.do(t, "network create inside 172.30.0.0/24"))
		require.Equal(t, "six fd00:77::/64\n", m.do(t, "network create six fd00:77::/64 --gateway fd00:77::ffff --no-masquerade --no-guard"))
		require.JSONEq(t, `{"name":"two","prefix":"10.9.0.0/31","gateway":"10.9.0.0","masquerade":true,"guard":true,"next":"10.9.0.1","endpoints":0}`,
			m.do(t, "network create two 10.9.0.0/31 --json"))
		require.Equal(t, "10.9.0.1\n", m.do(t, "attach b --network two"))
		require.Equal(t, "172.30.0.2\n", m.do(t, "attach a --network inside"))
		require.Equal(t, ""+
			"NAME    PREFIX         GATEWAY        MASQUERADE  GUARD  ENDPOINTS\n"+
			"inside  172.30.0.0/24  172.30.0.1     yes         yes    1\n"+
			"six     fd00:77::/64   fd00:77::ffff  no          no     0\n"+
			"two     10.9.0.0/31    10.9.0.0       yes         yes    1\n", m.do(t, "network ls"))
		require.JSONEq(t, `[
			{"name":"inside","prefix":"172.30.0.0/24","gateway":"172.30.0.1","masquerade":true,"guard":true,"next":"172.30.0.3","endpoints":1},
			{"name":"six","prefix":"fd00:77::/64","gateway":"fd00:77::ffff","masquerade":false,"guard":false,"next":"fd00:77::1","endpoints":0},
			{"name":"two","prefix":"10.9.0.0/31","gateway":"10.9.0.0","masquerade":true,"guard":true,"next":"10.9.0.1","endpoints":1}]`,
			m.do(t, "network ls --json"))

		for _, c := range []struct {
			line string
			code int
			says string
		}{
			{"network create inside 10.8.0.0/16", 3, "create network inside: network inside 172.30.0.0/24 exists already"},
			{"network create more 172.30.0.128/25", 3, "create network more: prefix 172.30.0.128/25 is taken by network inside 172.30.0.0/24"},
			{"network create more 172.16.0.0/12", 3, "create network more: prefix 172.16.0.0/12 is taken by network inside 172.30.0.0/24"},
			{"network rm two", 3, "remove network two: network two is taken by endpoint b"},
			{"network rm three", 4, `remove network three: there is no network "three"`},
		} {
			m.refuse(t, c.line, c.code, c.says)
		}
		// A route that leads elsewhere. The message names its link.
		r := m.ask(t, "", "network", "create", "far", top.FarNet4.String(), "--gateway", "198.51.100.77")
		require.Equal(t, 3, r.Code, r.Stderr)
		require.Regexp(t, `^nftnat: create network far: prefix 198\.51\.100\.0/24 is taken by [^\n]*far0[^\n]*\n$`, r.Stderr)

		m.do(t, "detach b")
		require.Empty(t, m.do(t, "network rm two"))
		require.Equal(t, "two 10.9.0.0/31\n", m.do(t, "network create two 10.9.0.0/31"))
		m.crash(t)
		require.Empty(t, m.do(t, "network rm two"))
		require.Empty(t, m.do(t, "network rm six"))
		m.refuse(t, "network rm inside", 3, "remove network inside: network inside is taken by endpoint a")
		m.do(t, "detach a")
		require.Empty(t, m.do(t, "network rm inside"))
		require.Equal(t, "[]\n", m.do(t, "network ls --json"))
		require.Empty(t, sortedElements(t, top.Host), "nothing is left of them")
	})
}

// Refused before a daemon is started or a table is read.
func TestNetworkBadInput(t *testing.T) {
	cases := [][2]string{
		{"create a", misused("network create NAME PREFIX", "network create inside 172.30.0.0/24")},
		{"create a 10.0.0.0/8 more", misused("network create NAME PREFIX", "network create inside 172.30.0.0/24")},
		{"create a 10.0.0.0", `invalid prefix "10.0.0.0": a network is written ADDRESS/LENGTH, as in 172.30.0.0/24`},
		{"create a 10.0.0.0/33", `invalid prefix "10.0.0.0/33": a network is written ADDRESS/LENGTH, as in 172.30.0.0/24`},
		{"create a 10.0.0.1/8", `invalid network "a 10.0.0.1/8": the address has bits beyond the prefix; the network is 10.0.0.0/8`},
		{"create a 10.0.0.0/32", `invalid network "a 10.0.0.0/32": it has no room for a gateway and an endpoint`},
		{"create a 0.0.0.0/0", `invalid network "a 0.0.0.0/0": a network is not the whole world`},
		{"create a 127.0.0.0/16", `invalid network "a 127.0.0.0/16": it overlaps 127.0.0.0/8, loopback addresses`},
		{"create a fe80::/64", `invalid network "a fe80::/64": it overlaps fe80::/10, link-local addresses, which every link has`},
		{"create a 10.0.0.0/24 --gateway x", `invalid gateway "x": "x" is not an IP address`},
		{"create a 10.0.0.0/24 --gateway 10.0.1.1", `invalid network "a 10.0.0.0/24": the gateway 10.0.1.1 is not in it`},
		{"create a 10.0.0.0/24 --gateway 10.0.0.0", `invalid network "a 10.0.0.0/24": the gateway 10.0.0.0 is the network's or the broadcast address`},
		{"create a 10.0.0.0/24 --gateway 10.0.0.255", `invalid network "a 10.0.0.0/24": the gateway 10.0.0.255 is the network's or the broadcast address`},
		{"create a/b 10.0.0.0/24", `invalid network "a/b 10.0.0.0/24": name has a byte other than letters, digits, dots, dashes and underscores at byte 2`},
		{"create .. 10.0.0.0/24", `invalid network ".. 10.0.0.0/24": name does not begin with a letter or digit`},
		{"create a 10.0.0.0/24 --no-such", "unknown flag: --no-such" + helpOf("network create")},
		{"rm", misused("network rm NAME", "network rm inside")},
		{"rm a/b", `invalid network "a/b": name has a byte other than letters, digits, dots, dashes and underscores at byte 2`},
		{"ls inside", misused("network ls", "")},
		{"nosuch", `unknown command "nosuch" for "nftnat network"` + helpOf("network")},
	}
	inEachMode(t, 0, func(t *testing.T, top *lab.Topology, m mode) {
		t.Helper()
		for _, c := range cases {
			m.refuse(t, "network "+c[0], 2, c[1])
		}
		require.Empty(t, nft(t, top.Host, "list", "ruleset"))
		if m.testbed != nil {
			require.NoFileExists(t, m.testbed.socket)
		}
	})
}

// nft(8) loads the plan, and makes the table that an engine makes.
func TestNetworkPlanLoads(t *testing.T) {
	ns := labtest.NewNS(t, "nowhere")
	plan := succeed(t, ns, "plan")
	require.Contains(t, plan, "\t# IPv4 networks; ")
	load(t, ns, plan)
	require.Equal(t, kernelRuleset(t, labtest.NewNS(t, "host")), listed(t, ns))
}
