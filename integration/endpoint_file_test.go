// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// apply makes networks, endpoints and mappings what the file says, and prints what it
// changed; with --dry-run it only prints.
func TestEndpointApply(t *testing.T) {
	inEachMode(t, lab.PartBackend1, func(t *testing.T, top *lab.Topology, m mode) {
		t.Helper()
		labtest.EchoTCP(t, top.Backend1, "web", ":80")
		const file = `networks:
  - {name: inside, prefix: 172.30.0.0/24, gateway: 172.30.0.1, next: 172.30.0.9}
  - {name: open, prefix: 10.7.0.0/24, gateway: 10.7.0.1, next: 10.7.0.2, masquerade: false, guard: false}
endpoints:
  - {name: bare, network: open, address: 10.7.0.200}
  - {name: web, network: inside, address: 172.30.0.2, ports: ["8080:80", "8000-8009:9000-9009", "192.0.2.1:53:53/udp"]}
mappings:
  - 90->172.30.0.3:90
  - {mapping: "9090->172.30.0.2:80", name: web, proxy: false}
`
		const made = "+ network inside 172.30.0.0/24 gateway 172.30.0.1\n" +
			"+ network open 10.7.0.0/24 gateway 10.7.0.1 no-masquerade no-guard\n" +
			"+ endpoint bare 10.7.0.200\n" +
			"+ endpoint web 172.30.0.2\n" +
			"+ 90->172.30.0.3:90\n" +
			"+ 8000-8009->172.30.0.2:9000-9009\n" +
			"+ 8080->172.30.0.2:80\n" +
			"+ 9090->172.30.0.2:80\n" +
			"+ 192.0.2.1:53->172.30.0.2:53/udp\n"
		empty := ruleset(t, top.Host)
		require.Equal(t, made, m.do(t, "apply --dry-run -f -", file))
		require.Equal(t, empty, ruleset(t, top.Host))
		require.Equal(t, made, m.do(t, "apply -f -", file))
		canonical := strings.Replace(file, `"8080:80", "8000-8009:9000-9009"`, `"8000-8009:9000-9009", "8080:80"`, 1)
		require.Equal(t, exportOf(canonical), m.do(t, "export"))
		labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")

		same := ruleset(t, top.Host)
		require.Empty(t, m.do(t, "apply -f -", file))
		require.Empty(t, m.do(t, "apply --dry-run -f -", m.do(t, "export")))
		require.Equal(t, same, ruleset(t, top.Host), "what is the same is not touched")

		// Without "next" the network goes on from where it was.
		require.Empty(t, m.do(t, "apply -f -", strings.Replace(file, ", next: 172.30.0.9", "", 1)))
		require.Equal(t, exportOf(canonical), m.do(t, "export"))

		changed := strings.NewReplacer("172.30.0.2, ports", "172.30.0.3, ports", ", guard: false", "", "8000-8009:9000-9009", "8000-8004:9000-9004").Replace(file)
		changed = strings.ReplaceAll(changed, "9090->172.30.0.2:80", "9090->172.30.0.3:80")
		const changes = "~ network open 10.7.0.0/24 gateway 10.7.0.1 no-masquerade no-guard => network open 10.7.0.0/24 gateway 10.7.0.1 no-masquerade\n" +
			"~ endpoint web 172.30.0.2 => endpoint web 172.30.0.3\n"
		require.True(t, strings.HasPrefix(m.do(t, "apply --dry-run -f -", changed), changes))
		require.Equal(t, same, ruleset(t, top.Host))
		require.True(t, strings.HasPrefix(m.do(t, "apply -f -", changed), changes))
		require.Contains(t, m.do(t, "ps"), "web   172.30.0.3  192.0.2.1:53->53/udp, 8000->9000, 8001->9001, 8002->9002, 8003->9003, 8004->9004, 8080->80, 9090->80\n")

		var docs []map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(m.do(t, "apply --json --dry-run -f -", "mappings: [90->172.30.0.3:90]")), &docs))
		require.JSONEq(t, `{"was":"network inside 172.30.0.0/24 gateway 172.30.0.1"}`, spelled(t, docs[0]))
		require.JSONEq(t, `{"was":"endpoint bare 10.7.0.200"}`, spelled(t, docs[2]))

		// A file with only mappings leaves no network and no endpoint.
		m.do(t, "apply -f -", "mappings: [90->172.30.0.3:90]")
		require.Equal(t, exportOf("mappings:\n  - 90->172.30.0.3:90\n"), m.do(t, "export"))
		m.do(t, "apply -f -", "mappings: []")
		require.Equal(t, exportOf("mappings: []\n"), m.do(t, "export"))
		require.Empty(t, sortedElements(t, top.Host))
	})
}

func spelled(t *testing.T, doc map[string]json.RawMessage) string {
	t.Helper()
	text, err := json.Marshal(doc)
	require.NoError(t, err)
	return string(text)
}

// A broken file, or one that is not possible on this host, is refused as a whole, with line
// and reason.
func TestEndpointBadFiles(t *testing.T) {
	inEachMode(t, lab.PartBackend1|lab.PartFar, func(t *testing.T, top *lab.Topology, m mode) {
		t.Helper()
		m.do(t, "network create inside 172.30.0.0/24")
		m.do(t, "attach web -p 8080:80")
		before := takeSnapshot(t, top.Host)
		const net = "networks:\n- {name: a, prefix: 10.7.0.0/24}\n"
		for _, c := range []struct {
			file string
			code int
			says string
		}{
			{net + "- {name: a, prefix: 10.8.0.0/24}\n", 2, `standard input:3: invalid network "a 10.8.0.0/24": there are two of that name (the first is in line 2)`},
			{net + "- {name: b, prefix: 10.0.0.0/8}\n", 2, `standard input:3: invalid network "b 10.0.0.0/8": it overlaps network a 10.7.0.0/24 (the first is in line 2)`},
			{net + "endpoints:\n- {name: web, address: 10.7.0.1}\n", 2, `standard input:4: invalid endpoint "web": address 10.7.0.1 is the gateway of network a 10.7.0.0/24`},
			{net + "endpoints:\n- {name: web}\n", 2, `standard input:4: invalid endpoint "web": it has no address, and a file says which`},
			{net + "endpoints:\n- {name: web, address: 10.7.0.2, ports: [\"80:80\", \"80/sctp\"]}\n", 2, "standard input:4: Invalid port format: unknown protocol sctp."},
			{net + "endpoints:\n- {name: web, address: 10.7.0.2, ports: [\"80:80\"]}\nmappings: [80->10.7.0.3]\n", 2,
				"standard input:5: mappings 80->10.7.0.2:80 and 80->10.7.0.3:80 overlap: both claim tcp port 80 (the first is in line 4)"},
			{"networks: {}\n", 2, `standard input:1: invalid networks "{": not a list`},
			{"networks: [{name: far, prefix: 198.51.100.0/24, gateway: 198.51.100.77}]\n", 3, ""},
			{"networks: [{name: a, prefix: 10.7.0.0/24}]\nmappings: [\"192.0.2.255:80->10.7.0.2\"]\n", 2,
				`invalid mapping "192.0.2.255:80->10.7.0.2:80": the frontend 192.0.2.255 is a broadcast address`},
		} {
			for _, args := range []string{"apply -f -", "apply --dry-run -f -"} {
				r := m.ask(t, c.file, strings.Fields(args)...)
				require.Equal(t, c.code, r.Code, "%s: %s", c.file, r.Stderr)
				require.Regexp(t, "^nftnat: [^\n]+\n$", r.Stderr)
				if c.says != "" {
					require.Equal(t, "nftnat: "+c.says+"\n", r.Stderr)
				}
				require.Empty(t, r.Stdout)
				require.Equal(t, before.ruleset, ruleset(t, top.Host), c.file)
			}
		}
		before.unchanged(t, top.Host)
	})
}

// export | apply makes another host the same, down to the address that is leased next.
func TestEndpointExportApply(t *testing.T) {
	one := newTopology(t, lab.Options{Parts: lab.PartBackend1, Forwarding: true})
	two := newTopology(t, lab.Options{Parts: lab.PartBackend1, Forwarding: true})
	from, to := mode{one.Host, newTestbed(t, one.Host)}, mode{ns: two.Host}
	for _, line := range []string{
		"network create inside 172.30.0.0/24", "network create 6.x fd00:30::/64 --no-guard", "attach gone --network inside",
		"attach web --network inside -p 8080:80 -p 0:443 -p 53:53/udp", "attach null --network 6.x -p [2001:db8:1::1]:81:80", "detach gone",
		"add udp 5353 172.30.0.3:53 --name dns",
	} {
		from.do(t, line)
	}
	export := from.do(t, "export")
	require.Equal(t, 9, strings.Count(to.do(t, "apply -f -", export), "+ "))
	require.Equal(t, export, to.do(t, "export"))
	require.Equal(t, sortedElements(t, one.Host), sortedElements(t, two.Host))
	for _, m := range []mode{from, to} {
		require.Equal(t, "172.30.0.4\n", m.do(t, "attach next --network inside"))
	}
}
