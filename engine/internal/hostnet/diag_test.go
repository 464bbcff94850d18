// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// cookieOf is the cookie of a socket.
func cookieOf(t *testing.T, c net.Conn) (cookie uint64) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE)
	}))
	require.NoError(t, err)
	return cookie
}

// fileConn makes a connection of a descriptor.
func fileConn(t *testing.T, fd int) net.Conn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "socket")
	c, err := net.FileConn(f)
	require.NoError(t, errors.Join(err, f.Close()))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestDestroySockets: the socket that is meant ends, and no other, whichever family it is of.
func TestDestroySockets(t *testing.T) {
	labtest.Require(t)
	for _, network := range []string{"udp4", "udp6", "tcp4"} {
		t.Run(network, func(t *testing.T) {
			proto, server := nat.UDP, "127.0.0.1:0"
			if network == "tcp4" {
				proto = nat.TCP
			}
			var at string
			if proto == nat.TCP {
				l, err := net.Listen(network, server)
				require.NoError(t, err)
				defer func() { _ = l.Close() }()
				at = l.Addr().String()
			} else {
				l, err := net.ListenPacket("udp4", server)
				require.NoError(t, err)
				defer func() { _ = l.Close() }()
				at = l.LocalAddr().String()
			}
			peer := netip.MustParseAddrPort(at)
			if network == "udp6" {
				at = netip.AddrPortFrom(netip.AddrFrom16(peer.Addr().As16()), peer.Port()).String()
			}
			dial := func() net.Conn {
				if network != "udp6" {
					c, err := net.Dial(network, at)
					require.NoError(t, err)
					t.Cleanup(func() { _ = c.Close() })
					return c
				}
				// Package net makes an AF_INET socket of a mapped address.
				fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				require.NoError(t, err)
				require.NoError(t, unix.Connect(fd, &unix.SockaddrInet6{Port: int(peer.Port()), Addr: peer.Addr().As16()}))
				return fileConn(t, fd)
			}
			one, other := dial(), dial()
			cookie := cookieOf(t, one)
			asked := 0
			n, err := DestroySockets(&Namespace{}, proto, false, []Peers{{peer.Addr(), peer.Port(), peer.Port()}}, func(p netip.AddrPort, c uint64) bool {
				require.Equal(t, peer, p)
				asked++
				return c == cookie
			})
			if errors.Is(err, errors.ErrUnsupported) {
				t.Log(err) // CONFIG_INET_DIAG_DESTROY
				return
			}
			require.NoError(t, err)
			require.Equal(t, 1, n)
			require.Equal(t, 2, asked)
			require.NoError(t, one.SetDeadline(time.Now().Add(labtest.Stretch(5*time.Second))))
			_, err = one.Read(make([]byte, 1))
			require.ErrorIs(t, err, unix.ECONNABORTED)
			_, err = other.Write([]byte("x"))
			require.NoError(t, err)
			for _, none := range []Peers{{netip.MustParseAddr("127.0.0.9"), 1, 65535}, {peer.Addr(), 1, peer.Port() - 1}, {peer.Addr(), peer.Port() + 1, 65535}} {
				n, err = DestroySockets(&Namespace{}, proto, false, []Peers{none}, func(p netip.AddrPort, _ uint64) bool { return p == peer })
				require.NoError(t, err)
				require.Zero(t, n)
			}
			n, err = DestroySockets(&Namespace{}, proto, false, nil, func(p netip.AddrPort, _ uint64) bool { return p == peer })
			require.NoError(t, err)
			require.Equal(t, 1, n)
		})
	}
}

// TestSocketsIn: sockets of the ports, and of no others.
func TestSocketsIn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	at := netip.MustParseAddrPort(l.Addr().String())
	for _, c := range []struct {
		first, last uint16
		want        int
	}{{at.Port(), 65535, 1}, {1, at.Port(), 1}, {at.Port() + 1, 65535, 0}, {1, at.Port() - 1, 0}} {
		found, err := SocketsIn(&Namespace{}, nat.TCP, c.first, c.last)
		require.NoError(t, err)
		n := 0
		for _, s := range found {
			if s.Addr == at {
				n++
			}
		}
		require.Equal(t, c.want, n, c)
	}
}
