// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// recorder is a UDP server that answers each datagram with the address of its sender and
// what was sent, and keeps these answers.
type recorder struct {
	mu  sync.Mutex
	all []string // guarded by mu
}

func record(t *testing.T, ns *lab.NS, addr string) *recorder {
	t.Helper()
	c, err := ns.ListenPacket("udp", addr)
	require.NoError(t, err)
	r := &recorder{}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = c.Close(); wg.Wait() })
	wg.Go(func() {
		buf := make([]byte, 64)
		for {
			n, from, err := c.(*net.UDPConn).ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
			answer := from.String() + " " + string(buf[:n])
			r.mu.Lock()
			r.all = append(r.all, answer)
			r.mu.Unlock()
			_, _ = c.WriteTo([]byte(answer), net.UDPAddrFromAddrPort(from))
		}
	})
	return r
}

// senders returns who has sent a datagram.
func (r *recorder) senders(datagram string) (all []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, answer := range r.all {
		var from, what string
		_, _ = fmt.Sscan(answer, &from, &what)
		if what == datagram {
			all = append(all, from)
		}
	}
	return all
}

// seeker is a UDP client that is not connected, as one that looks for a server.
type seeker struct{ *net.UDPConn }

func seek(t *testing.T, ns *lab.NS, from string) *seeker {
	t.Helper()
	c, err := ns.ListenPacket("udp", from) // package net sets SO_BROADCAST
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return &seeker{c.(*net.UDPConn)}
}

// send sends a datagram and returns its text, which no other has.
func (s *seeker) send(t *testing.T, to string) string {
	t.Helper()
	text := rand.Text()
	_, err := s.WriteToUDPAddrPort([]byte(text), netip.MustParseAddrPort(to))
	require.NoError(t, err)
	return text
}

// expect reads one datagram, which must answer the text, and returns from whom it is and
// whom the backend takes for its client.
func (s *seeker) expect(t *testing.T, text string) (from netip.AddrPort, client string) {
	t.Helper()
	require.NoError(t, s.SetReadDeadline(time.Now().Add(answerTimeout)))
	buf := make([]byte, 128)
	n, from, err := s.ReadFromUDPAddrPort(buf)
	require.NoError(t, err)
	var got string
	_, _ = fmt.Sscan(string(buf[:n]), &client, &got)
	require.Equal(t, text, got)
	return from, client
}

// A broadcast to a port that is published on any address reaches the backend once, and the
// answer leaves from the host's own address on the client's link.
func TestBroadcast(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartNeighbour | lab.PartOther})
	labtest.Exec(t, top.Host, "ip", "addr", "add", "203.0.113.1/24", "dev", lab.HostLAN)
	labtest.Exec(t, top.Client, "ip", "addr", "add", "203.0.113.2/24", "dev", lab.MachineLink)
	backend := record(t, top.Backend1, ":53")
	s := newTestbed(t, top.Host)
	s.serve(t)
	s.succeed(t, "add --quiet udp 7000 172.30.0.2:53")
	s.succeed(t, "add --quiet udp 0.0.0.0:7001 172.30.0.2:53")
	s.succeed(t, "add --quiet udp 7002 [fd00:30::2]:53")
	s.succeed(t, "add --quiet udp 0.0.0.0:7003 [fd00:30::2]:53")
	for port := 7000; port <= 7003; port++ {
		for i, c := range []struct {
			ns             *lab.NS
			from, to, host string
			asked          int // the client's own port; 0: any
		}{
			{top.Client, "192.0.2.2", "192.0.2.255", "192.0.2.1", 40001},
			{top.Neighbour, "192.0.2.3", "192.0.2.255", "192.0.2.1", 40001},
			{top.Client, "192.0.2.2", "192.0.2.255", "192.0.2.1", port},
			{top.Client, "203.0.113.2", "203.0.113.255", "203.0.113.1", 0},
			{top.Client, "192.0.2.2", "255.255.255.255", "192.0.2.1", 0},
			{top.Other, "172.31.0.2", "172.31.0.255", "172.31.0.1", 0},
			{top.Host, "192.0.2.1", "192.0.2.255", "192.0.2.1", 0},
		} {
			t.Run(fmt.Sprintf("%d/%d %s %s", port, i, c.ns, c.to), func(t *testing.T) {
				client := seek(t, c.ns, fmt.Sprintf("%s:%d", c.from, c.asked))
				var flow string
				for range 3 {
					text := client.send(t, fmt.Sprintf("%s:%d", c.to, port))
					from, seen := client.expect(t, text)
					require.Equal(t, fmt.Sprintf("%s:%d", c.host, port), from.String())
					require.Equal(t, []string{seen}, backend.senders(text), "once")
					require.Contains(t, []string{"", seen}, flow, "one flow")
					flow = seen
				}
				// What it then sends to that address alone is of the same flow.
				text := client.send(t, fmt.Sprintf("%s:%d", c.host, port))
				from, seen := client.expect(t, text)
				require.Equal(t, fmt.Sprintf("%s:%d", c.host, port), from.String())
				require.Equal(t, flow, seen)
			})
		}
	}
}

// The answer to a broadcast leaves by the link, and from the address there, on which the
// broadcast came, also where the route to the client is by another one.
func TestBroadcastFromElsewhere(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartOther})
	record(t, top.Backend1, ":53")
	labtest.Exec(t, top.Host, "ip", "route", "add", "192.0.2.2/32", "dev", lab.OtherBridge)
	s := newTestbed(t, top.Host)
	s.serve(t)
	for port, frontend := range map[int]string{7000: "7000", 7001: "0.0.0.0:7001"} {
		s.succeed(t, "add --quiet udp "+frontend+" 172.30.0.2:53")
		client := seek(t, top.Client, "192.0.2.2:0")
		from, _ := client.expect(t, client.send(t, at(netip.MustParseAddr("192.0.2.255"), port)))
		require.Equal(t, at(top.Host.V4, port), from.String())
	}
}

// What is not for a proxy: multicast, broadcasts to a mapping without one, and those that
// the backend hears itself.
func TestBroadcastToOthers(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2 | lab.PartNeighbour})
	backend := record(t, top.Backend1, ":53")
	s := newTestbed(t, top.Host)
	s.serve(t)
	s.succeed(t, "add --quiet udp 53 172.30.0.2:53")
	s.succeed(t, "add --quiet --no-proxy udp 7001 172.30.0.2:53")
	s.succeed(t, "add --quiet udp 0.0.0.0:7002 172.30.0.2:53")
	s.succeed(t, "add --quiet udp [::]:7003 [fd00:30::2]:53")
	// proxied returns when the proxies have handled what arrived before.
	proxied := func(port int, host string) {
		c := seek(t, top.Host, at(netip.MustParseAddr(host), 0))
		c.expect(t, c.send(t, at(netip.MustParseAddr(host), port)))
	}
	for _, c := range []struct {
		port      int
		from, to  string
		localhost string
	}{
		{53, "192.0.2.2", "224.0.0.1", "127.0.0.1"},
		{7002, "192.0.2.2", "224.0.0.1", "127.0.0.1"},
		{53, "2001:db8:1::2", "ff02::1%" + lab.MachineLink, "::1"},
		{7003, "2001:db8:1::2", "ff02::1%" + lab.MachineLink, "::1"},
		{7001, "192.0.2.2", "192.0.2.255", ""},
	} {
		client := seek(t, top.Client, at(netip.MustParseAddr(c.from), 0))
		text := client.send(t, at(netip.MustParseAddr(c.to), c.port))
		if c.localhost != "" {
			proxied(c.port, c.localhost)
		}
		next := seek(t, top.Client, at(netip.MustParseAddr(c.from), 0))
		host := top.Host.V4
		if c.localhost == "::1" {
			host = top.Host.V6
		}
		next.expect(t, next.send(t, at(host, c.port)))
		require.Empty(t, backend.senders(text), "%s:%d", c.to, c.port)
	}

	// A client without an address, whom no answer reaches.
	labtest.Exec(t, top.Neighbour, "ip", "-4", "addr", "flush", "dev", lab.MachineLink)
	nobody := seek(t, top.Neighbour, "0.0.0.0:0")
	raw, err := nobody.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		require.NoError(t, unix.BindToDevice(int(fd), lab.MachineLink))
	}))
	text := nobody.send(t, "255.255.255.255:53")
	next := seek(t, top.Client, "192.0.2.2:0")
	next.expect(t, next.send(t, "192.0.2.255:53"))
	require.Empty(t, backend.senders(text))

	sibling := seek(t, top.Backend2, "172.30.0.3:0")
	text = sibling.send(t, "172.30.0.255:53")
	from, seen := sibling.expect(t, text)
	require.Equal(t, "172.30.0.2:53", from.String())
	proxied(53, "127.0.0.1")
	require.Equal(t, []string{seen}, backend.senders(text))
	// It hears no other port than its own.
	text = sibling.send(t, "172.30.0.255:7002")
	from, _ = sibling.expect(t, text)
	require.Equal(t, "172.30.0.1:7002", from.String())
}
