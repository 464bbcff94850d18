// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/state"
)

// stateFile returns a path for a state file, in a directory of its own.
func stateFile(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "state.yaml")
}

var end = regexp.MustCompile(`expires: [-0-9T:.]+Z`)

// export returns what is published, without the ends of mappings, which the kernel reports
// as milliseconds from now.
func (s *testbed) export(t *testing.T) string {
	t.Helper()
	return end.ReplaceAllString(s.succeed(t, "export"), "expires: ~")
}

// reboot kills a daemon, and deletes the table.
func (s *testbed) reboot(t *testing.T, daemon *labtest.Process) {
	t.Helper()
	daemon.Kill()
	nft(t, s.ns, "delete", "table", "inet", "nftnat")
	require.Empty(t, nft(t, s.ns, "list", "ruleset"))
}

// fill makes networks, endpoints and mappings of all kinds, and releases two addresses.
func (s *testbed) fill(t *testing.T) {
	t.Helper()
	for _, line := range []string{
		"network create inside 172.30.0.0/24",
		"network create open fd00:30::/64 --no-guard --no-masquerade",
		"attach web --network inside -p 8080:80 -p 8000-8009:9000-9009/udp -p 192.0.2.1:443:80",
		"attach gone --network inside",
		"attach db --network open -p 0.0.0.0:53:53/udp",
		"attach next --network open",
		"detach gone",
		"detach next",
		"add tcp 90 172.30.0.2:80 --ttl 1h --name lease",
		"add tcp 91 172.30.0.2:80 --no-proxy --name bare",
		"add udp 127.0.0.1:92 172.30.0.2:80",
	} {
		s.succeed(t, line)
	}
}

// After a reboot, everything is restored from the file: mappings, networks, endpoints, names,
// ends, and the next address of each network.
func TestStateReboot(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "web", ":80")
	}
	s, path := newTestbed(t, top.Host), stateFile(t)
	daemon := s.serve(t, "--state", path)
	s.fill(t)
	// The file has what is published, and apply accepts it.
	exported := s.export(t)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Regexp(t, `^{\n"checksum":"[0-9a-f]{64}",\n"table":"[^\n]+",\n"removed":{[^\n]+},\n"version":1,\n`, string(text))
	stored, err := state.Decode(bytes.NewReader(text), path)
	require.NoError(t, err)
	var asYAML strings.Builder
	require.NoError(t, state.Encode(&asYAML, stored))
	require.Equal(t, exported, end.ReplaceAllString(asYAML.String(), "expires: ~"))
	require.Empty(t, s.succeed(t, "apply --dry-run -f "+path))
	elements := sortedElements(t, top.Host)

	for range 2 {
		s.reboot(t, daemon)
		daemon = s.serve(t, "--state", path)
		require.Contains(t, daemon.Output(), "nftnat: restored the stored state")
		require.Equal(t, exported, s.export(t))
		require.Equal(t, elements, sortedElements(t, top.Host))
		left := expires(t, top.Host, "tcp4")["90"]
		require.Greater(t, left, 30*time.Minute)
		require.LessOrEqual(t, left, time.Hour)
		for _, port := range []string{"8080", "90", "91", "443"} {
			labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:"+port, "web")
		}
		labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "web")
		labtest.Reaches(t, top.Host, "udp", "127.0.0.1:92", "web")
		require.Contains(t, s.succeed(t, "port web 80"), "8080")
	}
	// Addresses that were released before are still leased last.
	require.Contains(t, s.succeed(t, "attach later --network inside"), "172.30.0.4")
	require.Contains(t, s.succeed(t, "attach later6 --network open"), "fd00:30::4")

	// A file from export is a valid state file. What ended meanwhile is not restored.
	exported = s.succeed(t, "export")
	ended := end.ReplaceAllString(exported, "expires: 2020-01-01T00:00:00Z")
	require.NotEqual(t, exported, ended)
	s.reboot(t, daemon)
	require.NoError(t, os.WriteFile(path, []byte(ended), 0o600))
	daemon = s.serve(t, "--state", path)
	require.NotContains(t, s.succeed(t, "export"), "lease")
	require.Contains(t, s.succeed(t, "ls"), "bare")
	text, err = os.ReadFile(path)
	require.NoError(t, err)
	require.NotContains(t, string(text), "lease", "and the file says so by now")

	// After a purge nothing is restored.
	s.succeed(t, "purge")
	daemon.Wait()
	s.serve(t, "--state", path)
	require.Equal(t, exportOf("mappings: []\n"), s.succeed(t, "export"))
}

// If kernel and file differ, the kernel's state counts, and what was removed from the table
// meanwhile is not restored.
func TestStateKernelWins(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	labtest.EchoTCP(t, top.Backend1, "one", ":80")
	labtest.EchoTCP(t, top.Backend2, "two", ":80")
	s, path := newTestbed(t, top.Host), stateFile(t)
	daemon := s.serve(t, "--state", path)
	s.fill(t)
	s.succeed(t, "add tcp 7000-7002 172.30.0.2:80-82")
	daemon.Kill()
	for _, line := range []string{
		"rm tcp 7001", "add tcp 7000 172.30.0.3:80 --replace", "add tcp 7003 172.30.0.3:80", "detach db", "network rm open",
	} {
		succeed(t, top.Host, strings.Fields(line)...)
	}
	nft(t, top.Host, "delete", "element", "inet", "nftnat", "tcp4", "{ 91 }")
	want := end.ReplaceAllString(succeed(t, top.Host, "export"), "expires: ~")
	elements := sortedElements(t, top.Host)

	daemon = s.serve(t, "--state", path)
	require.Equal(t, want, s.export(t))
	require.Equal(t, elements, sortedElements(t, top.Host))
	for _, told := range []string{
		`kept=7000->172.30.0.2:80 reason="it is 7000->172.30.0.3:80"`, `kept=7001->172.30.0.2:81 reason="it was taken out of the table meanwhile"`,
		`kept="endpoint db fd00:30::2" reason="it was taken out`, `kept="network open `, `kept=91->172.30.0.2:80 reason="it was taken out`,
	} {
		require.Contains(t, daemon.Output(), told)
	}
	require.NotContains(t, daemon.Output(), "restored the stored state")
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:7000", "two")
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:7003", "two")
	s.reboot(t, daemon)

	// If a command runs before the daemon, its mapping stays, and the others are restored.
	succeed(t, top.Host, "add", "tcp", "8080", "172.30.0.3:80")
	daemon = s.serve(t, "--state", path)
	require.Contains(t, daemon.Output(), `kept=8080->172.30.0.2:80 reason="it is 8080->172.30.0.3:80"`)
	require.Contains(t, daemon.Output(), "restored the stored state")
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "two")
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:90", "one")
}
