// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// The comment of an element that others wrote becomes a valid name at most: their text
// without the characters that no name can have. It does not change the mapping.
func TestHostileComments(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	succeed(t, top.Host, "add", "tcp", "8080", "172.30.0.2:80", "--name", "honest")
	cases := []struct {
		userdata []byte
		name     string
		noProxy  bool
		one      bool // family
	}{
		{userdata: asComment("web [no-proxy]"), name: "web", noProxy: true},
		{userdata: asComment("web [no-proxy] [one-family]"), name: "web", noProxy: true, one: true},
		{userdata: asComment("web [something no-proxy later]"), name: "web", noProxy: true},
		{userdata: asComment("[no-proxy] web"), name: "[no-proxy] web"},
		{userdata: asComment("[no-proxy"), name: "[no-proxy"},
		{userdata: asComment("no-proxy"), name: "no-proxy"},
		{userdata: asComment("]["), name: "]["},
		{userdata: asComment("[]"), name: "[]"},
		{userdata: asComment("  [ops] do not touch  "), name: "  [ops] do not touch  "},
		{userdata: asComment("a\n8081->10.0.0.1:80\n"), name: `a\n8081->10.0.0.1:80\n`},
		{userdata: asComment("\x1b[2J\x1b]0;owned\x07"), name: `\x1b[2J\x1b]0;owned\a`},
		{userdata: asComment("a\" : 10.0.0.1 . 80, 1 comment \"b"), name: `a\x22 : 10.0.0.1 . 80, 1 comment \x22b`},
		{userdata: asComment("\xff\xfe\xfd"), name: `\xff\xfe\xfd`},
		{userdata: asComment("ü\xc3"), name: `ü\xc3`},
		{userdata: asComment("\u0085\u009b31m"), name: `\u0085\u009b31m`},
		{userdata: asComment("cut\x00off"), name: "cut"},
		{userdata: asComment("   "), name: "   "},
		{userdata: asComment(strings.Repeat("x", 250)), name: strings.Repeat("x", 63)},
		{userdata: asComment(strings.Repeat("ü", 100)), name: strings.Repeat("ü", 31)},
		{userdata: slices.Repeat([]byte{'z'}, 250)},              // no list of types and lengths
		{userdata: append([]byte{0, 254}, make([]byte, 254)...)}, // NFT_USERDATA_MAXLEN
		{userdata: []byte{0, 200, 'a', 'b'}},
		{userdata: []byte{0}},
		{userdata: append([]byte{7, 2, 'n', 'o'}, asComment("second")...), name: "second"},
		{userdata: append(asComment("first"), asComment("second")...), name: "first"},
	}
	backend := []byte{172, 30, 0, 2, 0, 80, 0, 0}
	var want []nat.Mapping
	for i, c := range cases {
		port := uint16(9000 + 2*i) // not consecutive, so that there are no ranges
		writeElement(t, top.Host, rawElement{
			set: "tcp4", key: binary.BigEndian.AppendUint16(nil, port), value: backend, userdata: c.userdata,
		})
		m := mapping(t, ports(int(port), int(port))+"->172.30.0.2:80")
		if c.one {
			m = mapping(t, "0.0.0.0:"+ports(int(port), int(port))+"->172.30.0.2:80")
		}
		m.Name, m.NoProxy = c.name, c.noProxy
		want = append(want, m)
	}
	honest := mapping(t, "8080->172.30.0.2:80")
	honest.Name = "honest"
	want = append(want, honest)
	slices.SortFunc(want, nat.Compare)

	e := open(t, top.Host, engine.Options{})
	require.Equal(t, want, collect(e))
	require.NoError(t, nat.ValidateAll(want...), "all could have been given on the command line")
	require.NoError(t, e.Close())

	for verb, around := range map[string]int{"ls": 1, "export": strings.Count(exportOf("mappings:\n"), "\n")} {
		out := succeed(t, top.Host, verb)
		require.Equal(t, len(want)+around, strings.Count(out, "\n"), "a line each, and those around them:\n%s", out)
		require.Equal(t, -1, strings.IndexFunc(out, func(r rune) bool { return unicode.IsControl(r) && r != '\n' }), "%q", out)
		require.NotRegexp(t, `(?m)^[ -]*(tcp +)?8081`, out)
	}
	export := succeed(t, top.Host, "export")
	r := runInput(t, top.Host, export, "apply", "-f", "-", "--dry-run")
	require.Empty(t, r.Stdout+r.Stderr, "what is exported is what is there")
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:9010", "web")

	// A damaged table with them can be repaired.
	nft(t, top.Host, "flush", "chain", "inet", "nftnat", "publish")
	e = open(t, top.Host, engine.Options{})
	require.Equal(t, want, collect(e))
	require.NoError(t, e.Close())
	plan, err := engine.Plan("")
	require.NoError(t, err)
	require.Equal(t, plan, listed(t, top.Host))
	require.Equal(t, export, succeed(t, top.Host, "export"))

	// They can be unpublished and published like any other.
	succeed(t, top.Host, "purge")
	r = runInput(t, top.Host, export, "apply", "-f", "-")
	require.Zero(t, r.Code, r.Stderr)
	require.Equal(t, export, succeed(t, top.Host, "export"))

	// And stored in a file.
	path := stateFile(t)
	storedState(t, top.Host, path)
	load(t, top.Host, "flush ruleset")
	storedState(t, top.Host, path)
	require.Equal(t, export, succeed(t, top.Host, "export"))
}

// Elements that no engine would write are ignored if they cannot be mappings, and can be
// listed and removed if they can. None of them stops an engine.
func TestHostileElements(t *testing.T) {
	labtest.LongOnly(t, "elements that others write to the table")
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	intact, err := engine.Plan("")
	require.NoError(t, err)
	for element, is := range map[string]string{
		"tcp4 { 0 : 172.30.0.2 . 80 }":                                   "",
		"tcp4 { 81 : 172.30.0.2 . 0 }":                                   "",
		"tcp4_host { 0.0.0.0 . 81 : 172.30.0.2 . 80 }":                   "",
		"tcp6_host { :: . 81 : fd00:30::2 . 80 }":                        "",
		"tcp4_host { 224.0.0.1 . 81 : 172.30.0.2 . 80 }":                 "",
		"tcp4 { 81 : 127.0.0.1 . 80 }":                                   "",
		"tcp4 { 81 : 0.0.0.0 . 80 }":                                     "",
		"udp4 { 81 : 224.0.0.1 . 80 }":                                   "",
		"tcp6 { 81 : fe80::1 . 80 }":                                     "",
		"tcp6 { 81 : ::ffff:172.30.0.2 . 80 }":                           "",
		"tcp4_to6 { 192.0.2.1 . 81 : ::1 . 80 }":                         "",
		"udp6_to4 { :: . 0 : 172.30.0.2 . 80 }":                          "",
		"inside4 { 10.9.9.0/24 . 10.9.9.0/24 }":                          "",
		`segments4 { "lan0" . "lan0" . 0.0.0.0/0 comment "on-link" }`:    "",
		`segments4 { "lan0" . "br0" . 192.0.2.0/24 }`:                    "",
		`segments4 { "lan0" . "lan0" . 192.0.2.0/24 comment "on-link" }`: "", // nothing leads there
		"networks4 { 172.30.0.0/24 }":                                    "",
		"tcp4 { 81 : 192.0.2.1 . 80 }":                                   "81->192.0.2.1:80",
		"tcp4_to6 { 0.0.0.0 . 8080 : fd00:30::2 . 8 }":                   "0.0.0.0:8080->[fd00:30::2]:8", // though any address is taken
		"udp6_to4 { :: . 81 : 172.30.0.2 . 8 }":                          "[::]:81->172.30.0.2:8/udp",
		"tcp4_host { 203.0.113.9 . 81 : 172.30.0.2 . 8 }":                "203.0.113.9:81->172.30.0.2:8",
		"tcp4_host { 192.0.2.1 . 8080 : 172.30.0.2 . 8 }":                "192.0.2.1:8080->172.30.0.2:8", // though any address is taken
	} {
		t.Run(element, func(t *testing.T) {
			load(t, top.Host, "flush ruleset")
			succeed(t, top.Host, "add", "tcp", "8080", "172.30.0.2:80", "--name", "honest", "--quiet")
			nft(t, top.Host, "add", "element", "inet", "nftnat", element)
			want := []string{"8080->172.30.0.2:80"}
			if is != "" {
				want = append(want, is)
			}
			e := open(t, top.Host, engine.Options{})
			require.ElementsMatch(t, want, published(e))
			publish(t, e, "7000->172.30.0.2:70")
			unpublish(t, e, "7000->172.30.0.2:70")
			require.NoError(t, e.Close())
			path := stateFile(t)
			require.NoError(t, openStored(top.Host.Path(), path, engine.Options{}, func(e *engine.Engine) error {
				publish(t, e, "7000->172.30.0.2:70")
				return nil
			}), "nor is anything in the way of a file")
			storedState(t, top.Host, path)
			if is != "" {
				m := mapping(t, is)
				require.Equal(t, is+"\n", succeed(t, top.Host, "rm", m.Proto.String(), m.FrontendText(), "--quiet"))
				require.NotContains(t, succeed(t, top.Host, "ls", "--quiet"), m.BackendText()+" ")
			}
			labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
			require.Equal(t, intact, listed(t, top.Host))
			succeed(t, top.Host, "purge")
			require.Empty(t, nft(t, top.Host, "list", "ruleset"))
		})
	}
}
