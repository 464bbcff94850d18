// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// If a daemon is killed, only its proxies end. The next command starts a daemon that adopts
// what is published, and serves all of it.
func TestDaemonKilled(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":80")
	}
	s := newTestbed(t, top.Host)
	frontends := []string{"8080 172.30.0.2:80", "8081 [fd00:30::2]:80", "127.0.0.1:8082 172.30.0.2:80", "8083 172.30.0.2:80 --no-proxy",
		"192.0.2.1:8084 [fd00:30::2]:80", "[::]:8085 172.30.0.2:80"}
	for _, network := range []string{"tcp", "udp"} {
		for _, f := range frontends {
			s.succeed(t, "add --quiet "+network+" "+f)
		}
	}
	published := s.succeed(t, "export")
	elements := sortedElements(t, top.Host)
	pid := s.daemon(t)
	for round := range 3 {
		var flows []*flow
		for _, address := range []string{"127.0.0.1:8080", "127.0.0.1:8081", "[::1]:8081", "127.0.0.1:8082"} {
			f := dialFlow(t, top.Host, "tcp", address)
			require.Equal(t, "backend", f.name(t))
			flows = append(flows, f)
		}
		through := dialFlow(t, top.Client, "tcp", "192.0.2.1:8080")
		require.Equal(t, "backend", through.name(t))
		kill(t, pid, unix.SIGKILL)

		require.Equal(t, elements, sortedElements(t, top.Host))
		goesOn(t, through)
		for _, network := range []string{"tcp", "udp"} {
			for _, port := range []int{8080, 8083} {
				labtest.Reaches(t, top.Client, network, at(top.Host.V4, port), "backend")
			}
			require.ErrorIs(t, labtest.NoAnswer(t, top.Host, network, "127.0.0.1:8080"), unix.ECONNREFUSED)
		}
		for _, f := range flows {
			require.NoError(t, f.conn.Close())
		}
		// A command that only reads prints what the kernel holds.
		require.Equal(t, published, s.succeed(t, "export"))
		require.Empty(t, daemons(t, filepath.Dir(s.socket)))

		s.succeed(t, fmt.Sprintf("add --quiet tcp %d 172.30.0.2:80", 9000+round))
		pid = s.daemon(t)
		require.Equal(t, pid, s.status(t).PID)
		require.Empty(t, s.status(t).Warnings)
		require.Equal(t, 2*5+1, s.status(t).Proxies)
		for _, network := range []string{"tcp", "udp"} {
			for _, address := range []string{"127.0.0.1:8080", "[::1]:8080", "127.0.0.1:8081", "[::1]:8081", "127.0.0.1:8082"} {
				labtest.Reaches(t, top.Host, network, address, "backend")
			}
			for _, address := range []string{"192.0.2.1:8084", "[2001:db8:1::1]:8085"} {
				labtest.Reaches(t, top.Client, network, address, "backend")
			}
			_, err := occupy(top.Host, network, "127.0.0.1:8083", unix.SO_REUSEADDR)
			require.ErrorIs(t, err, unix.EADDRINUSE, "a port without a proxy is held again too")
		}
		s.succeed(t, fmt.Sprintf("rm tcp %d", 9000+round))
		require.Equal(t, published, s.succeed(t, "export"))
	}
}

// Connections that a proxy has closed first are in TIME_WAIT on its port. The next daemon
// can use the port nevertheless.
func TestDaemonTimeWait(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "backend", ":80")
	s := newTestbed(t, top.Host)
	s.loopback = "proxy" // which is what it is about
	s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80")
	waiting := func() string {
		return labtest.Exec(t, top.Host, "ss", "--no-header", "--numeric", "--tcp", "state", "time-wait", "sport", "=", ":8080")
	}
	for range 3 {
		for _, address := range []string{"127.0.0.1:8080", "[::1]:8080"} {
			f := dialFlow(t, top.Host, "tcp", address)
			require.Equal(t, "backend", f.name(t))
			pid := s.daemon(t)
			// When it is killed, it closes first, by a FIN because nothing is unread.
			kill(t, pid, unix.SIGKILL)
			require.NoError(t, f.conn.Close())
			await(t, "TIME_WAIT", func() bool { return waiting() != "" })
			s.succeed(t, "add --quiet --replace tcp 8080 172.30.0.2:80")
			require.Empty(t, s.status(t).Warnings)
			require.Equal(t, 1, s.status(t).Proxies)
			labtest.Reaches(t, top.Host, "tcp", address, "backend")
		}
	}
}

// On SIGTERM a daemon accepts no new connections, lets those of its proxies end, leaves the
// table, and exits 0.
func TestDaemonTerminated(t *testing.T) {
	t.Parallel() // it waits
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "backend", ":80")
	s := newTestbed(t, top.Host)
	s.loopback = "proxy" // which is what it is about
	for _, signal := range []os.Signal{unix.SIGTERM, unix.SIGINT} {
		p := s.serve(t)
		s.succeed(t, "add --quiet --replace tcp 8080 172.30.0.2:80")
		live := dialFlow(t, top.Host, "tcp", "127.0.0.1:8080")
		require.Equal(t, "backend", live.name(t))
		require.NoError(t, p.Signal(signal))
		await(t, "the proxy to be shut", func() bool {
			_, _, err := askWithin(top.Host, "tcp", "127.0.0.1:8080", netip.AddrPort{}, silence)
			return errors.Is(err, unix.ECONNREFUSED)
		})
		require.NoFileExists(t, s.socket)
		for range 3 {
			goesOn(t, live)
		}
		labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "backend")
		require.NoError(t, live.conn.Close())
		require.Zero(t, p.Wait(), p.Output())
		require.Equal(t, exportOf("mappings:\n  - 8080->172.30.0.2:80\n"), s.succeed(t, "export"))
		labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "backend")
	}

	if labtest.LeaveOut(t, "the 10 s in which a daemon that ends lets connections end") {
		return
	}
	// It does not wait for ever, and a command that starts the next daemon waits for it.
	first := s.serve(t)
	live := dialFlow(t, top.Host, "tcp", "127.0.0.1:8080")
	require.Equal(t, "backend", live.name(t))
	require.NoError(t, first.Signal(unix.SIGTERM))
	await(t, "the socket to go", func() bool {
		_, err := os.Stat(s.socket)
		return errors.Is(err, os.ErrNotExist)
	})
	s.succeed(t, "add --quiet tcp 8081 172.30.0.2:80")
	require.Zero(t, first.Wait(), first.Output())
	_, err := live.ask()
	require.Error(t, err)
	for _, address := range []string{"127.0.0.1:8080", "127.0.0.1:8081"} {
		labtest.Reaches(t, top.Host, "tcp", address, "backend")
	}
}

// purge leaves nothing: no table, no daemon, no socket; also while connections live,
// and where no daemon runs.
func TestDaemonPurge(t *testing.T) {
	t.Parallel() // it waits
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":80")
	}
	s := newTestbed(t, top.Host)
	s.loopback = "proxy" // which is what it is about
	listening := sockets(t, top.Host)
	leaveLive := labtest.LeaveOut(t, "purge while a proxied connection lives, which it waits 10 s for")
	for range 2 {
		for _, network := range []string{"tcp", "udp"} {
			s.succeed(t, "add --quiet "+network+" 8080-8179 172.30.0.2:80-179")
		}
		live := dialFlow(t, top.Host, "tcp", "127.0.0.1:8080")
		require.Equal(t, "backend", live.name(t))
		if leaveLive {
			require.NoError(t, live.conn.Close())
		}
		through := dialFlow(t, top.Client, "udp", "192.0.2.1:8080")
		require.Equal(t, "backend", through.name(t))
		pid := s.daemon(t)

		require.Empty(t, s.succeed(t, "purge"))
		require.True(t, waitFor(t, pid).Exited())
		require.Empty(t, daemons(t, filepath.Dir(s.socket)))
		require.Empty(t, filesIn(t, filepath.Dir(s.socket)))
		require.Empty(t, nft(t, top.Host, "list", "ruleset"))
		require.Equal(t, listening, sockets(t, top.Host))
		require.ErrorIs(t, through.refused(t), unix.ECONNREFUSED)
		_, err := live.ask()
		require.Error(t, err)
		require.Empty(t, s.succeed(t, "purge"))
		require.Empty(t, daemons(t, filepath.Dir(s.socket)))
	}
}

// A mapping whose port was taken while no daemon ran stays published without a proxy, and
// status says so. It is served when the port is free.
func TestDaemonAdoptsWhatIsTaken(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":80")
	}
	s := newTestbed(t, top.Host)
	s.succeed(t, "add --quiet tcp 8080-8082 172.30.0.2:80-82")
	s.succeed(t, "add --quiet udp 8080 172.30.0.2:80")
	kill(t, s.daemon(t), unix.SIGKILL)
	holder, err := occupy(top.Host, "tcp", "127.0.0.1:8080")
	require.NoError(t, err)
	other := labtest.StartCmd(t, top.Host, command(t, "socat", "UDP4-RECV:8080,bind=127.0.0.1", "STDOUT"))
	has := regexp.MustCompile(`(?m)^udp .* 127\.0\.0\.1:8080 `)
	await(t, "socat to have its port", func() bool { return has.MatchString(sockets(t, top.Host)) })
	p := s.serve(t)
	require.Equal(t, 2, s.status(t).Proxies)
	require.Len(t, s.status(t).Warnings, 1)
	require.Contains(t, p.Output(), "held by "+myself(t))
	require.Contains(t, p.Output(), fmt.Sprintf("held by socat (pid %d)", other.Pid))
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "backend")

	// After a while, without a change.
	require.NoError(t, holder.Close())
	await(t, "the port that is free to be served", func() bool { return s.status(t).Proxies == 3 })
	labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "backend")
	require.Len(t, s.status(t).Warnings, 1)
	// And at once after a change.
	other.Kill()
	s.succeed(t, "add --quiet tcp 9000 172.30.0.2:80")
	await(t, "the other port to be served", func() bool { return s.status(t).Proxies == 5 })
	labtest.Reaches(t, top.Host, "udp", "127.0.0.1:8080", "backend")
	require.Empty(t, s.status(t).Warnings)
	require.Equal(t, 2, strings.Count(p.Output(), "mapping is served now"), p.Output())
	require.Equal(t, 2, strings.Count(p.Output(), "mapping has no proxy"), p.Output())
}

// With --direct no daemon is started or contacted. The error names the owner of the table.
func TestDaemonAndDirect(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	s.succeed(t, "--direct add --quiet tcp 8080 172.30.0.2:80")
	require.Empty(t, daemons(t, filepath.Dir(s.socket)))
	s.succeed(t, "add --quiet tcp 8081 172.30.0.2:80")
	require.Equal(t, 2, s.status(t).Proxies)
	require.Equal(t, s.succeed(t, "export"), s.succeed(t, "--direct export"))
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	ms, err := s.api.Mappings(ctx)
	require.NoError(t, err)
	require.Len(t, ms, 2)
}

// goesOn checks that a connection still works.
func goesOn(t *testing.T, f *flow) {
	t.Helper()
	t.Helper()
	_, err := f.ask()
	require.NoError(t, err)
}
