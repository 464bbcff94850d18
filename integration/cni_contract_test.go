// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/cni"
)

// What portmap does with everything that can be wrong with a call, this plugin does.
func TestCNIContract(t *testing.T) {
	h := newCNIHost(t)
	h.pod("c1")
	versions := `"supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]`
	for _, program := range []string{"nftnat-cni", "portmap", "nftnat"} {
		// It does not read its input.
		require.Equal(t, `{"cniVersion":"1.1.0",`+versions+"}\n",
			h.succeeds(cniCall{program: program, command: "VERSION", stdin: "{", id: noVariable, netNS: noVariable, ifName: noVariable}))
	}
	r := h.call(cniCall{command: noVariable})
	require.Zero(t, r.Code)
	require.Empty(t, r.Stdout)
	require.Equal(t, "CNI nftnat-cni plugin v"+thisVersion+"\nCNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n", r.Stderr)

	for _, test := range []struct {
		about        string
		call         cniCall
		code         int
		msg, details string
	}{
		{"no result before", cniCall{command: "ADD", prevResult: noVariable}, 999, "must be called as chained plugin", ""},
		{"no variables", cniCall{command: "ADD", id: noVariable, netNS: noVariable, ifName: noVariable}, 4,
			"required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing", ""},
		{"no path", cniCall{command: "ADD", env: []string{"CNI_PATH="}}, 4, "required env variables [CNI_PATH] missing", ""},
		{"id", cniCall{command: "ADD", id: ".c1"}, 4, "invalid characters in containerID", ".c1"},
		{"interface", cniCall{command: "ADD", ifName: "a/b"}, 4, "interface name contains / or : or whitespace characters", ""},
		{"command", cniCall{command: "EAT"}, 4, "unknown CNI_COMMAND: EAT", ""},
		{"no JSON", cniCall{command: "ADD", stdin: "{"}, 6, "error unmarshall network config: unexpected end of JSON input", ""},
		{"no JSON for DEL", cniCall{command: "DEL", stdin: "{"}, 6, "error unmarshall network config: unexpected end of JSON input", ""},
		{"no name", cniCall{command: "ADD", stdin: "{}"}, 7, "missing network name", ""},
		{"name", cniCall{command: "ADD", network: "a b"}, 7, "invalid characters found in network name", "a b"},
		{"version", cniCall{command: "ADD", version: "9.0.0"}, 1, "incompatible CNI versions",
			`config is "9.0.0", plugin supports ["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]`},
		{"CHECK of an old version", cniCall{command: "CHECK", version: "0.3.1"}, 1, "config version does not allow CHECK", ""},
		{"CHECK without a result", cniCall{command: "CHECK", prevResult: noVariable}, 999, "Required prevResult missing", ""},
		{"STATUS of an old version", cniCall{command: "STATUS", version: "1.0.0"}, 1, "config version does not allow STATUS", ""},
		{"GC of an old version", cniCall{command: "GC", version: "1.0.0"}, 1, "config version does not allow GC", ""},
		{"no daemon", cniCall{command: "ADD", ports: webPort}, 11, "ask " + h.socket + ": no server answers: no such file or directory", ""},
		{"no daemon, STATUS", cniCall{command: "STATUS"}, 50, "ask " + h.socket + ": no server answers: no such file or directory", ""},
	} {
		e := h.fails(test.call)
		require.Equal(t, cniError{test.code, test.msg, test.details}, e, test.about)
	}

	// Nothing to do needs no daemon, and starts none.
	for _, version := range []string{"", "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		ip := `"ips":[{"address":"172.30.0.2/24"}]`
		switch version {
		case "", "0.1.0", "0.2.0":
			ip = `"ip4":{"ip":"172.30.0.2/24"}`
		case "0.3.0", "0.3.1", "0.4.0":
			ip = `"ips":[{"address":"172.30.0.2/24","version":"4"}]`
		}
		conf := fmt.Sprintf(`{"name":"net","type":"portmap","cniVersion":%q,"prevResult":{"cniVersion":%q,%s,"dns":{}}}`, version, version, ip)
		out := h.succeeds(cniCall{command: "ADD", stdin: conf})
		require.JSONEq(t, fmt.Sprintf(`{"cniVersion":%q,%s}`, or(version, "0.1.0"), ip), withoutEmptyDNS(t, out), version)
		require.Contains(t, out, "\n    \"", "it is indented")
	}
	require.Empty(t, h.succeeds(cniCall{command: "DEL", netNS: noVariable}))
	require.Empty(t, h.succeeds(cniCall{command: "DEL", netNS: noVariable, prevResult: noVariable, ports: webPort}))
	require.Empty(t, h.succeeds(cniCall{command: "GC"}))
	require.Empty(t, h.succeeds(cniCall{command: "CHECK"}))
	require.NoFileExists(t, h.socket)

	h.serve(t)
	require.Empty(t, h.succeeds(cniCall{command: "STATUS"}))
	// The work is done, and then it is found wrong.
	r = h.call(cniCall{command: "ADD", netNS: "/proc/self/ns/net", ports: webPort})
	require.Equal(t, 1, r.Code)
	docs := json.NewDecoder(strings.NewReader(r.Stdout))
	var result map[string]any
	var e cniError
	require.NoError(t, docs.Decode(&result))
	require.NoError(t, docs.Decode(&e))
	require.Contains(t, result, "ips")
	require.Equal(t, cniError{8, "plugin's netns and netns from CNI_NETNS should not be the same", ""}, e)
	require.Contains(t, h.published(), "0.0.0.0:8080->172.30.0.2:80 c1/net")
	h.succeeds(cniCall{command: "DEL", netNS: noVariable})
	h.requireNothing()
}

// withoutEmptyDNS removes what some versions of results have and others have not.
func withoutEmptyDNS(t *testing.T, text string) string {
	t.Helper()
	var doc map[string]any
	require.NoError(t, json.Unmarshal([]byte(text), &doc), text)
	delete(doc, "dns")
	done, err := json.Marshal(doc)
	require.NoError(t, err)
	return string(done)
}

// Broken and hostile input gets an error, and changes nothing.
func TestCNIHostile(t *testing.T) {
	h := newCNIHost(t)
	h.serve(t)
	h.pod("c1")
	h.pod("c2")
	h.succeeds(cniCall{command: "ADD", ports: webPort})
	before, ruleset := h.published(), nft(t, h.ns, "list", "ruleset")
	port := func(fields string) string {
		return `[{"hostPort":9000,"containerPort":80,"protocol":"tcp"` + fields + `}]`
	}
	for _, test := range []struct {
		call cniCall
		code int
	}{
		{cniCall{stdin: strings.Repeat("[", 100000)}, 6},
		{cniCall{stdin: `{"name":"net","cniVersion":1}`}, 6},
		{cniCall{stdin: "\x00"}, 6},
		{cniCall{stdin: `{"name":["net"]}`}, 6},
		{cniCall{network: strings.Repeat("/", 300)}, 7},
		{cniCall{network: "../../x"}, 7},
		{cniCall{id: "../../x"}, 4},
		{cniCall{id: "-rf"}, 4},
		{cniCall{ifName: strings.Repeat("e", 16)}, 4},
		{cniCall{ifName: ".."}, 4},
		{cniCall{ports: `{}`}, 999},
		{cniCall{ports: `[[]]`}, 999},
		{cniCall{ports: `[{"hostPort":"9000"}]`}, 999},
		{cniCall{ports: `[{"hostPort":9000.5,"containerPort":80,"protocol":"tcp"}]`}, 999},
		{cniCall{ports: `[{"hostPort":1e400,"containerPort":80,"protocol":"tcp"}]`}, 999},
		{cniCall{ports: `[null]`}, 999},
		{cniCall{ports: `[{}]`}, 999},
		{cniCall{ports: `[{"hostPort":0,"containerPort":80,"protocol":"tcp"}]`}, 999},
		{cniCall{ports: `[{"hostPort":-8080,"containerPort":80,"protocol":"tcp"}]`}, 999},
		{cniCall{ports: `[{"hostPort":4294976296,"containerPort":80,"protocol":"tcp"}]`}, 7},
		{cniCall{ports: `[{"hostPort":9000,"containerPort":65616,"protocol":"tcp"}]`}, 7},
		{cniCall{ports: `[{"hostPort":9000,"containerPort":80,"protocol":"sctp"}]`}, 2},
		{cniCall{ports: `[{"hostPort":9000,"containerPort":80,"protocol":"tcp; flush ruleset"}]`}, 7},
		{cniCall{ports: port(`,"hostIP":"0"`)}, 7},
		{cniCall{ports: port(`,"hostIP":"192.0.2.1 dport 22"`)}, 7},
		{cniCall{ports: port(`,"hostIP":"fe80::1%lo"`)}, 7},
		{cniCall{ports: port(``), keys: `,"conditionsV4":["-j","ACCEPT"]`}, 2},
		{cniCall{ports: port(``), keys: `,"conditionsV6":["ip6 saddr ::/0"]`}, 2},
		{cniCall{ports: port(``), keys: `,"externalSetMarkChain":"KUBE-MARK-MASQ"`}, 2},
		{cniCall{ports: port(``), keys: `,"masqAll":true`}, 2},
		{cniCall{ports: port(``), keys: `,"socket":1`}, 999},
		{cniCall{ports: port(``), keys: `,"table":"a b"`}, 7},
		{cniCall{ports: port(``), keys: `,"socket":"` + strings.Repeat("x", 500) + `"`}, 999},
		{cniCall{ports: port(``), prevResult: `[]`}, 999},
		{cniCall{ports: port(``), prevResult: `{"cniVersion":"1.1.0","ips":[{"address":"300.0.0.1/8"}]}`}, 999},
		{cniCall{ports: port(``), prevResult: `{"cniVersion":"1.1.0","ips":[{"address":"127.0.0.1/8"}]}`}, 7},
		{cniCall{ports: port(``), prevResult: `{"cniVersion":"1.1.0","ips":[{"address":"0.0.0.0/0"}]}`}, 7},
		{cniCall{ports: port(``), prevResult: `{"cniVersion":"1.1.0","ips":[{"address":"192.0.2.1/24"}]}`}, 7},
		{cniCall{ports: port(``), version: "0.4.0", prevResult: `{"cniVersion":"0.4.0","ips":[null]}`}, 999},
	} {
		test.call.command = "ADD"
		if test.call.id == "" {
			test.call.id = "c2"
		}
		e := h.fails(test.call)
		text := test.call.config()
		require.Equal(t, test.code, e.Code, "%.200s: %s", text, e.Msg)
		require.NotContains(t, e.Msg, "\n")
		require.Equal(t, before, h.published(), "%.200s", text)
	}
	require.Equal(t, ruleset, nft(t, h.ns, "list", "ruleset"))
	names, err := os.ReadDir(cni.RecordsDir(h.socket))
	require.NoError(t, err)
	require.Len(t, names, 1)
	h.succeeds(cniCall{command: "DEL"})
	h.requireNothing()
}
