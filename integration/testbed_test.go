// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// testbed is a namespace with a daemon, or in which a command will start one.
type testbed struct {
	ns *lab.NS
	// socket is the daemon's; empty: the default one.
	socket string
	api    *api.Client
	args   []string // what every command line begins with
	// loopback is how daemons serve localhost, as --loopback has it; empty: as NFTNAT_LOOPBACK says, with which
	// all tests can be run either way.
	loopback string
}

// waysOfLoopback are those of daemons to serve localhost.
var waysOfLoopback = []string{"bpf", "proxy"}

// bothWays runs a test with daemons that serve localhost by eBPF, and with such that do by proxies.
func bothWays(t *testing.T, test func(t *testing.T, loopback string)) {
	t.Helper()
	for _, way := range waysOfLoopback {
		t.Run(way, func(t *testing.T) { test(t, way) })
	}
}

// newTestbed returns a testbed with a socket of its own, without a daemon. Daemons that
// run when the test ends are killed.
func newTestbed(t *testing.T, ns *lab.NS) *testbed {
	t.Helper()
	// The path of a socket is short (unix(7), sun_path); t.TempDir's may not be.
	dir, err := os.MkdirTemp("/run", "testbed-")
	require.NoError(t, err)
	socket := filepath.Join(dir, "nftnat.sock")
	s := &testbed{ns: ns, socket: socket, api: api.NewClient(socket), args: []string{"--socket", socket}}
	adoptOrphans(t)
	t.Cleanup(func() {
		endDaemons(t, dir)
		require.NoError(t, os.RemoveAll(dir))
	})
	return s
}

// defaultDirectory is the directory of the default socket.
const defaultDirectory = "/run/nftnat"

// newDefaultTestbed returns a testbed with the default socket. All such testbeds share the
// directory, so there can be one at a time.
func newDefaultTestbed(t *testing.T, ns *lab.NS) *testbed {
	t.Helper()
	adoptOrphans(t)
	t.Cleanup(func() {
		endDaemons(t, defaultDirectory)
		require.NoError(t, os.RemoveAll(defaultDirectory))
	})
	return &testbed{ns: ns}
}

// command prepares a command line.
func (s *testbed) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	if slices.ContainsFunc(args, func(word string) bool { return slices.Contains(neverAsks, word) }) {
		return bare(t, args...)
	}
	cmd := bare(t, slices.Concat(s.args, args)...)
	if s.loopback != "" {
		cmd.Env = append(cmd.Environ(), "NFTNAT_LOOPBACK="+s.loopback)
	}
	return cmd
}

// neverAsks are commands that need no daemon and have no option for a socket.
var neverAsks = []string{"plan", "demo", "version", "--version", "completion", "help", "__complete"}

// run runs a command line, given as words, and returns how it ended.
func (s *testbed) run(t *testing.T, line string) labtest.Result {
	t.Helper()
	return withoutWarnings(labtest.Run(t, s.ns, s.command(t, strings.Fields(line)...)))
}

// succeed runs a command line that must exit 0, and returns what it printed.
func (s *testbed) succeed(t *testing.T, line string) string {
	t.Helper()
	r := s.run(t, line)
	require.Zero(t, r.Code, "nftnat %s: %s", line, r.Stderr)
	return r.Stdout
}

// serve runs a daemon in the foreground, and returns when it answers.
func (s *testbed) serve(t *testing.T, args ...string) *labtest.Process {
	t.Helper()
	p := labtest.StartCmd(t, s.ns, s.command(t, append([]string{"serve"}, args...)...))
	await(t, "the daemon to answer", func() bool {
		select {
		case <-p.Done():
			t.Fatalf("the daemon has ended: %s", p.Output())
		default:
		}
		st, err := s.api.Status(context.Background())
		return err == nil && st.PID == p.Pid
	})
	return p
}

// status returns the daemon's status.
func (s *testbed) status(t *testing.T) api.Status {
	t.Helper()
	st, err := s.api.Status(context.Background())
	require.NoError(t, err)
	return st
}

// client asks the daemon for what the API's own client has no method for.
func (s *testbed) client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.socket)
		},
	}}
}

// adoptOrphans makes daemons, whose parents are commands that end, children of this
// process: so it can find them and wait for them (prctl(2), PR_SET_CHILD_SUBREAPER).
func adoptOrphans(t *testing.T) {
	t.Helper()
	require.NoError(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
}

// daemons are the processes that serve sockets in a directory, among the children of
// this one.
func daemons(t *testing.T, dir string) []int {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	var pids []int
	for _, path := range found {
		line, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(line), "\x00serve\x00") {
			continue
		}
		of := strings.Contains(string(line), "\x00"+dir+"/")
		if !of && (dir != defaultDirectory || strings.Contains(string(line), "\x00--socket\x00")) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		require.NoError(t, err)
		if parent(pid) == os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// parent is the parent of a process, 0 if it has gone: the fourth field of
// /proc/PID/stat, the second of which is in parentheses (proc(5)).
func parent(pid int) int {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0
	}
	number, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return number
}

// daemon is the one daemon that the testbed has.
func (s *testbed) daemon(t *testing.T) int {
	t.Helper()
	dir := defaultDirectory
	if s.socket != "" {
		dir = filepath.Dir(s.socket)
	}
	pids := daemons(t, dir)
	require.Len(t, pids, 1)
	return pids[0]
}

// kill ends a daemon that a command has started, and waits until it has ended.
func kill(t *testing.T, pid int, signal unix.Signal) {
	t.Helper()
	require.NoError(t, unix.Kill(pid, signal))
	waitFor(t, pid)
}

// waitFor waits for a child that is not known to package os.
func waitFor(t *testing.T, pid int) (status unix.WaitStatus) {
	t.Helper()
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			require.NoError(t, err)
			return status
		}
	}
}

func endDaemons(t *testing.T, dir string) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	require.NoError(t, err)
	for _, path := range logs {
		if text, err := os.ReadFile(path); err == nil && t.Failed() {
			t.Logf("%s:\n%s", path, text)
		}
	}
	for _, pid := range daemons(t, dir) {
		kill(t, pid, unix.SIGKILL)
	}
}
