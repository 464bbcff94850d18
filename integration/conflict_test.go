// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// A port has one holder. A second call is refused with the name of the holder, and the first
// mapping is not affected.
func TestConflict(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "first", ":80")
		labtest.Echo(t, top.Backend2, network, "second", ":80")
	}
	e := open(t, top.Host, engine.Options{})
	const (
		to1, to2   = "->172.30.0.2:80", "->172.30.0.3:80"
		to1v6      = "->[fd00:30::2]:80"
		to2v6      = "->[fd00:30::3]:80"
		lan, lan2  = "192.0.2.1:", "192.0.2.9:"
		lan6, any6 = "[2001:db8:1::1]:", "[::]:"
	)
	for _, c := range []struct {
		have, want string
		free       bool // they do not conflict
	}{
		{have: "53" + to1, want: "53" + to2},
		{have: "53" + to1, want: lan + "53" + to2},
		{have: "53" + to1, want: "0.0.0.0:53" + to2},
		{have: "53" + to1, want: any6 + "53" + to2v6},
		{have: "53" + to1, want: lan6 + "53" + to2v6},
		{have: "53" + to1, want: "53" + to2v6},
		{have: lan + "53" + to1, want: "53" + to2},
		{have: lan + "53" + to1, want: lan + "53" + to2},
		{have: lan + "53" + to1, want: "0.0.0.0:53" + to2},
		{have: "0.0.0.0:53" + to1, want: lan + "53" + to2},
		{have: "0.0.0.0:53" + to1, want: "53" + to2v6},
		{have: lan6 + "53" + to1v6, want: any6 + "53" + to2v6},
		{have: any6 + "53" + to1v6, want: lan6 + "53" + to2v6},
		{have: any6 + "53" + to1v6, want: "53" + to2},
		{have: "50-59->172.30.0.2:77-86", want: "53" + to2},
		{have: "53" + to1, want: "50-59->172.30.0.3:77-86"},
		{have: "53" + to1, want: lan + "53-55->172.30.0.3:80-82"},
		{have: "127.0.0.1:53" + to1, want: "53" + to2},

		{have: "53" + to1, want: "53" + to2 + "/udp", free: true},
		{have: "0.0.0.0:53" + to1, want: any6 + "53" + to2v6, free: true},
		{have: lan + "53" + to1, want: lan2 + "53" + to2, free: true},
		{have: lan + "53" + to1, want: any6 + "53" + to2v6, free: true},
		{have: "53" + to1, want: "54" + to2, free: true},
		{have: "50-59->172.30.0.2:77-86", want: "60" + to2, free: true},
	} {
		for _, network := range []string{"tcp", "udp"} {
			have, want := c.have+suffix(network), c.want+suffix(network)
			if strings.HasSuffix(c.want, "/udp") { // the same port of the other protocol
				want = c.want[:len(c.want)-4] + suffix(map[string]string{"tcp": "udp", "udp": "tcp"}[network])
			}
			t.Run(have+" "+want, func(t *testing.T) {
				publish(t, e, have)
				_, err := e.Publish(t.Context(), nat.PublishOptions{}, mapping(t, want))
				if c.free {
					require.NoError(t, err)
					unpublish(t, e, want)
				} else {
					requireConflict(t, err, mapping(t, have), mapping(t, want))
				}
				require.Equal(t, []string{have}, published(e))
				if m := mapping(t, have); !m.Frontend.Addr().IsLoopback() {
					addr := strings.Replace(clientAddr(top, m), ":50", ":53", 1)
					labtest.Reaches(t, top.Client, network, addr, "first")
				}
				unpublish(t, e, have)
			})
		}
	}
}

// requireConflict checks that the error names what was asked for, and what is published.
func requireConflict(t *testing.T, err error, have, want nat.Mapping) {
	t.Helper()
	require.ErrorIs(t, err, nat.ErrConflict)
	var conflict *nat.ConflictError
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, nat.ConflictError{Want: want, Have: have}, *conflict)
	require.Contains(t, err.Error(), have.String())
}

// hold starts a child that owns the table, and returns when it does.
func hold(t *testing.T, ns *lab.NS) *labtest.Process {
	t.Helper()
	cmd := child(t, "hold", ns.Path())
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	t.Cleanup(func() { _ = stdin.Close() })
	read, write, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { _ = read.Close() })
	cmd.Stdout = write
	p := labtest.StartCmd(t, ns, cmd)
	require.NoError(t, write.Close())
	line, err := bufio.NewReader(read).ReadString('\n')
	require.NoError(t, err, p.Output())
	require.Equal(t, "ready\n", line)
	return p
}

// A table has one engine. The error of another one names its process. It can wait for the
// table, and nothing has to be cleaned up after the first one was killed.
func TestOwned(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	holder := hold(t, top.Host)
	for _, wait := range []time.Duration{0, 10 * time.Millisecond} {
		_, err := engine.Open(t.Context(), engine.Options{NetNS: top.Host.Path(), LockWait: wait})
		var owned *nat.OwnedError
		require.ErrorAs(t, err, &owned)
		require.Equal(t, nat.OwnedError{Table: "nftnat", PID: holder.Pid, UID: os.Geteuid()}, *owned)
		require.ErrorIs(t, err, nat.ErrOwned)
		require.EqualError(t, err, fmt.Sprintf("table nftnat is owned by pid %d (uid %d)", holder.Pid, os.Geteuid()))
	}
	// Reading takes no lock. Another table or namespace has a lock of its own.
	require.Empty(t, published(open(t, top.Host, engine.Options{ReadOnly: true})))
	publish(t, open(t, top.Host, engine.Options{Table: "other"}), "8080->172.30.0.2:80")
	publish(t, open(t, labtest.NewNS(t, "elsewhere"), engine.Options{}), "8080->172.30.0.2:80")

	opened := make(chan error, 1)
	go func() {
		e, err := engine.Open(t.Context(), engine.Options{NetNS: top.Host.Path(), LockWait: time.Minute, NoProxies: true})
		if err == nil {
			_, err = e.Publish(t.Context(), nat.PublishOptions{}, parsed([]string{"8081->172.30.0.2:80"})...)
			err = errors.Join(err, e.Close())
		}
		opened <- err
	}()
	require.Equal(t, "PROTO  FRONTEND  BACKEND  NAME  PROXY  EXPIRES\n", succeed(t, top.Host, "ls"))
	require.Empty(t, opened, "it waits")
	holder.Kill()
	require.NoError(t, <-opened)
	require.Equal(t, []string{"8081->172.30.0.2:80"}, published(open(t, top.Host, engine.Options{})))
}

// Commands that run at the same time wait for one another. Each succeeds, or names the
// mapping in the way.
func TestRacingCommands(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	const racers = 10
	race := func(args func(i int) []string) []labtest.Result {
		var stdout, stderr [racers]bytes.Buffer
		processes := make([]*labtest.Process, racers)
		for i := range processes {
			cmd := nftnat(t, args(i)...)
			cmd.Stdout, cmd.Stderr = &stdout[i], &stderr[i]
			processes[i] = labtest.StartCmd(t, top.Host, cmd)
		}
		results := make([]labtest.Result, racers)
		for i, p := range processes {
			code := p.Wait()
			results[i] = labtest.Result{Stdout: stdout[i].String(), Stderr: stderr[i].String(), Code: code}
		}
		return results
	}

	// Ten for the next free port: ten ports.
	granted := map[string]bool{}
	for _, r := range race(func(int) []string { return []string{"add", "--quiet", "tcp", "0", "172.30.0.2:80"} }) {
		require.Zero(t, r.Code, r.Stderr)
		granted[r.Stdout] = true
	}
	require.Len(t, granted, racers)

	// Ten for one port: one gets it, and the others name it.
	var winner string
	results := race(func(i int) []string {
		return []string{"add", "--quiet", "tcp", "8080", "172.30.0.2:80", "--name", fmt.Sprint("racer", i)}
	})
	for i, r := range results {
		if r.Code == 0 {
			require.Empty(t, winner, "two have the port")
			winner = fmt.Sprint("racer", i)
		}
	}
	require.NotEmpty(t, winner)
	for _, r := range results {
		if r.Code != 0 {
			require.Equal(t, 3, r.Code)
			require.Equal(t, fmt.Sprintf("nftnat: publish tcp 8080: tcp 8080 is published as 8080->172.30.0.2:80 by %q\n", winner), r.Stderr)
		}
	}

	// Ten adjacent ranges, and all removed again.
	for i, r := range race(func(i int) []string {
		return []string{"add", "--quiet", "udp", ports(100*i+100, 100*i+199), "172.30.0.2"}
	}) {
		require.Zero(t, r.Code, "%d: %s", i, r.Stderr)
	}
	require.Len(t, sortedElements(t, top.Host), racers+1+racers+1)
	for _, r := range race(func(i int) []string { return []string{"rm", "udp", ports(100*i+100, 100*i+199)} }) {
		require.Zero(t, r.Code, r.Stderr)
	}
	require.Len(t, sortedElements(t, top.Host), racers+1+1)
}
