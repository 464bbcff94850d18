// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The number of flushes by others during which connections are made, and the number of
// connections a second.
const (
	envFlushes, defaultFlushes       = "NFTNAT_FLUSHES", 30
	envConnections, defaultPerSecond = "NFTNAT_CONNECTIONS_PER_SECOND", 1000
)

// traffic is a number of clients that connect all the time.
type traffic struct {
	made   atomic.Int64
	begin  time.Time
	stop   chan struct{}
	ended  sync.WaitGroup
	mu     sync.Mutex
	failed []error
}

// trafficWorkers is the number of clients at a time.
const trafficWorkers = 40

// startTraffic starts clients in a namespace that connect to an address at a given rate.
func startTraffic(t *testing.T, ns *lab.NS, addr, server string, perSecond int) *traffic {
	t.Helper()
	// A port is in TIME_WAIT for a minute, so 28,000 of them are enough for half a minute.
	// tcp_tw_reuse makes it one second (ip-sysctl.rst).
	require.NoError(t, ns.Sysctl("net.ipv4.tcp_tw_reuse", "1"))
	tr := &traffic{begin: time.Now(), stop: make(chan struct{})}
	turns := make(chan struct{}, trafficWorkers)
	for range trafficWorkers {
		tr.ended.Go(func() {
			for range turns {
				tr.connect(ns, addr, server)
			}
		})
	}
	tr.ended.Go(func() {
		defer close(turns)
		tick := time.NewTicker(time.Second / time.Duration(perSecond))
		defer tick.Stop()
		for {
			select {
			case <-tr.stop:
				return
			case <-tick.C:
				turns <- struct{}{}
			}
		}
	})
	return tr
}

func (tr *traffic) connect(ns *lab.NS, addr, server string) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	name, _, err := lab.Ask(ctx, ns, "tcp", addr, netip.AddrPort{})
	if err == nil && name != server {
		err = fmt.Errorf("%s answered, not %s", name, server)
	}
	tr.made.Add(1)
	if err != nil {
		tr.mu.Lock()
		tr.failed = append(tr.failed, err)
		tr.mu.Unlock()
	}
}

// end stops the traffic, and returns the failures.
func (tr *traffic) end(t *testing.T) []error {
	t.Helper()
	close(tr.stop)
	tr.ended.Wait()
	rate := float64(tr.made.Load()) / time.Since(tr.begin).Seconds()
	t.Logf("%d connections, %.0f a second: %d failed", tr.made.Load(), rate, len(tr.failed))
	return tr.failed
}

// ownedTestbed runs a daemon whose table is owned.
func ownedTestbed(t *testing.T, top *lab.Topology) (*testbed, *labtest.Process) {
	t.Helper()
	s := newTestbed(t, top.Host)
	p := s.serve(t)
	if !s.status(t).Table.Owned {
		t.Skip("needs a kernel with persistent owned tables (6.9)")
	}
	return s, p
}

// assaults are commands of nft(8) by which others may change the table.
func assaults() []string {
	return []string{
		"delete table inet nftnat", "flush table inet nftnat", "flush chain inet nftnat publish",
		"add element inet nftnat tcp4 { 99 : 172.30.0.2 . 80 }", "delete element inet nftnat tcp4 { 8080 }",
		"flush map inet nftnat tcp4", "insert rule inet nftnat publish accept", "add table inet nftnat { flags dormant; }",
	}
}

// While the daemon runs, nobody else can change the table: no connection fails, nothing has
// to be repaired, and nothing changes.
func TestForeignFlushes(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	labtest.EchoTCP(t, top.Backend1, "web", ":80")
	s, _ := ownedTestbed(t, top)
	s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80")
	before := nft(t, top.Host, "-a", "list", "table", "inet", "nftnat")
	tr := startTraffic(t, top.Client, "192.0.2.1:8080", "web", labtest.Number(t, envConnections, defaultPerSecond))
	all := assaults()
	flushes := labtest.Number(t, envFlushes, defaultFlushes)
	for i := range flushes {
		load(t, top.Host, "add table inet other\nflush ruleset\n")
		r := labtest.Run(t, top.Host, command(t, "nft", all[i%len(all)]))
		require.NotZero(t, r.Code, all[i%len(all)])
		require.Contains(t, r.Stderr, "Operation not permitted", all[i%len(all)])
	}
	t.Logf("%d flushes", flushes)
	require.Empty(t, tr.end(t))
	require.Equal(t, before, nft(t, top.Host, "-a", "list", "table", "inet", "nftnat"))
	require.Zero(t, s.status(t).Table.Repaired)
	require.Contains(t, s.succeed(t, "status"), "inet nftnat, owned\n")
	require.NotContains(t, nft(t, top.Host, "list", "tables"), "other", "a flush that does nothing")
}

// The table of a killed daemon keeps working, and the next daemon becomes the owner of the
// same table.
func TestOrphanIsClaimed(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":80")
	}
	s, p := ownedTestbed(t, top)
	s.succeed(t, "add --quiet tcp 8080 172.30.0.2:80")
	s.succeed(t, "add --quiet udp 8080 172.30.0.2:80")
	before := labtest.Exec(t, top.Host, "nft", "-a", "list", "table", "inet", "nftnat")
	flows := []*flow{dialFlow(t, top.Client, "tcp", "192.0.2.1:8080"), dialFlow(t, top.Client, "udp", "192.0.2.1:8080")}
	for range 3 {
		p.Kill()
		require.NotEqual(t, before, labtest.Exec(t, top.Host, "nft", "-a", "list", "table", "inet", "nftnat"), "its flags")
		for _, f := range flows {
			goesOn(t, f)
		}
		labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8080", "backend")
		p = s.serve(t)
		require.Equal(t, before, labtest.Exec(t, top.Host, "nft", "-a", "list", "table", "inet", "nftnat"))
		require.True(t, s.status(t).Table.Owned)
		require.Zero(t, s.status(t).Table.Repaired)
		require.NotZero(t, labtest.Run(t, top.Host, command(t, "nft", "delete table inet nftnat")).Code)
	}
	// A command with --direct owns it for a moment, and leaves it without an owner's flags.
	p.Kill()
	s.succeed(t, "--direct add --quiet tcp 8081 172.30.0.2:80")
	labtest.Reaches(t, top.Client, "tcp", "192.0.2.1:8081", "backend")
	require.NotContains(t, nft(t, top.Host, "list", "table", "inet", "nftnat"), "flags \n")
	s.serve(t)
	s.succeed(t, "rm tcp 8081")
	for _, f := range flows {
		goesOn(t, f)
	}
	s.succeed(t, "purge")
	require.Empty(t, nft(t, top.Host, "list", "ruleset"))
}

// A table without an owner becomes an owned one, and the reverse, with all that it holds and
// without a failing connection.
func TestOwnershipChanges(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "backend", ":80")
	}
	s, p := ownedTestbed(t, top)
	stop := func() {
		require.NoError(t, p.Signal(unix.SIGTERM))
		require.Zero(t, p.Wait())
	}
	stop()
	s.succeed(t, "--direct network create inside 172.31.7.0/24")
	s.succeed(t, "--direct attach --network inside web -p 80")
	s.succeed(t, "--direct add --quiet tcp 8080 172.30.0.2:80 --name mine")
	s.succeed(t, "--direct add --quiet udp 8080 172.30.0.2:80")
	plain := nft(t, top.Host, "list", "table", "inet", "nftnat")
	flows := []*flow{dialFlow(t, top.Client, "tcp", "192.0.2.1:8080"), dialFlow(t, top.Client, "udp", "192.0.2.1:8080")}
	tr := startTraffic(t, top.Client, "192.0.2.1:8080", "backend", 200)
	for range 3 {
		p = s.serve(t)
		require.True(t, s.status(t).Table.Owned)
		require.NotZero(t, labtest.Run(t, top.Host, command(t, "nft", "flush table inet nftnat")).Code)
		stop()
		p = s.serve(t, "--no-owner")
		require.False(t, s.status(t).Table.Owned)
		require.Contains(t, s.succeed(t, "status"), "inet nftnat, open to others\n")
		require.Equal(t, plain, nft(t, top.Host, "list", "table", "inet", "nftnat"))
		require.Zero(t, s.status(t).Table.Repaired)
		for _, f := range flows {
			goesOn(t, f)
		}
		stop()
	}
	require.Empty(t, tr.end(t))
	// nft(8) can load what it lists of a table without an owner.
	load(t, top.Host, "flush ruleset\n"+plain)
	require.Equal(t, plain, nft(t, top.Host, "list", "table", "inet", "nftnat"))
}
