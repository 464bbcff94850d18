// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/buildinfo"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// What commands print, one after another on one table.
func TestVerbs(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	for _, step := range []struct {
		args   string
		prints string
		says   string // on standard error, after "nftnat: "
		logs   string // the beginning of says, if the rest may change
		code   int
	}{
		{args: "ls", prints: "PROTO  FRONTEND  BACKEND  NAME  PROXY  EXPIRES\n"},
		{args: "ls --json", prints: "[]\n"},
		{args: "export", prints: exportOf("mappings: []\n")},
		{
			args: "add tcp 8080 172.30.0.2:80 --name web", prints: "8080->172.30.0.2:80\n",
			logs: "turned on forwarding: ",
		},
		{args: "add udp 53 172.30.0.2", prints: "53->172.30.0.2:53/udp\n"},
		{args: "add tcp 0 172.30.0.2:80", prints: "49153->172.30.0.2:80\n"},
		{args: "add tcp 0 172.30.0.2:80-81", prints: "49154-49155->172.30.0.2:80-81\n"},
		{args: "add udp 0 172.30.0.2:80", prints: "49153->172.30.0.2:80/udp\n"},
		{args: "add tcp 192.0.2.1:8000-8009 172.30.0.2:9000-9009", prints: "192.0.2.1:8000-8009->172.30.0.2:9000-9009\n"},
		{args: "add --quiet tcp [2001:db8:1::1]:8080 [fd00:30::2]:80 --no-proxy", code: 3,
			says: `publish tcp [2001:db8:1::1]:8080: tcp 8080 is published as 8080->172.30.0.2:80 by "web"`},
		{args: "add --quiet tcp [2001:db8:1::1]:8081 [fd00:30::2]:80 --no-proxy", prints: "[2001:db8:1::1]:8081->[fd00:30::2]:80\n"},
		{args: "add tcp 127.0.0.1:8082 172.30.0.2", prints: "127.0.0.1:8082->172.30.0.2:8082\n"},
		{args: "add tcp 8080 172.30.0.2:81 --replace --name other", prints: "8080->172.30.0.2:81\n"},
		{args: "add tcp 8090 172.30.0.2:80 --replace", prints: "8090->172.30.0.2:80\n"},
		{args: "ls", prints: "" +
			"PROTO  FRONTEND              BACKEND               NAME   PROXY  EXPIRES\n" +
			"tcp    8080                  172.30.0.2:81         other  yes    never\n" +
			"tcp    8090                  172.30.0.2:80                yes    never\n" +
			"tcp    49153                 172.30.0.2:80                yes    never\n" +
			"tcp    49154-49155           172.30.0.2:80-81             yes    never\n" +
			"tcp    127.0.0.1:8082        172.30.0.2:8082              yes    never\n" +
			"tcp    192.0.2.1:8000-8009   172.30.0.2:9000-9009         yes    never\n" +
			"tcp    [2001:db8:1::1]:8081  [fd00:30::2]:80              no     never\n" +
			"udp    53                    172.30.0.2:53                yes    never\n" +
			"udp    49153                 172.30.0.2:80                yes    never\n"},
		{args: "export", prints: exportOf("mappings:\n" +
			"  - {mapping: \"8080->172.30.0.2:81\", name: other}\n" +
			"  - 8090->172.30.0.2:80\n" +
			"  - 49153->172.30.0.2:80\n" +
			"  - 49154-49155->172.30.0.2:80-81\n" +
			"  - 127.0.0.1:8082->172.30.0.2:8082\n" +
			"  - 192.0.2.1:8000-8009->172.30.0.2:9000-9009\n" +
			"  - {mapping: \"[2001:db8:1::1]:8081->[fd00:30::2]:80\", proxy: false}\n" +
			"  - 53->172.30.0.2:53/udp\n" +
			"  - 49153->172.30.0.2:80/udp\n")},
		{args: "rm tcp 8080", prints: "8080->172.30.0.2:81\n"},
		{args: "rm tcp 8080", code: 4, says: "unpublish tcp 8080: tcp 8080 is not published"},
		{args: "rm tcp 192.0.2.1:8001-8003 --kill", prints: "192.0.2.1:8001-8003->172.30.0.2:9001-9003\n"},
		{args: "rm udp 53", prints: "53->172.30.0.2:53/udp\n"},
		{args: "add tcp 0 172.30.0.2:80", prints: "49156->172.30.0.2:80\n"},
		{args: "ls", prints: "" +
			"PROTO  FRONTEND              BACKEND               NAME  PROXY  EXPIRES\n" +
			"tcp    8090                  172.30.0.2:80               yes    never\n" +
			"tcp    49153                 172.30.0.2:80               yes    never\n" +
			"tcp    49154-49155           172.30.0.2:80-81            yes    never\n" +
			"tcp    49156                 172.30.0.2:80               yes    never\n" +
			"tcp    127.0.0.1:8082        172.30.0.2:8082             yes    never\n" +
			"tcp    192.0.2.1:8000        172.30.0.2:9000             yes    never\n" +
			"tcp    192.0.2.1:8004-8009   172.30.0.2:9004-9009        yes    never\n" +
			"tcp    [2001:db8:1::1]:8081  [fd00:30::2]:80             no     never\n" +
			"udp    49153                 172.30.0.2:80               yes    never\n"},
		{args: "purge", logs: "IP forwarding stays as it is: ipv4=on ipv6=(on|partly)"},
		{args: "purge", logs: "there was nothing to purge: the network namespace has no table inet nftnat"},
		{args: "ls --json", prints: "[]\n"},
	} {
		r := run(t, top.Host, strings.Fields(step.args)...)
		require.Equal(t, step.prints, r.Stdout, "nftnat %s\n%s", step.args, r.Stderr)
		switch {
		case step.logs != "":
			require.Regexp(t, "^nftnat: "+step.logs+"[^\n]*\n$", r.Stderr)
		case step.says != "":
			require.Equal(t, "nftnat: "+step.says+"\n", r.Stderr, "nftnat %s", step.args)
		default:
			require.Empty(t, r.Stderr, "nftnat %s", step.args)
		}
		require.Equal(t, step.code, r.Code, "nftnat %s", step.args)
	}
	require.Empty(t, nft(t, top.Host, "list", "ruleset"))
}

// The JSON documents have exactly the promised keys.
func TestJSON(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	const web = `{"proto":"tcp","host":"","port":8080,"backend":"172.30.0.2:80","name":"web","proxy":true}`
	require.JSONEq(t, "["+web+"]", succeed(t, top.Host, "add", "--json", "tcp", "8080", "172.30.0.2:80", "--name", "web"))
	const two = `{"proto":"udp","host":"2001:db8:1::1","port":53,"backend":"[fd00:30::2]:53","name":"","proxy":false},` +
		`{"proto":"udp","host":"2001:db8:1::1","port":54,"backend":"[fd00:30::2]:54","name":"","proxy":false}`
	require.JSONEq(t, "["+two+"]", succeed(t, top.Host, "add", "--json", "udp", "[2001:db8:1::1]:53-54", "fd00:30::2", "--no-proxy"))
	require.JSONEq(t, "["+web+","+two+"]", succeed(t, top.Host, "ls", "--json"))

	before := time.Now().Add(time.Hour)
	succeed(t, top.Host, "add", "tcp", "0.0.0.0:8081", "172.30.0.2:80", "--ttl", "1h")
	after := time.Now().Add(time.Hour)
	var docs []map[string]any
	require.NoError(t, json.Unmarshal([]byte(succeed(t, top.Host, "ls", "--json")), &docs))
	require.Len(t, docs, 4)
	leased := docs[slices.IndexFunc(docs, func(d map[string]any) bool { return d["port"] == 8081.0 })]
	require.IsType(t, "", leased["expires"])
	expires, err := time.Parse(time.RFC3339, leased["expires"].(string))
	require.NoError(t, err)
	// The kernel counts in ticks, and the machine may be slow.
	require.WithinRange(t, expires, before.Add(-time.Minute), after.Add(time.Minute))
	delete(leased, "expires")
	require.Equal(t, map[string]any{
		"proto": "tcp", "host": "0.0.0.0", "port": 8081.0, "backend": "172.30.0.2:80", "name": "", "proxy": true,
	}, leased)

	const moved = `{"proto":"tcp","host":"","port":8080,"backend":"172.30.0.2:81","name":"web","proxy":true}`
	r := runInput(t, top.Host, "mappings: [{mapping: \"8080->172.30.0.2:81\", name: web}, 90->172.30.0.2:90]",
		"apply", "--json", "-f", "-")
	require.Zero(t, r.Code, r.Stderr)
	var changes []map[string][]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(r.Stdout), &changes))
	require.Len(t, changes, 4)
	for i, c := range changes {
		switch {
		case len(c["old"]) > 0 && len(c["new"]) > 0:
			require.JSONEq(t, web, string(c["old"][0]))
			require.JSONEq(t, moved, string(c["new"][0]))
		case len(c["new"]) > 0:
			require.JSONEq(t, `{"proto":"tcp","host":"","port":90,"backend":"172.30.0.2:90","name":"","proxy":true}`, string(c["new"][0]))
		default:
			require.Len(t, c, 1, "change %d", i)
		}
	}
	require.JSONEq(t, "["+moved+"]", succeed(t, top.Host, "rm", "--json", "tcp", "8080"))

	var version map[string]string
	require.NoError(t, json.Unmarshal([]byte(succeed(t, top.Host, "version", "--json")), &version))
	keys := slices.Sorted(func(yield func(string) bool) {
		for k := range version {
			if !yield(k) {
				return
			}
		}
	})
	keys = slices.DeleteFunc(keys, func(k string) bool { return k == "commit" }) // only in a build from a checkout
	require.Equal(t, []string{"arch", "go", "os", "version"}, keys)
	require.Equal(t, buildinfo.Version, version["version"])
}

// apply makes the table what the file says and prints what it changed; with --dry-run it
// only prints.
func TestApply(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	for _, args := range []string{
		"add tcp 8080 172.30.0.2:80 --name web", "add tcp 8000-8009 172.30.0.2:9000-9009",
		"add udp 53 172.30.0.2 --no-proxy", "add tcp [::]:81 [fd00:30::2] --ttl 1h",
	} {
		succeed(t, top.Host, strings.Fields(args)...)
	}
	same := succeed(t, top.Host, "export")
	const file = `mappings:
  - 90-92->172.30.0.2:90-92
  - 8000-8004->172.30.0.2:9000-9004
  - {mapping: "8080->172.30.0.2:81", name: web}
  - 192.0.2.1:53->172.30.0.2:53/udp
`
	const changes = "~ 8080->172.30.0.2:80 => 8080->172.30.0.2:81\n" +
		"- 8005-8009->172.30.0.2:9005-9009\n" +
		"- [::]:81->[fd00:30::2]:81\n" +
		"- 53->172.30.0.2:53/udp\n" +
		"+ 90-92->172.30.0.2:90-92\n" +
		"+ 192.0.2.1:53->172.30.0.2:53/udp\n"
	apply := func(file string, args ...string) string {
		r := runInput(t, top.Host, file, append([]string{"apply", "-f", "-"}, args...)...)
		require.Zero(t, r.Code, r.Stderr)
		require.Empty(t, r.Stderr)
		return r.Stdout
	}
	table := func() string { return withoutClocks(nft(t, top.Host, "-a", "list", "ruleset")) }

	before := table()
	require.Empty(t, apply(same), "what is the same is not touched")
	require.Equal(t, changes, apply(file, "--dry-run"))
	require.Equal(t, before, table())

	require.Equal(t, changes, apply(file))
	require.Equal(t, exportOf(file), succeed(t, top.Host, "export"))
	applied := table()
	require.Empty(t, apply(file))
	require.Equal(t, applied, table())

	path := filepath.Join(t.TempDir(), "ports.yaml")
	require.NoError(t, os.WriteFile(path, []byte(same), 0o600))
	succeed(t, top.Host, "apply", "--file", path)
	require.Equal(t, withoutExpiry(same), withoutExpiry(succeed(t, top.Host, "export")))
	require.Equal(t, 4, strings.Count(apply("mappings: []"), "- "))
	require.Equal(t, exportOf("mappings: []\n"), succeed(t, top.Host, "export"))
}

// withoutClocks removes the remaining time of time-outs from a listing.
func withoutClocks(listing string) string {
	return regexp.MustCompile(` expires [0-9a-z]+`).ReplaceAllString(listing, "")
}

// export | apply makes another host the same.
func TestExportApply(t *testing.T) {
	one := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	two := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	for _, args := range []string{
		"add tcp 8080-8090 172.30.0.2:80-90 --name web", "add udp 0.0.0.0:53 172.30.0.2 --no-proxy --name", "add udp [::]:53 [fd00:30::2]",
		"add tcp 127.0.0.1:9090 172.30.0.2:80", "add tcp [::1]:9090 [fd00:30::2]:80 --ttl 2h",
	} {
		fields := strings.Fields(args)
		if fields[len(fields)-1] == "--name" {
			fields = append(fields, "a name of: #several {words}, 'quoted'")
		}
		succeed(t, one.Host, fields...)
	}
	r := runInput(t, two.Host, succeed(t, one.Host, "export"), "apply", "-f", "-", "--quiet")
	require.Zero(t, r.Code, r.Stderr)
	require.Equal(t, 5, strings.Count(r.Stdout, "+ "))
	require.Equal(t, withoutExpiry(succeed(t, one.Host, "export")), withoutExpiry(succeed(t, two.Host, "export")))
	require.WithinDuration(t, expiry(t, one.Host), expiry(t, two.Host), time.Minute)
	require.Equal(t, sortedElements(t, one.Host), sortedElements(t, two.Host))
}

// withoutExpiry removes the times from an export: an engine computes them from the remaining
// time, which the kernel knows only to a tick.
func withoutExpiry(export string) string {
	return regexp.MustCompile(`, expires: [^,}]*`).ReplaceAllString(export, ", expires")
}

// expiry is the one time in an export.
func expiry(t *testing.T, ns *lab.NS) time.Time {
	t.Helper()
	found := regexp.MustCompile(`expires: ([^,}]*)`).FindAllStringSubmatch(succeed(t, ns, "export"), -1)
	require.Len(t, found, 1)
	at, err := time.Parse(time.RFC3339Nano, found[0][1])
	require.NoError(t, err)
	return at
}

// Engines with different tables, or in different namespaces, do not affect each other.
func TestTablesAndNamespaces(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	other := labtest.NewNS(t, "other")
	labtest.MountNS(t, other, "blue")
	require.Equal(t, "8080->172.30.0.2:80\n", succeed(t, top.Host, "add", "tcp", "8080", "172.30.0.2:80"))
	require.Equal(t, "8080->172.30.0.3:80\n", succeed(t, top.Host, "--table", "my-table", "add", "tcp", "8080", "172.30.0.3:80"))
	require.Contains(t, nft(t, top.Host, "list", "map", "inet", "my-table", "tcp4"), "8080 : 172.30.0.3 . 80")

	for _, netns := range []string{"blue", "/run/netns/blue", other.Path()} {
		require.Equal(t, "8080->198.51.100.1:80\n", succeed(t, top.Host, "--netns", netns, "add", "tcp", "8080", "198.51.100.1:80"))
		require.Contains(t, nft(t, other, "list", "table", "inet", "nftnat"), "8080 : 198.51.100.1 . 80")
		require.Equal(t, "8080->198.51.100.1:80\n", succeed(t, top.Host, "--netns", netns, "rm", "tcp", "8080"))
		succeed(t, top.Host, "--netns", netns, "purge")
		require.Empty(t, nft(t, other, "list", "ruleset"))
	}
	succeed(t, top.Host, "--table", "my-table", "purge")
	require.Contains(t, succeed(t, top.Host, "ls"), "8080")
}

// Ports that the administrator has reserved are not chosen. If none is left, that is a
// conflict.
func TestReservedPorts(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	require.NoError(t, top.Host.Sysctl("net.ipv4.ip_local_reserved_ports", "49153-49160,49162"))
	require.Equal(t, "49161->172.30.0.2:80\n", succeed(t, top.Host, "add", "tcp", "0", "172.30.0.2:80"))
	require.Equal(t, "49163-49164->172.30.0.2:80-81\n", succeed(t, top.Host, "add", "tcp", "0", "172.30.0.2:80-81"))
	require.Equal(t, "49162->172.30.0.2:80\n", succeed(t, top.Host, "add", "tcp", "49162", "172.30.0.2:80"))

	require.NoError(t, top.Host.Sysctl("net.ipv4.ip_local_reserved_ports", "49153-65535"))
	r := run(t, top.Host, "add", "tcp", "0", "172.30.0.2:80")
	require.Equal(t, 3, r.Code)
	require.Regexp(t, "^nftnat: publish tcp 0: choose a port for 0->172.30.0.2:80: .*\n$", r.Stderr)
	require.Equal(t, 1, strings.Count(r.Stderr, "\n"))
}

// A mapping with a time-out ends by itself, in the kernel and in the engine.
func TestTimeToLive(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	succeed(t, top.Host, "add", "tcp", "8080", "172.30.0.2:80", "--ttl", "2s")
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
	await(t, "the mapping to end", func() bool { return succeed(t, top.Host, "ls", "--json") == "[]\n" })
	require.Error(t, labtest.NoAnswer(t, top.Client, "tcp", "192.0.2.1:8080"))
	require.NotContains(t, nft(t, top.Host, "list", "map", "inet", "nftnat", "tcp4"), "8080")
	require.Equal(t, "8080->172.30.0.2:80\n", succeed(t, top.Host, "add", "tcp", "8080", "172.30.0.2:80"))
}

// A user without privilege is told what to do. Commands that need no privilege work.
func TestNotRoot(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	succeed(t, top.Host, "add", "tcp", "7000", "172.30.0.2:70")
	before := takeSnapshot(t, top.Host)
	unprivileged := func(args ...string) labtest.Result {
		cmd := nftnat(t, args...)
		drop := []string{"--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs", "--"}
		return labtest.Run(t, top.Host, command(t, "setpriv", slices.Concat(drop, cmd.Args)...))
	}
	for _, args := range []string{
		"add tcp 8080 172.30.0.2:80", "rm tcp 7000", "ls", "ls --json", "export", "purge",
		"apply -f testdata/empty.yaml", "apply --dry-run -f testdata/empty.yaml", "network create a 10.0.0.0/8", "network rm a", "network ls",
		"attach web", "detach web", "ps", "inspect web", "port web 80",
	} {
		r := unprivileged(strings.Fields(args)...)
		require.Equal(t, 5, r.Code, args)
		require.Regexp(t, `^nftnat: [^\n]*list table inet nftnat: operation not permitted \(run it as root, or give it CAP_NET_ADMIN\)\n$`, r.Stderr, args)
		require.Empty(t, r.Stdout, args)
	}
	// Without CAP_SETFCAP, root cannot be mapped in a user namespace (user_namespaces(7)).
	r := unprivileged("demo")
	require.Equal(t, 5, r.Code)
	require.Regexp(t, `^nftnat: create user namespace: operation not permitted \(run it as root, [^\n]*\)\n$`, r.Stderr)
	before.unchanged(t, top.Host)
	for _, args := range []string{"plan", "version", "help", "completion bash", "--help"} {
		r := unprivileged(strings.Fields(args)...)
		require.Zero(t, r.Code, args)
		require.NotEmpty(t, r.Stdout, args)
	}
	r = unprivileged("add", "tcp", "8080", "127.0.0.1")
	require.Equal(t, 2, r.Code, "what is wrong is wrong for everybody")
}

func TestPlan(t *testing.T) {
	ns := labtest.NewNS(t, "nowhere")
	for _, table := range []string{"nftnat", "my-table"} {
		want, err := engine.ExplainedPlan(table)
		require.NoError(t, err)
		require.Equal(t, want, succeed(t, ns, "plan", "--table", table))
	}
	require.Empty(t, nft(t, ns, "list", "ruleset"))
}

func TestVersionAndCompletion(t *testing.T) {
	ns := labtest.NewNS(t, "nowhere")
	require.Regexp(t, fmt.Sprintf(`^nftnat %s (\([0-9a-f]+(-dirty)?\) )?go\S+ linux/%s\n$`, regexp.QuoteMeta(buildinfo.Version), runtime.GOARCH),
		succeed(t, ns, "version"))
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		require.Contains(t, succeed(t, ns, "completion", shell), "nftnat")
	}
	r := labtest.Run(t, ns, command(t, "bash", "-n", "-c", succeed(t, ns, "completion", "bash")))
	require.Zero(t, r.Code, r.Stderr)
}
