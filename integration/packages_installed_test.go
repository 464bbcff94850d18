// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/boottest"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// A manager installs and removes one kind of package.
type manager struct {
	name     string
	install  []string // followed by a package's file
	remove   []string
	purge    []string // nil: there is only remove
	starts   bool     // whether the socket listens when the package has been installed
	again    []string // installs the installed version again
	thisFile string
	nextFile string
}

// A package is installed, upgraded under load and removed on a running machine: no
// connection is refused, what is published stays, and nothing is left at the end.
func TestPackagesInstalled(t *testing.T) {
	requireNFPM(t)
	labtest.Tool(t, "dpkg")
	labtest.Tool(t, "rpm")
	first, next := packagesOf(t, thisVersion), packagesOf(t, nextVersion)
	for _, p := range []manager{
		{
			name: "deb", install: []string{"dpkg", "--install"}, remove: []string{"dpkg", "--remove", "nftnat"}, purge: []string{"dpkg", "--purge", "nftnat"},
			again: []string{"dpkg", "--install"}, starts: true, thisFile: first.deb(runtime.GOARCH), nextFile: next.deb(runtime.GOARCH),
		},
		{
			// In Debian, rpm's database has no packages, so that one with a shell is missing.
			name: "rpm", install: []string{"rpm", "--upgrade", "--nodeps"}, remove: []string{"rpm", "--erase", "nftnat"},
			again: []string{"rpm", "--upgrade", "--nodeps", "--force"}, thisFile: first.rpm(runtime.GOARCH), nextFile: next.rpm(runtime.GOARCH),
		},
	} {
		t.Run(p.name, p.test)
	}
}

func (p manager) test(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":80")
	}
	const thisFile, nextFile = "/root/this.package", "/root/next.package"
	m := boottest.Boot(t, top.Host, map[string]string{thisFile: p.thisFile, nextFile: p.nextFile})
	install := func(file string) { m.Exec(p.install[0], append(p.install[1:], file)...) }
	before := filesOf(m)

	install(thisFile)
	require.Equal(t, "enabled\nenabled\n", m.Exec("systemctl", "is-enabled", "nftnat.socket", "nftnat.service"))
	require.Equal(t, "inactive", m.Property("nftnat.service", "ActiveState"), "no daemon before the first command")
	require.Equal(t, p.starts, m.Property("nftnat.socket", "ActiveState") == "active")
	m.Exec("systemctl", "start", "nftnat.socket")
	for _, proto := range []string{"tcp", "udp"} {
		m.Exec("nftnat", "add", proto, "8080", "172.30.0.2:80", "--name", "web")
	}
	require.Equal(t, thisVersion, daemonVersion(t, m))
	published := m.Exec("nftnat", "ls", "--json")

	// The upgrade.
	long := startStream(t, top.Host, "127.0.0.1:8080")
	var calls []*callers
	for _, network := range []string{"tcp", "udp"} {
		calls = append(calls, startCallers(t, top.Host, network, "127.0.0.1:8080"), startCallers(t, top.Client, network, "192.0.2.1:8080"))
	}
	for _, c := range calls {
		c.goOn(t)
	}
	daemon := m.MainPid("nftnat.service")
	install(nextFile)
	for _, c := range calls {
		c.goOn(t)
	}
	for _, c := range calls {
		require.NoError(t, c.end(t), c)
	}
	require.Positive(t, long.end(t))
	require.NotEqual(t, daemon, m.MainPid("nftnat.service"))
	require.Equal(t, nextVersion, daemonVersion(t, m))
	require.JSONEq(t, published, m.Exec("nftnat", "ls", "--json"))
	require.Equal(t, "active", m.Property("nftnat.socket", "ActiveState"))

	// A service that the administrator has disabled and stopped stays disabled and stopped.
	m.Exec("systemctl", "disable", "--now", "nftnat.service", "nftnat.socket")
	m.Exec(p.again[0], append(p.again[1:], nextFile)...)
	require.Equal(t, "disabled\ndisabled\n", m.Run("systemctl", "is-enabled", "nftnat.socket", "nftnat.service").Stdout)
	require.Equal(t, "inactive", m.Property("nftnat.socket", "ActiveState"))
	m.Exec("systemctl", "enable", "--now", "nftnat.service")

	// Nothing is published after the removal, but a new installation restores it.
	m.Exec(p.remove[0], p.remove[1:]...)
	require.NotContains(t, nft(t, m.NS, "list", "tables"), "nftnat")
	require.Empty(t, m.Exec("systemctl", "list-units", "--plain", "--no-legend", "nftnat*"), "something still runs")
	require.Error(t, labtest.NoAnswer(t, top.Client, "tcp", "192.0.2.1:8080"))
	m.Exec("test", "-s", "/var/lib/nftnat/state.yaml")
	install(nextFile)
	m.Exec("systemctl", "enable", "--now", "nftnat.socket")
	require.JSONEq(t, published, m.Exec("nftnat", "ls", "--json"))

	if p.purge == nil {
		m.Exec(p.remove[0], p.remove[1:]...)
		m.Exec("rm", "-r", "/var/lib/nftnat")
		m.Exec("userdel", "nftnat")
	} else {
		m.Exec(p.purge[0], p.purge[1:]...)
	}
	require.Equal(t, before, filesOf(m))
	require.NotContains(t, nft(t, m.NS, "list", "tables"), "nftnat")
	require.Empty(t, m.Exec("systemctl", "list-units", "--all", "--plain", "--no-legend", "nftnat*"))
	require.Empty(t, m.Run("systemctl", "list-unit-files", "--plain", "--no-legend", "nftnat*").Stdout)
	require.NotZero(t, m.Run("getent", "passwd", "nftnat").Code)
	require.NotZero(t, m.Run("getent", "group", "nftnat").Code)
}

func daemonVersion(t *testing.T, m *boottest.Machine) string {
	t.Helper()
	var status struct {
		Version string `json:"version"`
	}
	require.NoError(t, json.Unmarshal([]byte(m.Exec("nftnat", "status", "--json")), &status))
	return status.Version
}

// filesOf lists the files of a machine that installing and running something may add, and
// directories that are named after nftnat: who owns the others differs by distribution.
func filesOf(m *boottest.Machine) string {
	paths := m.Exec("find", "/etc", "/run", "/usr", "/var", "-xdev",
		"(", "-path", "/var/log", "-o", "-path", "/var/lib/dpkg", "-o", "-path", "/var/lib/rpm", "-o", "-path", "/run/systemd", ")", "-prune",
		"-o", "(", "!", "-type", "d", "-o", "-name", "*nftnat*", ")", "-print")
	var kept strings.Builder
	for line := range strings.Lines(paths) {
		// The account databases as they were before the last change.
		if !strings.HasPrefix(line, "/etc/") || !strings.HasSuffix(line, "-\n") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}
