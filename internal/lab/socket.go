// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Addresses given to the methods in this file are literal, "192.0.2.1:80" or
// "[2001:db8::1]:80", or ":80" to listen on: a name would be looked up by
// other threads, outside the namespace.

// Listen announces on a stream address (network tcp, tcp4 or tcp6) inside the
// namespace. "tcp" with no host, or with 0.0.0.0 or ::, serves both families.
func (n *NS) Listen(network, addr string) (net.Listener, error) {
	var l net.Listener
	err := n.Do(func() error {
		at, err := literal(addr)
		if err != nil {
			return err
		}
		var lc net.ListenConfig
		// Plain TCP: the default would be Multipath TCP, which is slower and
		// falls back only when the first client has come.
		lc.SetMultipathTCP(false)
		l, err = lc.Listen(context.Background(), network, at)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", n.name, err)
	}
	return l, nil
}

// ListenPacket announces on a datagram address (network udp, udp4 or udp6)
// inside the namespace, with the families of [NS.Listen]. The result is a *net.UDPConn.
func (n *NS) ListenPacket(network, addr string) (net.PacketConn, error) {
	var c net.PacketConn
	err := n.Do(func() error {
		at, err := literal(addr)
		if err != nil {
			return err
		}
		var lc net.ListenConfig
		c, err = lc.ListenPacket(context.Background(), network, at)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", n.name, err)
	}
	return c, nil
}

// Dial connects from inside the namespace. The connection stays inside it.
// ctx bounds the connecting only.
func (n *NS) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return n.DialFrom(ctx, network, addr, netip.AddrPort{})
}

// DialFrom connects from a given local address inside the namespace. The kernel chooses
// the address or port that is zero. A port that an earlier connection left in TIME_WAIT
// can be used again, though the kernel may need a second for that.
func (n *NS) DialFrom(ctx context.Context, network, addr string, from netip.AddrPort) (net.Conn, error) {
	var c net.Conn
	err := n.Do(func() error {
		at, err := literal(addr)
		if err != nil {
			return err
		}
		d := net.Dialer{LocalAddr: localAddr(network, from)}
		if d.LocalAddr != nil {
			d.Control = reuse(from.Port() == 0)
		}
		c, err = d.DialContext(ctx, network, at)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial from %s: %w", n.name, err)
	}
	return c, nil
}

func localAddr(network string, from netip.AddrPort) net.Addr {
	if from == (netip.AddrPort{}) {
		return nil
	}
	ip := net.IP(from.Addr().AsSlice())
	if strings.HasPrefix(network, "udp") {
		return &net.UDPAddr{IP: ip, Port: int(from.Port()), Zone: from.Addr().Zone()}
	}
	return &net.TCPAddr{IP: ip, Port: int(from.Port()), Zone: from.Addr().Zone()}
}

// reuse lets a bound socket share its port. Where the kernel chooses the port,
// IP_BIND_ADDRESS_NO_PORT makes it wait for connect(2), which needs only the
// whole four-tuple to be free (ip(7)).
func reuse(anyPort bool) func(string, string, syscall.RawConn) error {
	return func(_, _ string, rc syscall.RawConn) error {
		var set error
		err := rc.Control(func(fd uintptr) {
			set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			if set == nil && anyPort {
				set = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
			}
		})
		if err != nil {
			return err
		}
		return set
	}
}

// literal checks that addr is an address and a port, and turns the name of a
// zone into its number: package net keeps one table of interfaces for the
// whole process, filled in whichever namespace asked first.
func literal(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	if host == "" {
		return addr, nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return "", err
	}
	if ip.Zone() == "" {
		return addr, nil
	}
	if _, err := strconv.ParseUint(ip.Zone(), 10, 32); err == nil {
		return addr, nil
	}
	link, err := net.InterfaceByName(ip.Zone())
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(ip.WithZone(strconv.Itoa(link.Index)).String(), port), nil
}
