// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// requireUsers skips a test if this process cannot become other users, as in a user
// namespace with one user.
func requireUsers(t *testing.T) {
	t.Helper()
	ids, err := os.ReadFile("/proc/self/uid_map")
	require.NoError(t, err)
	if fields := strings.Fields(string(ids)); len(fields) < 3 || len(fields[2]) < 5 {
		t.Skip("there are no other users in this user namespace")
	}
}

// in moves the testbed's socket to a directory that does not exist yet.
func (s *testbed) in(t *testing.T) {
	t.Helper()
	require.NoError(t, os.Chmod(filepath.Dir(s.socket), 0o755))
	s.socket = filepath.Join(filepath.Dir(s.socket), "run", "nftnat.sock")
	s.args, s.api = []string{"--socket", s.socket}, api.NewClient(s.socket)
}

// With --group the socket and the directory that is made for it belong to the group. Its
// members can do everything; other users cannot connect.
func TestDaemonGroup(t *testing.T) {
	requireUsers(t)
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	s.in(t)
	const group, other = 4242, 4343
	curl := labtest.Tool(t, "curl")
	ask := func(gid uint32) string {
		cmd := exec.Command(curl, "--silent", "--output", "/dev/null", "--write-out", "%{http_code}",
			"--unix-socket", s.socket, "http://nftnat/v1/mappings")
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4000, Gid: gid}}
		out, err := cmd.Output()
		return fmt.Sprint(string(out), err != nil)
	}
	p := s.serve(t, "--group", fmt.Sprint(group))
	for path, mode := range map[string]fs.FileMode{s.socket: fs.ModeSocket | 0o660, filepath.Dir(s.socket): fs.ModeDir | 0o750} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode())
		require.EqualValues(t, group, info.Sys().(*syscall.Stat_t).Gid)
	}
	require.Equal(t, "200false", ask(group))
	require.Equal(t, "000true", ask(other))
	require.NotContains(t, p.Output(), "cannot reach")
	require.NoError(t, p.Signal(syscall.SIGTERM))
	require.Zero(t, p.Wait(), p.Output())

	// An existing directory is not changed, and the log says what that means.
	p = s.serve(t, "--group", "nogroup")
	require.Contains(t, p.Output(), "members of the group cannot reach the socket")
	require.NoError(t, p.Signal(syscall.SIGTERM))
	require.Zero(t, p.Wait(), p.Output())

	// The group of the process, as here.
	p = s.serve(t)
	info, err := os.Stat(s.socket)
	require.NoError(t, err)
	require.EqualValues(t, os.Getegid(), info.Sys().(*syscall.Stat_t).Gid)
	require.NoError(t, p.Signal(syscall.SIGTERM))
	require.Zero(t, p.Wait(), p.Output())

	for _, wrong := range []string{"nosuchgroup", "-1", "4294967295", "4294967296"} {
		r := s.run(t, "serve --group "+wrong)
		require.Equal(t, 2, r.Code)
		require.Contains(t, r.Stderr, "nftnat: --group "+wrong+": there is no such group")
		require.NoFileExists(t, s.socket)
	}
}
