// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/bpf/internal/sys"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// socket is one of the kernel's, whose calls do what they say and no more.
type socket struct {
	t  *testing.T
	fd int
}

func newSocket(t *testing.T, ns *lab.NS, family, kind, protocol int) *socket {
	t.Helper()
	s := &socket{t: t, fd: -1}
	require.NoError(t, ns.Do(func() (err error) {
		s.fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
		return err
	}))
	t.Cleanup(s.close)
	limit := unix.NsecToTimeval(int64(labtest.Stretch(5 * time.Second)))
	require.NoError(t, unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
	require.NoError(t, unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit))
	return s
}

func tcp4(t *testing.T, ns *lab.NS) *socket {
	t.Helper()
	return newSocket(t, ns, unix.AF_INET, unix.SOCK_STREAM, 0)
}
func tcp6(t *testing.T, ns *lab.NS) *socket {
	t.Helper()
	return newSocket(t, ns, unix.AF_INET6, unix.SOCK_STREAM, 0)
}
func udp4(t *testing.T, ns *lab.NS) *socket {
	t.Helper()
	return newSocket(t, ns, unix.AF_INET, unix.SOCK_DGRAM, 0)
}
func udp6(t *testing.T, ns *lab.NS) *socket {
	t.Helper()
	return newSocket(t, ns, unix.AF_INET6, unix.SOCK_DGRAM, 0)
}

func (s *socket) close() {
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
		s.fd = -1
	}
}

func sockaddr(addr string) unix.Sockaddr {
	a := netip.MustParseAddrPort(addr)
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func addrString(name unix.Sockaddr) string {
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(name.Addr), uint16(name.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(name.Addr), uint16(name.Port)).String()
	}
	return "none"
}

func (s *socket) bind(addr string) *socket {
	s.t.Helper()
	require.NoError(s.t, unix.Bind(s.fd, sockaddr(addr)))
	return s
}

func (s *socket) set(level, name, value int) *socket {
	s.t.Helper()
	require.NoError(s.t, unix.SetsockoptInt(s.fd, level, name, value))
	return s
}

func (s *socket) connect(addr string) *socket {
	s.t.Helper()
	require.NoError(s.t, unix.Connect(s.fd, sockaddr(addr)), addr)
	return s
}

func (s *socket) peer() string {
	s.t.Helper()
	name, err := unix.Getpeername(s.fd)
	require.NoError(s.t, err)
	return addrString(name)
}

func (s *socket) name() string {
	s.t.Helper()
	name, err := unix.Getsockname(s.fd)
	require.NoError(s.t, err)
	return addrString(name)
}

// to sends a datagram.
func (s *socket) to(addr string) *socket {
	s.t.Helper()
	require.NoError(s.t, unix.Sendto(s.fd, []byte("x"), 0, sockaddr(addr)), addr)
	return s
}

// from receives a datagram: the name of the server, and the address that it comes from.
func (s *socket) from() (name, from string) {
	s.t.Helper()
	b := make([]byte, 2000)
	var n int
	var addr unix.Sockaddr
	err := uninterrupted(func() (err error) {
		n, addr, err = unix.Recvfrom(s.fd, b, 0)
		return err
	})
	require.NoError(s.t, err, "no answer to %s", s.name())
	name, _, _ = strings.Cut(string(b[:n]), " ")
	return name, addrString(addr)
}

// answers checks that a server answers from the address.
func (s *socket) answers(server, addr string) {
	s.t.Helper()
	name, from := s.from()
	require.Equal(s.t, [2]string{server, addr}, [2]string{name, from})
}

// reads returns the name of a TCP server.
func (s *socket) reads() string {
	s.t.Helper()
	b := make([]byte, 2000)
	var n int
	err := uninterrupted(func() (err error) {
		n, err = unix.Read(s.fd, b)
		return err
	})
	require.NoError(s.t, err)
	name, _, _ := strings.Cut(string(b[:n]), " ")
	return name
}

// uninterrupted makes a system call until no signal interrupts it. The kernel does not begin one anew by itself on a socket with
// a time-out (signal(7)), and the runtime sends signals to its threads.
func uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// localhost is a topology with frontends on localhost: 8080 of all addresses leads to port 80 of web, in the same family; [::1]:8081 to it in
// IPv4, and 127.0.0.1:8086 in IPv6; 1000 to 1999 to the same ports of wide. Servers named host are on localhost itself, where proxies would be.
func localhost(t *testing.T) (*lab.Topology, *Local, bool) {
	t.Helper()
	labtest.LeakCheck(t)
	top := labtest.NewTopology(t, lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2})
	l, ok := openLocal(t, top.Host)
	if !ok {
		return nil, nil, false
	}
	for _, network := range []string{"tcp", "udp"} {
		labtest.Echo(t, top.Backend1, network, "web", ":80")
		for _, port := range []string{":1000", ":1500", ":1999"} {
			labtest.Echo(t, top.Backend2, network, "wide", port)
		}
		for _, port := range []string{":8080", ":8081", ":8086", ":1500", ":9000"} {
			labtest.Echo(t, top.Host, network, "host", port)
		}
	}
	for _, protocol := range []uint32{TCP, UDP} {
		require.NoError(t, l.Put(
			entry(protocol, "0.0.0.0:8080", "172.30.0.2:80"),
			entry(protocol, "[::]:8080", "[fd00:30::2]:80"),
			entry(protocol, "[::1]:8081", "172.30.0.2:80"),
			entry(protocol, "127.0.0.1:8086", "[fd00:30::2]:80"),
			ranged(protocol, "0.0.0.0:1000", 1999, "172.30.0.3:1000"),
			ranged(protocol, "[::]:1000", 1999, "[fd00:30::3]:1000"),
		))
	}
	return top, l, true
}

// TestLocalTCP: where connections lead, and what a program sees of their ends.
func TestLocalTCP(t *testing.T) {
	top, _, ok := localhost(t)
	if !ok {
		return
	}
	for _, c := range []struct {
		open                   func(*testing.T, *lab.NS) *socket
		asks, peer, name, from string
	}{
		{tcp4, "127.0.0.1:8080", "127.0.0.1:8080", "web", "172.30.0.1"},
		{tcp4, "127.1.2.3:8080", "127.1.2.3:8080", "web", "172.30.0.1"},
		{tcp4, "0.0.0.0:8080", "127.0.0.1:8080", "web", "172.30.0.1"},
		{tcp4, "127.0.0.1:1500", "127.0.0.1:1500", "wide", "172.30.0.1"},
		{tcp4, "127.0.0.1:9000", "127.0.0.1:9000", "host", "127.0.0.1"},
		{tcp4, "172.30.0.2:80", "172.30.0.2:80", "web", "172.30.0.1"},
		{tcp4, "127.0.0.1:8086", "127.0.0.1:8086", "host", "127.0.0.1"}, // a proxy's
		{tcp6, "[::1]:8080", "[::1]:8080", "web", "fd00:30::1"},
		{tcp6, "[::]:8080", "[::1]:8080", "web", "fd00:30::1"},
		{tcp6, "[::1]:1999", "[::1]:1999", "wide", "fd00:30::1"},
		{tcp6, "[::1]:9000", "[::1]:9000", "host", "::1"},
		{tcp6, "[::1]:8081", "[::1]:8081", "web", "::ffff:172.30.0.1"},
		{tcp6, "[::ffff:127.0.0.1]:8080", "[::ffff:127.0.0.1]:8080", "web", "::ffff:172.30.0.1"},
		{tcp6, "[::ffff:0.0.0.0]:8080", "[::ffff:127.0.0.1]:8080", "web", "::ffff:172.30.0.1"},
		{tcp6, "[::ffff:127.0.0.1]:1000", "[::ffff:127.0.0.1]:1000", "wide", "::ffff:172.30.0.1"},
		{tcp6, "[::ffff:127.0.0.1]:8086", "[::ffff:127.0.0.1]:8086", "web", "fd00:30::1"},
		{tcp6, "[::ffff:127.0.0.1]:9000", "[::ffff:127.0.0.1]:9000", "host", "::ffff:127.0.0.1"},
	} {
		s := c.open(t, top.Host).connect(c.asks)
		require.Equal(t, c.name, s.reads(), c.asks)
		require.Equal(t, c.peer, s.peer(), c.asks)
		require.Equal(t, c.from, netip.MustParseAddrPort(s.name()).Addr().String(), c.asks)
		s.close()
	}
}

// TestLocalConnectedUDP: a socket that is connected, again, to something else, and no more.
func TestLocalConnectedUDP(t *testing.T) {
	top, _, ok := localhost(t)
	if !ok {
		return
	}
	s := udp4(t, top.Host)
	for _, c := range [][2]string{{"127.0.0.1:8080", "web"}, {"127.0.0.1:1500", "wide"}, {"127.0.0.2:1999", "wide"}, {"172.30.0.2:80", "web"},
		{"127.0.0.1:8080", "web"}, {"127.0.0.1:1000", "wide"}, {"127.0.0.1:1500", "wide"}, {"127.9.0.1:8080", "web"}} {
		s.connect(c[0])
		require.Equal(t, c[0], s.peer())
		_, err := unix.Write(s.fd, []byte("x"))
		require.NoError(t, err)
		s.answers(c[1], c[0])
	}

	for _, c := range [][2]string{{"[::1]:8080", "web"}, {"[::1]:1500", "wide"}, {"[fd00:30::2]:80", "web"}, {"[::1]:8080", "web"}} {
		s := udp6(t, top.Host).connect(c[0])
		require.Equal(t, c[0], s.peer())
		_, err := unix.Write(s.fd, []byte("x"))
		require.NoError(t, err)
		s.answers(c[1], c[0])
	}
	for _, asks := range []string{"[::1]:8081", "[::ffff:127.0.0.1]:8080", "[::ffff:127.0.0.1]:8086"} {
		s := udp6(t, top.Host).connect(asks)
		require.Equal(t, asks, s.peer())
		_, err := unix.Write(s.fd, []byte("x"))
		require.NoError(t, err)
		s.answers("web", asks)
		require.Equal(t, asks, s.peer())
		s.close()
	}
}

// TestLocalUnconnectedUDP: one socket sends to frontends and elsewhere, and each answer has the name that was asked.
func TestLocalUnconnectedUDP(t *testing.T) {
	top, l, ok := localhost(t)
	if !ok {
		return
	}
	for _, c := range []struct {
		open func(*testing.T, *lab.NS) *socket
		asks [][2]string
	}{
		{udp4, [][2]string{{"127.0.0.1:8080", "web"}, {"127.0.0.1:1500", "wide"}, {"127.0.0.1:9000", "host"}, {"127.0.0.1:8086", "host"}, {"172.30.0.2:80", "web"},
			{"127.7.7.7:8080", "web"}, {"127.0.0.1:1000", "wide"}, {"127.0.0.1:1999", "wide"}}},
		{udp6, [][2]string{{"[::1]:8080", "web"}, {"[::1]:1500", "wide"}, {"[::1]:9000", "host"}, {"[::1]:8081", "host"}, {"[fd00:30::2]:80", "web"},
			{"[::1]:1000", "wide"}}},
		{udp6, [][2]string{{"[::ffff:127.0.0.1]:8080", "web"}, {"[::1]:8080", "web"}, {"[::ffff:127.0.0.1]:1500", "wide"}, {"[::ffff:127.0.0.1]:9000", "host"},
			{"[::ffff:127.0.0.1]:8086", "host"}, {"[::ffff:172.30.0.2]:80", "web"}, {"[::ffff:127.0.0.1]:1000", "wide"}}},
	} {
		for _, bound := range []bool{false, true} {
			s := c.open(t, top.Host)
			if bound {
				name := map[bool]string{false: "[::]:4000", true: "0.0.0.0:4000"}[c.asks[0][0][0] != '[']
				s.bind(name)
			}
			for range 2 {
				for _, ask := range c.asks {
					s.to(ask[0]).answers(ask[1], ask[0])
				}
			}
			s.close()
		}
	}
	udp4(t, top.Host).to("0.0.0.0:8080").answers("web", "127.0.0.1:8080")
	udp6(t, top.Host).to("[::]:8080").answers("web", "[::1]:8080")

	// More frontends than a socket has room for, all asked before the first answer is read; and again, to other backends.
	for round, backend := range []string{"172.30.0.2:80", "172.30.0.3:1500"} {
		const many = 50
		want := map[string]bool{}
		var entries []LocalEntry
		for i := range many {
			// Each has a backend of its own, which is one of two sockets.
			frontend := netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(20000+i))
			entries = append(entries, LocalEntry{Protocol: UDP, Frontend: frontend, Backend: netip.MustParseAddrPort(backend)})
		}
		require.NoError(t, l.Put(entries...))
		s := udp4(t, top.Host)
		for _, e := range entries {
			addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), e.Frontend.Port()).String()
			s.to(addr).answers([]string{"web", "wide"}[round], addr)
			want[addr] = true
		}
		require.Len(t, want, many)
	}
}

// TestLocalLeftAlone: sockets that cannot reach a backend reach what listens on localhost.
func TestLocalLeftAlone(t *testing.T) {
	top, _, ok := localhost(t)
	if !ok {
		return
	}
	const device = "lo"
	bindTo := func(s *socket) *socket {
		require.NoError(t, unix.BindToDevice(s.fd, device))
		return s
	}
	v6only := func(s *socket) *socket { return s.set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1) }
	noPort := func(s *socket) *socket { return s.set(unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1) }
	for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
		for what, c := range map[string]struct {
			family int
			change func(*socket) *socket
			asks   string
			want   string
		}{
			"bound to 127.0.0.1":            {unix.AF_INET, func(s *socket) *socket { return s.bind("127.0.0.1:0") }, "127.0.0.1:8080", "host"},
			"bound to 127.0.0.1, no port":   {unix.AF_INET, func(s *socket) *socket { return noPort(s).bind("127.0.0.1:0") }, "127.0.0.1:8080", "host"},
			"bound to an address":           {unix.AF_INET, func(s *socket) *socket { return s.bind("192.0.2.1:0") }, "127.0.0.1:8080", "host"},
			"bound to all":                  {unix.AF_INET, func(s *socket) *socket { return s.bind("0.0.0.0:0") }, "127.0.0.1:8080", "web"},
			"bound to a port":               {unix.AF_INET, func(s *socket) *socket { return s.bind("0.0.0.0:4001") }, "127.0.0.1:8080", "web"},
			"on lo":                         {unix.AF_INET, bindTo, "127.0.0.1:8080", "host"},
			"marked":                        {unix.AF_INET, func(s *socket) *socket { return s.set(unix.SOL_SOCKET, unix.SO_MARK, 7) }, "127.0.0.1:8080", "host"},
			"bound to ::1":                  {unix.AF_INET6, func(s *socket) *socket { return s.bind("[::1]:0") }, "[::1]:8080", "host"},
			"bound to ::1, IPv4":            {unix.AF_INET6, func(s *socket) *socket { return s.bind("[::1]:0") }, "[::1]:8081", "host"},
			"bound to ::ffff:127.0.0.1":     {unix.AF_INET6, func(s *socket) *socket { return s.bind("[::ffff:127.0.0.1]:0") }, "[::ffff:127.0.0.1]:8080", "host"},
			"bound to ::":                   {unix.AF_INET6, func(s *socket) *socket { return s.bind("[::]:0") }, "[::1]:8080", "web"},
			"on lo, IPv6":                   {unix.AF_INET6, bindTo, "[::1]:8080", "host"},
			"for IPv6 alone, to IPv4":       {unix.AF_INET6, v6only, "[::1]:8081", "host"},
			"for IPv6 alone":                {unix.AF_INET6, v6only, "[::1]:8080", "web"},
			"for IPv6 alone, bound to all":  {unix.AF_INET6, func(s *socket) *socket { return v6only(s).bind("[::]:0") }, "[::1]:8081", "host"},
			"bound to ::, to IPv4":          {unix.AF_INET6, func(s *socket) *socket { return s.bind("[::]:0") }, "[::1]:8081", "web"},
			"bound to ::, mapped":           {unix.AF_INET6, func(s *socket) *socket { return s.bind("[::]:0") }, "[::ffff:127.0.0.1]:8080", "web"},
			"marked, IPv6":                  {unix.AF_INET6, func(s *socket) *socket { return s.set(unix.SOL_SOCKET, unix.SO_MARK, 7) }, "[::1]:8080", "host"},
			"bound to ::ffff:127.0.0.1, v6": {unix.AF_INET6, func(s *socket) *socket { return s.bind("[::ffff:127.0.0.1]:0") }, "[::ffff:127.0.0.1]:8086", "host"},
		} {
			s := c.change(newSocket(t, top.Host, c.family, kind, 0)).connect(c.asks)
			require.Equal(t, c.asks, s.peer(), what)
			if kind == unix.SOCK_STREAM {
				require.Equal(t, c.want, s.reads(), what)
			} else {
				_, err := unix.Write(s.fd, []byte("x"))
				require.NoError(t, err)
				s.answers(c.want, c.asks)
			}
			s.close()
			if kind == unix.SOCK_STREAM {
				continue
			}
			want := c.want
			if c.asks == "[::1]:8081" {
				want = "host" // IPv4, and not connected
			}
			if c.asks == "[::ffff:127.0.0.1]:8086" {
				want = "host"
			}
			c.change(newSocket(t, top.Host, c.family, kind, 0)).to(c.asks).answers(want, c.asks)
		}
	}
}

// TestLocalSource: a message that names its source (IP_PKTINFO).
func TestLocalSource(t *testing.T) {
	top, _, ok := localhost(t)
	if !ok {
		return
	}
	send := func(s *socket, control []byte, addr string) *socket {
		require.NoError(t, unix.Sendmsg(s.fd, []byte("x"), control, sockaddr(addr), 0))
		return s
	}
	for source, want := range map[string]string{"127.0.0.1": "web", "127.3.3.3": "web", "0.0.0.0": "web", "192.0.2.1": "host"} {
		control := unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: netip.MustParseAddr(source).As4()})
		send(udp4(t, top.Host), control, "127.0.0.1:8080").answers(want, "127.0.0.1:8080")
		send(udp6(t, top.Host), control, "[::ffff:127.0.0.1]:8080").answers(want, "[::ffff:127.0.0.1]:8080")
	}
	for source, want := range map[string]string{"::1": "web", "::": "web", "2001:db8:1::1": "host"} {
		control := unix.PktInfo6(&unix.Inet6Pktinfo{Addr: netip.MustParseAddr(source).As16()})
		send(udp6(t, top.Host), control, "[::1]:8080").answers(want, "[::1]:8080")
	}
}

// TestLocalFastOpen: data in the SYN.
func TestLocalFastOpen(t *testing.T) {
	top, _, ok := localhost(t)
	if !ok {
		return
	}
	require.NoError(t, top.Host.Sysctl("net.ipv4.tcp_fastopen", "1"))
	for range 2 {
		for _, addr := range []string{"127.0.0.1:8080", "[::1]:8080", "[::1]:8081"} {
			open := tcp4
			if addr[0] == '[' {
				open = tcp6
			}
			s := open(t, top.Host)
			require.NoError(t, unix.Sendto(s.fd, []byte("x"), unix.MSG_FASTOPEN, sockaddr(addr)))
			require.Equal(t, "web", s.reads())
			require.Equal(t, addr, s.peer())
			s = open(t, top.Host).set(unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1).connect(addr)
			_, err := unix.Write(s.fd, []byte("x"))
			require.NoError(t, err)
			require.Equal(t, "web", s.reads())
			require.Equal(t, addr, s.peer())
		}
	}
}

// TestLocalMPTCP: the peer is a frontend by name also where the socket has no record of its own, and is not where it connected to the backend
// itself.
func TestLocalMPTCP(t *testing.T) {
	top, _, ok := localhost(t)
	if !ok {
		return
	}
	for _, blocking := range []bool{true, false} {
		for _, c := range [][2]string{{"127.0.0.1:8080", "web"}, {"172.30.0.2:80", "web"}, {"[::1]:8080", "web"}, {"[::1]:8081", "web"}, {"[fd00:30::2]:80", "web"},
			{"127.0.0.1:1500", "wide"}, {"127.0.0.1:9000", "host"}, {"[::ffff:127.0.0.1]:8080", "web"}} {
			family := unix.AF_INET
			if c[0][0] == '[' {
				family = unix.AF_INET6
			}
			s := newSocket(t, top.Host, family, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
			if blocking {
				s.connect(c[0])
			} else {
				require.NoError(t, unix.SetNonblock(s.fd, true))
				require.ErrorIs(t, unix.Connect(s.fd, sockaddr(c[0])), unix.EINPROGRESS)
				require.NoError(t, uninterrupted(func() error {
					_, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}, 5000)
					return err
				}))
				require.NoError(t, unix.SetNonblock(s.fd, false))
			}
			require.Equal(t, c[1], s.reads(), c[0])
			require.Equal(t, c[0], s.peer())
			s.close()
		}
	}
}

// TestLocalAccepted: those who connect to a server of the host from a published port of a backend keep their name.
func TestLocalAccepted(t *testing.T) {
	top, l, ok := localhost(t)
	if !ok {
		return
	}
	require.NoError(t, l.Put(entry(TCP, "0.0.0.0:8088", "172.30.0.2:8088")))
	for _, protocol := range []int{unix.IPPROTO_TCP, unix.IPPROTO_MPTCP} {
		server := newSocket(t, top.Host, unix.AF_INET, unix.SOCK_STREAM, protocol).set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1).bind("172.30.0.1:7000")
		require.NoError(t, unix.Listen(server.fd, 5))
		client := newSocket(t, top.Backend1, unix.AF_INET, unix.SOCK_STREAM, protocol).set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1).bind("172.30.0.2:8088")
		client.connect("172.30.0.1:7000")
		accepted, from, err := unix.Accept(server.fd)
		require.NoError(t, err)
		require.Equal(t, "172.30.0.2:8088", addrString(from))
		peer, err := unix.Getpeername(accepted)
		require.NoError(t, err)
		require.Equal(t, "172.30.0.2:8088", addrString(peer))
		require.NoError(t, unix.Close(accepted))
		client.close()
		server.close()
	}
}

// TestLocalLed: what is known of sockets that are connected, until they are closed.
func TestLocalLed(t *testing.T) {
	top, l, ok := localhost(t)
	if !ok {
		return
	}
	cookie := func(s *socket) uint64 {
		c, err := unix.GetsockoptUint64(s.fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		require.NoError(t, err)
		return c
	}
	led := func() (n int) {
		require.NoError(t, l.maps[mapLed].Each(func(_, _ []byte) { n++ }))
		return n
	}
	for _, c := range []struct {
		s                       *socket
		asks, frontend, backend string
	}{
		{tcp4(t, top.Host), "127.0.0.1:8080", "127.0.0.1:8080", "172.30.0.2:80"},
		{udp4(t, top.Host), "127.0.0.1:1500", "127.0.0.1:1500", "172.30.0.3:1500"},
		{tcp6(t, top.Host), "[::1]:8081", "[::1]:8081", "172.30.0.2:80"},
		{udp6(t, top.Host), "[::ffff:127.0.0.1]:8086", "127.0.0.1:8086", "[fd00:30::2]:80"},
	} {
		c.s.connect(c.asks)
		frontend, backend, ok := l.Connected(cookie(c.s))
		require.True(t, ok)
		require.Equal(t, [2]string{c.frontend, c.backend}, [2]string{frontend.String(), backend.String()})
		require.Equal(t, 1, led())
		c.s.close()
		require.Zero(t, led())
	}
	s := udp4(t, top.Host).connect("127.0.0.1:8080").connect("172.30.0.2:80")
	_, _, ok = l.Connected(cookie(s))
	require.False(t, ok)
	s = tcp4(t, top.Host).connect("172.30.0.2:80")
	_, _, ok = l.Connected(cookie(s))
	require.False(t, ok)
	s = newSocket(t, top.Host, unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP).connect("127.0.0.1:8080")
	require.Equal(t, 1, led())
	require.Equal(t, "127.0.0.1:8080", s.peer())
	s.close()
	require.Zero(t, led())

	// Where there is no room, sockets are left alone.
	keys, values := make([]uint64, mostLed), make([][recordLen]byte, mostLed)
	for i := range keys {
		keys[i] = 1<<63 + uint64(i)
	}
	_, err := l.maps[mapLed].PutAll(sys.Flat(keys), sys.Flat(values))
	require.NoError(t, err)
	require.Equal(t, "host", tcp4(t, top.Host).connect("127.0.0.1:8080").reads())
	require.Equal(t, "host", tcp6(t, top.Host).connect("[::1]:8080").reads())
	_, err = l.maps[mapLed].DeleteAll(sys.Flat(keys))
	require.NoError(t, err)
	require.Equal(t, "web", tcp4(t, top.Host).connect("127.0.0.1:8080").reads())
}

// TestLocalChangeUnderLoad: a port that leads to a backend before and after a change leads to one of the two meanwhile, by ranges or by itself.
func TestLocalChangeUnderLoad(t *testing.T) {
	top, l, ok := localhost(t)
	if !ok {
		return
	}
	first, second := ranged(UDP, "0.0.0.0:1000", 1999, "172.30.0.3:1000"), ranged(UDP, "0.0.0.0:1000", 2999, "172.30.0.2:1000")
	single := entry(UDP, "0.0.0.0:1500", "172.30.0.4:1500")
	hole := LocalEntry{Protocol: UDP, Frontend: single.Frontend}
	type step struct {
		number   int
		backends [2]netip.AddrPort // before it and after
	}
	var state atomic.Pointer[step]
	number := 0
	now := func(before, after string) {
		number++
		state.Store(&step{number, [2]netip.AddrPort{netip.MustParseAddrPort(before), netip.MustParseAddrPort(after)}})
	}
	const inFirst, inSecond, alone = "172.30.0.3:1500", "172.30.0.2:1500", "172.30.0.4:1500"
	now(inFirst, inFirst)
	var stop atomic.Bool
	wrong := make(chan string, 1)
	asked := 0
	go func() {
		defer close(wrong)
		err := top.Host.Do(func() error {
			for to := sockaddr("127.0.0.1:1500"); !stop.Load(); asked++ {
				s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				before := state.Load()
				err = unix.Connect(s, to)
				after := state.Load()
				cookie, cookieErr := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_COOKIE)
				_, backend, led := l.Connected(cookie)
				if err := errors.Join(err, cookieErr, unix.Close(s)); err != nil {
					return err
				}
				possible := slices.Concat(before.backends[:], after.backends[:])
				if !led || after.number <= before.number+1 && !slices.Contains(possible, backend) {
					return fmt.Errorf("led %t to %s, not one of %v", led, backend, possible)
				}
			}
			return nil
		})
		if err != nil {
			wrong <- err.Error()
		}
	}()
	for range labtest.Rounds(t, "changes of ranges under load", 15, 200) {
		for _, step := range []struct {
			before, after string
			remove, put   []LocalEntry
		}{
			{inFirst, inSecond, []LocalEntry{first}, []LocalEntry{second}},
			{inSecond, alone, nil, []LocalEntry{single}},
			{alone, inSecond, []LocalEntry{single}, nil},
			{inSecond, alone, []LocalEntry{second}, []LocalEntry{single}},
			{alone, inFirst, []LocalEntry{hole}, []LocalEntry{first}},
		} {
			now(step.before, step.after)
			require.NoError(t, l.Change(step.remove, step.put))
		}
	}
	stop.Store(true)
	require.Empty(t, <-wrong)
	require.Positive(t, asked)
}
