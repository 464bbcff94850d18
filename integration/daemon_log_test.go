// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The log has a line for each change, with its author, and for each mapping that expired.
func TestDaemonLogsChanges(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	p := s.serve(t)
	file := filepath.Join(t.TempDir(), "file.yaml")
	require.NoError(t, os.WriteFile(file, []byte("mappings:\n  - 8081->172.30.0.2:80\n"), 0o600))
	for _, line := range []string{
		"add tcp 8080 172.30.0.2:80 --name web", "add tcp 8080 172.30.0.3:80 --name web --replace",
		"network create inside 172.31.0.0/24", "attach dns --network inside -p 53:53/udp", "detach dns", "network rm inside",
		"rm tcp 8080", "apply -f " + file, "add tcp 8082 172.30.0.2:80 --ttl 100ms",
	} {
		s.succeed(t, line)
	}
	await(t, "the end of a mapping", func() bool { return strings.Contains(p.Output(), "nftnat: expired: ") })
	who := fmt.Sprintf(`uid=%d pid=[1-9]\d* `, os.Getuid())
	var lines []string
	for line := range strings.SplitSeq(p.Output(), "\n") {
		if regexp.MustCompile(`uid=|expired`).MatchString(line) {
			lines = append(lines, line)
		}
	}
	want := []string{
		"published: " + who + `name=web mapping=8080->172\.30\.0\.2:80`,
		"replaced: " + who + `name=web mapping=8080->172\.30\.0\.3:80`,
		"created network: " + who + `name=inside prefix=172\.31\.0\.0/24`,
		"attached: " + who + `name=dns address=172\.31\.0\.2`,
		"published: " + who + `name=dns mapping=53->172\.31\.0\.2:53/udp`,
		"unpublished: " + who + `name=dns mapping=53->172\.31\.0\.2:53/udp`,
		"detached: " + who + "name=dns",
		"removed network: " + who + "name=inside",
		"unpublished: " + who + `name=web mapping=8080->172\.30\.0\.3:80`,
		"applied: " + who + `new=8081->172\.30\.0\.2:80`,
		"published: " + who + `mapping=8082->172\.30\.0\.2:80`,
		`expired: mapping=8082->172\.30\.0\.2:80`,
	}
	require.Len(t, lines, len(want), p.Output())
	for i, line := range lines {
		require.Regexp(t, "^nftnat: "+want[i]+"$", line)
	}
}

// A daemon that another command starts takes format and level from the environment.
func TestDaemonLogEnvironment(t *testing.T) {
	top := newTopology(t, lab.Options{})
	s := newTestbed(t, top.Host)
	add := func(env ...string) labtest.Result {
		cmd := s.command(t, "add", "tcp", "8080", "172.30.0.2:80")
		cmd.Env = append(cmd.Environ(), env...)
		return labtest.Run(t, s.ns, cmd)
	}
	r := add("NFTNAT_LOG_LEVEL=loud")
	require.Equal(t, 2, r.Code, r.Stderr)
	require.Regexp(t, `^nftnat: invalid log level "loud": it is not debug, info, warn or error[^\n]*\n$`, r.Stderr)
	require.Empty(t, daemons(t, filepath.Dir(s.socket)))
	logFile := filepath.Join(filepath.Dir(s.socket), "nftnat.log")
	require.NoFileExists(t, logFile)

	r = add("NFTNAT_LOG_FORMAT=json")
	require.Zero(t, r.Code, r.Stderr)
	log, err := os.ReadFile(logFile)
	require.NoError(t, err)
	published := false
	for line := range strings.SplitSeq(strings.TrimSpace(string(log)), "\n") {
		var doc struct {
			Msg, Mapping string
			UID          *int
		}
		require.NoError(t, json.Unmarshal([]byte(line), &doc), line)
		if doc.Msg == "published" {
			published = true
			require.Equal(t, "8080->172.30.0.2:80", doc.Mapping)
			require.NotNil(t, doc.UID)
		}
	}
	require.True(t, published, string(log))
}
