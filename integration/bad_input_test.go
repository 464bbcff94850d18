// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// Bad input makes a command exit with its status and one line that says what is wrong. No
// table, port or sysctl changes.
func TestBadInput(t *testing.T) {
	inEachMode(t, lab.PartBackend1, func(t *testing.T, top *lab.Topology, m mode) {
		t.Helper()
		load(t, top.Host, foreignRuleset(t))
		m.do(t, "add tcp 7000 172.30.0.2:70 --name holder")
		m.do(t, "add udp 192.0.2.1:7001-7003 172.30.0.2")
		m.do(t, "add tcp [2001:db8:1::1]:7004 [fd00:30::2]:70")
		before := takeSnapshot(t, top.Host)
		for _, c := range labtest.Some(t, "bad inputs", 3, badInputs(t, m)) {
			t.Run(c.name(), func(t *testing.T) {
				r := m.ask(t, c.stdin, c.args...)
				require.Equal(t, "nftnat: "+c.says+"\n", r.Stderr)
				require.Equal(t, c.code, r.Code)
				require.Empty(t, r.Stdout)
				require.Equal(t, before.ruleset, ruleset(t, top.Host))
				require.Equal(t, before.sockets, sockets(t, top.Host))
			})
		}
		// Once for all of them, because it reads a thousand files.
		require.Equal(t, before.sysctls, sysctls(t, top.Host))
	})
}

// badInput is a command line that is refused.
type badInput struct {
	args  []string
	stdin string
	code  int
	says  string // after "nftnat: "
}

func (c badInput) name() string {
	name := strings.Join(c.args, " ")
	if c.stdin != "" {
		name += " < " + c.stdin
	}
	if len(name) > 80 {
		name = name[:80]
	}
	return strings.ToValidUTF8(name, "?")
}

// badInputs are all bad inputs. %IN stands for the wrong argument as the message quotes
// it.
func badInputs(t *testing.T, m mode) []badInput {
	t.Helper()
	var all []badInput
	for _, c := range badFrontends() {
		all = append(all, badInput{
			args: []string{"add", "tcp", c[0], c[1]}, code: 2,
			says: strings.ReplaceAll(c[2], "%IN", quote(c[0])),
		})
	}
	for _, c := range badBackends() {
		all = append(all, badInput{
			args: []string{"add", "tcp", c[0], c[1]}, code: 2,
			says: strings.ReplaceAll(c[2], "%IN", quote(c[1])),
		})
	}
	for _, c := range badHosts() {
		all = append(all, badInput{
			args: []string{"add", "tcp", c[0], c[1]}, code: 2,
			says: "invalid mapping " + quote(c[0]+"->"+c[1]) + ": " + c[2],
		})
	}
	for _, c := range badNames() {
		all = append(all, badInput{
			args: []string{"add", "tcp", "8080", "172.30.0.2:80", "--name", c[0]}, code: 2,
			says: `invalid mapping "8080->172.30.0.2:80": name ` + c[1],
		})
	}
	for _, c := range badFiles() {
		all = append(all, badInput{
			args: []string{"apply", "-f", "-"}, stdin: c[0], code: 2,
			says: strings.ReplaceAll(c[1], "%IN", "standard input:1:"),
		})
		all = append(all, badInput{
			args: []string{"apply", "--dry-run", "-f", "-"}, stdin: c[0], code: 2,
			says: strings.ReplaceAll(c[1], "%IN", "standard input:1:"),
		})
	}
	for _, c := range badClients() {
		all = append(all, badInput{
			args: []string{"explain", "tcp", c[0], "--from", c[1]}, code: 2, says: strings.ReplaceAll(c[2], "%IN", quote(c[1])),
		})
	}
	return append(append(all, conflicts()...), badUsage(t, m)...)
}

func quote(s string) string { return `"` + s + `"` }

func badFrontends() [][3]string {
	const backend4, backend6 = "172.30.0.2:80", "[fd00:30::2]:80"
	return [][3]string{
		{"", backend4, "invalid frontend %IN: it is empty"},
		{"65536", backend4, "invalid frontend %IN: ports end at 65535"},
		{"99999999999999999999", backend4, "invalid frontend %IN: ports end at 65535"},
		{"8080-65536", backend4, "invalid frontend %IN: ports end at 65535"},
		{"8080-8000", backend4, "invalid frontend %IN: the range ends before it begins"},
		{"0-5", backend4, "invalid frontend %IN: ports begin at 1"},
		{"8080-", backend4, "invalid frontend %IN: a range is written FIRST-LAST"},
		{"8080-8081-8082", backend4, `invalid frontend %IN: port "8081-8082" is not a number`},
		{"08080", backend4, `invalid frontend %IN: port "08080" has a leading zero`},
		{"00", backend4, `invalid frontend %IN: ports begin at 1`},
		{"+80", backend4, `invalid frontend %IN: port "+80" is not a number`},
		{"0x50", backend4, `invalid frontend %IN: port "0x50" is not a number`},
		{" 80", backend4, `invalid frontend %IN: port " 80" is not a number`},
		{"٨٠", backend4, `invalid frontend %IN: port "٨٠" is not a number`},
		{"http", backend4, `invalid frontend %IN: port "http" is not a number`},
		{"8080/tcp", backend4, `invalid frontend %IN: port "8080/tcp" is not a number`},
		{"192.0.2.1", backend4, "invalid frontend %IN: an address alone; add a port, as in ADDR:PORT"},
		{"192.0.2.1:", backend4, "invalid frontend %IN: the port is missing"},
		{":8080", backend4, "invalid frontend %IN: the address is missing"},
		{"192.0.2.1x:8080", backend4, `invalid frontend %IN: "192.0.2.1x" is not an IP address`},
		{"192.0.2.1.9:8080", backend4, `invalid frontend %IN: "192.0.2.1.9" is not an IP address`},
		{"192.0.2.01:8080", backend4, `invalid frontend %IN: "192.0.2.01" is not an IP address`},
		{"192.0.2.0/24:8080", backend4, `invalid frontend %IN: "192.0.2.0/24" is not an IP address`},
		{"[192.0.2.1]:8080", backend4, "invalid frontend %IN: brackets are for IPv6 addresses"},
		{"2001:db8:1::1:8080", backend6, "invalid frontend %IN: an IPv6 frontend is written [ADDR]:PORT"},
		{"[2001:db8:1::1]", backend6, "invalid frontend %IN: an address alone; add a port, as in ADDR:PORT"},
		{"[2001:db8:1::1", backend6, "invalid frontend %IN: the bracket is not closed"},
		{"[2001:db8:1::1]8080", backend6, `invalid frontend %IN: "8080" after the bracket where :PORT belongs`},
		{"[fe80::1%lan0]:8080", backend6, "invalid frontend %IN: an address with a zone means different hosts on different links"},
	}
}

func badBackends() [][3]string {
	return [][3]string{
		{"8080", "", "invalid backend %IN: it is empty"},
		{"8080", "172.30.0.2:0", "invalid backend %IN: ports begin at 1"},
		{"8080", "172.30.0.2:65536", "invalid backend %IN: ports end at 65535"},
		{"8080", "172.30.0.2:", "invalid backend %IN: the port is missing"},
		{"8080", "172.30.0.2:80-79", "invalid backend %IN: the range ends before it begins"},
		{"8080", "172.30.0.2:http", `invalid backend %IN: port "http" is not a number`},
		{"8080", "172.30.0.256:80", `invalid backend %IN: "172.30.0.256" is not an IP address`},
		{"8080", "web.example:80", `invalid backend %IN: "web.example" is not an IP address`},
		{"8080", "80", `invalid backend %IN: "80" is not an IP address`},
		{"8080", "fd00:30::2:80",
			"invalid backend %IN: the last group may be a port: write [fd00:30::2]:80, or [fd00:30::2:80] for an address without a port"},
		{"8080", "fd00:30::2:18080", "invalid backend %IN: an IPv6 backend with a port is written [ADDR]:PORT, here [fd00:30::2]:18080"},
		{"8080", "[fe80::2%br0]:80", "invalid backend %IN: an address with a zone means different hosts on different links"},
		{"0", "172.30.0.2", "invalid backend %IN: give it a port, since frontend 0 has none to share"},
		{"8080-8089", "172.30.0.2:80-81",
			"invalid backend %IN: ranges of unequal length: frontend 8080-8089 has 10 ports, the backend 2"},
		{"8080", "172.30.0.2:80-81", "invalid backend %IN: ranges of unequal length: frontend 8080 has 1 port, the backend 2"},
		{"8080-8089", "172.30.0.2:80",
			"invalid backend %IN: ranges of unequal length: frontend 8080-8089 has 10 ports, the backend 1"},
		{"60000-65535", "172.30.0.2:65000-70535", "invalid backend %IN: ports end at 65535"},
	}
}

// badClients are packets that cannot be explained: frontends and clients.
func badClients() [][3]string {
	return [][3]string{
		{"0", "::1", `invalid frontend "0": port 0 names no mapping`},
		{"http", "::1", `invalid frontend "http": port "http" is not a number`},
		{"7001-7003", "::1", `invalid frontend "7001-7003": a packet goes to one port, such as 7001`},
		{"192.0.2.1:7001-7003", "127.0.0.1", `invalid frontend "192.0.2.1:7001-7003": a packet goes to one port, such as 192.0.2.1:7001`},
		{"7000->172.30.0.2:70", "::1", `invalid frontend "7000->172.30.0.2:70": it is a mapping, whose frontend is 7000`},
		{"7000", "", `--from is empty: it is the address of a client (see "nftnat explain --help")`},
		{"7000", "localhost", "invalid client %IN: it is no IP address"},
		{"7000", "198.51.100.0/24", "invalid client %IN: it is a network, and a packet comes from one address, such as 198.51.100.1"},
		{"7000", "198.51.100.1-198.51.100.9", "invalid client %IN: it is a range, and a packet comes from one address, such as 198.51.100.1"},
		{"7000", "198.51.100.1:5000", "invalid client %IN: the port does not matter: 198.51.100.1"},
		{"7000", "[::1]", "invalid client %IN: it is written without brackets: ::1"},
		{"7000", "fe80::1", "invalid client %IN: a link-local address, which needs the interface that leads to it: fe80::1%eth0"},
		{"7000", "2001:db8::1%eth0", "invalid client %IN: only a link-local address has a zone"},
		{"7000", "0.0.0.0", "invalid client %IN: the unspecified address, which no packet comes from"},
		{"7000", "ff02::1%eth0", "invalid client %IN: an address of many, which no packet comes from"},
		{"192.0.2.1:7001", "2001:db8::1", "invalid client %IN: it is of another family than 192.0.2.1, and a packet has one"},
	}
}

// badHosts are well-formed mappings that this host cannot have.
func badHosts() [][3]string {
	return [][3]string{
		{"172.30.0.2:8080", "172.30.0.2:80", "frontend and backend have one address, 172.30.0.2"},
		{"192.0.2.255:8080", "172.30.0.2:80", "the frontend 192.0.2.255 is a broadcast address"},
		{"224.0.0.1:8080", "172.30.0.2:80", "the frontend is a multicast address"},
		{"255.255.255.255:8080", "172.30.0.2:80", "the frontend is the broadcast address"},
		{"[fd00:30::2]:8080", "[fd00:30::2]:80", "frontend and backend have one address, fd00:30::2"},
		{"[fe80::1]:8080", "[fd00:30::2]:80", "the frontend is an IPv6 link-local address, which needs a zone"},
		{"[ff02::1]:8080", "[fd00:30::2]:80", "the frontend is a multicast address"},
		{"8080", "127.0.0.1:80", "the backend is a loopback address, which packets from outside cannot be sent to"},
		{"8080", "127.9.9.9:80", "the backend is a loopback address, which packets from outside cannot be sent to"},
		{"8080", "[::1]:80", "the backend is a loopback address, which packets from outside cannot be sent to"},
		{"8080", "224.0.0.1:80", "the backend is a multicast address"},
		{"8080", "[ff02::1]:80", "the backend is a multicast address"},
		{"8080", "0.0.0.0:80", "the backend is the unspecified address, which is no host"},
		{"8080", "[::]:80", "the backend is the unspecified address, which is no host"},
		{"8080", "0.0.0.1:80", `the backend is in 0.0.0.0/8, "this network" (RFC 1122 section 3.2.1.3)`},
		{"8080", "255.255.255.255:80", "the backend is the broadcast address"},
		{"8080", "172.30.0.255:80", "the backend 172.30.0.255 is a broadcast address"},
		{"8080", "192.0.2.255:80", "the backend 192.0.2.255 is a broadcast address"},
		{"8080", "192.0.2.1:80", "the backend 192.0.2.1 is this host itself"},
		{"8080", "192.0.2.9:80", "the backend 192.0.2.9 is this host itself"},
		{"8080", "172.30.0.1:80", "the backend 172.30.0.1 is this host itself"},
		{"8080", "[2001:db8:1::1]:80", "the backend 2001:db8:1::1 is this host itself"},
		{"8080", "[fd00:30::1]:80", "the backend fd00:30::1 is this host itself"},
		{"8080", "[fe80::2]:80", "the backend is an IPv6 link-local address, which needs a zone and cannot be the target of DNAT"},
	}
}

func badNames() [][2]string {
	return [][2]string{
		{strings.Repeat("x", 4097), "has 4097 bytes, more than 4096"},
		{strings.Repeat("ä", 2049), "has 4098 bytes, more than 4096"},
		{"two\nlines", "has a control character at byte 4"},
		{"tab\there", "has a control character at byte 4"},
		{"\x1b[31mred", "has a control character at byte 1"},
		{"delete\x7f", "has a control character at byte 7"},
		{"c1\u0085", "has a control character at byte 3"},
		{"\xff\xfe", "is not UTF-8 at byte 1"},
		{`a"b`, `has a " at byte 2`},
		{"a [no-proxy]", "ends in [no-proxy], which says how a mapping is published"},
	}
}

func badFiles() [][2]string {
	return [][2]string{
		{"mappings: [8080->172.30.0.2:80, 8080->172.30.0.3:80]",
			"%IN mappings 8080->172.30.0.2:80 and 8080->172.30.0.3:80 overlap: both claim tcp port 8080 (the first is in line 1)"},
		{"mappings: [8080-8089->172.30.0.2:80-89, 192.0.2.1:8085->172.30.0.3:80]",
			"%IN mappings 8080-8089->172.30.0.2:80-89 and 192.0.2.1:8085->172.30.0.3:80 overlap: " +
				"both claim tcp port 8085 (the first is in line 1)"},
		{"mappings: [8080->172.30.0.2:80, 0.0.0.0:8080->172.30.0.3:80]",
			"%IN mappings 8080->172.30.0.2:80 and 0.0.0.0:8080->172.30.0.3:80 overlap: both claim tcp port 8080 (the first is in line 1)"},
		{"mappings: [8080->172.30.0.2:80, 8080->172.30.0.2:80]",
			"%IN mappings 8080->172.30.0.2:80 and 8080->172.30.0.2:80 overlap: both claim tcp port 8080 (the first is in line 1)"},
		{"# nothing\n", `%IN invalid file "": it lists no networks, endpoints or mappings; "mappings: []" says that there are none`},
		{"version: 1\n", `%IN invalid file "version:": it lists no networks, endpoints or mappings; "mappings: []" says that there are none`},
		{"version: 2\nmappings: []\n", `%IN invalid version "2": this program reads version 1`},
		{"mappings:\n", `%IN invalid key "mappings": it has no value; "[]" says that there are none`},
		{"# nftnat, complete with \"...\" as its last line\nversion: 1\nmappings:\n  - 8080->172.30.0.2:80\n",
			`standard input:4: invalid file "  - 8080->172.30.0.2:80": it was cut short: its first lines say that its last is "..."`},
		{"mapings: []", `%IN invalid key "mapings": not known`},
		{"mappings: 5", `%IN invalid mappings "5": not a list`},
		{`mappings: ["0->172.30.0.2:80"]`,
			`%IN invalid mapping "0->172.30.0.2:80": frontend 0 asks for a free port, and a file says which`},
		{`mappings: ["8080->172.30.0.2:0"]`, `%IN invalid backend "172.30.0.2:0": ports begin at 1`},
		{`mappings: ["8080->127.0.0.1:80"]`, `%IN invalid mapping "8080->127.0.0.1:80": ` +
			"the backend is a loopback address, which packets from outside cannot be sent to"},
		{`mappings: [{mapping: "8080->172.30.0.2:80", nme: x}]`, `%IN invalid key "nme": not known`},
		{`mappings: [{mapping: "8080->172.30.0.2:80", name: "a\nb"}]`,
			`%IN invalid mapping "8080->172.30.0.2:80": name has a control character at byte 2`},
		{"mappings: [8080->172.30.0.255:80]",
			`invalid mapping "8080->172.30.0.255:80": the backend 172.30.0.255 is a broadcast address`},
		{"mappings: [9090->172.30.0.2:80, 192.0.2.255:8080->172.30.0.2:80]", "invalid mapping " +
			`"192.0.2.255:8080->172.30.0.2:80": the frontend 192.0.2.255 is a broadcast address`},
	}
}

// conflicts are mappings that conflict with what is published, and mappings to unpublish
// that are not published.
func conflicts() []badInput {
	const holder = `tcp 7000 is published as 7000->172.30.0.2:70 by "holder"`
	add := func(says string, args ...string) badInput {
		return badInput{args: append([]string{"add"}, args...), code: 3, says: says}
	}
	rm := func(says string, args ...string) badInput {
		return badInput{args: append([]string{"rm"}, args...), code: 4, says: says}
	}
	return []badInput{
		add("publish tcp 7000: "+holder, "tcp", "7000", "172.30.0.2:70", "--name", "other"),
		add("publish tcp 192.0.2.1:7000: "+holder, "tcp", "192.0.2.1:7000", "172.30.0.2:71"),
		add("publish tcp 0.0.0.0:7000: "+holder, "tcp", "0.0.0.0:7000", "172.30.0.2:71"),
		add("publish tcp [2001:db8:1::1]:7000: "+holder, "tcp", "[2001:db8:1::1]:7000", "[fd00:30::2]:71"),
		add("publish tcp 6990-7010: "+holder, "tcp", "6990-7010", "172.30.0.2"),
		add("publish tcp 1-65535: "+holder, "tcp", "1-65535", "172.30.0.2"),
		add("publish tcp 192.0.2.1:7000: "+holder, "tcp", "192.0.2.1:7000", "172.30.0.2:71", "--replace"),
		add("publish udp 7002: udp 192.0.2.1:7001-7003 is published as 192.0.2.1:7001-7003->172.30.0.2:7001-7003/udp",
			"udp", "7002", "172.30.0.2:71"),
		add("publish tcp 7004: tcp [2001:db8:1::1]:7004 is published as [2001:db8:1::1]:7004->[fd00:30::2]:70",
			"tcp", "7004", "172.30.0.2:71"),
		rm("unpublish tcp 9: tcp 9 is not published", "tcp", "9"),
		rm("unpublish tcp 9: tcp 9 is not published", "9"),
		rm(`unpublish tcp 7000: tcp 7000 of "other" is not published: `+holder, "tcp", "7000", "--name", "other"),
		rm("unpublish udp 7000: udp 7000 is not published", "7000/udp"),
		rm("unpublish tcp 7000: 7000->172.30.0.2:71 is not published: "+holder, "7000->172.30.0.2:71"),
		rm("unpublish udp 192.0.2.1:7001-7004: udp 192.0.2.1:7004 is not published", "192.0.2.1:7001-7004->172.30.0.2:7001-7004/udp"),
		rm(`unpublish all of "nobody": there is no mapping named "nobody"`, "--name", "nobody"),
		rm("unpublish udp 7000: udp 7000 is not published", "udp", "7000"),
		rm("unpublish tcp 192.0.2.1:7000: tcp 192.0.2.1:7000 is not published; tcp 7000 is", "tcp", "192.0.2.1:7000"),
		rm("unpublish tcp 7000-7001: tcp 7001 is not published", "tcp", "7000-7001"),
		rm("unpublish udp 192.0.2.1:7001-7004: udp 192.0.2.1:7004 is not published", "udp", "192.0.2.1:7001-7004", "--kill"),
	}
}

// badUsage are command lines with wrong arguments or options.
func badUsage(t *testing.T, m mode) []badInput {
	t.Helper()
	const help = ` (see "nftnat help")`
	refused := func(says string, args ...string) badInput {
		return badInput{args: args, code: 2, says: says}
	}
	// A file that is no network namespace is refused.
	elsewhere := func(path string, args ...string) badInput {
		if m.testbed != nil {
			return refused("the daemon at "+m.testbed.socket+" is in another network namespace than "+path+helpOf(args[2]), args...)
		}
		return refused("invalid network namespace "+quote(path)+": it is no network namespace", args...)
	}
	notNetNS := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(notNetNS, nil, 0o600))
	long := string(bytes.Repeat([]byte("x"), 256))
	return []badInput{
		refused(`unknown protocol "sctp": tcp or udp`, "add", "sctp", "8080", "172.30.0.2:80"),
		refused(`unknown protocol "TCP": tcp or udp`, "add", "TCP", "8080", "172.30.0.2:80"),
		refused(`unknown protocol "": tcp or udp`, "add", "", "8080", "172.30.0.2:80"),
		refused(`unknown protocol "sctp": tcp or udp`, "rm", "sctp", "7000"),
		refused(`invalid frontend "0": port 0 names no mapping`, "rm", "tcp", "0"),
		refused(`invalid frontend "7000x": port "7000x" is not a number`, "rm", "tcp", "7000x"),
		refused(misused("add PROTO FRONTEND BACKEND", "add tcp 8080 172.17.0.2:80"), "add"),
		refused(misused("add PROTO FRONTEND BACKEND", "add tcp 8080 172.17.0.2:80"), "add", "tcp", "8080"),
		refused(misused("add PROTO FRONTEND BACKEND", "add tcp 8080 172.17.0.2:80"), "add", "tcp", "8080", "172.30.0.2:80", "more"),
		refused(misused("rm PROTO FRONTEND | FRONTEND[/PROTO] | MAPPING | --name N", "rm tcp 8080"), "rm", "tcp"),
		refused(misused("rm PROTO FRONTEND | FRONTEND[/PROTO] | MAPPING | --name N", "rm tcp 8080"), "rm"),
		refused(misused("rm PROTO FRONTEND | FRONTEND[/PROTO] | MAPPING | --name N", "rm tcp 8080"), "rm", "tcp", "7000", "more", "--name", "holder"),
		refused(`invalid name "": it is empty`, "rm", "--name", ""),
		refused(`invalid name "a\nb": name has a control character at byte 2`, "rm", "--name", "a\nb"),
		refused(`unknown protocol "sctp": tcp or udp`, "rm", "7000/sctp"),
		refused(`invalid frontend "0": port 0 names no mapping`, "rm", "0/udp"),
		refused(`invalid mapping "0->172.30.0.2:70": port 0 names no mapping`, "rm", "0->172.30.0.2:70"),
		refused(`invalid backend "": it is empty`, "rm", "7000->"),
		refused(`invalid frontend "7000-": a mapping is quoted, as in '8080->172.17.0.2:80', for a shell takes ">" for itself`+helpOf("rm"), "rm", "7000-"),
		refused(`unknown protocol "sctp": tcp or udp`, "ls", "sctp"),
		refused(`invalid name "": it is empty`, "ls", "--name", ""),
		refused("unknown flag: --nosuch"+helpOf("add"), "add", "tcp", "8080", "172.30.0.2:80", "--nosuch"),
		refused("unknown shorthand flag: '8' in -80"+helpOf("add"), "add", "tcp", "-80", "172.30.0.2:80"),
		refused(`invalid ttl "0": it must be more than 0`, "add", "tcp", "8080", "172.30.0.2:80", "--ttl", "0"),
		refused(`invalid ttl "-1s": it is not written like 90s, 1h30m, 1d or 2w`, "add", "tcp", "8080", "172.30.0.2:80", "--ttl=-1s"),
		refused(`invalid ttl "soon": it is not written like 90s, 1h30m, 1d or 2w`,
			"add", "tcp", "8080", "172.30.0.2:80", "--ttl", "soon"),
		refused("invalid mapping \"127.0.0.1:8080->172.30.0.2:80\": "+
			"the frontend is a loopback address, which only a proxy serves, and the mapping has none",
			"add", "tcp", "127.0.0.1:8080", "172.30.0.2:80", "--no-proxy"),
		refused("invalid mapping \"192.0.2.1:8080->[fd00:30::2]:80\": "+
			"the frontend is of IPv4 and the backend of IPv6, which only a proxy serves, and the mapping has none",
			"add", "tcp", "192.0.2.1:8080", "[fd00:30::2]:80", "--no-proxy"),
		refused(`unknown command "nosuch" for "nftnat"`+help, "nosuch"),
		refused(`unknown protocol "nosuch": tcp or udp`, "ls", "nosuch"),
		refused(misused("purge", ""), "purge", "nosuch"),
		refused(misused("demo", ""), "demo", "nosuch"),
		refused(`unknown command "nosuch" for "nftnat completion"`+helpOf("completion"), "completion", "nosuch"),
		refused(`unknown help topic "nosuch"`+help, "help", "nosuch"),
		refused("apply needs -f FILE, or -f - for standard input"+helpOf("apply"), "apply"),
		refused("open /nosuch: no such file or directory", "apply", "-f", "/nosuch"),
		refused(`invalid table "dnat": check name "dnat": it is a keyword of nft(8)`, "--table", "dnat", "ls"),
		refused(`invalid table "a b": check name "a b": nft(8) cannot read byte 2 of it`, "--table", "a b", "purge"),
		refused(`invalid table "x {\n}": check name "x {\n}": nft(8) cannot read byte 2 of it`, "--table", "x {\n}", "ls"),
		refused(`invalid table "1st": check name "1st": nft(8) cannot read byte 1 of it`,
			"--table", "1st", "add", "tcp", "8080", "172.30.0.2:80"),
		refused(`invalid table "`+long[:128]+`"...: check name: it has 256 bytes, the kernel takes 255`, "--table", long, "ls"),
		refused("open network namespace: stat /run/netns/nosuch: no such file or directory", "--netns", "nosuch", "ls"),
		refused("open network namespace: stat /nosuch/net: no such file or directory", "--netns", "/nosuch/net", "purge"),
		elsewhere(notNetNS, "--netns", notNetNS, "ls"),
		elsewhere(notNetNS, "--netns", notNetNS, "purge"),
		elsewhere("/proc/self/ns/mnt", "--netns", "/proc/self/ns/mnt", "add", "tcp", "8080", "172.30.0.2:80"),
	}
}
