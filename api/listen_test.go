// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// leaveStale makes the file of a socket that nobody listens on, as a process that was
// killed leaves it.
func leaveStale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
}

// entries are what is in a directory.
func entries(t *testing.T, dir string) []string {
	t.Helper()
	es, err := os.ReadDir(dir)
	require.NoError(t, err)
	names := []string{}
	for _, e := range es {
		names = append(names, e.Name())
	}
	return names
}

// Modes are what they should be whatever the umask, and the file goes with the
// listener.
func TestListenModes(t *testing.T) {
	labtest.LeakCheck(t)
	group := os.Getgid()
	if os.Geteuid() == 0 && inAllGroups() {
		group = 4321
	}
	for _, umask := range []int{0, 0o022, 0o077, 0o777} {
		t.Run(fmt.Sprintf("umask %03o", umask), func(t *testing.T) {
			base := directory(t)
			path := filepath.Join(base, "run", "s")
			old := syscall.Umask(umask)
			l, err := Listen(path, group)
			syscall.Umask(old)
			require.NoError(t, err)
			require.Equal(t, path, l.Addr().String())
			require.Equal(t, "unix", l.Addr().Network())

			for file, mode := range map[string]fs.FileMode{
				filepath.Dir(path): fs.ModeDir | 0o750,
				path:               fs.ModeSocket | 0o660,
			} {
				info, err := os.Lstat(file)
				require.NoError(t, err)
				require.Equal(t, mode, info.Mode(), file)
				require.EqualValues(t, group, info.Sys().(*syscall.Stat_t).Gid, file)
			}
			require.Equal(t, []string{"s"}, entries(t, filepath.Dir(path)), "nothing is left of what it was made in")

			require.NoError(t, l.Close())
			require.Empty(t, entries(t, filepath.Dir(path)))
			require.ErrorIs(t, l.Close(), net.ErrClosed)
		})
	}
}

// inAllGroups reports whether this process may give files to any group, which root of
// a user namespace of one user may not.
func inAllGroups() bool {
	text, err := os.ReadFile("/proc/self/gid_map")
	fields := strings.Fields(string(text))
	if err != nil || len(fields) != 3 {
		return false
	}
	size, err := strconv.ParseUint(fields[2], 10, 32)
	return err == nil && size > 65535
}

// What is there already is left as it is, but for what is dead.
func TestListenFinds(t *testing.T) {
	tests := []struct {
		name string
		make func(t *testing.T, path string)
		want error // nil: it is replaced
		text string
	}{
		{"nothing", func(t *testing.T, _ string) { t.Helper() }, nil, ""},
		{"a stale socket", leaveStale, nil, ""},
		{"a server", func(t *testing.T, path string) {
			t.Helper()
			l, err := net.Listen("unix", path)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, l.Close()) })
		}, syscall.EADDRINUSE, "another server answers: address already in use"},
		{"a server with a full queue", func(t *testing.T, path string) {
			t.Helper()
			fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, syscall.Close(fd)) })
			require.NoError(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}))
			require.NoError(t, syscall.Listen(fd, 0))
			nc, err := net.Dial("unix", path)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, nc.Close()) })
		}, syscall.EADDRINUSE, "another server answers: address already in use"},
		{"a socket of another type", func(t *testing.T, path string) {
			t.Helper()
			l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, l.Close()) })
		}, syscall.EPROTOTYPE, "protocol wrong type for socket"},
		{"a file", func(t *testing.T, path string) {
			t.Helper()
			require.NoError(t, os.WriteFile(path, []byte("precious"), 0o600))
		}, fs.ErrExist, "what is there is no socket: file already exists"},
		{"a directory", func(t *testing.T, path string) {
			t.Helper()
			require.NoError(t, os.Mkdir(path, 0o700))
		}, fs.ErrExist, "what is there is no socket: file already exists"},
		{"a link to a stale socket", func(t *testing.T, path string) {
			t.Helper()
			leaveStale(t, path+"2")
			require.NoError(t, os.Symlink(path+"2", path))
		}, fs.ErrExist, "what is there is no socket: file already exists"},
		{"a link to nothing", func(t *testing.T, path string) {
			t.Helper()
			require.NoError(t, os.Symlink(path+"2", path))
		}, fs.ErrExist, "what is there is no socket: file already exists"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			labtest.LeakCheck(t)
			dir := directory(t)
			path := filepath.Join(dir, "s")
			tt.make(t, path)
			before, _ := os.Lstat(path)
			names := entries(t, dir)
			l, err := Listen(path, -1)
			if tt.want != nil {
				require.ErrorIs(t, err, tt.want)
				require.ErrorContains(t, err, "listen on "+path+": ")
				require.ErrorContains(t, err, tt.text)
				after, _ := os.Lstat(path)
				require.True(t, os.SameFile(before, after))
				require.Equal(t, names, entries(t, dir))
				return
			}
			require.NoError(t, err)
			nc, err := net.Dial("unix", path)
			require.NoError(t, err)
			require.NoError(t, nc.Close())
			require.NoError(t, l.Close())
			require.Empty(t, entries(t, dir))
		})
	}
}

func TestListenRefusesDirectories(t *testing.T) {
	labtest.LeakCheck(t)
	dir := directory(t)
	open := filepath.Join(dir, "open")
	require.NoError(t, os.Mkdir(open, 0o755))
	require.NoError(t, os.Chmod(open, 0o777))
	_, err := Listen(filepath.Join(open, "s"), -1)
	require.ErrorIs(t, err, fs.ErrPermission)
	require.ErrorContains(t, err, "everybody may replace files")
	require.NoError(t, os.Chmod(open, 0o777|fs.ModeSticky))
	l, err := Listen(filepath.Join(open, "s"), -1)
	require.NoError(t, err, "nobody may replace others' files")
	require.NoError(t, l.Close())

	_, err = Listen(filepath.Join(dir, "a", "b", "s"), -1)
	require.ErrorIs(t, err, fs.ErrNotExist)

	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = Listen(filepath.Join(file, "s"), -1)
	require.ErrorIs(t, err, syscall.ENOTDIR)

	_, err = Listen(filepath.Join(dir, strings.Repeat("x", 120)), -1)
	require.ErrorIs(t, err, syscall.ENAMETOOLONG)

	// Somebody who keeps the lock is not waited for for ever.
	lock, err := os.Open(dir)
	require.NoError(t, err)
	defer lock.Close()
	require.NoError(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))
	_, err = Listen(filepath.Join(dir, "s"), -1)
	require.ErrorIs(t, err, syscall.EAGAIN)
	require.ErrorContains(t, err, "lock "+dir)
	require.ElementsMatch(t, []string{"open", "file"}, entries(t, dir))
}

// A listener that was superseded leaves the file alone.
func TestListenerLeavesOthersFile(t *testing.T) {
	labtest.LeakCheck(t)
	dir := directory(t)
	path := filepath.Join(dir, "s")
	first, err := Listen(path, -1)
	require.NoError(t, err)
	require.NoError(t, os.Remove(path)) // somebody tidies up
	second, err := Listen(path, -1)
	require.NoError(t, err)
	require.NoError(t, first.Close())
	require.Equal(t, []string{"s"}, entries(t, dir))
	require.NoError(t, second.Close())
	require.Empty(t, entries(t, dir))
}

// childListen listens on a path, says whether that went well, and stays until its
// standard input ends.
func childListen(args []string) int {
	l, err := Listen(args[0], -1)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		fmt.Println("taken")
		return 0
	case err != nil:
		fmt.Println(err)
		return 1
	}
	fmt.Println("mine")
	_, _ = os.Stdin.Read(make([]byte, 1))
	if err := l.Close(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// Of ten processes that start at once on what a dead one left, one gets the socket.
func TestListenRace(t *testing.T) {
	labtest.LeakCheck(t)
	for range 2 {
		dir := directory(t)
		path := filepath.Join(dir, "run", "s")
		require.NoError(t, os.Mkdir(filepath.Dir(path), 0o755))
		leaveStale(t, path)

		in, hold, err := os.Pipe()
		require.NoError(t, err)
		var cmds []*exec.Cmd
		var outs []*os.File
		for range 10 {
			cmd := exec.Command("/proc/self/exe", path)
			cmd.Env = append(os.Environ(), envChild+"=listen", quickExit)
			cmd.Stdin = in
			out, w, err := os.Pipe()
			require.NoError(t, err)
			cmd.Stdout, cmd.Stderr = w, w
			require.NoError(t, cmd.Start())
			require.NoError(t, w.Close())
			cmds, outs = append(cmds, cmd), append(outs, out)
		}
		require.NoError(t, in.Close())
		said := map[string]int{}
		for _, out := range outs {
			buf := make([]byte, 1024)
			n, err := out.Read(buf)
			require.NoError(t, err)
			said[strings.TrimSpace(string(buf[:n]))]++
			require.NoError(t, out.Close())
		}
		require.Equal(t, map[string]int{"mine": 1, "taken": 9}, said)
		require.NoError(t, hold.Close())
		for _, cmd := range cmds {
			require.NoError(t, cmd.Wait())
		}
		require.Empty(t, entries(t, filepath.Dir(path)))
	}
}

// A listener that was handed over, as by systemd, is served, and its file stays.
func TestServeHandedOver(t *testing.T) {
	labtest.LeakCheck(t)
	path := filepath.Join(directory(t), "s")
	manager, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	f, err := manager.File()
	require.NoError(t, err)
	l, err := net.FileListener(f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	s := startOn(t, l, Options{Engine: newFake()}, defaultLimits())
	ms, err := s.Mappings(t.Context())
	require.NoError(t, err)
	require.Empty(t, ms)
	require.NoError(t, s.stop())
	_, err = os.Lstat(path)
	require.NoError(t, err)
	require.NoError(t, manager.Close())
}

func TestServeRefusesTCP(t *testing.T) {
	labtest.LeakCheck(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	err = NewServer(Options{Engine: newFake()}).Serve(t.Context(), l)
	require.ErrorContains(t, err, "who a client is can only be asked of a unix socket, and this is tcp")
	_, err = l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
}
