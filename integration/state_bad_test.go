// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

var runsOut = regexp.MustCompile(`expires \w+`)

// fingerprint is a hash of the ruleset without remaining times.
func fingerprint(t *testing.T, ns *lab.NS) string {
	t.Helper()
	return fmt.Sprintf("%x", sha256.Sum256(runsOut.ReplaceAll([]byte(ruleset(t, ns)), nil)))
}

// A torn, damaged or wrong file is refused as a whole, in one line, and the kernel is not
// changed: with a whole table, with a damaged one, and with none.
func TestStateBadFiles(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, Forwarding: true})
	s, path := newTestbed(t, top.Host), stateFile(t)
	daemon := s.serve(t, "--state", path)
	s.fill(t)
	daemon.Kill()
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	text := string(good)
	edited := regexp.MustCompile(`"checksum".*\n`).ReplaceAllString(strings.Replace(text, "8080:80", "808O:80", 1), "")
	bad := map[string]struct{ text, says string }{
		"torn at half":            {text[:len(text)/2], `:2: invalid checksum "`},
		"a byte short":            {text[:len(text)-1], `:2: invalid checksum "`},
		"torn in the checksum":    {text[:40], `:2: `},
		"empty":                   {"", ":1: invalid file"},
		"edited under the sum":    {strings.Replace(text, "8080:80", "8081:80", 1), "delete this line"},
		"broken by hand":          {edited, `:11: Invalid port format: "808O:80"`},
		"not YAML":                {"mappings:\n  - [80\n", ":"},
		"binary":                  {"\x7fELF\x00\x01", ":1: "},
		"two claim a port":        {"mappings:\n  - 80->172.30.0.2:80\n  - 80->172.30.0.2:81\n", ":3: "},
		"one wrong after another": {"mappings:\n  - 70->172.30.0.2:80\n  - 80->172.30.0.2:0\n", ":3: "},
	}
	refused := func(t *testing.T, code int, says string) {
		t.Helper()
		before := fingerprint(t, top.Host)
		r := s.run(t, "serve --state "+path)
		require.Equal(t, code, r.Code, r.Stderr)
		require.Regexp(t, `^nftnat: [^\n]+\n$`, r.Stderr)
		require.Contains(t, r.Stderr, path)
		require.Contains(t, r.Stderr, says)
		require.Equal(t, before, fingerprint(t, top.Host))
	}
	worlds := []struct {
		name string
		make func()
	}{
		{"all there", func() {}},
		{"rules gone", func() { nft(t, top.Host, "flush", "chain", "inet", "nftnat", "nat-prerouting") }},
		{"nothing", func() { nft(t, top.Host, "delete", "table", "inet", "nftnat") }},
	}
	for _, world := range worlds {
		world.make()
		for name, c := range bad {
			t.Run(world.name+", "+name, func(t *testing.T) {
				require.NoError(t, os.WriteFile(path, []byte(c.text), 0o600))
				refused(t, 2, c.says)
				left, err := os.ReadFile(path)
				require.NoError(t, err)
				require.Equal(t, c.text, string(left))
			})
		}
	}

	// Files that are not regular, or must not be replaced.
	require.NoError(t, os.Rename(path, path+".real"))
	require.NoError(t, os.Symlink(path+".real", path))
	refused(t, 2, "it is a symbolic link")
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.Mkdir(path, 0o700))
	refused(t, 2, "it is not a regular file")
	require.NoError(t, os.Remove(path))
	r := s.run(t, "serve --state "+filepath.Join(path, "state.yaml"))
	require.Equal(t, 2, r.Code, r.Stderr)
	require.Contains(t, r.Stderr, "there is no directory "+path)

	// The good file still works.
	require.NoError(t, os.WriteFile(path, good, 0o600))
	daemon = s.serve(t, "--state", path)
	require.Contains(t, daemon.Output(), "restored the stored state")
	require.Contains(t, s.succeed(t, "ps"), "web")

	// A file has one daemon.
	second := newTestbed(t, top.Host)
	r = second.run(t, "serve --table other --state "+path)
	require.Equal(t, 3, r.Code, r.Stderr)
	require.Equal(t, fmt.Sprintf("nftnat: state file %s is taken by pid %d\n", path, daemon.Pid), r.Stderr)
	require.NotContains(t, nft(t, top.Host, "list", "tables"), "other")
}

// While the file cannot be written, changes fail, and what is published keeps working. When
// it can be written, changes succeed again.
func TestStateDiskFull(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, Forwarding: true})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	s := newTestbed(t, top.Host)
	// In the tests' own mount namespace, whose /run is empty.
	disk, err := os.MkdirTemp("/run", "disk-")
	require.NoError(t, err)
	require.NoError(t, unix.Mount("tmpfs", disk, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=64k"))
	t.Cleanup(func() {
		require.NoError(t, unix.Unmount(disk, unix.MNT_DETACH))
		require.NoError(t, os.Remove(disk))
	})
	dir := filepath.Join(disk, "nftnat")
	require.NoError(t, os.Mkdir(dir, 0o700))
	path := filepath.Join(dir, "state.yaml")
	daemon := s.serve(t, "--state", path)
	s.fill(t)
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	filler := filepath.Join(disk, "filler")

	for name, w := range map[string]struct {
		spoil, repair func(t *testing.T)
		says          string
	}{
		"full": {
			func(t *testing.T) {
				t.Helper()
				require.ErrorIs(t, os.WriteFile(filler, make([]byte, 1<<20), 0o600), unix.ENOSPC)
			},
			func(t *testing.T) { t.Helper(); require.NoError(t, os.Remove(filler)) },
			"no space left on device",
		},
		"gone": {
			func(t *testing.T) { t.Helper(); require.NoError(t, os.Rename(dir, dir+"-away")) },
			func(t *testing.T) { t.Helper(); require.NoError(t, os.Rename(dir+"-away", dir)) },
			"no such file or directory",
		},
	} {
		t.Run(name, func(t *testing.T) {
			elements, exported, held := sortedElements(t, top.Host), s.export(t), sockets(t, top.Host)
			w.spoil(t)
			for _, line := range []string{
				"add tcp 9000 172.30.0.2:80", "add tcp 90 172.30.0.2:81 --replace", "rm tcp 91", "attach more --network inside -p 80",
				"detach web", "network create more 10.9.0.0/24", "apply -f testdata/empty.yaml",
			} {
				r := s.run(t, line)
				require.Equal(t, 1, r.Code, line)
				require.Regexp(t, `^nftnat: [^\n]+\n$`, r.Stderr, line)
				require.Contains(t, r.Stderr, "keep state: ", line)
				require.Contains(t, r.Stderr, w.says, line)
				require.Equal(t, elements, sortedElements(t, top.Host), line)
				require.Equal(t, exported, s.export(t), line)
				require.Equal(t, held, sockets(t, top.Host), line)
				labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
				labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "web")
			}
			w.repair(t)
			left, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, string(before), string(left))
			require.NoFileExists(t, path+".new")
			s.succeed(t, "add tcp 9000 172.30.0.2:80")
			s.succeed(t, "rm tcp 9000")
			before, err = os.ReadFile(path)
			require.NoError(t, err)
		})
	}
	s.reboot(t, daemon)
	s.serve(t, "--state", path)
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
}
