// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// strays are packets that only pass if the rules find a set of ranges empty.
type strays struct {
	*missed
	// intruders came to a port of a guarded network that is not published, denied came by a range
	// that is for others, and bare left a network with the address of its backend.
	intruders, denied, bare atomic.Int64
	sent                    atomic.Int64
}

// Ports of the backend and of the client.
const (
	guardedPort = 81
	deniedPort  = 40001
	outsidePort = 7000
)

func startStrays(t *testing.T, top *lab.Topology) *strays {
	t.Helper()
	x := &strays{missed: startNewFlows(t, top, 100*time.Microsecond)}
	backend, client := top.Backend1.V4, top.Client.V4
	x.receive(t, top.Backend1, guardedPort, func(netip.Addr) { x.intruders.Add(1) })
	for _, ns := range []*lab.NS{top.Backend1, top.Host} {
		x.receive(t, ns, deniedPort, func(netip.Addr) { x.denied.Add(1) })
	}
	x.receive(t, top.Client, outsidePort, func(from netip.Addr) {
		if from == backend {
			x.bare.Add(1)
		}
	})
	x.each(t, top.Client, x.send(backend, guardedPort))
	x.each(t, top.Client, x.send(top.Host.V4, deniedPort))
	x.each(t, top.Backend1, x.send(client, outsidePort))
	return x
}

// receive calls f with the source of each datagram.
func (x *strays) receive(t *testing.T, ns *lab.NS, port int, f func(from netip.Addr)) {
	t.Helper()
	c, err := ns.ListenPacket("udp4", fmt.Sprint(":", port))
	require.NoError(t, err)
	x.closers = append(x.closers, c)
	go func() {
		for buf := make([]byte, 16); ; {
			_, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			f(from.(*net.UDPAddr).AddrPort().Addr().Unmap())
		}
	}()
}

// send returns a function that begins a flow of one datagram.
func (x *strays) send(to netip.Addr, port int) func() {
	addr := &syscall.SockaddrInet4{Port: port, Addr: to.As4()}
	return func() {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return
		}
		if syscall.Sendto(fd, []byte("x"), 0, addr) == nil {
			x.sent.Add(1)
		}
		_ = syscall.Close(fd)
	}
}

// stray is how many packets passed that must not.
type stray struct{ udp, tcp, intruders, denied, bare int64 }

func (s stray) minus(o stray) stray {
	return stray{s.udp - o.udp, s.tcp - o.tcp, s.intruders - o.intruders, s.denied - o.denied, s.bare - o.bare}
}

// total waits until those that are on their way have come, and returns how many there are.
func (x *strays) total() stray {
	load := func() stray {
		return stray{x.udpMissed.Load(), x.tcpMissed.Load(), x.intruders.Load(), x.denied.Load(), x.bare.Load()}
	}
	for last := load(); ; last = load() {
		time.Sleep(50 * time.Millisecond)
		if load() == last {
			return last
		}
	}
}

// envTables is how often TestReplacedTable has the table replaced in each way.
const envTables = "NFTNAT_TABLES"

// While an engine replaces its table, whatever the reason and however long that takes, packets are
// treated as before and after: the guard stays closed, ranges and what they are limited to stay as
// they are, and what a network sends leaves by the host's address.
func TestReplacedTable(t *testing.T) {
	times := labtest.RoundsOf(t, envTables, "replacements of a table in each way", 1, 4)
	const size = 5000
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1, Forwarding: true})
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "web", ":8080")
		labtest.Echo(t, top.Backend1, network, "web", ":5353")
	}
	require.NoError(t, top.Host.Sysctl("net.netfilter.nf_conntrack_udp_timeout", "1"))
	opts := engine.Options{NetNS: top.Host.Path(), NoProxies: true, Log: slog.New(slog.DiscardHandler)}
	begin := func() *engine.Engine {
		e, err := engine.Open(t.Context(), opts)
		require.NoError(t, err)
		return e
	}
	e := begin()
	_, err := e.CreateNetwork(t.Context(), nat.Network{Name: "inside", Prefix: top.Inside4})
	require.NoError(t, err)
	limited := mapping(t, "40000-40009->172.30.0.2:40000-40009/udp")
	limited.From = nattest.Sources(t, "198.51.100.0/24")
	ms := []nat.Mapping{mapping(t, "8000-8089->172.30.0.2:8000-8089"), mapping(t, "5353-5362->172.30.0.2:5353-5362/udp"), limited}
	for i := range size {
		m := mapping(t, "20000->172.30.0.2:80")
		m.Frontend = netip.AddrPortFrom(netip.Addr{}, uint16(20000+2*i)) // no ranges
		ms = append(ms, m)
	}
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, ms...)
	require.NoError(t, err)
	require.NoError(t, e.Close())
	text := nft(t, top.Host, "list", "table", "inet", "nftnat")
	older := filepath.Join(t.TempDir(), "table.nft")
	require.NoError(t, os.WriteFile(older, []byte("delete table inet nftnat\n"+strings.Replace(text, "nftnat schema 4", "nftnat schema 3", 1)), 0o600))

	x := startStrays(t, top)
	ways := []struct {
		what        string
		before, way func()
	}{
		{"an upgrade", func() { nft(t, top.Host, "-f", older) }, func() { e = begin() }},
		{"an end", nil, func() { require.NoError(t, e.Close()) }},
		{"a begin", nil, func() { e = begin() }},
		{"a repair", func() {
			require.NoError(t, e.Close())
			opts.NoOwner = true
			e = begin()
			load(t, top.Host, "delete set inet nftnat cursors4; add set inet nftnat cursors4 { type ipv4_addr; flags timeout; }; delete element inet nftnat tcp4 { 20000 }")
		}, func() { unpublish(t, e, "20000->172.30.0.2:80") }},
	}
	totals := make([]stray, len(ways))
	took := make([]time.Duration, len(ways))
	for range times {
		opts.NoOwner = false
		for i, w := range ways {
			if w.before != nil {
				w.before()
				labtest.Exec(t, top.Host, "conntrack", "-F") // what has come by while nft(8) changed the table comes again
			}
			made := x.tcpMade.Load()
			await(t, "connections", func() bool { return x.tcpMade.Load() > made+10 })
			before, at := x.total(), time.Now()
			w.way()
			took[i] += time.Since(at)
			totals[i] = totals[i].minus(before.minus(x.total()))
		}
		require.NotContains(t, nft(t, top.Host, "list", "set", "inet", "nftnat", "cursors4"), "timeout")
		publish(t, e, "20000->172.30.0.2:80")
		require.NoError(t, e.Close())
	}
	x.end()
	for i, w := range ways {
		t.Logf("%d times %s, %v each: %+v", times, w.what, took[i]/time.Duration(times), totals[i])
	}
	t.Logf("%d UDP and %d TCP flows, %d other datagrams", x.udpSent.Load(), x.tcpMade.Load(), x.sent.Load())
	for i, w := range ways {
		require.Zero(t, totals[i], w.what)
	}
	require.Equal(t, "table inet nftnat\n", nft(t, top.Host, "list", "tables"))
}

// A daemon that is killed while a stand-in serves leaves the table whole and no stand-in. One that is not
// killed, confined or not, can make one.
func TestStandInKilled(t *testing.T) {
	top, s := proxiedHost(t)
	daemon := s.serve(t)
	s.publishEveryKind(t)
	s.succeed(t, "network create inside 172.30.0.0/24")
	if !s.status(t).Table.Owned {
		t.Skip("needs a kernel with persistent owned tables (6.9)")
	}
	const tables = "table inet nftnat\n"
	elements := sortedElements(t, top.Host)
	for range 3 {
		require.NoError(t, daemon.Signal(unix.SIGTERM))
		require.Zero(t, daemon.Wait(), daemon.Output())
		require.NotContains(t, daemon.Output(), "stands in")
		require.Equal(t, tables, nft(t, top.Host, "list", "tables"))
		changes := watchTable(t, top.Host)
		next := labtest.StartCmd(t, top.Host, s.command(t, "serve"))
		changes.await(t, "nftnat-stand-in")
		next.Kill()
		require.Equal(t, tables, nft(t, top.Host, "list", "tables"))
		require.Equal(t, elements, sortedElements(t, top.Host))
		daemon = s.serve(t)
		require.Equal(t, elements, sortedElements(t, top.Host))
	}
}
