// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/fleet/internal/etcdtest"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// machine is a host on which commands are run.
type machine struct {
	ns  *lab.NS
	env []string
}

// fleet runs nftnat-fleet on the host, and returns how it ended.
func (m *machine) fleet(t *testing.T, args ...string) labtest.Result {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), m.env...)
	return labtest.Run(t, m.ns, cmd)
}

// does runs nftnat-fleet, which has to succeed, and returns what it printed.
func (m *machine) does(t *testing.T, line string) string {
	t.Helper()
	r := m.fleet(t, strings.Fields(line)...)
	require.Zero(t, r.Code, "%s: %s", line, r.Stderr)
	return r.Stdout
}

// command is one of docs/fleet.md, with what it prints.
type command struct{ line, output string }

// documented returns the commands in the indented blocks of a section.
func documented(t *testing.T, heading string) (all []command) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "fleet.md"))
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(page), "\n"+heading+"\n")
	require.True(t, ok, "docs/fleet.md has no %q", heading)
	section, _, _ = strings.Cut(section, "\n## ")
	for line := range strings.Lines(section) {
		line, indented := strings.CutPrefix(line, "    ")
		if run, ok := strings.CutPrefix(line, "$ nftnat-fleet "); ok && indented {
			all = append(all, command{line: run})
		} else if indented {
			all[len(all)-1].output += line
		}
	}
	require.NotEmpty(t, all)
	return all
}

// plain replaces what is chosen at random, and the widths of columns.
func plain(text string) string {
	return regexp.MustCompile(` +`).ReplaceAllString(regexp.MustCompile(`\d+`).ReplaceAllString(text, "N"), " ")
}

// TestSpaceCommands runs the commands of shared networks against real agents and daemons.
func TestSpaceCommands(t *testing.T) {
	c := etcdtest.New(t, etcdtest.Options{Hosts: 2})
	program := filepath.Join(t.TempDir(), "nftnat")
	build := exec.Command(labtest.Tool(t, "go"), "build", "-o", program, "./cmd/nftnat")
	build.Dir = filepath.Join("..", "..", "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	var hosts []*machine
	for i, name := range []string{"edge1", "edge2"} {
		dir, err := os.MkdirTemp("/run", "fleet")
		require.NoError(t, err)
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		daemon, agent := filepath.Join(dir, "d", "s"), filepath.Join(dir, "a", "s")
		m := &machine{ns: c.Hosts[i], env: []string{
			asProgram + "=1", "NFTNAT_FLEET_ENDPOINTS=" + strings.Join(c.Endpoints, ","), "NFTNAT_SOCKET=" + daemon, "NFTNAT_FLEET_AGENT=" + agent,
		}}
		hosts = append(hosts, m)
		labtest.Start(t, m.ns, program, "serve", "--socket", daemon)
		cmd := exec.Command("/proc/self/exe", "agent", "--host", name, "--state-dir", filepath.Join(dir, "state"))
		cmd.Env = append(os.Environ(), m.env...)
		labtest.StartCmd(t, m.ns, cmd)
	}
	a, b := hosts[0], hosts[1]
	deadline := time.Now().Add(labtest.Stretch(20 * time.Second))
	for _, m := range hosts { // until the agents answer
		for m.fleet(t, "lease", "none", "x").Code != exitNotFound {
			require.True(t, time.Now().Before(deadline), "no agent answers")
			time.Sleep(50 * time.Millisecond)
		}
	}
	for _, c := range documented(t, "## One address space") {
		require.Equal(t, plain(c.output), plain(a.does(t, c.line)), c.line)
	}
	lease := regexp.MustCompile(`^(10\.60\.\d+\.\d+)\n8080->(10\.60\.\d+\.\d+):80\n$`)
	first, second := lease.FindStringSubmatch(a.does(t, "lease all web -p 8080:80")), lease.FindStringSubmatch(b.does(t, "lease all web -p 8080:80"))
	require.NotNil(t, first)
	require.NotNil(t, second)
	require.NotEqual(t, first[1], second[1])
	require.Regexp(t, `(?m)^all +10\.60\.0\.0/16 +1024 of /26 +edge1 1, edge2 1$`, a.does(t, "network ls"))
	require.Regexp(t, `^ip route replace 10\.60\.\d+\.\d+/26 via 192\.0\.2\.22\n$`, a.does(t, "network routes all --host edge1"))
	require.Regexp(t, `^192\.0\.2\.21:\d{5}->172\.17\.0\.2:80\n$`, a.does(t, "publish tcp 192.0.2.21 172.17.0.2:80 --name web"))
	require.Regexp(t, `(?m)^tcp:192\.0\.2\.21 +49153-65535 +256 of 64 ports +edge1 1$`, a.does(t, "network ls"))
	for line, want := range map[string]struct {
		code int
		text string
	}{
		"network create all 10.61.0.0/16":                         {exitConflict, `shared network all {prefix: "10.60.0.0/16", block: 26} exists already`},
		"network create more 10.60.3.0/24":                        {exitConflict, "prefix 10.60.3.0/24 is taken by shared network all 10.60.0.0/16"},
		"network create tiny 10.9.0.0/30":                         {exitBadInput, "it is too small for two blocks; the smallest is a /28"},
		"network create odd 10.9.0.0/16 --block 31":               {exitBadInput, "a block of /31 has too few addresses; the smallest is a /29"},
		"network create odd 10.9.0.0/16 --block 0":                {exitBadInput, "--block is the length of a prefix"},
		"network create odd nonsense":                             {exitBadInput, "a network is written ADDRESS/LENGTH"},
		"network create odd":                                      {exitBadInput, "wrong arguments"},
		"network rm all":                                          {exitConflict, "shared network all is taken by blocks of host edge1, edge2"},
		"network rm none":                                         {exitNotFound, `there is no shared network "none"`},
		"network routes all --via edge2":                          {exitBadInput, "is not HOST=ADDRESS"},
		"lease all web -p 8081:80":                                {exitConflict, "endpoint web (" + first[1] + ") exists already"},
		"lease none x":                                            {exitNotFound, `lease x of none: there is no shared network "none"`},
		"lease all x -p nonsense":                                 {exitBadInput, `Invalid port format: "nonsense"`},
		"lease all x --ip " + second[1]:                           {exitConflict, "address " + second[1] + " is taken by host edge2, with its block "},
		"lease all x --ip 10.61.0.1":                              {exitBadInput, "it is not in shared network all 10.60.0.0/16"},
		"publish tcp 0.0.0.0 172.17.0.2:80":                       {exitBadInput, "a shared port is of an address that hosts share"},
		"publish sctp 192.0.2.21 172.17.0.2:80":                   {exitBadInput, `unknown protocol "sctp"`},
		"release all x":                                           {exitNotFound, `release x of all: there is no endpoint "x"`},
		"forget edge2":                                            {exitConflict, "name edge2 is taken by an agent that runs"},
		"forget edge9":                                            {exitNotFound, `no host "edge9" has taken part`},
		"resume":                                                  {exitNotFound, "nothing keeps hosts from leasing"},
		"lease all x --agent /run/nobody/is/here":                 {exitFailed, "no agent answers at /run/nobody/is/here: start nftnat-fleet agent"},
		"network ls --endpoints http://192.0.2.99:1 --timeout 1s": {exitFailed, "192.0.2.99:1"},
	} {
		r := a.fleet(t, strings.Fields(line)...)
		require.Equal(t, want.code, r.Code, "%s: %s", line, r.Stderr)
		require.Contains(t, r.Stderr, want.text, line)
		require.Equal(t, 1, strings.Count(r.Stderr, "\n"), "%s: %q", line, r.Stderr)
		require.Empty(t, r.Stdout, line)
	}
	require.Equal(t, "8080->"+first[1]+":80\n", a.does(t, "release all web"))

	// What etcd has is neither run by the shell that installs routes nor by the terminal.
	client := c.Open(t, c.Client)
	for key, value := range map[string]string{
		"hosts/edge3": `{"address": "fe80::1%;reboot"}`, "space/all/block/7": "edge3 x", "desired/all/mapping/x": "\x1b[2J", "desired/\x1b[3J": "x",
	} {
		_, err := client.Put(t.Context(), "/nftnat/1/"+key, value)
		require.NoError(t, err)
	}
	require.NotContains(t, a.does(t, "network routes all"), "reboot")
	require.Contains(t, a.does(t, "network routes all --via edge3=192.0.2.23"), "via 192.0.2.23\n")
	require.Equal(t, "mapping x of all: \\x1b[2J\ndesired/\\x1b[3J: x\n", sorted(a.does(t, "get")))
}

// sorted sorts lines, the longest first.
func sorted(text string) string {
	lines := strings.SplitAfter(text, "\n")
	slices.SortFunc(lines, func(a, b string) int { return len(b) - len(a) })
	return strings.Join(lines, "")
}
