// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// filesIn returns the names in a directory.
func filesIn(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// The tables of others are the same after every command, and a purge leaves the machine as
// it was, except for IP forwarding, which it reports, and an empty state file.
func TestPurgeLeavesNothing(t *testing.T) {
	for _, start := range []string{"by a command", "with a state file"} {
		t.Run(start, func(t *testing.T) {
			top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2, BridgeNF: true})
			load(t, top.Host, foreignRuleset(t))
			labtest.EchoTCP(t, top.Backend1, "web", ":80")
			before, foreign := takeSnapshot(t, top.Host), foreignTables(t, top.Host)
			s := newTestbed(t, top.Host)
			dir := filepath.Dir(s.socket)
			var files []string
			if start == "with a state file" {
				s.serve(t, "--state", filepath.Join(dir, "state.yaml"))
				files = []string{"state.yaml", "state.yaml.lock"}
			}
			for _, line := range []string{
				"network create inside 172.30.0.0/24 --gateway 172.30.0.1", "network create other 10.77.0.0/24",
				"attach web --network inside --ip 172.30.0.2 -p 8080:80 -p 53/udp", "attach db --network other -p 5432",
				"add --quiet tcp 9000-9010 172.30.0.3:80-90", "add --quiet udp [::]:7000 [fd00:30::3]:70", "add --quiet tcp 8080 172.30.0.9:80",
				"add --quiet --replace tcp 9000 172.30.0.3:91", "add --quiet tcp 127.0.0.1:99 172.30.0.2:80", "add --quiet udp 192.0.2.1:98 172.30.0.2 --ttl 1h",
				"ls", "ps", "network ls", "status", "export", "plan", "inspect web", "port web 80", "rm tcp 9001-9003 --kill",
				"detach db", "network rm other", "network rm inside", "version",
			} {
				s.run(t, line)
				require.Equal(t, foreign, foreignTables(t, top.Host), "after nftnat %s", line)
			}
			require.True(t, inHairpinMode(t, top.Host, lab.HostPort1))
			r := s.run(t, "purge")
			require.Zero(t, r.Code)
			require.Empty(t, r.Stdout)
			require.Regexp(t, `^(nftnat: put hairpin mode back: port=port[12]\n)*nftnat: IP forwarding stays as it is: ipv4=on ipv6=(on|partly)\n$`, r.Stderr)

			after := takeSnapshot(t, top.Host)
			require.Equal(t, before.ruleset, after.ruleset)
			require.Equal(t, before.sockets, after.sockets)
			for _, name := range byForwarding4(changed(before.sysctls, after.sysctls)) {
				require.Contains(t, name, "forward")
			}
			require.False(t, inHairpinMode(t, top.Host, lab.HostPort1))
			require.Subset(t, files, filesIn(t, dir))
			require.Empty(t, daemons(t, dir))
		})
	}
}

// Commands that publish race with purges. All of them succeed, and after the last purge
// nothing is left.
func TestPurgeRaces(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	var racing sync.WaitGroup
	results := make([]labtest.Result, 12)
	for i := range results {
		line := "add --quiet --replace tcp 8080 172.30.0.2:80"
		if i%3 == 0 {
			line = "purge"
		}
		cmd := s.command(t, strings.Fields(line)...)
		racing.Go(func() { results[i] = labtest.Run(t, top.Host, cmd) })
	}
	racing.Wait()
	for _, r := range results {
		// A command whose daemon was just told to end says so.
		if r.Code != 0 {
			require.Regexp(t, "^nftnat: [^\n]*\n$", r.Stderr)
			t.Logf("%d: %s", r.Code, r.Stderr)
		}
	}
	s.succeed(t, "purge")
	require.Empty(t, nft(t, top.Host, "list", "ruleset"))
	require.Empty(t, filesIn(t, filepath.Dir(s.socket)))
	require.Empty(t, daemons(t, filepath.Dir(s.socket)))
	s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80")
	require.Contains(t, filesIn(t, filepath.Dir(s.socket)), "nftnat.log")
	require.True(t, slices.Contains(filesIn(t, filepath.Dir(s.socket)), "nftnat.sock"))
}

// With --quiet it does not say what stays, nor does the daemon say what it cannot do.
func TestPurgeQuiet(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	require.NotEmpty(t, succeed(t, top.Host, "add", "tcp", "8080", "172.30.0.2:80"))
	r := run(t, top.Host, "purge", "--quiet")
	require.Zero(t, r.Code, r.Stderr)
	require.Empty(t, r.Stdout+r.Stderr)

	succeed(t, top.Host, "add", "tcp", "8080", "172.30.0.2:80")
	holder, err := occupy(top.Host, "tcp", "0.0.0.0:8080")
	require.NoError(t, err)
	defer func() { require.NoError(t, holder.Close()) }()
	s := newTestbed(t, top.Host)
	p := s.serve(t, "--quiet")
	require.NoError(t, p.Signal(unix.SIGTERM))
	require.Zero(t, p.Wait())
	require.Empty(t, p.Output())
}

// A purge from another network namespace says that there is nothing, and of which one the daemon is. By the daemon's socket it
// purges where that is, and the table that it has.
func TestPurgeFromElsewhere(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	other := labtest.NewNS(t, "other")
	s := newDefaultTestbed(t, top.Host)
	s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80")
	r := (&testbed{ns: other}).run(t, "purge")
	require.Zero(t, r.Code, r.Stderr)
	require.Regexp(t, `^nftnat: there was nothing to purge: the network namespace has no table inet nftnat, and no daemon of it answers; `+
		`the daemon at /run/nftnat/nftnat.sock, pid \d+, has the table nftnat of network namespace \d+\n$`, r.Stderr)
	require.Contains(t, s.succeed(t, "ls"), "8080")
	s.succeed(t, "purge")

	named := newTestbed(t, top.Host)
	daemon := named.serve(t, "--table", "mine")
	named.succeed(t, "add --quiet tcp 8080 172.30.0.2:80")
	require.Contains(t, nft(t, top.Host, "list", "tables"), "mine")
	r = (&testbed{ns: other, args: named.args}).run(t, "purge")
	require.Zero(t, r.Code, r.Stderr)
	require.NotContains(t, r.Stderr, "nothing")
	require.Zero(t, daemon.Wait())
	require.Empty(t, nft(t, top.Host, "list", "ruleset"))
	r = named.run(t, "purge")
	require.Equal(t, "nftnat: there was nothing to purge: the network namespace has no table inet nftnat, and no daemon of it answers\n", r.Stderr)
}

// A purge ends a daemon that was killed and is being started anew, as a service manager does: it has the table before it answers.
func TestPurgeOfKilledDaemon(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "backend", ":80")
	s := newTestbed(t, top.Host)
	rounds := labtest.Rounds(t, "daemons killed before a purge", 2, 30)
	for i := range rounds {
		p := s.serve(t)
		s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80")
		s.succeed(t, "add --quiet tcp 10000-10999 172.30.0.2:20000-20999") // so that the next one takes some time to start
		require.NoError(t, p.Signal(unix.SIGKILL))
		if i%2 == 0 {
			_ = p.Wait()
		}
		next := labtest.StartCmd(t, top.Host, s.command(t, "serve"))
		await(t, "the table to be locked by the next daemon", func() bool { return lockedBy(t, top.Host) == next.Pid })
		r := s.run(t, "purge")
		require.Zero(t, r.Code, "round %d: %s", i, r.Stderr)
		require.Zero(t, next.Wait(), next.Output())
		require.Empty(t, nft(t, top.Host, "list", "ruleset"))
	}
}

// A command that changes something asks a daemon that somebody else has started meanwhile.
func TestAddBesideStartingDaemon(t *testing.T) {
	labtest.LongOnly(t, "13 s for which a daemon waits for the table")
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	blocker := open(t, top.Host, engine.Options{}) // which has the table until both wait for it
	add := labtest.StartCmd(t, top.Host, s.command(t, "add", "--quiet", "tcp", "8080", "172.30.0.2:80"))
	var started int
	await(t, "the daemon that the command starts", func() bool {
		lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", add.Pid))
		require.NoError(t, err)
		for _, list := range lists {
			text, _ := os.ReadFile(list)
			_, _ = fmt.Sscan(string(text), &started)
		}
		// The first child is one by which the os package finds out what the kernel can.
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", started))
		return strings.Contains(string(line), "\x00serve\x00")
	})
	require.NoError(t, unix.Kill(started, unix.SIGSTOP))
	other := labtest.StartCmd(t, top.Host, s.command(t, "serve"))
	require.NoError(t, blocker.Close())
	await(t, "the other daemon to have the table", func() bool { return lockedBy(t, top.Host) == other.Pid })
	require.NoError(t, unix.Kill(started, unix.SIGCONT))
	require.Zero(t, add.Wait(), add.Output())
	require.Equal(t, other.Pid, s.status(t).PID)
	s.succeed(t, "rm tcp 8080")
}

// lockedBy returns the process that has locked the table of a namespace; zero: none has.
func lockedBy(t *testing.T, ns *lab.NS) (pid int) {
	t.Helper()
	require.NoError(t, ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if unix.Connect(fd, &unix.SockaddrUnix{Name: "@nftnat/nftnat"}) == nil {
			if cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
				pid = int(cred.Pid)
			}
		}
		return unix.Close(fd)
	}))
	return pid
}
