// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/boottest"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// pageBlocks returns the blocks of docs/install.md that a test has to run.
func pageBlocks(t *testing.T) []docBlock {
	t.Helper()
	var blocks []docBlock
	for _, b := range docBlocks(t, "docs/install.md") {
		if b.runBy == t.Name() {
			blocks = append(blocks, b)
		}
	}
	require.NotEmpty(t, blocks)
	return blocks
}

// packageDir is the directory of downloaded packages.
const packageDir = "/root/Downloads"

// namesakes returns the files and directories of a machine with nftnat in their names.
func namesakes(m *boottest.Machine) string {
	return m.Exec("find", "/etc", "/opt", "/run", "/usr", "/var", "-xdev", "-name", "*nftnat*")
}

// bootInstaller boots a machine for docs/install.md, and returns a shell in a directory of
// it.
func bootInstaller(t *testing.T, dir string) (*boottest.Machine, *docShell) {
	t.Helper()
	m := boottest.Boot(t, newDocHost(t), nil)
	m.Write("/usr/local/bin/sudo", sudoScript, 0o755)
	// Its questions cannot be answered here.
	m.Write("/etc/apt/apt.conf.d/99yes", "APT::Get::Assume-Yes \"true\";\n", 0o644)
	// In Debian, rpm's database has no packages, so that one with a shell is missing.
	m.Write("/usr/local/bin/rpm", "#!/bin/sh\nexec /usr/bin/rpm --nodeps \"$@\"\n", 0o755)
	m.Exec("useradd", "alice")
	m.Exec("mkdir", "-p", dir)
	return m, &docShell{ns: m.NS, command: func(line string) *exec.Cmd {
		cmd := m.Command("bash", "-c", "cd "+dir+" && "+line)
		cmd.Env = append(cmd.Env, "PATH="+filepath.Dir(labtest.Tool(t, "go"))+":/usr/local/bin:/usr/bin:/bin")
		return cmd
	}}
}

// download puts the packages of a release into packageDir.
func download(m *boottest.Machine, r release, file string) {
	m.Exec("find", packageDir, "-type", "f", "-delete")
	for _, path := range []string{file, filepath.Join(r.dir, "SHA256SUMS")} {
		m.Copy(path, filepath.Join(packageDir, filepath.Base(path)))
	}
}

// runPackagePage runs the page's blocks for one kind of package: the first half installs
// this version, and the second begins with the same command for the next one.
func runPackagePage(t *testing.T, file func(release) string) {
	t.Helper()
	blocks := pageBlocks(t)
	first, next := packagesOf(t, thisVersion), packagesOf(t, nextVersion)
	m, shell := bootInstaller(t, packageDir)
	before := namesakes(m)
	download(m, first, file(first))
	const docker = "nftnat-docker.service" // which administrators enable
	install := blocks[0].commands()[1].line
	for i, b := range blocks {
		if i > 0 && b.commands()[0].line == install {
			require.Equal(t, thisVersion, daemonVersion(t, m))
			m.Exec("systemctl", "enable", "--now", docker)
			watching := m.MainPid(docker)
			require.NotZero(t, watching)
			download(m, next, file(next))
			shell.run(t, b)
			require.Equal(t, nextVersion, daemonVersion(t, m))
			require.Contains(t, m.Exec("nftnat", "ls"), "web")
			require.NotContains(t, []int{0, watching}, m.MainPid(docker))
			continue
		}
		shell.run(t, b)
	}
	require.Equal(t, before, namesakes(m))
	require.Empty(t, m.Run("pgrep", "--exact", "nftnat").Stdout)
	require.NotContains(t, nft(t, m.NS, "list", "tables"), "nftnat")
	require.NotZero(t, m.Run("getent", "passwd", "nftnat").Code)
}

func TestInstallDeb(t *testing.T) {
	labtest.Tool(t, "apt")
	runPackagePage(t, func(r release) string { return r.deb(runtime.GOARCH) })
}

func TestInstallRPM(t *testing.T) {
	labtest.Tool(t, "rpm")
	runPackagePage(t, func(r release) string { return r.rpm(runtime.GOARCH) })
}

func TestInstallSource(t *testing.T) {
	labtest.Tool(t, "make")
	m, shell := bootInstaller(t, "/root")
	unpackCheckout(t, m)
	plain := shell.command
	shell.command = func(line string) *exec.Cmd { return plain("cd nftnat && " + line) }
	before := namesakes(m)
	for _, b := range pageBlocks(t) {
		shell.run(t, b)
	}
	require.Equal(t, before, namesakes(m))
	unit := m.Exec("cat", "/root/package/usr/lib/systemd/system/nftnat.service")
	require.Contains(t, unit, "\nExecStart=/usr/bin/nftnat ")
}

// Each directory of the installation is that of its variable, and nothing else is installed
// or removed.
func TestMakeInstall(t *testing.T) {
	dir := filepath.Join(packagesOf(t, thisVersion).dir, "../..")
	root := t.TempDir()
	others := []string{filepath.Join(root, "opt/nftnat/share/doc/nftnat/other"), filepath.Join(root, "opt/nftnat/share/man/man8/other.8.gz")}
	for _, path := range others {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, nil, 0o644))
	}
	args := []string{"DESTDIR=" + root, "PREFIX=/opt/nftnat", "UNITDIR=/etc/systemd/system", "PROGRAM=dist/root/" + runtime.GOARCH + ".program"}
	makeIn(t, dir, append([]string{"install"}, args...)...)
	for _, path := range commonFiles {
		require.FileExists(t, filepath.Join(root, "opt/nftnat", strings.TrimPrefix(path, "/usr")))
	}
	text := textOf(t, filepath.Join(root, "etc/systemd/system/nftnat.service"))
	require.Contains(t, text, "=/opt/nftnat/bin/nftnat ")
	require.NotContains(t, text, "/usr/bin/nftnat")
	makeIn(t, dir, append([]string{"uninstall"}, args...)...)
	var left []string
	require.NoError(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			left = append(left, path)
		}
		return err
	}))
	require.Equal(t, others, left)

	// make install fails before make.
	cmd := exec.Command("make", "install", "DESTDIR="+root, "PROGRAM=missing")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), `run "make" first`)
	require.NoDirExists(t, filepath.Join(root, "usr"))
}

// The commands for a release work, in a repository of their own.
func TestReleasePage(t *testing.T) {
	requireNFPM(t)
	dir := filepath.Join(t.TempDir(), "nftnat")
	copyCheckout(t, dir)
	shell := &docShell{ns: labtest.NewNS(t, "one"), command: func(line string) *exec.Cmd {
		cmd := exec.Command(labtest.Tool(t, "bash"), "-c", line)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PACKAGES_ARCH="+runtime.GOARCH, "GOPROXY=off",
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org")
		return cmd
	}}
	shell.run(t, docBlock{lang: "sh", text: "git init -q --bare ../origin\ngit init -q .\ngit remote add origin ../origin\ngit add .\ngit commit -q -m first\n"})
	for _, b := range docBlocks(t, "docs/release.md") {
		require.Equal(t, t.Name(), b.runBy, b)
		shell.run(t, b)
	}
	tags, err := exec.Command("git", "-C", filepath.Join(dir, "../origin"), "tag").Output()
	require.NoError(t, err)
	require.Equal(t, "v"+thisVersion+"\n", string(tags))
}
