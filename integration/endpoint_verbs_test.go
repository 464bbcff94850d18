// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// What the commands for endpoints print, one after another.
func TestEndpointVerbs(t *testing.T) {
	inEachMode(t, lab.PartBackend1, func(t *testing.T, top *lab.Topology, m mode) {
		t.Helper()
		m.refuse(t, "attach web", 4, "attach web: there is no network yet")
		for _, step := range []struct{ line, prints string }{
			{"ps", "NAME  ADDRESS  PORTS\n"},
			{"ps --json", "[]\n"},
			{"network create inside 172.30.0.0/24", "inside 172.30.0.0/24\n"},
			{"attach web -p 80 -p 53:53/udp", "172.30.0.2\n49153->172.30.0.2:80\n53->172.30.0.2:53/udp\n"},
			{"attach bare", "172.30.0.3\n"},
			{"network create six fd00:30::/64", "six fd00:30::/64\n"},
			{"attach many --network six -p [2001:db8:1::1]:81:80 -p :90 -p 8000-8009:9000-9009 -p 7000-7006:6000-6006 -p 0:80", "fd00:30::2\n" +
				"90->[fd00:30::2]:90\n7000-7006->[fd00:30::2]:6000-6006\n8000-8009->[fd00:30::2]:9000-9009\n" +
				"49154->[fd00:30::2]:80\n[2001:db8:1::1]:81->[fd00:30::2]:80\n"},
			{"attach chosen --ip 172.30.0.77 -p 192.0.2.1:8080:80/tcp", "172.30.0.77\n192.0.2.1:8080->172.30.0.77:80\n"},
			// Sorted as strings, as in 2013; a long run as one.
			{"ps", "" +
				"NAME    ADDRESS      PORTS\n" +
				"bare    172.30.0.3   \n" +
				"chosen  172.30.0.77  192.0.2.1:8080->80\n" +
				"many    fd00:30::2   49154->80, 7000->6000, 7001->6001, 7002->6002, 7003->6003, 7004->6004, 7005->6005, 7006->6006, " +
				"8000-8009->9000-9009, 90->90, [2001:db8:1::1]:81->80\n" +
				"web     172.30.0.2   49153->80, 53->53/udp\n"},
			{"inspect web", `{"Name":"web","NetworkSettings":{"IPAddress":"172.30.0.2","IPPrefixLen":24,"Gateway":"172.30.0.1","Bridge":"",` +
				`"PortMapping":{"Tcp":{"80":"49153"},"Udp":{"53":"53"}}}}` + "\n"},
			{"inspect bare", `{"Name":"bare","NetworkSettings":{"IPAddress":"172.30.0.3","IPPrefixLen":24,"Gateway":"172.30.0.1","Bridge":"",` +
				`"PortMapping":{"Tcp":{},"Udp":{}}}}` + "\n"},
			{"port web 80", "49153\n"},
			{"port web 53/udp", "53\n"},
			{"port chosen 80/tcp", "192.0.2.1:8080\n"},
			// A mapping with the endpoint's name and address belongs to the endpoint.
			{"add tcp 9 172.30.0.2:80 --name web --no-proxy", "9->172.30.0.2:80\n"},
			{"port web 80", "9\n49153\n"},
			{"inspect web", `{"Name":"web","NetworkSettings":{"IPAddress":"172.30.0.2","IPPrefixLen":24,"Gateway":"172.30.0.1","Bridge":"",` +
				`"PortMapping":{"Tcp":{"80":"9"},"Udp":{"53":"53"}}}}` + "\n"},
			{"ps --json", ""},
			{"export", exportOf("" +
				"networks:\n" +
				"  - {name: inside, prefix: 172.30.0.0/24, gateway: 172.30.0.1, next: 172.30.0.4}\n" +
				"  - {name: six, prefix: \"fd00:30::/64\", gateway: \"fd00:30::1\", next: \"fd00:30::3\"}\n" +
				"endpoints:\n" +
				"  - {name: bare, network: inside, address: 172.30.0.3}\n" +
				"  - {name: chosen, network: inside, address: 172.30.0.77, ports: [\"192.0.2.1:8080:80\"]}\n" +
				"  - {name: many, network: six, address: \"fd00:30::2\", ports: [\"90:90\", \"7000-7006:6000-6006\", \"8000-8009:9000-9009\", \"49154:80\", \"[2001:db8:1::1]:81:80\"]}\n" +
				"  - {name: web, network: inside, address: 172.30.0.2, ports: [\"49153:80\", \"53:53/udp\"]}\n" +
				"mappings:\n" +
				"  - {mapping: \"9->172.30.0.2:80\", name: web, proxy: false}\n")},
			{"rm tcp 49153", "49153->172.30.0.2:80\n"},
			{"detach web", "9->172.30.0.2:80\n53->172.30.0.2:53/udp\n"},
			{"detach bare", ""},
			{"detach many --json", ""},
			{"ps", "NAME    ADDRESS      PORTS\nchosen  172.30.0.77  192.0.2.1:8080->80\n"},
		} {
			switch {
			case strings.HasPrefix(step.line, "ps --json") && step.prints == "":
				require.JSONEq(t, `{"name":"chosen","network":"inside","address":"172.30.0.77","prefix":"172.30.0.0/24","gateway":"172.30.0.1","mappings":[
					{"proto":"tcp","host":"192.0.2.1","port":8080,"backend":"172.30.0.77:80","name":"chosen","proxy":true}]}`, second(t, m.do(t, step.line)))
			case strings.HasPrefix(step.line, "detach many"):
				require.Equal(t, 20, strings.Count(m.do(t, step.line), `"name":"many"`))
			default:
				require.Equal(t, step.prints, m.do(t, step.line), step.line)
			}
		}
		require.JSONEq(t, `{"name":"j","network":"inside","address":"172.30.0.4","prefix":"172.30.0.0/24","gateway":"172.30.0.1","mappings":[]}`,
			m.do(t, "attach j --network inside --json"))
		if m.testbed != nil {
			st := m.testbed.status(t)
			require.Equal(t, []int{2, 2}, []int{st.Networks, st.Endpoints})
			require.Contains(t, m.do(t, "status"), "networks    2, with 2 endpoints\n")
		}
	})
}

// The ports of an endpoint can be reached until it is detached: with curl and with
// datagrams.
func TestEndpointTraffic(t *testing.T) {
	inEachMode(t, lab.PartBackend1|lab.PartBackend2, func(t *testing.T, top *lab.Topology, m mode) {
		t.Helper()
		labtest.EchoHTTP(t, top.Backend1, "web", ":80")
		labtest.EchoUDP(t, top.Backend1, "dns", ":53")
		m.do(t, "network create inside 172.30.0.0/24")
		m.do(t, "network create six fd00:30::/64")
		require.Equal(t, "172.30.0.2\n8080->172.30.0.2:80\n53->172.30.0.2:53/udp\n", m.do(t, "attach web --network inside -p 8080:80 -p :53/udp"))
		require.Equal(t, "fd00:30::2\n8081->[fd00:30::2]:80\n54->[fd00:30::2]:53/udp\n", m.do(t, "attach web6 --network six -p 8081:80 -p 54:53/udp"))
		curl := func(from *lab.NS, url string) labtest.Result {
			return labtest.Run(t, from, command(t, "curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "10", "http://"+url+"/"))
		}
		type caller struct {
			from *lab.NS
			url  string
			sees string // the client's address
		}
		clients := []caller{
			{top.Client, "192.0.2.1:8080", top.Client.V4.String()},
			{top.Client, "[2001:db8:1::1]:8081", top.Client.V6.String()},
			{top.Backend2, "192.0.2.1:8080", top.Gateway4.String()},
		}
		if m.testbed != nil {
			for _, url := range []string{"127.0.0.1:8080", "[::1]:8080", "127.0.0.1:8081", "[::1]:8081"} {
				clients = append(clients, caller{top.Host, url, ""})
			}
		}
		for _, c := range clients {
			r := curl(c.from, c.url)
			require.Zero(t, r.Code, "%s: %s", c.url, r.Stderr)
			require.Contains(t, r.Stdout, "web ")
			require.Contains(t, r.Stdout, c.sees)
		}
		labtest.Reaches(t, top.Client, "udp", "192.0.2.1:53", "dns")
		labtest.Reaches(t, top.Client, "udp", "[2001:db8:1::1]:54", "dns")

		m.do(t, "detach web")
		m.do(t, "detach web6")
		for _, c := range clients {
			r := curl(c.from, c.url)
			require.Equal(t, 7, r.Code, "curl: failed to connect, not timed out: %s", r.Stderr)
		}
		require.Error(t, labtest.NoAnswer(t, top.Client, "udp", "192.0.2.1:53"))
	})
}

// The daemon is killed between commands. Leases, ports, names and cursors are in the table,
// and a released address is leased again last.
func TestEndpointSurvivesKill(t *testing.T) {
	inEachMode(t, lab.PartBackend1, func(t *testing.T, top *lab.Topology, m mode) {
		t.Helper()
		labtest.EchoHTTP(t, top.Backend1, "web", ":80")
		labtest.Exec(t, top.Host, "ip", "address", "add", "10.7.0.1/29", "dev", lab.HostBridge)
		labtest.Exec(t, top.Backend1, "ip", "address", "add", "10.7.0.2/29", "dev", lab.MachineLink)
		attach := func(name, want string) {
			t.Helper()
			before := ruleset(t, top.Host)
			m.crash(t)
			require.Equal(t, before, ruleset(t, top.Host))
			require.Equal(t, want, m.do(t, "attach "+name))
		}
		m.do(t, "network create inside 10.7.0.0/29")
		require.Equal(t, "10.7.0.2\n8080->10.7.0.2:80\n", m.do(t, "attach a -p 8080:80"))
		attach("b", "10.7.0.3\n")
		m.crash(t)
		require.Contains(t, labtest.Exec(t, top.Client, "curl", "--silent", "--noproxy", "*", "http://192.0.2.1:8080/"), "web ", "nobody lives, and it answers")
		require.Equal(t, "8080->10.7.0.2:80\n", m.do(t, "detach a"))
		attach("c", "10.7.0.4\n")
		m.do(t, "detach b")
		attach("d", "10.7.0.5\n")
		attach("e", "10.7.0.6\n")
		attach("f", "10.7.0.2\n")
		attach("g", "10.7.0.3\n")
		m.crash(t)
		m.refuse(t, "attach h", 3, "attach h: network inside 10.7.0.0/29 is full: lease from 10.7.0.0/29: exhausted")
		m.crash(t)
		require.Equal(t, "NAME  ADDRESS   PORTS\nc     10.7.0.4  \nd     10.7.0.5  \ne     10.7.0.6  \nf     10.7.0.2  \ng     10.7.0.3  \n",
			m.do(t, "ps"))
		m.do(t, "detach e")
		m.do(t, "detach d")
		// None was free: those released first are leased first.
		attach("h", "10.7.0.6\n")
	})
}

// A daemon completes names; TAB starts none.
func TestEndpointCompletion(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, Forwarding: true})
	s := newTestbed(t, top.Host)
	lines := []string{"detach", "inspect", "port", "network rm", "attach x --network"}
	complete := func(line string) string {
		r := labtest.Run(t, top.Host, bare(t, append(append([]string{"__complete"}, s.args...), append(strings.Fields(line), "")...)...))
		require.Zero(t, r.Code, r.Stderr)
		return r.Stdout
	}
	for _, line := range lines {
		require.Equal(t, ":4\n", complete(line))
	}
	require.Empty(t, daemons(t, filepath.Dir(s.socket)))
	s.succeed(t, "network create inside 172.30.0.0/24")
	s.succeed(t, "attach web")
	s.succeed(t, "attach api")
	for i, line := range lines {
		want := "api\nweb\n:4\n"
		if i >= 3 {
			want = "inside\n:4\n"
		}
		require.Equal(t, want, complete(line), line)
	}
	require.Equal(t, ":4\n", complete("detach web"), "one is all it takes")
}

// second returns the second object in a JSON array, on one line.
func second(t *testing.T, array string) string {
	t.Helper()
	objects := strings.SplitAfter(strings.Trim(array, "[]\n"), `]}`)
	require.Greater(t, len(objects), 1)
	return strings.TrimPrefix(objects[1], ",")
}

// The API answers what the commands print.
func TestEndpointHTTP(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, Forwarding: true})
	s := newTestbed(t, top.Host)
	m := mode{top.Host, s}
	m.do(t, "network create inside 172.30.0.0/24")
	curl := func(method, path, body string, args ...string) string {
		all := append([]string{"--silent", "--show-error", "--unix-socket", s.socket, "--request", method, "http://nftnat" + path}, args...)
		if body != "" {
			all = append(all, "--header", "Content-Type: application/json", "--data", body)
		}
		return labtest.Exec(t, top.Host, "curl", all...)
	}
	made := curl("POST", "/v1/endpoints", `{"name":"web","ports":["8080:80"]}`)
	require.JSONEq(t, `{"name":"web","network":"inside","address":"172.30.0.2","prefix":"172.30.0.0/24","gateway":"172.30.0.1","mappings":[
		{"proto":"tcp","host":"","port":8080,"backend":"172.30.0.2:80","name":"web","proxy":true}]}`, made)
	require.Equal(t, m.do(t, "inspect web"), curl("GET", "/v1/endpoints/web", ""))
	require.Equal(t, m.do(t, "ps --json"), curl("GET", "/v1/endpoints", ""))
	require.Equal(t, m.do(t, "network ls --json"), curl("GET", "/v1/networks", ""))
	require.Equal(t, m.do(t, "export"), curl("GET", "/v1/state", "", "--header", "Accept: application/yaml"))
	state := curl("GET", "/v1/state", "")
	require.Equal(t, "[]\n", curl("PUT", "/v1/state?dry-run=true", state), "what GET tells, PUT takes")

	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte(m.do(t, "export")), 0o600))
	require.Equal(t, "[]\n", curl("PUT", "/v1/state", "", "--header", "Content-Type: application/yaml", "--data-binary", "@"+file))
	for _, refused := range []struct {
		method, path, body, want string
	}{
		{"POST", "/v1/endpoints", `{"name":"web"}`, `{"type":"about:blank","title":"Conflict","status":409,"detail":"attach web: endpoint web (172.30.0.2) exists already",` +
			`"code":"conflict","taken":{"what":"endpoint web (172.30.0.2)","holder":""}}`},
		{"POST", "/v1/endpoints", `{"name":"x","ports":["4503/tcp/udp"]}`, `{"type":"about:blank","title":"Unprocessable Entity","status":422,` +
			`"detail":"Invalid port format: \"4503/tcp/udp\"","code":"invalid"}`},
		{"GET", "/v1/endpoints/x", "", `{"type":"about:blank","title":"Not Found","status":404,"detail":"there is no endpoint \"x\"","code":"not-found"}`},
		{"DELETE", "/v1/networks/inside", "", `{"type":"about:blank","title":"Conflict","status":409,"detail":"remove network inside: network inside is taken by endpoint web",` +
			`"code":"conflict","taken":{"what":"network inside","holder":"endpoint web"}}`},
	} {
		require.JSONEq(t, refused.want, curl(refused.method, refused.path, refused.body), fmt.Sprint(refused))
	}
	require.Equal(t, state, curl("GET", "/v1/state", ""))
	require.JSONEq(t, `[{"proto":"tcp","host":"","port":8080,"backend":"172.30.0.2:80","name":"web","proxy":true}]`, curl("DELETE", "/v1/endpoints/web", ""))
	require.Empty(t, curl("DELETE", "/v1/networks/inside", ""))
	require.JSONEq(t, `{"networks":[],"endpoints":[],"mappings":[]}`, curl("GET", "/v1/state", ""))
}
