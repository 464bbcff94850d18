// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/boottest"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The commands in README.md work, one after another, on a machine that is booted for them, and
// print what it says: nftnat is built, installed, used and removed, and nothing is left.
func TestReadme(t *testing.T) {
	m := boottest.Boot(t, newDocHost(t), nil)
	m.Write("/usr/local/bin/sudo", sudoScript, 0o755)
	m.Write("/root/.curlrc", curlConfig, 0o644)
	unpackCheckout(t, m)
	shell := &docShell{ns: m.NS, command: func(line string) *exec.Cmd {
		cmd := m.Command("bash", "-c", "cd /root/nftnat && "+line)
		cmd.Env = append(cmd.Env, "PATH="+filepath.Dir(labtest.Tool(t, "go"))+":/usr/local/bin:/usr/bin:/bin")
		return cmd
	}}
	before := m.Exec("find", installedDirs...)
	for _, block := range docBlocks(t, "README.md") {
		require.Empty(t, block.runBy, block)
		switch block.lang {
		case "sh", "console":
			shell.run(t, block)
		default:
			checkBlock(t, block)
		}
	}
	require.Equal(t, before, m.Exec("find", installedDirs...))
	require.NotContains(t, nft(t, m.NS, "list", "tables"), "nftnat")
}

// installedDirs are the directories that nftnat installs to or keeps files in.
var installedDirs = []string{"/usr/local", "/etc/systemd/system", "/run", "/var/lib", "-path", "*nftnat*"}

// unpackCheckout copies the checkout to /root/nftnat.
func unpackCheckout(t *testing.T, m *boottest.Machine) {
	t.Helper()
	m.Exec("mkdir", "/root/nftnat")
	unpack := m.Command("tar", "--extract", "--directory=/root/nftnat", "--no-same-owner")
	unpack.Stdin = bytes.NewReader(packCheckout(t))
	r := labtest.Run(t, m.NS, unpack)
	require.Zero(t, r.Code, r.Stderr)
}

// packCheckout archives the files that git tracks, or would add.
func packCheckout(t *testing.T) []byte {
	t.Helper()
	git := exec.Command(labtest.Tool(t, "git"), "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	git.Dir = ".."
	names, err := git.Output()
	require.NoError(t, err)
	pack := exec.Command(labtest.Tool(t, "tar"), "--null", "--files-from=-", "--create")
	pack.Dir = ".."
	pack.Stdin = bytes.NewReader(names)
	archive, err := pack.Output()
	require.NoError(t, err)
	return archive
}
