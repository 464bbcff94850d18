// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// A socket that others have removed is made again, with its mode and group, also by a
// confined daemon, and commands find the daemon.
func TestDaemonSocketRemoved(t *testing.T) {
	for name, group := range map[string]int{"own group": -1, "another group": 4242} {
		t.Run(name, func(t *testing.T) {
			if group >= 0 {
				requireUsers(t)
			}
			top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
			labtest.EchoTCP(t, top.Backend1, "web", ":80")
			s := newTestbed(t, top.Host)
			s.in(t)
			var args []string
			if group >= 0 {
				args = []string{"--group", fmt.Sprint(group)}
			}
			p := s.serve(t, append(args, "--state", filepath.Join(filepath.Dir(filepath.Dir(s.socket)), "state.yaml"))...)
			before, err := os.Stat(s.socket)
			require.NoError(t, err)
			for round := range 3 {
				require.NoError(t, os.Remove(s.socket))
				await(t, "the socket to be there again", func() bool {
					_, err := s.api.Status(t.Context())
					return err == nil
				})
				s.succeed(t, fmt.Sprintf("add --quiet tcp %d 172.30.0.2:80", 8080+round))
				require.Equal(t, p.Pid, s.status(t).PID)
				after, err := os.Stat(s.socket)
				require.NoError(t, err)
				require.Equal(t, before.Mode(), after.Mode())
				require.Equal(t, before.Sys().(*syscall.Stat_t).Gid, after.Sys().(*syscall.Stat_t).Gid)
				require.Empty(t, s.status(t).Warnings)
			}
			require.Equal(t, 3, strings.Count(p.Output(), "others removed the socket"), p.Output())

			// A successor makes it again too.
			next := s.serve(t, append(args, "--takeover")...)
			require.NoError(t, os.Remove(s.socket))
			await(t, "the successor's socket to be there again", func() bool {
				_, err := s.api.Status(t.Context())
				return err == nil
			})
			require.Equal(t, next.Pid, s.status(t).PID)
			labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "web")
			require.NoError(t, next.Signal(unix.SIGTERM))
			require.Zero(t, next.Wait(), next.Output())
			require.NoFileExists(t, s.socket)
		})
	}
}

// If the daemon cannot make it again, it says so once, and commands say how to end it.
func TestDaemonSocketLost(t *testing.T) {
	labtest.LongOnly(t, "24 s in which a daemon makes its lost socket anew")
	t.Parallel() // it waits
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")

	// Its directory is gone as well.
	s := newTestbed(t, top.Host)
	s.in(t)
	s.succeed(t, "add tcp 8080 172.30.0.2:80")
	pid := s.daemon(t)
	log, err := os.Open(fmt.Sprintf("/proc/%d/fd/2", pid)) // it is removed too
	require.NoError(t, err)
	defer log.Close()
	require.NoError(t, os.RemoveAll(filepath.Dir(s.socket)))
	const said = "commands do not find this daemon"
	await(t, "the daemon to say so", func() bool { return strings.Contains(fromStart(t, log), said) })
	require.Equal(t, 1, strings.Count(fromStart(t, log), said), fromStart(t, log))
	labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "web")
	// What is published is still listed, and the message says what to do.
	require.Contains(t, s.succeed(t, "ls"), "8080")
	lines := []string{"add tcp 8081 172.30.0.2:80", "purge"} // each waits for the owner to end
	for _, line := range lines {
		r := s.run(t, line)
		require.Equal(t, 3, r.Code, r.Stderr)
		require.Equal(t, fmt.Sprintf("nftnat: table nftnat is owned by pid %d (uid %d) (it does not answer at %s: if that was removed, end the process, and the next command starts a daemon)\n",
			pid, os.Geteuid(), s.socket), r.Stderr)
		require.NoDirExists(t, filepath.Dir(s.socket), "nothing is left of the attempt")
	}
	kill(t, pid, unix.SIGTERM)
	s.succeed(t, "add tcp 8081 172.30.0.2:80")
	labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "web")
	s.succeed(t, "purge")

	// The service manager has made it.
	given := newTestbed(t, top.Host)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: given.socket, Net: "unix"})
	require.NoError(t, err)
	file, err := listener.File()
	require.NoError(t, err)
	listener.SetUnlinkOnClose(false)
	require.NoError(t, listener.Close())
	cmd := command(t, "sh", "-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@"`)
	cmd.Args = append(cmd.Args, given.command(t, "serve").Args...)
	cmd.ExtraFiles = []*os.File{file}
	p := labtest.StartCmd(t, top.Host, cmd)
	await(t, "the daemon to answer", func() bool {
		_, err := given.api.Status(t.Context())
		return err == nil
	})
	require.NoError(t, file.Close())
	require.NoError(t, os.Remove(given.socket))
	const manager = "others removed the socket, which the service manager made"
	await(t, "the daemon to say so", func() bool { return strings.Contains(p.Output(), manager) })
	require.Equal(t, 1, strings.Count(p.Output(), manager), p.Output())
	require.NoFileExists(t, given.socket)
}

// If another server has taken a daemon's path, the daemon ends if that server waits for its
// table, as one that systemd starts does. It stays if that server has another table.
func TestDaemonSocketSuperseded(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	s := newTestbed(t, top.Host)
	s.succeed(t, "add tcp 8080 172.30.0.2:80")
	pid := s.daemon(t)
	require.Equal(t, "nftnat\n", read(t, fmt.Sprintf("/proc/%d/comm", pid)), "for ps(1), nft(8) and ss(8)")

	// One with another table.
	other := newTestbed(t, top.Host)
	p := labtest.StartCmd(t, top.Host, other.command(t, "serve", "--table", "other"))
	await(t, "the other daemon to answer", func() bool {
		_, err := other.api.Status(t.Context())
		return err == nil
	})
	require.NoError(t, os.Rename(other.socket, s.socket))
	log := strings.TrimSuffix(s.socket, ".sock") + ".log"
	await(t, "the daemon to say so", func() bool { return strings.Contains(read(t, log), "commands do not find this daemon") })
	labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "web")
	require.NoError(t, p.Signal(unix.SIGTERM))
	require.Zero(t, p.Wait(), p.Output())
	require.NoError(t, os.Remove(s.socket))
	await(t, "the socket to be there again", func() bool {
		_, err := s.api.Status(t.Context())
		return err == nil
	})

	// One that waits.
	waiting := filepath.Join(filepath.Dir(s.socket), "waiting")
	l, err := net.Listen("unix", waiting)
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, os.Rename(waiting, s.socket))
	require.Zero(t, waitFor(t, pid).ExitStatus())
	require.Contains(t, read(t, log), "another server listens at the socket's path, and so the daemon ends")
	require.FileExists(t, s.socket)
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
	require.NoError(t, l.Close())
	require.NoError(t, os.RemoveAll(s.socket))
	s.succeed(t, "purge")
}

// read returns a file.
func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

// fromStart reads a file from its beginning.
func fromStart(t *testing.T, f *os.File) string {
	t.Helper()
	text := make([]byte, 64<<10)
	n, err := f.ReadAt(text, 0)
	require.ErrorIs(t, err, io.EOF)
	return string(text[:n])
}

// If a network namespace is deleted by its name, its daemon ends, and with it the namespace:
// for a name of ip(8), a path, and a daemon that was not told the name.
func TestDaemonNamespaceDeleted(t *testing.T) {
	for name, where := range map[string]struct {
		dir   string
		flags func(path string) string
		exec  bool // in the namespace
	}{
		"by name":              {"/run/netns", func(path string) string { return "--netns " + filepath.Base(path) }, false},
		"by path":              {"/run/elsewhere", func(path string) string { return "--netns " + path }, false},
		"by path of processes": {"", nil, false},
		"without":              {"/run/netns", func(string) string { return "" }, true},
	} {
		t.Run(name, func(t *testing.T) {
			home := labtest.NewNS(t, "home")
			s := newTestbed(t, home)
			ns, err := lab.New("deleted")
			require.NoError(t, err)
			var (
				flags  string
				remove func()
			)
			if where.dir == "" {
				sleeper := labtest.StartCmd(t, ns, command(t, "sleep", "1000"))
				flags = fmt.Sprintf("--netns /proc/%d/ns/net", sleeper.Pid)
				remove = sleeper.Kill
			} else {
				path := filepath.Join(where.dir, "deleted")
				remove = nameFor(t, ns, path)
				flags = where.flags(path)
			}
			if where.exec {
				s.ns = ns
			}
			s.succeed(t, flags+" add tcp 127.0.0.1:8080 192.0.2.9:80")
			pid := s.daemon(t)
			inode := inode(t, ns)
			require.NoError(t, ns.Close())
			remove()
			require.True(t, waitFor(t, pid).Exited(), "it ends by itself")
			log, err := os.ReadFile(filepath.Join(filepath.Dir(s.socket), "nftnat.log"))
			require.NoError(t, err)
			require.Equal(t, 1, strings.Count(string(log), "the network namespace was deleted, and so the daemon ends"), string(log))
			require.NoFileExists(t, s.socket)
			await(t, "no process to be in the namespace", func() bool { return len(inNamespace(t, inode)) == 0 })
		})
	}
}

// inNamespace returns the processes in a network namespace.
func inNamespace(t *testing.T, inode uint64) []string {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/ns/net")
	require.NoError(t, err)
	var in []string
	for _, path := range found {
		var stat unix.Stat_t
		if unix.Stat(path, &stat) == nil && stat.Ino == inode {
			in = append(in, path)
		}
	}
	return in
}

// nameFor gives a namespace a name as "ip netns add" does, until it is removed.
func nameFor(t *testing.T, ns *lab.NS, path string) (remove func()) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, nil, 0o444))
	require.NoError(t, unix.Mount(ns.Path(), path, "", unix.MS_BIND, ""))
	return func() {
		require.NoError(t, unix.Unmount(path, unix.MNT_DETACH))
		require.NoError(t, os.Remove(path))
	}
}

// A daemon that was not told the name of its namespace goes on while a name is left. One that
// was told a name goes on until that is removed.
func TestDaemonNamespaceOfTwoNames(t *testing.T) {
	labtest.LongOnly(t, "5 s in which a daemon looks for the other name of its namespace")
	for _, told := range []bool{false, true} {
		ns := labtest.NewNS(t, "kept")
		s := newTestbed(t, ns)
		removeFirst, removeSecond := nameFor(t, ns, "/run/netns/first"), nameFor(t, ns, "/run/netns/second")
		line := "add tcp 127.0.0.1:8080 192.0.2.9:80"
		if told {
			line += " --netns first"
		}
		s.succeed(t, line)
		pid := s.daemon(t)
		if told {
			removeSecond()
		} else {
			removeFirst()
		}
		time.Sleep(2 * time.Second) // it checks twice a second
		require.Equal(t, pid, s.status(t).PID)
		if told {
			removeFirst()
		} else {
			removeSecond()
		}
		require.True(t, waitFor(t, pid).Exited())
	}
}

// A state file that others remove is written again without a change, so that a reboot loses
// nothing, and so is its lock.
func TestDaemonStateFileRemoved(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	path := stateFile(t)
	p := s.serve(t, "--state", path)
	s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80")
	saved, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, name := range []string{path, path + ".lock"} {
		require.NoError(t, os.Remove(name))
		await(t, name+" to be there again", func() bool {
			_, err := os.Stat(name)
			return err == nil
		})
	}
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(saved), string(text))
	await(t, "the daemon to say so of both", func() bool {
		return strings.Count(p.Output(), "others removed the state file or its lock") == 2
	})
	require.Empty(t, s.status(t).Warnings)
	s.succeed(t, "add --quiet tcp 8081 172.30.0.2:80")
	require.Contains(t, fileAsExport(t, path), "8081->172.30.0.2:80")

	// If its directory is gone, it says so once.
	require.NoError(t, os.RemoveAll(filepath.Dir(path)))
	await(t, "the daemon to say so", func() bool { return len(s.status(t).Warnings) == 1 })
	require.Contains(t, s.status(t).Warnings[0], "the state file is not kept: ")
	require.Equal(t, 1, strings.Count(p.Output(), "the state file is not kept"), p.Output())
}

// A daemon that cannot start because another one has the table leaves no file at the path of
// its socket.
func TestDaemonConflictLeavesNothing(t *testing.T) {
	labtest.LongOnly(t, "13 s for which commands wait for a table that has an owner")
	t.Parallel() // it waits
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	first := newTestbed(t, top.Host)
	first.serve(t)
	lines := []string{"serve", "serve --detach", "add tcp 8080 172.30.0.2:80"}
	// All at the same time, because each waits for the first daemon to end.
	second, homes := make([]*testbed, len(lines)), make([]string, len(lines))
	for i := range lines {
		second[i] = newTestbed(t, top.Host)
		homes[i] = filepath.Dir(second[i].socket)
		second[i].in(t)
	}
	results := make([]labtest.Result, len(lines))
	var running sync.WaitGroup
	for i, line := range lines {
		running.Go(func() { results[i] = second[i].run(t, line) })
	}
	running.Wait()
	for i, line := range lines {
		require.Equal(t, 3, results[i].Code, "%s: %s", line, results[i].Stderr)
		require.Equal(t, 1, strings.Count(results[i].Stderr, "\n"), "%s: %s", line, results[i].Stderr)
		require.Empty(t, filesIn(t, homes[i]), line)
	}
}
