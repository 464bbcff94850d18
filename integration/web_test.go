// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// pageDocument is what the tests need of /status.json.
type pageDocument struct {
	Error    string
	Mappings []struct {
		Proto, Backend, Name, Kind, State string
		Port, Connections, Hits           int
	}
	Diagnosis struct {
		Findings []struct{ Severity, Thing string }
	}
}

// curl asks for a page in a namespace, and returns the status of the answer and its body.
func curl(t *testing.T, ns *lab.NS, args ...string) (status, body string) {
	t.Helper()
	cmd := exec.Command(labtest.Tool(t, "curl"), append([]string{"--silent", "--max-time", "20", "--write-out", "\n%{http_code}"}, args...)...)
	r := labtest.Run(t, ns, cmd)
	require.Zero(t, r.Code, "%q: %s", args, r.Stderr)
	i := strings.LastIndex(r.Stdout, "\n")
	return r.Stdout[i+1:], r.Stdout[:i]
}

// The page shows what a real daemon has, to a client of another machine.
func TestWeb(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	s := newTestbed(t, top.Host)
	daemon := s.serve(t)
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, []byte("0123456789abcdef\n"), 0o600))
	page := labtest.StartCmd(t, top.Host, s.command(t, "web", "--listen", "192.0.2.1:81", "--token-file", token))
	await(t, "the page to be served", func() bool { return strings.Contains(page.Output(), "serving the page: address=192.0.2.1:81") })
	requireConfined(t, page.Pid)

	const base = "http://192.0.2.1:81"
	document := func() (d pageDocument) {
		t.Helper()
		status, body := curl(t, top.Client, base+"/status.json")
		require.Equal(t, "200", status)
		require.NoError(t, json.Unmarshal([]byte(body), &d), body)
		return d
	}
	require.Empty(t, document().Mappings)
	s.succeed(t, "add tcp 8080 172.30.0.2:80 --name web")
	s.succeed(t, "add udp 9000-9999 172.30.0.2 --name igd:Console --ttl 1h")
	var d pageDocument
	await(t, "what was acknowledged to be on the page", func() bool { d = document(); return len(d.Mappings) == 2 })
	require.Equal(t, "operator", d.Mappings[0].Kind)
	require.Equal(t, "igd", d.Mappings[1].Kind)

	// Connections are counted, and stay counted.
	for range 3 {
		labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
	}
	await(t, "connections to be counted", func() bool { return document().Mappings[0].Hits == 3 })

	// What is wrong, and the explanation.
	nft(t, top.Host, "add table inet wall")
	nft(t, top.Host, "add chain inet wall passing { type filter hook forward priority 10; policy drop; }")
	s.succeed(t, "add tcp 8081 172.30.0.2:80")
	await(t, "the doctor to find it", func() bool {
		d := document()
		return len(d.Mappings) == 3 && d.Mappings[0].State == "stopped"
	})
	status, body := curl(t, top.Client, base+"/")
	require.Equal(t, "200", status)
	require.Contains(t, body, "table inet wall")
	status, body = curl(t, top.Client, base+"/explain?proto=tcp&frontend=8080&from=192.0.2.2")
	require.Equal(t, "200", status)
	require.Contains(t, body, "table inet wall")

	// Only the mapping that was seen is removed.
	remove := func(name, backend string, args ...string) string {
		t.Helper()
		query := url.Values{"name": {name}, "backend": {backend}}.Encode()
		status, _ := curl(t, top.Client, append(args, "-X", "DELETE", base+"/v1/mappings/tcp/8080?"+query)...)
		return status
	}
	authorized := []string{"-H", "Authorization: Bearer 0123456789abcdef"}
	require.Equal(t, "401", remove("web", "172.30.0.2:80"))
	require.Equal(t, "404", remove("other", "172.30.0.2:80", authorized...))
	require.Equal(t, "404", remove("web", "172.30.0.2:81", authorized...))
	require.Contains(t, s.succeed(t, "ls"), "8080")
	require.Equal(t, "200", remove("web", "172.30.0.2:80", authorized...))
	require.NotContains(t, s.succeed(t, "ls"), "8080")
	status, body = curl(t, top.Client, append(authorized, "-H", "Content-Type: application/json", "-d", `{"proto":"tcp","frontend":"8082","backend":"172.30.0.2:80","name":"by hand"}`, base+"/v1/mappings")...)
	require.Equal(t, "201", status, body)
	require.Contains(t, s.succeed(t, "ls"), "by hand")

	status, _ = curl(t, top.Client, "-H", "Host: evil.example", base+"/")
	require.Equal(t, "421", status)

	// The daemon may go and come back.
	await(t, "the page to have all", func() bool { return len(document().Mappings) == 3 })
	require.NoError(t, daemon.Signal(unix.SIGKILL))
	daemon.Wait()
	await(t, "the page to say that the daemon is away", func() bool { d := document(); return d.Error != "" && len(d.Mappings) == 3 })
	s.serve(t)
	await(t, "the page to be about the next daemon", func() bool { d := document(); return d.Error == "" && len(d.Mappings) == 3 })
	requireConfined(t, page.Pid)
	require.NoError(t, page.Signal(unix.SIGTERM))
	require.Zero(t, page.Wait(), page.Output())
}

func TestWebBadCalls(t *testing.T) {
	ns := labtest.NewNS(t, "host")
	labtest.Exec(t, ns, "ip", "link", "set", "lo", "up")
	open := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(open, []byte("0123456789abcdef"), 0o644))
	for line, says := range map[string]string{
		"web":                                   "--listen says where, such as 192.168.1.1:8081",
		"web more":                              `wrong number of arguments: use "nftnat web --listen ADDR"`,
		"web --listen nowhere":                  "listen tcp: address nowhere: missing port in address",
		"web --listen 192.0.2.9:81":             "listen tcp 192.0.2.9:81: bind: cannot assign requested address",
		"web --listen 127.0.0.1:0 --host a:80":  `invalid host "a:80": it is not a name or an address, without a port`,
		"web --listen 127.0.0.1:0 --token-file": "flag needs an argument: --token-file",
		"web --listen 127.0.0.1:0 --token-file /nosuch":   "read token: open /nosuch: no such file or directory",
		"web --listen 127.0.0.1:0 --token-file " + open:   "read token " + open + ": all users may read or change it",
		"web --listen 127.0.0.1:0 --direct":               `--direct does nothing with "nftnat web"`,
		"web --listen 127.0.0.1:0 --log-format something": `invalid log format "something": it is not text or json`,
	} {
		r := labtest.Run(t, ns, bare(t, strings.Fields(line)...))
		require.Equal(t, 2, r.Code, line)
		require.Contains(t, r.Stderr, "nftnat: "+says, line)
	}
}

// The commands of the page about the page work.
func TestWebPage(t *testing.T) {
	s := newDocShell(t)
	var background []*labtest.Process
	for _, block := range docBlocks(t, "docs/web.md") {
		if block.runBy == "" {
			checkBlock(t, block)
			continue
		}
		for _, c := range block.commands() {
			line := strings.TrimSpace(c.line)
			if line, ok := strings.CutSuffix(line, " &"); ok {
				p := labtest.StartCmd(t, s.ns, s.command("exec "+line))
				await(t, line, func() bool { return strings.Contains(p.Output(), "serving the page") })
				background = append(background, p)
				continue
			}
			r := labtest.Run(t, s.ns, s.command(line))
			require.Zero(t, r.Code, "%s: %s%s", line, r.Stdout, r.Stderr)
			if strings.HasPrefix(line, "curl http") {
				require.Contains(t, r.Stdout, "tcp 8080")
			}
		}
	}
	require.Len(t, background, 2)
	for _, p := range background {
		require.NoError(t, p.Signal(unix.SIGTERM))
		require.Zero(t, p.Wait(), p.Output())
	}
	require.NotContains(t, labtest.Run(t, s.ns, s.command("nftnat ls")).Stdout, "8090")
}
