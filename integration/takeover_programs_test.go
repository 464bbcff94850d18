// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"net/netip"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/api"
	"github.com/nftnat/nftnat/internal/handover"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The versions of eBPF programs among the names of what a daemon lends.
var programVersion = regexp.MustCompile(`^(program \w+) \d+$`)

// toPrograms is a takeover: how the next daemon serves localhost, and whether its programs are of another version.
type toPrograms struct {
	loopback string
	other    bool
}

// Daemons whose eBPF programs are of another version take over, and such that serve localhost another way: meanwhile no connection
// to localhost fails, nobody else can bind a port, a connection that was led stays, and nothing is left of the programs before.
func TestTakeoverOfPrograms(t *testing.T) {
	top, s := proxiedHost(t)
	require.NoError(t, top.Host.Sysctl("net.ipv4.ip_local_port_range", "30000 60999"))
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":10050")
	}
	s.loopback = "bpf"
	daemons := []*labtest.Process{s.serve(t)}
	s.publishEveryKind(t)
	s.succeed(t, "add --quiet tcp 10000-10099 172.30.0.2")
	s.succeed(t, "add --quiet udp 10000-10099 172.30.0.2")
	r := relayTo(t, s)

	long := startStream(t, top.Host, "127.0.0.1:10050")
	var calls []*callers
	for _, address := range []string{"127.0.0.1:8080", "[::1]:8080", "[::1]:8082", "127.0.0.1:10050", "[::1]:10050"} {
		calls = append(calls, startCallers(t, top.Host, "tcp", address), startCallers(t, top.Host, "udp", address))
	}
	taker := startOccupiers(t, top.Host, "127.0.0.1:10050", "0.0.0.0:10001", "[::1]:10099")
	for _, step := range labtest.Some(t, "takeovers of programs", 2, []toPrograms{
		{"bpf", true}, {"bpf", true}, {"proxy", true}, {"proxy", false}, {"bpf", false}, {"proxy", false},
	}) {
		t.Logf("to %s, programs of another version: %t", step.loopback, step.other)
		s.loopback, r.loopback = step.loopback, step.loopback
		r.rename = nil
		renamed := 0
		if step.other {
			r.rename = func(name string) string {
				if !programVersion.MatchString(name) {
					return name
				}
				renamed++
				return programVersion.ReplaceAllString(name, "$1 99")
			}
		}
		next := r.succeed(t, func(handover.Kind, *labtest.Process) bool { return true })
		if step.other {
			require.NotZero(t, renamed)
		}
		for _, c := range calls {
			c.goOn(t)
		}
		await(t, "the next daemon to answer", func() bool {
			st, err := s.api.Status(t.Context())
			return err == nil && st.PID == next.Pid
		})
		st := s.status(t)
		require.Equal(t, api.LoopbackWay(step.loopback), st.Loopback.By)
		require.Empty(t, st.Warnings)
		require.NotContains(t, next.Output(), " not ", "nothing was amiss")
		require.NotContains(t, next.Output(), "has no proxy")
		daemons = append(daemons, next)
	}
	for _, c := range calls {
		done := c.end(t)
		require.Zero(t, c.refused+c.broken+c.lost, "%s: %v", c, done)
	}
	require.NotZero(t, taker.end(t))
	t.Logf("%d bytes by a connection that was led by the first", long.end(t))

	// With the last daemon all programs end.
	require.NoError(t, daemons[len(daemons)-1].Signal(unix.SIGTERM))
	for _, d := range daemons {
		require.Zero(t, d.Wait(), d.Output())
	}
	for _, address := range []string{"127.0.0.1:8080", "[::1]:10050"} {
		_, _, err := askWithin(top.Host, "tcp", address, netip.AddrPort{}, silence)
		require.ErrorIs(t, err, unix.ECONNREFUSED)
	}
	holder, err := occupy(top.Host, "tcp", "127.0.0.1:10050")
	require.NoError(t, err)
	require.NoError(t, holder.Close())
}
