// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// succeedBy runs a daemon that takes over from the running one, and returns when it has.
func (s *testbed) succeedBy(t *testing.T) *labtest.Process {
	t.Helper()
	return s.serve(t, "--takeover")
}

// proxiedHost is a host whose daemon has every kind of socket: proxies over TCP and UDP,
// and ports that are held without one.
func proxiedHost(t *testing.T) (*lab.Topology, *testbed) {
	t.Helper()
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	s := newTestbed(t, top.Host)
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":80")
	}
	return top, s
}

func (s *testbed) publishEveryKind(t *testing.T) {
	t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		for _, f := range []string{
			"8080 172.30.0.2:80", "127.0.0.1:8081 172.30.0.2:80", "[::]:8082 [fd00:30::2]:80",
			"8083 172.30.0.2:80 --no-proxy", "192.0.2.1:8084 [fd00:30::2]:80",
		} {
			s.succeed(t, "add --quiet "+network+" "+f)
		}
	}
}

// everyKindProxied are the addresses of publishEveryKind at which proxies serve the host.
var everyKindProxied = []string{"127.0.0.1:8080", "[::1]:8080", "127.0.0.1:8081", "[::1]:8082"}

// everyKindHeld are addresses that no other process can bind.
var everyKindHeld = []string{"0.0.0.0:8080", "[::]:8080", "127.0.0.1:8081", "[::1]:8082", "127.0.0.1:8083", "192.0.2.1:8084"}

// One daemon after another takes over, while clients connect and send datagrams, other
// programs try to bind the ports, and clients of the API read and change the state: nothing
// is refused, reset or lost, and a connection of the first daemon is carried to its end, byte
// by byte.
func TestTakeover(t *testing.T) {
	bothWays(t, takeOver)
}

func takeOver(t *testing.T, loopback string) {
	t.Helper()
	top, s := proxiedHost(t)
	s.loopback = loopback
	daemon := s.serve(t)
	s.publishEveryKind(t)
	first := daemon

	long := startStream(t, top.Host, "127.0.0.1:8080")
	var calls []*callers
	for _, address := range everyKindProxied {
		calls = append(calls, startCallers(t, top.Host, "tcp", address), startCallers(t, top.Host, "udp", address))
	}
	calls = append(calls, startCallers(t, top.Client, "tcp", "192.0.2.1:8080"), startCallers(t, top.Client, "udp", "192.0.2.1:8080"))
	taker := startOccupiers(t, top.Host)
	users := startAPIUsers(t, s)

	takeovers := labtest.Rounds(t, "takeovers", 2, 10)
	for range takeovers {
		next := s.succeedBy(t)
		if daemon != first || loopback == "bpf" {
			require.Zero(t, daemon.Wait(), daemon.Output())
		}
		require.NotContains(t, daemon.Output()+next.Output(), " not ", "nothing was amiss")
		daemon = next
	}
	var udp callers
	for _, c := range calls {
		done := c.end(t)
		require.NotZero(t, c.done, c)
		require.Zero(t, c.refused, "%s: %v", c, done)
		require.Zero(t, c.broken, "%s: %v", c, done)
		if c.network == "udp" {
			udp.done, udp.lost = udp.done+c.done, udp.lost+c.lost
		} else {
			require.Zero(t, c.lost, "%s: %v", c, done)
		}
	}
	t.Logf("%d takeovers: %d UDP requests, %d without an answer", takeovers, udp.done, udp.lost)
	taker.end(t)
	users.end(t)
	if loopback == "proxy" {
		select {
		case <-first.Done():
			t.Fatalf("the first has ended, with its connection: %s", first.Output())
		default:
		}
	}
	require.Equal(t, api.LoopbackWay(loopback), s.status(t).Loopback.By)
	t.Logf("%d bytes by the connection of the first", long.end(t))
	require.Zero(t, first.Wait(), first.Output())
	require.Equal(t, daemon.Pid, s.status(t).PID)
	require.Equal(t, 8, s.status(t).Proxies)
	require.Empty(t, s.status(t).Warnings)

	// What a daemon has taken over can be unpublished.
	s.succeed(t, "rm tcp 8080")
	holder, err := occupy(top.Host, "tcp", "127.0.0.1:8080")
	require.NoError(t, err)
	require.NoError(t, holder.Close())
	require.NoError(t, daemon.Signal(unix.SIGTERM))
	require.Zero(t, daemon.Wait(), daemon.Output())
	require.NoFileExists(t, s.socket, "the last one removes what the first one made")
}

// A daemon that has handed over, and is told to end, waits for its connections as usual.
func TestTakeoverThenTerminated(t *testing.T) {
	labtest.LongOnly(t, "the 10 s in which a daemon that has been succeeded lets connections end")
	t.Parallel() // it waits
	top, s := proxiedHost(t)
	s.loopback = "proxy"
	first := s.serve(t)
	s.publishEveryKind(t)
	live := dialFlow(t, top.Host, "tcp", "127.0.0.1:8080")
	require.Equal(t, "backend", live.name(t))
	s.succeedBy(t)
	require.NoError(t, first.Signal(unix.SIGTERM))
	goesOn(t, live)
	labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "backend")
	require.Zero(t, first.Wait(), first.Output())
	_, err := live.ask()
	require.Error(t, err)
	labtest.Reaches(t, top.Host, "tcp", "127.0.0.1:8080", "backend")
}

// Without a running daemon the flag has no effect; --detach returns when the daemon is ready.
func TestTakeoverOfNobody(t *testing.T) {
	labtest.LongOnly(t, "takeovers in the background")
	top, s := proxiedHost(t)
	r := s.run(t, "serve --takeover --detach")
	require.Zero(t, r.Code, r.Stderr)
	pid := s.daemon(t)
	require.Equal(t, pid, s.status(t).PID)
	s.publishEveryKind(t)
	calls := startCallers(t, top.Host, "tcp", "127.0.0.1:8080")
	for range 3 {
		r := s.run(t, "serve --takeover --detach")
		require.Zero(t, r.Code, r.Stderr)
		require.NotEqual(t, pid, s.status(t).PID)
		require.True(t, waitFor(t, pid).Exited())
		pid = s.daemon(t)
	}
	done := calls.end(t)
	require.Zero(t, calls.refused+calls.broken+calls.lost, done)
	kill(t, pid, unix.SIGKILL)
	s.run(t, "serve --takeover --detach") // there is a socket file without a server
	require.Equal(t, s.daemon(t), s.status(t).PID)
}

// A daemon that cannot start says why, once, and the command exits with its status.
func TestDetachFails(t *testing.T) {
	t.Parallel() // it waits
	_, s := proxiedHost(t)
	s.serve(t)
	if !labtest.LeaveOut(t, "the 10 s for which a second daemon waits for the table") {
		r := s.run(t, "serve --detach")
		require.Equal(t, 3, r.Code)
		require.Equal(t, 1, strings.Count(r.Stderr, "\n"), r.Stderr)
		require.Contains(t, r.Stderr, "table nftnat is owned by pid ")
	}
	r := s.run(t, "serve --detach --group nobody-of-that-name")
	require.Equal(t, 2, r.Code)
	require.Equal(t, 1, strings.Count(r.Stderr, "\n"), r.Stderr)
}

// The listener for metrics and the state file are handed over, and the service manager is
// told the main process.
func TestTakeoverOfEverything(t *testing.T) {
	top, s := proxiedHost(t)
	manager, told := notifySocket(t)
	file := filepath.Join(filepath.Dir(s.socket), "state.yaml")
	flags := []string{"--metrics", "127.0.0.1:9099", "--state", file}
	start := func(takeover ...string) *labtest.Process {
		cmd := s.command(t, append(append([]string{"serve"}, takeover...), flags...)...)
		cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+manager)
		p := labtest.StartCmd(t, top.Host, cmd)
		if len(takeover) != 0 {
			require.Equal(t, fmt.Sprintf("MAINPID=%d", p.Pid), <-told)
		}
		require.Equal(t, "READY=1", <-told)
		return p
	}
	daemon := start()
	s.publishEveryKind(t)
	scrapes := startScrapes(t, top.Host, "http://127.0.0.1:9099/metrics")
	for round := range 5 {
		next := start("--takeover")
		require.Zero(t, daemon.Wait(), daemon.Output())
		daemon = next
		s.succeed(t, fmt.Sprintf("add --quiet tcp %d 172.30.0.2:80", 9000+round))
		require.Equal(t, s.succeed(t, "export"), fileAsExport(t, file))
	}
	require.NotZero(t, scrapes.end(t))
	// The new daemon's own path.
	flags = nil
	start("--takeover")
	_, _, err := askWithin(top.Host, "tcp", "127.0.0.1:9099", netip.AddrPort{}, silence)
	require.ErrorIs(t, err, unix.ECONNREFUSED)
}

// Ten thousand ports are handed over, while the last of them is called and another one is
// published again and again, which always succeeds although the old daemon takes some time to
// close so many.
func TestTakeoverOfManyPorts(t *testing.T) {
	labtest.LongOnly(t, "takeovers of 12,000 ports")
	top, s := proxiedHost(t)
	labtest.EchoTCP(t, top.Backend1, "last", ":20000")
	daemon := s.serve(t)
	// Ranges whose ports differ have a socket for each port.
	s.succeed(t, "add --quiet tcp 10000-19999 172.30.0.2:10001-20000")
	s.succeed(t, "add --quiet udp 10000-10999 172.30.0.2:10001-11000")
	s.succeed(t, "add --quiet tcp 20000-20999 172.30.0.2:20001-21000 --no-proxy")
	files := openBy(t, daemon.Pid)
	calls := startCallers(t, top.Host, "tcp", "127.0.0.1:19999")
	api := startAPIUsers(t, s)
	for range 3 {
		began := time.Now()
		next := s.succeedBy(t)
		t.Logf("12,000 ports in %v, the new process's start included", time.Since(began).Round(time.Millisecond))
		require.Zero(t, daemon.Wait(), daemon.Output())
		require.Contains(t, []int{11_000, 11_001}, s.status(t).Proxies)
		daemon = next
	}
	done := calls.end(t)
	require.Zero(t, calls.refused+calls.broken+calls.lost, done)
	require.NotZero(t, api.end(t))
	require.Equal(t, 11_000, s.status(t).Proxies)
	await(t, "no more to be open than with the first", func() bool { return openBy(t, daemon.Pid) == files })
	_, err := occupy(top.Host, "tcp", "127.0.0.1:20999", unix.SO_REUSEADDR)
	require.ErrorIs(t, err, unix.EADDRINUSE)
}

// A change during a takeover is completed, and the next daemon has it.
func TestTakeoverWhileBusy(t *testing.T) {
	top, s := proxiedHost(t)
	daemon := s.serve(t)
	s.publishEveryKind(t)
	for round := range 3 {
		cmd := s.command(t, "add", "--quiet", "tcp", fmt.Sprintf("%d-%d", 20000+5000*round, 24999+5000*round), "172.30.0.2:80-5079")
		busy := labtest.StartCmd(t, top.Host, cmd)
		await(t, "the change to be made", func() bool {
			p, err := s.api.Progress(context.Background())
			require.NoError(t, err)
			return p.Step != ""
		})
		next := s.succeedBy(t)
		require.Zero(t, busy.Wait(), busy.Output())
		require.Zero(t, daemon.Wait(), daemon.Output())
		daemon = next
		require.Equal(t, 8+5000*(round+1), s.status(t).Proxies)
	}
}

// If the daemon cannot hand over, or has another table, the error names it and nothing
// changes. A successor that cannot start does not affect the old daemon.
func TestTakeoverRefused(t *testing.T) {
	top, s := proxiedHost(t)
	daemon := s.serve(t)
	s.publishEveryKind(t)
	blocker, err := occupy(top.Host, "tcp", "127.0.0.1:9099")
	require.NoError(t, err)
	defer func() { require.NoError(t, blocker.Close()) }()
	files, goroutines := openBy(t, daemon.Pid), s.goroutines(t)
	calls := startCallers(t, top.Host, "tcp", "127.0.0.1:8080")
	for range 3 {
		for _, c := range []struct {
			line string
			code int
			says string
		}{
			{"serve --takeover --metrics 127.0.0.1:9099", 2, "address already in use"},
			{"serve --takeover --state /nowhere/file", 2, "there is no directory /nowhere"},
			{"serve --takeover --table other", 2, "has the table nftnat, not other"},
			{"serve --takeover --group nogroup-of-that-name", 2, "nogroup-of-that-name"},
		} {
			r := s.run(t, c.line)
			require.Equal(t, c.code, r.Code, r.Stderr)
			require.Contains(t, r.Stderr, c.says)
			require.Equal(t, daemon.Pid, s.status(t).PID)
			s.succeed(t, "add --quiet tcp 9000 172.30.0.2:80")
			s.succeed(t, "rm tcp 9000")
		}
	}
	done := calls.end(t)
	require.Zero(t, calls.refused+calls.broken+calls.lost, done)
	await(t, "nothing to be left of those who failed", func() bool {
		return openBy(t, daemon.Pid) == files && s.goroutines(t) <= goroutines
	})

	old := relayTo(t, s)
	old.forgetHandovers(t)
	r := old.run(t, "serve --takeover")
	require.Equal(t, 1, r.Code, r.Stderr)
	require.Regexp(t, fmt.Sprintf(`^nftnat: take over: the daemon, pid %d, is of version .*, which cannot hand over: end it, and start this one\n$`, daemon.Pid), r.Stderr)
	require.Equal(t, daemon.Pid, s.status(t).PID)
}

// goroutines returns the number of the daemon's goroutines, from its metrics.
func (s *testbed) goroutines(t *testing.T) int {
	t.Helper()
	resp, err := s.client().Get("http://nftnat/metrics")
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	for line := range strings.Lines(string(text)) {
		var n int
		if _, err := fmt.Sscanf(line, "go_goroutines %d", &n); err == nil {
			return n
		}
	}
	t.Fatal("no go_goroutines")
	return 0
}

// openBy returns the number of a process's open files.
func openBy(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	return len(entries)
}
