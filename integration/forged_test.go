// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/binary"
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// Elements that others write in nftnat's format make no endpoint, and take nothing from one:
// a mapping belongs to an endpoint only if it has its name and leads to its address. Names
// and comments of any bytes are harmless to terminals and readers of JSON.
func TestForgedRecords(t *testing.T) {
	inEachMode(t, lab.PartBackend1, func(t *testing.T, top *lab.Topology, m mode) {
		t.Helper()
		labtest.EchoTCP(t, top.Backend1, "web", ":80")
		m.do(t, "network create inside 172.30.0.0/24")
		m.do(t, "attach web --network inside -p 8080:80")
		before := m.shown(t)
		intact := listed(t, top.Host)
		m.crash(t)
		const escape = "\x1b[2J\x1b[1Aall is well\r\n"
		forge(t, top.Host, "tcp4", 9000, "172.30.0.9", "web")     // another's address
		forge(t, top.Host, "tcp4", 9002, "172.30.0.2", "ghost")   // nobody's name
		forge(t, top.Host, "udp4", 9004, "172.30.0.2", "x [web]") // our brackets
		forge(t, top.Host, "tcp4", 9006, "172.30.0.2", escape)
		for i, name := range []string{escape, "web", strings.Repeat("x", 254), "a\xff\xfe", "a/b", "\u009b31m", "", " inside [gateway 172.30.0.1]"} {
			writeElement(t, top.Host, rawElement{set: "leases4", key: []byte{172, 30, 0, byte(100 + i)}, userdata: asComment(name)})
		}
		writeElement(t, top.Host, rawElement{set: "leases4", key: []byte{10, 9, 9, 9}, userdata: asComment("elsewhere")})
		writeElement(t, top.Host, rawElement{set: "cursors4", key: []byte{172, 30, 0, 200}, userdata: asComment("inside")})
		writeElement(t, top.Host, rawElement{set: "leases6", key: netip.MustParseAddr("fd00::2").AsSlice(), userdata: []byte{0, 255, 'x'}})
		writeChain(t, top.Host, escape)
		writeChain(t, top.Host, strings.Repeat("\xff\x9b", 100))

		// First commands that only read. The next change removes what is wrong.
		for _, when := range []string{"found", "put right"} {
			after := m.shown(t)
			require.Equal(t, before["ps"], after["ps"], when)
			require.Equal(t, before["network ls"], after["network ls"], when)
			require.Equal(t, before["inspect web"], after["inspect web"], when)
			require.Contains(t, after["ls --json"], `"name":"ghost"`, "a name that names no endpoint is one of a mapping's")
			require.Equal(t, 4, m.ask(t, "", "inspect", "ghost").Code)
			require.Equal(t, 4, m.ask(t, "", "port", "web", "9004/udp").Code)
			if when == "found" {
				r := m.ask(t, "", "add", "tcp", "7000", "172.30.0.2:70")
				require.Zero(t, r.Code, r.Stderr)
				requireShown(t, r.Stdout+r.Stderr)
				require.Equal(t, "7000->172.30.0.2:70\n", m.do(t, "rm tcp 7000"))
			}
		}
		require.Equal(t, intact, listed(t, top.Host), "their chains are gone")
		require.NotContains(t, sortedElements(t, top.Host), "172.30.0.100")
		labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
		require.Equal(t, "8080->172.30.0.2:80\n", m.do(t, "detach web"))
		require.NotContains(t, m.do(t, "ls --quiet"), " 8080 ")
		require.Contains(t, m.do(t, "ls --quiet"), "9002", "what is not the endpoint's stays when it goes")
	})
}

// forge writes a mapping in nftnat's format, with any comment.
func forge(t *testing.T, ns *lab.NS, set string, port uint16, backend, comment string) {
	t.Helper()
	writeElement(t, ns, rawElement{
		set: set, key: binary.BigEndian.AppendUint16(nil, port),
		value:    append(netip.MustParseAddr(backend).AsSlice(), 0, 80, 0, 0),
		userdata: asComment(comment),
	})
}

// shown returns what commands that read print. All of it is text, or JSON where that was
// requested.
func (m mode) shown(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, line := range []string{
		"ls", "ls --json", "ps", "ps --json", "network ls", "network ls --json", "inspect web", "port web 80", "export", "status", "status --json",
	} {
		if m.testbed == nil && strings.HasPrefix(line, "status") {
			continue // needs a daemon
		}
		r := m.ask(t, "", strings.Fields(line)...)
		if strings.HasPrefix(line, "status") && r.Code != 0 {
			continue // no daemon runs yet
		}
		require.Zero(t, r.Code, "%s: %s", line, r.Stderr)
		requireShown(t, r.Stdout)
		requireShown(t, r.Stderr)
		if strings.HasSuffix(line, "--json") || strings.HasPrefix(line, "inspect") {
			require.True(t, json.Valid([]byte(r.Stdout)), "%s: %s", line, r.Stdout)
		}
		all[line] = r.Stdout
	}
	return all
}

// requireShown checks that there is only printable text and newlines.
func requireShown(t *testing.T, text string) {
	t.Helper()
	require.True(t, utf8.ValidString(text), "%q", text)
	require.Equal(t, -1, strings.IndexFunc(text, func(r rune) bool { return r != '\n' && !strconv.IsPrint(r) }), "%q", text)
}
