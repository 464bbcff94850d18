// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/boottest"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The units work as they are shipped, from the first command to the last.
func TestUnits(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	m := bootInstalled(t, top.Host)

	// As a daemon leaves it that root has started by a command before.
	m.Exec("install", "-d", "-o", "root", "-g", "root", "-m", "0750", "/run/nftnat")

	// The first command starts the daemon.
	m.Exec("systemctl", "enable", "nftnat.service")
	m.Exec("systemctl", "start", "nftnat.socket")
	require.Equal(t, "inactive", m.Property("nftnat.service", "ActiveState"))
	m.Exec("nftnat", "add", "tcp", "80", "172.30.0.2:80", "--name", "web")
	require.Equal(t, "active", m.Property("nftnat.service", "ActiveState"))
	reached := func(name string) {
		t.Helper()
		labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:80", name)
		labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:80", name)
	}
	reached("web")
	status := m.Exec("nftnat", "status")
	require.NotContains(t, status, "warning", status)
	require.NotContains(t, status, "no splice", status)

	// Members of the group may do everything, others nothing.
	r := m.As("member", "nftnat", "add", "tcp", "81", "172.30.0.2:80")
	require.Zero(t, r.Code, r.Stderr)
	r = m.As("member", "nftnat", "ls")
	require.Zero(t, r.Code, r.Stderr)
	require.Contains(t, r.Stdout, "172.30.0.2:80")
	for _, args := range [][]string{{"ls"}, {"status"}, {"add", "tcp", "82", "172.30.0.2:80"}} {
		r := m.As("stranger", "nftnat", args...)
		require.Equal(t, 5, r.Code, "%s%s", r.Stdout, r.Stderr)
		require.Contains(t, r.Stderr, "/run/nftnat/nftnat.sock: permission denied (run it as root, or as a member of the group nftnat)")
	}

	// In a session that is older than the membership.
	r = m.Run("setpriv", "--reuid", "member", "--regid", "member", "--clear-groups", "nftnat", "ls")
	require.Equal(t, 5, r.Code, "%s%s", r.Stdout, r.Stderr)
	require.Contains(t, r.Stderr, "permission denied (log in again: this session is older than your membership in the group nftnat)")

	requireSplice(t, m, top)

	// After an upgrade. What a proxy carries goes on.
	before := m.MainPid("nftnat.service")
	open, err := top.Host.Dial(t.Context(), "tcp", "127.0.0.1:80")
	require.NoError(t, err)
	lines := bufio.NewReader(open)
	_, err = lines.ReadString('\n') // the server's name
	require.NoError(t, err)
	load := startLoad(top.Host, "127.0.0.1:80")
	through := startLoad(top.Client, "192.0.2.1:80")
	for range 3 {
		m.Exec("systemctl", "reload", "nftnat.service")
		after := m.MainPid("nftnat.service")
		require.NotEqual(t, before, after)
		before = after
	}
	// One that cannot take over leaves the daemon as it is.
	dropIn(m, "nftnat.service", "bad", "ExecReload=\nExecReload=/usr/bin/nftnat serve --takeover --detach --state /etc/hostname")
	r = m.Run("systemctl", "reload", "nftnat.service")
	require.Equal(t, 1, r.Code, r.Stderr)
	require.Equal(t, "active", m.Property("nftnat.service", "ActiveState"))
	require.Equal(t, before, m.MainPid("nftnat.service"))
	load.end(t)
	through.end(t)
	_, err = io.WriteString(open, "still here\n")
	require.NoError(t, err)
	require.NoError(t, open.SetDeadline(time.Now().Add(labtest.Stretch(30*time.Second))))
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "still here\n", line)
	require.NoError(t, open.Close())
	reached("web")
	requireSplice(t, m, top)

	// When it is killed it comes back, with all that was published.
	m.Exec("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "nftnat.service")
	await(t, "another daemon", func() bool {
		pid := m.MainPid("nftnat.service")
		return pid != 0 && pid != before && m.Property("nftnat.service", "ActiveState") == "active"
	})
	require.Contains(t, m.Exec("nftnat", "ls"), "web")
	reached("web")

	m.Exec("systemctl", "stop", "nftnat.service", "nftnat.socket")
	require.Equal(t, "success", m.Property("nftnat.service", "Result"))
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:80", "web")
	m.Exec("test", "!", "-e", "/run/nftnat/nftnat.sock")
	m.Exec("systemctl", "disable", "nftnat.service")
	require.Equal(t, "disabled\n", m.Run("systemctl", "is-enabled", "nftnat.socket").Stdout)
	require.Empty(t, m.Exec("systemctl", "--failed", "--plain", "--no-legend"))
	requireNoComplaint(t, m)
}

// The service takes the place of a daemon that a command has started before, with all that
// it publishes, and brings that back after a reboot.
func TestServiceAfterCommand(t *testing.T) {
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	m := bootInstalled(t, top.Host)
	m.Exec("nftnat", "add", "tcp", "80", "172.30.0.2:80", "--name", "web")
	before := m.Exec("pgrep", "--exact", "nftnat")
	m.Exec("systemctl", "enable", "--now", "nftnat.service")
	require.NotContains(t, m.Exec("pgrep", "--exact", "nftnat"), before)
	require.Equal(t, "0", m.Property("nftnat.service", "NRestarts"))
	labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:80", "web")
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:80", "web")
	require.Contains(t, m.Exec("cat", "/var/lib/nftnat/state.yaml"), "80->172.30.0.2:80")
	require.NotContains(t, m.Exec("nftnat", "status"), "warning")
}

// requireNoComplaint requires that neither the daemons nor systemd have found something
// wrong.
func requireNoComplaint(t *testing.T, m *boottest.Machine) {
	t.Helper()
	journal := m.Journal("nftnat.service")
	require.Equal(t, 1, strings.Count(journal, "error="), "of the reload that was to fail")
	require.NotContains(t, journal, "which is not our child", "systemd would kill it at once when it is stopped")
}

// await waits until something has happened.
func await(t *testing.T, what string, happened func() bool) {
	t.Helper()
	require.Eventually(t, happened, labtest.Stretch(30*time.Second), 20*time.Millisecond, what)
}

// load is one connection after another.
type load struct {
	stop    chan struct{}
	running sync.WaitGroup
	asked   int
	err     error
}

func startLoad(ns *lab.NS, address string) *load {
	l := &load{stop: make(chan struct{})}
	l.running.Go(func() {
		for l.err == nil {
			select {
			case <-l.stop:
				return
			default:
			}
			_, _, l.err = lab.Ask(context.Background(), ns, "tcp", address, netip.AddrPort{})
			l.asked++
		}
	})
	return l
}

// end stops it. Every connection must have been answered.
func (l *load) end(t *testing.T) {
	t.Helper()
	close(l.stop)
	l.running.Wait()
	require.NoError(t, l.err, "after %d connections", l.asked)
	require.Positive(t, l.asked)
}

// mostCopied is the most that a proxy holds of one stream without splice(2), which is
// the size of a loop's buffer.
const mostCopied = 32 << 10

// requireSplice sees the daemon hold more of a stream in a pipe than it could have
// copied into it: the backend does not read, so what the client sends stays there.
func requireSplice(t *testing.T, m *boottest.Machine, top *lab.Topology) {
	t.Helper()
	l, err := top.Backend1.Listen("tcp", "172.30.0.2:7000")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	m.Exec("nftnat", "add", "tcp", "7000", "172.30.0.2:7000")
	defer m.Exec("nftnat", "rm", "tcp", "7000", "--kill")
	var running sync.WaitGroup
	defer running.Wait()
	for range 4 {
		c, err := top.Host.Dial(t.Context(), "tcp", "127.0.0.1:7000")
		require.NoError(t, err)
		defer func() { _ = c.Close() }() // it may have been reset
		running.Go(func() {
			for b := make([]byte, 1<<20); ; {
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		})
	}
	await(t, "data in a pipe", func() bool { return fullestPipe(t, m.MainPid("nftnat.service")) > mostCopied })
}

// fullestPipe is how many bytes are in the fullest pipe that a process has open.
func fullestPipe(t *testing.T, pid int) int {
	t.Helper()
	most := 0
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		path := dir + "/" + e.Name()
		if target, err := os.Readlink(path); err != nil || !strings.HasPrefix(target, "pipe:") {
			continue
		}
		f, err := os.OpenFile(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			continue // it has been closed since
		}
		if n, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCINQ); err == nil {
			most = max(most, n)
		}
		require.NoError(t, f.Close())
	}
	return most
}
