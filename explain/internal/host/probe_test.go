// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// A probe says what a client would meet, soon if there is an answer.
func TestProbe(t *testing.T) {
	l := newHostLab(t)
	labtest.Exec(t, l.backend, "nft", "add table inet t; add chain inet t c { type filter hook input priority 0; }; add rule inet t c tcp dport 81 drop; add rule inet t c tcp dport 82 reject with icmpx type admin-prohibited")
	labtest.Start(t, l.backend, "sleep", "60") // by which its namespace is found
	web, err := l.backend.Listen("tcp", "[::]:80")
	require.NoError(t, err)
	var accepted atomic.Int32
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := web.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			_ = c.Close()
		}
	}()
	defer func() { _ = web.Close(); <-served }()
	dns, err := l.backend.ListenPacket("udp4", "0.0.0.0:53")
	require.NoError(t, err)
	defer func() { _ = dns.Close() }()
	own, err := l.host.Listen("tcp4", "127.0.0.1:99")
	require.NoError(t, err)
	defer func() { _ = own.Close() }()
	batch(t, l.host, "neigh add 172.30.0.9 lladdr 02:00:00:00:00:09 dev br0\nroute add blackhole 172.30.0.66\n")

	h := open(t, l.host)
	for _, c := range []struct {
		proto   uint8
		backend string
		want    ProbeAnswer
		soon    bool
	}{
		{unix.IPPROTO_TCP, "172.30.0.2:80", Answers, true},
		{unix.IPPROTO_TCP, "[fd30::2]:80", Answers, true},
		{unix.IPPROTO_TCP, "172.30.0.2:79", Refused, true},
		{unix.IPPROTO_TCP, "[fd30::2]:79", Refused, true},
		{unix.IPPROTO_TCP, "172.30.0.2:81", Silent, false},
		{unix.IPPROTO_TCP, "172.30.0.2:82", Unreachable, true},
		{unix.IPPROTO_TCP, "172.30.0.7:80", NoNeighbour, false},
		{unix.IPPROTO_TCP, "[fd30::7]:80", NoNeighbour, false},
		{unix.IPPROTO_TCP, "172.30.0.9:80", Silent, false},
		{unix.IPPROTO_TCP, "172.30.0.66:80", Unreachable, true},
		{unix.IPPROTO_TCP, "203.0.113.1:80", Unreachable, true},
		{unix.IPPROTO_TCP, "127.0.0.1:99", Answers, true},
		{unix.IPPROTO_TCP, "127.0.0.1:98", Refused, true},
		{unix.IPPROTO_UDP, "172.30.0.2:53", Answers, true},
		{unix.IPPROTO_UDP, "172.30.0.2:54", Refused, true},
		{unix.IPPROTO_UDP, "172.30.0.8:53", NoNeighbour, false},
		{unix.IPPROTO_UDP, "172.30.0.9:53", Unasked, true},
	} {
		r := h.Probe(context.Background(), c.proto, netip.MustParseAddrPort(c.backend), 400*time.Millisecond)
		about := fmt.Sprintf("%d %s: %s: %+v", c.proto, c.backend, r.Answer, r)
		require.Equal(t, c.want, r.Answer, about)
		require.Equal(t, c.soon, r.Took < 390*time.Millisecond, about)
	}
	require.Zero(t, accepted.Load(), "the server does not learn of it")
	require.Equal(t, "172.30.0.9 dev br0 lladdr 02:00:00:00:00:09 PERMANENT", neighbourOf(t, h, "172.30.0.9"))
	c, err := l.host.Dial(context.Background(), "tcp", "172.30.0.2:80")
	require.NoError(t, err)
	require.NoError(t, c.Close())

	var all []Backend
	for port := range uint16(30) {
		all = append(all, Backend{unix.IPPROTO_TCP, netip.AddrPortFrom(netip.MustParseAddr("172.30.0.2"), 70+port)})
	}
	begin := time.Now()
	for i, r := range h.ProbeAll(context.Background(), all, 150*time.Millisecond) {
		want := Refused
		switch i {
		case 10:
			want = Answers
		case 11:
			want = Silent
		case 12:
			want = Unreachable
		}
		require.Equal(t, want, r.Answer, "%d: %+v", i, r)
		require.Equal(t, netip.MustParseAddr("172.30.0.1"), r.Source)
	}
	require.Less(t, time.Since(begin), time.Second)
}

func neighbourOf(t *testing.T, h *Host, addr string) string {
	t.Helper()
	br0, err := h.LinkByName("br0")
	require.NoError(t, err)
	n, err := h.Neighbour(netip.MustParseAddr(addr), br0.Index)
	require.NoError(t, err)
	if n == nil {
		return ""
	}
	return n.String()
}

// A neighbour that the kernel takes for reachable is asked anew.
func TestProbeStale(t *testing.T) {
	l := newHostLab(t)
	labtest.Start(t, l.backend, "sleep", "60")
	h := open(t, l.host)
	backend := netip.MustParseAddrPort("172.30.0.2:80")
	require.Equal(t, Refused, h.Probe(context.Background(), unix.IPPROTO_TCP, backend, 0).Answer)
	batch(t, l.backend, "addr del 172.30.0.2/24 dev e0\n")
	r := h.Probe(context.Background(), unix.IPPROTO_TCP, backend, 0)
	require.Equal(t, NoNeighbour, r.Answer, "%+v", r)
	batch(t, l.backend, "addr add 172.30.0.2/24 dev e0\n")
	r = h.Probe(context.Background(), unix.IPPROTO_UDP, backend, 0)
	require.Equal(t, Refused, r.Answer, "%+v", r)
	require.True(t, r.Confirmed)

	// So is one that it has asked in vain just now.
	other := netip.MustParseAddrPort("172.30.0.5:80")
	require.Equal(t, NoNeighbour, h.Probe(context.Background(), unix.IPPROTO_UDP, other, 10*time.Millisecond).Answer)
	require.Equal(t, "172.30.0.5 dev br0 INCOMPLETE", neighbourOf(t, h, "172.30.0.5"))
	batch(t, l.backend, "addr add 172.30.0.5/24 dev e0\n")
	require.Equal(t, Refused, h.Probe(context.Background(), unix.IPPROTO_UDP, other, 0).Answer)
}

// The namespace behind a link is opened if it has a process or a name.
func TestPeer(t *testing.T) {
	l := newHostLab(t)
	backend := netip.MustParseAddr("172.30.0.2")
	h := open(t, l.host)
	p, _, err := h.peer(backend)
	require.NoError(t, err)
	require.Nil(t, p) // its neighbour is not known
	labtest.Start(t, l.backend, "sleep", "60")
	require.Equal(t, Refused, h.Probe(context.Background(), unix.IPPROTO_TCP, netip.AddrPortFrom(backend, 80), 0).Answer)
	p, _, err = h.peer(backend)
	require.NoError(t, err)
	require.NotNil(t, p)
	a, err := p.Address(backend)
	require.NoError(t, err)
	require.NotNil(t, a)
	route, fault, err := p.Lookup(RouteQuery{Dst: netip.MustParseAddr("192.0.2.2"), Src: backend, Proto: unix.IPPROTO_TCP})
	require.NoError(t, err)
	require.Nil(t, fault)
	require.Equal(t, "default via 172.30.0.1 dev e0 in table main", route.Text)
	require.NoError(t, p.Close())
	batch(t, l.backend, "route del default\n")
	p, _, err = h.peer(backend)
	require.NoError(t, err)
	_, fault, err = p.Lookup(RouteQuery{Dst: netip.MustParseAddr("192.0.2.2"), Src: backend, Proto: unix.IPPROTO_TCP})
	require.NoError(t, err)
	require.Equal(t, FaultNoRoute, fault.Kind)
	require.NoError(t, p.Close())
	port, err := h.PortOf(backend)
	require.NoError(t, err)
	require.Equal(t, "vb1", port.Name)
	p, _, err = h.peer(netip.MustParseAddr("203.0.113.1"))
	require.NoError(t, err)
	require.Nil(t, p)
}
