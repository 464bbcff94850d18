// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// rudeBind takes a port of IPv4 with SO_REUSEADDR, as far as bind(2).
func rudeBind(tb testing.TB, addr string) (fd int, err error) {
	tb.Helper()
	fd, e := socket(unix.AF_INET, unix.SOCK_STREAM)
	require.Equal(tb, noErrno, e)
	require.Equal(tb, noErrno, setInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	ap := mustTCP(tb, addr).AddrPort()
	return fd, unix.Bind(fd, &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().Unmap().As4()})
}

// TestRefuse: a port refuses clients at each address that it is held at, and others
// cannot bind it with any socket options.
func TestRefuse(t *testing.T) {
	noLeak(t)
	backend := tcpBackend(t, "127.0.0.1:0", echoTCP)
	for _, c := range []struct {
		held   string
		v6only bool
		ask    []string
		taken  []string
		free   []string
	}{
		{held: "127.0.0.1", ask: []string{"127.0.0.1"}, taken: []string{"127.0.0.1", "0.0.0.0", "::"}, free: []string{"127.0.0.2", "::1"}},
		{held: "::1", ask: []string{"::1"}, taken: []string{"::1", "::"}, free: []string{"127.0.0.1"}},
		{held: "0.0.0.0", ask: []string{"127.0.0.1"}, taken: []string{"127.0.0.1", "0.0.0.0", "::"}, free: []string{"::1"}},
		{held: "", ask: []string{"127.0.0.1", "::1"}, taken: []string{"127.0.0.1", "127.0.0.9", "::1", "0.0.0.0", "::"}},
		// Not [::]: if others share the port at 0.0.0.0 by SO_REUSEPORT, Linux lets
		// a dual-stack socket join, whichever socket has the IPv6 half.
		{held: "::", v6only: true, ask: []string{"::1"}, taken: []string{"::1"}, free: []string{"127.0.0.1", "0.0.0.0"}},
	} {
		t.Run(c.held, func(t *testing.T) {
			// Of a port that was asked for, and of one that the kernel chose.
			s, err := Bind(mustTCP(t, net.JoinHostPort(c.held, "0")), &Options{V6Only: c.v6only})
			require.NoError(t, err)
			port := s.Addr().(*net.TCPAddr).Port
			again := &net.TCPAddr{IP: mustTCP(t, net.JoinHostPort(c.held, "0")).IP, Port: port}
			for _, chosen := range []bool{true, false} {
				if !chosen {
					s, err = Bind(again, &Options{V6Only: c.v6only})
					require.NoError(t, err)
				}
				require.NoError(t, s.Refuse())
				require.NoError(t, s.Refuse())
				for _, host := range c.ask {
					_, err := net.DialTimeout("tcp", at(host, s.Addr()), deadline)
					require.ErrorIs(t, err, unix.ECONNREFUSED)
				}
				for _, options := range [][]int{{}, {unix.SO_REUSEADDR}, {unix.SO_REUSEPORT}, {unix.SO_REUSEADDR, unix.SO_REUSEPORT}} {
					for _, host := range c.taken {
						err := rudeListen("tcp", at(host, s.Addr()), options...)
						require.ErrorIs(t, err, unix.EADDRINUSE, "%s got it by %v", host, options)
					}
					for _, host := range c.free {
						require.NoError(t, rudeListen("tcp", at(host, s.Addr()), options...), host)
					}
				}
				_, err := Bind(again, &Options{V6Only: c.v6only})
				require.ErrorIs(t, err, unix.EADDRINUSE)

				// From refusing to serving.
				p, err := s.Proxy(backend, nil)
				require.NoError(t, err)
				require.NoError(t, p.Open())
				require.ErrorIs(t, s.Refuse(), ErrClosed)
				for _, host := range c.ask {
					roundTrip(t, dial(t, "tcp", at(host, s.Addr())), phrase)
				}
				require.NoError(t, p.Close())
			}
		})
	}
}

// TestRefuseAgainstBound: another process that has bound the port too, as SO_REUSEADDR
// allows, cannot listen.
func TestRefuseAgainstBound(t *testing.T) {
	noLeak(t)
	for _, before := range []bool{true, false} {
		s, err := Bind(mustTCP(t, "127.0.0.1:0"), nil)
		require.NoError(t, err)
		front := s.Addr().String()
		other := -1
		if before {
			require.NoError(t, s.Close())
			other, err = rudeBind(t, front)
			require.NoError(t, err)
			s, err = Bind(mustTCP(t, front), nil)
			require.NoError(t, err)
		}
		require.NoError(t, s.Refuse())
		if !before {
			other, err = rudeBind(t, front)
			require.ErrorIs(t, err, unix.EADDRINUSE)
		} else {
			require.ErrorIs(t, unix.Listen(other, 1), unix.EADDRINUSE)
		}
		_, err = net.Dial("tcp", front)
		require.ErrorIs(t, err, unix.ECONNREFUSED)
		closeFD(other)
		require.NoError(t, s.Close())
		require.NoError(t, rudeListen("tcp", front))
	}
}

// TestRefuseUnderTimeWait: the port is held, and can be served again, while connections
// of an earlier proxy on it live or are in TIME_WAIT.
func TestRefuseUnderTimeWait(t *testing.T) {
	noLeak(t)
	g := newGroup(t, nil)
	closing := tcpBackend(t, "127.0.0.1:0", func(net.Conn) {}) // closes at once
	pair := newTCPPair(t, &Options{Group: g})
	front := pair.proxy.FrontendAddr().String()
	require.NoError(t, pair.proxy.SetBackend(closing))
	c := dial(t, "tcp", front)
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, c.Close())
	eventually(t, "connection gone", func() bool { return pair.proxy.Stats().Live == 1 })
	require.NoError(t, pair.proxy.Retire())
	requireTimeWait(t, front)

	for range 2 { // also after a restart
		s, err := Bind(mustTCP(t, front), nil)
		require.NoError(t, err)
		require.NoError(t, s.Refuse())
		_, err = net.Dial("tcp", front)
		require.ErrorIs(t, err, unix.ECONNREFUSED)
		for _, options := range [][]int{{}, {unix.SO_REUSEADDR}, {unix.SO_REUSEPORT}, {unix.SO_REUSEADDR, unix.SO_REUSEPORT}} {
			require.ErrorIs(t, rudeListen("tcp", front, options...), unix.EADDRINUSE)
		}
		roundTripBetween(t, pair)
		p, err := s.Proxy(nameTCP(t, "next"), &Options{Group: g})
		require.NoError(t, err)
		require.NoError(t, p.Open())
		expectGreeting(t, dial(t, "tcp", front), "next")
		requireTimeWait(t, front)
		require.NoError(t, p.Close())
	}
}

// roundTripBetween sends something through the pair's connection.
func roundTripBetween(t *testing.T, pair *tcpPair) {
	t.Helper()
	_, err := io.WriteString(pair.client, phrase)
	require.NoError(t, err)
	got := make([]byte, len(phrase))
	_, err = io.ReadFull(pair.backend, got)
	require.NoError(t, err)
	require.Equal(t, phrase, string(got))
}

// TestRefuseLife: Refuse of sockets that cannot refuse.
func TestRefuseLife(t *testing.T) {
	noLeak(t)
	s, err := Bind(mustTCP(t, "127.0.0.1:0"), nil)
	require.NoError(t, err)
	require.NoError(t, s.Refuse())
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Refuse(), ErrClosed)
	require.NoError(t, rudeListen("tcp", s.Addr().String()))

	s, err = Bind(mustUDP(t, "127.0.0.1:0"), nil)
	require.NoError(t, err)
	require.NoError(t, s.Refuse())
	p, err := s.Proxy(udpEcho(t, "127.0.0.1:0"), nil)
	serve(t, p, err)
	roundTrip(t, dial(t, "udp", s.Addr().String()), phrase)
}
