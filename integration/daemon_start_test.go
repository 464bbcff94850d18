// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// A command that finds no daemon starts one. When it returns, its mapping is served on
// localhost too.
func TestDaemonStartsByItself(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	s := newTestbed(t, top.Host)
	for _, line := range []string{"ls", "export", "apply --dry-run -f testdata/empty.yaml"} {
		s.succeed(t, line)
	}
	r := s.run(t, "status")
	require.Zero(t, r.Code, r.Stderr)
	require.Contains(t, r.Stdout, "none answers: localhost is not served")
	require.Contains(t, r.Stdout, "forwarding  ipv4 off")
	require.Empty(t, daemons(t, filepath.Dir(s.socket)), "readers start none")

	r = s.run(t, "add tcp 8080 172.30.0.2:80")
	require.Equal(t, labtest.Result{
		Stdout: "8080->172.30.0.2:80\n", Stderr: "nftnat: turned on forwarding: sysctl=net/ipv4/ip_forward was=0 is=1\n",
	}, r, "and what else the daemon says is in its log")
	labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "web")
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
	pid := s.daemon(t)
	require.Equal(t, pid, s.status(t).PID)
	log, err := os.ReadFile(filepath.Join(filepath.Dir(s.socket), "nftnat.log"))
	require.NoError(t, err)
	require.Contains(t, string(log), "nftnat: turned on forwarding: ")
	info, err := os.Stat(s.socket)
	require.NoError(t, err)
	require.Equal(t, fs.ModeSocket|0o660, info.Mode())
	// It has left the command's session, and so its terminal (credentials(7)).
	session, err := unix.Getsid(pid)
	require.NoError(t, err)
	require.Equal(t, pid, session)

	s.succeed(t, "add tcp 8081 172.30.0.2:80")
	require.Equal(t, pid, s.daemon(t))
}

// racers is the number of commands that run at a time.
const racers = 10

// race runs command lines at the same time and returns how each of them ended.
func (s *testbed) race(t *testing.T, line func(i int) string) []labtest.Result {
	t.Helper()
	var stdout, stderr [racers]bytes.Buffer
	processes := make([]*labtest.Process, racers)
	for i := range processes {
		cmd := s.command(t, strings.Fields(line(i))...)
		cmd.Stdout, cmd.Stderr = &stdout[i], &stderr[i]
		processes[i] = labtest.StartCmd(t, s.ns, cmd)
	}
	results := make([]labtest.Result, racers)
	for i, p := range processes {
		code := p.Wait()
		results[i] = labtest.Result{Stdout: stdout[i].String(), Stderr: stderr[i].String(), Code: code}
	}
	return results
}

// Commands that race to start a daemon start one, and all of them use it.
func TestDaemonStartRace(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	s := newTestbed(t, top.Host)
	for range 3 {
		for i, r := range s.race(t, func(i int) string { return fmt.Sprintf("add --quiet tcp %d 172.30.0.2:80", 8000+i) }) {
			require.Equal(t, labtest.Result{Stdout: fmt.Sprintf("%d->172.30.0.2:80\n", 8000+i)}, r)
		}
		pid := s.daemon(t)
		require.Equal(t, pid, s.status(t).PID)
		require.Equal(t, racers, s.status(t).Proxies)
		for i := range racers {
			labtest.Reaches(t, top.Host, "tcp", at(loopback4, 8000+i), "web")
		}
		s.succeed(t, fmt.Sprintf("rm tcp %d-%d", 8000, 8000+racers-1))
		// The next commands find a socket without a server.
		kill(t, pid, unix.SIGKILL)
	}
}

// Of commands that race for one port, one gets it, also while the daemon is being started,
// and the others name it.
func TestDaemonPortRace(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	for range 3 {
		var winners []string
		results := s.race(t, func(i int) string { return fmt.Sprintf("add tcp 8080 172.30.0.2:80 --name racer%d", i) })
		for i, r := range results {
			if r.Code == 0 {
				require.Equal(t, "8080->172.30.0.2:80\n", r.Stdout)
				winners = append(winners, fmt.Sprint("racer", i))
			}
		}
		require.Len(t, winners, 1)
		for _, r := range results {
			if r.Code != 0 {
				require.Equal(t, labtest.Result{
					Code:   3,
					Stderr: fmt.Sprintf("nftnat: publish tcp 8080: tcp 8080 is published as 8080->172.30.0.2:80 by %q\n", winners[0]),
				}, r)
			}
		}
		pid := s.daemon(t)
		s.succeed(t, "rm tcp 8080")
		kill(t, pid, unix.SIGTERM)
	}
}

// If no daemon can be started, the command prints the reason and exits with its status.
func TestDaemonCannotStart(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	load(t, top.Host, "table inet nftnat {\n\tset strange {\n\t\ttype inet_service\n\t}\n}\n")
	before := ruleset(t, top.Host)
	want := run(t, top.Host, "add", "tcp", "8080", "172.30.0.2:80")
	require.NotZero(t, want.Code)
	require.NotEmpty(t, want.Stderr)
	require.Equal(t, want, s.run(t, "add tcp 8080 172.30.0.2:80"))
	require.Empty(t, daemons(t, filepath.Dir(s.socket)))
	require.Equal(t, before, ruleset(t, top.Host))
	require.NoFileExists(t, s.socket)
	labtest.Exec(t, top.Host, "nft", "delete", "table", "inet", "nftnat")

	// If its directory or its socket cannot be made.
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, socket := range []string{file, filepath.Join(file, "socket"), filepath.Join(t.TempDir(), "a", "b", "socket")} {
		other := &testbed{ns: top.Host, args: []string{"--socket", socket}}
		r := other.run(t, "add tcp 8080 172.30.0.2:80")
		require.Equal(t, 1, r.Code, r.Stderr)
		require.Regexp(t, "^nftnat: [^\n]+\n$", r.Stderr)
		require.Empty(t, r.Stdout)
	}
	require.Empty(t, nft(t, top.Host, "list", "ruleset"))

	// A user without the right is told what to do.
	cmd := s.command(t, "add", "tcp", "8080", "172.30.0.2:80")
	drop := []string{"--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs", "--"}
	r := labtest.Run(t, top.Host, command(t, "setpriv", slices.Concat(drop, cmd.Args)...))
	require.Equal(t, 5, r.Code, r.Stderr)
	require.Regexp(t, `^nftnat: [^\n]*: operation not permitted \(run it as root, or give it CAP_NET_ADMIN\)\n$`, r.Stderr)
	require.Empty(t, daemons(t, filepath.Dir(s.socket)))

	// After all that, a daemon can be started.
	s.succeed(t, "add tcp 8080 172.30.0.2:80")
}

// The error of a second daemon names the first one, which is not affected.
func TestDaemonTwice(t *testing.T) {
	t.Parallel() // it waits
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	s := newTestbed(t, top.Host)
	first := s.serve(t)
	s.succeed(t, "add tcp 8080 172.30.0.2:80")
	// Another table, so that only the socket is in use.
	r := s.run(t, "serve --table other")
	require.Equal(t, 1, r.Code)
	require.Contains(t, r.Stderr, "another server answers")
	require.Equal(t, first.Pid, s.status(t).PID)
	labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "web")
	if labtest.LeaveOut(t, "the 10 s for which a second daemon waits for the table") {
		return
	}
	second := newTestbed(t, top.Host)
	r = second.run(t, "serve")
	require.Equal(t, 3, r.Code)
	require.Contains(t, r.Stderr, fmt.Sprintf("table nftnat is owned by pid %d (uid %d) (--takeover takes it over from a daemon)\n", first.Pid, os.Geteuid()))
	require.NoFileExists(t, second.socket)
}

// Namespaces share the files of /run, but each has a daemon of its own, which commands
// find.
func TestDaemonNamespaces(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	host := newDefaultTestbed(t, top.Host)
	other := newDefaultTestbed(t, top.Backend2)
	host.succeed(t, "add tcp 8080 172.30.0.2:80")
	require.FileExists(t, filepath.Join(defaultDirectory, "nftnat.sock"))
	info, err := os.Stat(defaultDirectory)
	require.NoError(t, err)
	require.Equal(t, fs.ModeDir|0o750, info.Mode())
	require.Equal(t, "PROTO  FRONTEND  BACKEND  NAME  PROXY  EXPIRES\n", other.succeed(t, "ls"))

	other.succeed(t, "add tcp 8081 172.30.0.2:80")
	own := filepath.Join(defaultDirectory, fmt.Sprintf("nftnat-%d.sock", inode(t, top.Backend2)))
	require.FileExists(t, own)
	require.Len(t, daemons(t, defaultDirectory), 2)
	for _, line := range []string{"export", "export --netns " + top.Host.Path()} {
		require.Equal(t, exportOf("mappings:\n  - 8080->172.30.0.2:80\n"), host.succeed(t, line))
	}
	for _, line := range []string{"export", "export --netns " + top.Backend2.Path()} {
		require.Equal(t, exportOf("mappings:\n  - 8081->172.30.0.2:80\n"), other.succeed(t, line))
	}
	// From one to the other.
	host.succeed(t, "add --netns "+top.Backend2.Path()+" tcp 8082 172.30.0.2:80")
	require.Equal(t, exportOf("mappings:\n  - 8081->172.30.0.2:80\n  - 8082->172.30.0.2:80\n"), other.succeed(t, "export"))
	require.Len(t, daemons(t, defaultDirectory), 2)
	// Proxies listen where their daemon is.
	require.Contains(t, sockets(t, top.Backend2), ":8082")
	require.NotContains(t, sockets(t, top.Host), ":8082")
	// Another table is another daemon's.
	host.succeed(t, "add --table mine tcp 9090 172.30.0.2:80")
	require.FileExists(t, filepath.Join(defaultDirectory, fmt.Sprintf("mine-%d.sock", inode(t, top.Host))))
	require.Len(t, daemons(t, defaultDirectory), 3)

	// The default socket becomes free. A daemon with another socket keeps it.
	host.succeed(t, "purge")
	require.Equal(t, exportOf("mappings:\n  - 8081->172.30.0.2:80\n  - 8082->172.30.0.2:80\n"), other.succeed(t, "export"))
	other.succeed(t, "rm tcp 8082")
	st, err := api.NewClient(own).Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, inode(t, top.Backend2), st.NetNS)
	require.Equal(t, 1, st.Mappings.TCP.IPv4)
	require.Contains(t, nft(t, top.Host, "list", "tables"), "mine")
	require.NotContains(t, nft(t, top.Host, "list", "tables"), "nftnat")
}

// inode is the number of a namespace.
func inode(t *testing.T, ns *lab.NS) uint64 {
	t.Helper()
	var stat unix.Stat_t
	require.NoError(t, unix.Stat(ns.Path(), &stat))
	return stat.Ino
}
