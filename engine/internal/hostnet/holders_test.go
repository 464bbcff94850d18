// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// bindAt opens a socket that waits for clients.
func bindAt(ns *lab.NS, proto nat.Proto, addr string, only bool, port int) (fd int, err error) {
	err = ns.Do(func() error {
		a := netip.MustParseAddr(addr)
		family, kind := unix.AF_INET, unix.SOCK_STREAM
		if a.Is6() {
			family = unix.AF_INET6
		}
		if proto == nat.UDP {
			kind = unix.SOCK_DGRAM
		}
		if fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		var name unix.Sockaddr
		if a.Is6() {
			v := 0
			if only {
				v = 1
			}
			err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, v)
			name = &unix.SockaddrInet6{Port: port, Addr: a.As16()}
		} else {
			name = &unix.SockaddrInet4{Port: port, Addr: a.As4()}
		}
		err = errors.Join(err, unix.Bind(fd, name))
		if err == nil && kind == unix.SOCK_STREAM {
			err = unix.Listen(fd, 1)
		}
		if err != nil {
			err = errors.Join(err, unix.Close(fd))
		}
		return err
	})
	return fd, err
}

// TestHolders: a socket is found exactly where it keeps another from being bound.
func TestHolders(t *testing.T) {
	ns := labtest.NewNS(t, "holders")
	labtest.Exec(t, ns, "ip", "link", "set", "lo", "up")
	labtest.Exec(t, ns, "ip", "addr", "add", "2001:db8::1/128", "dev", "lo", "nodad")
	opened, err := OpenNamespace(ns.Path())
	require.NoError(t, err)
	defer func() { require.NoError(t, opened.Close()) }()
	kinds := []struct {
		addr string
		only bool
		as   netip.Addr // what Holders is asked for; both families for one
	}{
		{"0.0.0.0", false, netip.IPv4Unspecified()},
		{"::", false, netip.Addr{}},
		{"::", true, netip.IPv6Unspecified()},
		{"127.0.0.1", false, netip.MustParseAddr("127.0.0.1")},
		{"127.0.0.2", false, netip.MustParseAddr("127.0.0.2")},
		{"::ffff:127.0.0.1", false, netip.MustParseAddr("127.0.0.1")},
		{"::1", true, netip.IPv6Loopback()},
		{"2001:db8::1", true, netip.MustParseAddr("2001:db8::1")},
	}
	const port = 4000
	for _, proto := range []nat.Proto{nat.TCP, nat.UDP} {
		for _, has := range kinds {
			fd, err := bindAt(ns, proto, has.addr, has.only, port)
			require.NoError(t, err)
			var stat unix.Stat_t
			require.NoError(t, unix.Fstat(fd, &stat))
			for _, wants := range kinds {
				other, err := bindAt(ns, proto, wants.addr, wants.only, port)
				if err == nil {
					require.NoError(t, unix.Close(other))
				} else {
					require.ErrorIs(t, err, unix.EADDRINUSE)
				}
				found, herr := Holders(opened, proto, wants.as, PortRange{First: port - 1, Last: port + 1})
				require.NoError(t, herr)
				if err == nil {
					require.Empty(t, found, "%s %v, and %v", proto, has, wants)
					continue
				}
				require.Len(t, found, 1, "%s %v, and %v", proto, has, wants)
				require.EqualValues(t, stat.Ino, found[0].Inode)
				require.EqualValues(t, port, found[0].Addr.Port())
				require.Equal(t, netip.MustParseAddr(has.addr).Unmap(), found[0].Addr.Addr())
				require.Equal(t, has.only, found[0].V6Only)
			}
			found, err := Holders(opened, proto, netip.Addr{}, PortRange{First: port + 1, Last: 65535})
			require.NoError(t, err)
			require.Empty(t, found)
			require.NoError(t, unix.Close(fd))
		}
	}

	// A UDP socket that is connected, and a connection, wait for nobody.
	fd, err := bindAt(ns, nat.UDP, "127.0.0.1", false, port)
	require.NoError(t, err)
	require.NoError(t, unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}))
	found, err := Holders(opened, nat.UDP, netip.Addr{}, PortRange{First: 1, Last: 65535})
	require.NoError(t, err)
	require.Empty(t, found)
	require.NoError(t, unix.Close(fd))
}
