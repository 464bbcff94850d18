// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// servedHost is a host with a program that serves a port itself, and a backend that could.
func servedHost(t *testing.T) (*testbed, *lab.Topology) {
	t.Helper()
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	labtest.EchoTCP(t, top.Backend1, "web", ":8080")
	labtest.EchoTCP(t, top.Host, "host", "[::]:8080")
	return newTestbed(t, top.Host), top
}

// idle are connections to the port of the host, from everywhere, of which nothing has been heard since they were opened.
func idle(t *testing.T, top *lab.Topology) (flows []*flow) {
	t.Helper()
	for _, from := range []struct {
		ns *lab.NS
		to []string
	}{
		{top.Client, []string{"192.0.2.1", "2001:db8:1::1"}},
		{top.Backend1, []string{"192.0.2.1", "172.30.0.1"}},
		{top.Host, []string{"192.0.2.1", "2001:db8:1::1", "127.0.0.1", "::1"}},
	} {
		for _, to := range from.to {
			flows = append(flows, dialFlow(t, from.ns, "tcp", net.JoinHostPort(to, "8080")))
		}
	}
	return flows
}

// requireAnswers checks who answers flows, of which the name comes once.
func requireAnswers(t *testing.T, flows []*flow, by string) {
	t.Helper()
	for _, f := range flows {
		greeted := f.greeted
		name, err := f.ask()
		require.NoError(t, err, "%s to %s", f.local(), f.conn.RemoteAddr())
		if !greeted {
			require.Equal(t, by, name)
		}
	}
}

// Idle connections that the host serves itself go on when their port leads elsewhere, also if tracking begins with that.
func TestServedByTheHost(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines []string
		also6 string
	}{
		{"first", []string{"add --quiet tcp 8080 172.30.0.2:80 --hold shared"}, ""},
		{"IPv6", []string{"add --quiet tcp 8080 [fd00:30::2]:80 --hold shared"}, "[2001:db8:1::1]:8080"},
		{"second", []string{"add --quiet tcp 8081 172.30.0.2:80", "add --quiet tcp 8080 172.30.0.2:80 --hold shared"}, ""},
		{"range", []string{"add --quiet tcp 8000-8099 172.30.0.2:8000-8099 --hold shared"}, ""},
		{"address", []string{"add --quiet tcp 192.0.2.1:8080 172.30.0.2:80 --hold shared"}, ""},
		{"limited", []string{"add --quiet tcp 8080 172.30.0.2:80 --hold shared --from 192.0.2.0/24"}, ""},
		{"direct", []string{"--direct add --quiet tcp 8080 172.30.0.2:80 --hold shared"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, top := servedHost(t)
			if c.name != "direct" {
				s.serve(t)
			}
			flows := idle(t, top)
			for _, line := range c.lines {
				s.succeed(t, line)
			}
			requireAnswers(t, flows, "host")
			to := "192.0.2.1:8080"
			if c.also6 != "" {
				to = c.also6
			}
			labtest.Reaches(t, top.Client, "tcp", to, "web")
			requireAnswers(t, flows, "host")
			if c.name == "direct" {
				s.succeed(t, "--direct purge")
			}
		})
	}
}

// So do those at a port that a program offers no more, whether a proxy serves it now or none.
func TestServedToTheEnd(t *testing.T) {
	for _, options := range []string{"", " --no-proxy"} {
		top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
		labtest.EchoTCP(t, top.Backend1, "web", ":80")
		s := newTestbed(t, top.Host)
		s.serve(t)
		l, err := top.Host.Listen("tcp", "[::]:8080")
		require.NoError(t, err)
		flows := idle(t, top)
		var serving sync.WaitGroup
		for range flows {
			c, err := l.Accept()
			require.NoError(t, err)
			serving.Go(func() {
				_, _ = io.WriteString(c, "host 192.0.2.1:1\n")
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
		require.NoError(t, l.Close())
		s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80"+options)
		requireAnswers(t, flows, "host")
		labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
		requireAnswers(t, flows, "host")
		for _, f := range flows {
			require.NoError(t, f.conn.Close())
		}
		serving.Wait()
	}
}

// busyFlow is a connection that is never idle.
type busyFlow struct {
	stop    chan struct{}
	running sync.WaitGroup
	err     error
}

func startBusy(f *flow) *busyFlow {
	a := &busyFlow{stop: make(chan struct{})}
	a.running.Go(func() {
		for a.err == nil {
			select {
			case <-a.stop:
				_, a.err = f.ask()
				return
			default:
				_, a.err = f.ask()
			}
		}
	})
	return a
}

func (a *busyFlow) end(t *testing.T) {
	t.Helper()
	close(a.stop)
	a.running.Wait()
	require.NoError(t, a.err)
}

// Clients that connect all the time, and connections that are busy, notice nothing of the table that comes.
func TestServedUnderLoad(t *testing.T) {
	s, top := servedHost(t)
	for range labtest.Rounds(t, "tables that come", 5, 100) {
		s.serve(t)
		loads := []*callers{
			startCallers(t, top.Client, "tcp", "192.0.2.1:8080"), startCallers(t, top.Client, "tcp", "[2001:db8:1::1]:8080"),
			startCallers(t, top.Host, "tcp", "192.0.2.1:8080"), startCallers(t, top.Host, "tcp", "127.0.0.1:8080"),
		}
		var busy []*busyFlow
		for _, f := range idle(t, top) {
			busy = append(busy, startBusy(f))
		}
		s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80 --hold shared")
		for _, l := range loads {
			require.NoError(t, l.end(t))
		}
		for _, a := range busy {
			a.end(t)
		}
		labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
		s.succeed(t, "purge")
		labtest.Exec(t, top.Host, "conntrack", "--flush")
	}
}

// awaitUntracked waits until nothing tracks connections to the port any more. The kernel takes its time.
func awaitUntracked(t *testing.T, top *lab.Topology) {
	t.Helper()
	await(t, "the end of tracking", func() bool {
		labtest.Exec(t, top.Host, "conntrack", "--flush")
		c := dialFlow(t, top.Client, "tcp", "192.0.2.1:8080")
		defer func() { _ = c.conn.Close() }()
		return labtest.Exec(t, top.Host, "conntrack", "-L", "-p", "tcp") == ""
	})
}

// What the host has served while the table was missing goes on when it is there again: connections to the program that
// has the port, where a daemon that is started restores the table, and those of a proxy, where one finds that somebody has
// flushed it.
func TestServedInAnOutage(t *testing.T) {
	s, top := servedHost(t)
	file := stateFile(t)
	daemon := s.serve(t, "--state", file)
	s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80 --hold shared")
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
	s.reboot(t, daemon)
	awaitUntracked(t, top)
	flows := idle(t, top)
	s.serve(t, "--state", file)
	requireAnswers(t, flows, "host")
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")

	top = newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	s = newTestbed(t, top.Host)
	daemon = s.serve(t, "--no-owner")
	s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80")
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "web")
	require.NoError(t, daemon.Signal(unix.SIGSTOP))
	load(t, top.Host, "flush ruleset")
	awaitUntracked(t, top)
	flows = idle(t, top)
	require.NoError(t, daemon.Signal(unix.SIGCONT))
	s.awaitRepair(t, 0)
	requireAnswers(t, flows, "web")
}
