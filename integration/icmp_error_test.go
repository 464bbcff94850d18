// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// An ICMP error about a translated packet reaches the sender as an error about the packet
// that he sent to the frontend, whichever machine behind it sent the error. Otherwise the
// sender's kernel could not find the connection.
func TestICMPErrors(t *testing.T) {
	n := newNarrow(t, minMTU6)
	e := open(t, n.Host, engine.Options{})
	const (
		portClosed    = 8080 // nobody listens at the backend
		portForbidden = 8081 // a router refuses to pass it on
		portServed    = 8082
	)
	for _, f := range n.families {
		for _, network := range []string{"tcp", "udp"} {
			publish(t, e,
				toward(f.wildcard, portClosed, portClosed)+"->"+at(f.deep, 80)+suffix(network),
				toward(f.wildcard, portForbidden, portForbidden)+"->"+at(f.forbidden, 80)+suffix(network),
				toward(f.wildcard, portServed, portServed)+"->"+at(f.deep, 81)+suffix(network),
			)
		}
	}
	for _, tt := range []struct {
		name    string
		network string
		port    uint16
		ttl     bool // the packet's TTL ends before the backend
		want    errorKind
	}{
		{"closed", "udp", portClosed, false, portUnreachable},
		{"forbidden", "udp", portForbidden, false, prohibited},
		{"forbidden", "tcp", portForbidden, false, prohibited},
		{"far away", "udp", portServed, true, timeExceeded},
		{"far away", "tcp", portServed, true, timeExceeded},
	} {
		for _, f := range n.families {
			for _, from := range []struct {
				ns   *lab.NS
				addr netip.Addr
				hops int // to the router behind the host
			}{{n.Client, f.client, 2}, {n.Host, f.host, 1}} {
				t.Run(tt.name+"/"+tt.network+"/"+f.name+"/"+from.ns.Name(), func(t *testing.T) {
					listener := listenICMP(t, from.ns, f.family)
					hops := 0
					if tt.ttl {
						hops = from.hops
					}
					asked := netip.AddrPortFrom(f.host, tt.port)
					source := sendOne(t, from.ns, tt.network, asked, hops)
					kind, code := tt.want.of(f.host)
					require.Equal(t, icmpError{
						from: f.host, kind: kind, code: code, proto: protoNumber(tt.network),
						src: netip.AddrPortFrom(from.addr, source), dst: asked,
					}, listener.next(t, source))
				})
			}
		}
	}
}

// sendOne sends a packet from inside ns and returns its source port. If hops is not zero, it
// is the packet's TTL.
func sendOne(t *testing.T, ns *lab.NS, network string, to netip.AddrPort, hops int) (source uint16) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), silence)
	defer cancel()
	err := ns.Do(func() error {
		d := net.Dialer{Control: func(_, _ string, rc syscall.RawConn) error {
			var set error
			err := rc.Control(func(fd uintptr) {
				if set = limitHops(int(fd), to.Addr(), hops); set == nil && network == "tcp" {
					// The error ends the attempt to connect.
					source, set = bindAny(int(fd), to.Addr())
				}
			})
			return errors.Join(err, set)
		}}
		c, err := d.DialContext(ctx, network, to.String())
		if network == "tcp" {
			if err == nil {
				_ = c.Close()
			}
			return nil
		}
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		source = c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		_, err = c.Write([]byte("hello\n"))
		return err
	})
	require.NoError(t, err)
	return source
}

func limitHops(fd int, to netip.Addr, hops int) error {
	switch {
	case hops == 0:
		return nil
	case to.Is4():
		return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TTL, hops)
	}
	return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS, hops)
}

// bindAny lets the kernel choose a port before the socket connects.
func bindAny(fd int, to netip.Addr) (port uint16, err error) {
	var any unix.Sockaddr = &unix.SockaddrInet6{}
	if to.Is4() {
		any = &unix.SockaddrInet4{}
	}
	if err := unix.Bind(fd, any); err != nil {
		return 0, err
	}
	bound, err := unix.Getsockname(fd)
	switch a := bound.(type) {
	case *unix.SockaddrInet4:
		return uint16(a.Port), err
	case *unix.SockaddrInet6:
		return uint16(a.Port), err
	}
	return 0, err
}

// The same for an answer that the client no longer accepts. The error that the backend gets
// is about the backend's packet.
func TestICMPErrorsOfClients(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	e := open(t, top.Host, engine.Options{})
	for _, f := range families(top) {
		t.Run(f.name, func(t *testing.T) {
			publish(t, e, toward(f.wildcard, 8080, 8080)+"->"+at(f.backend1, 80)+"/udp")
			backend, err := top.Backend1.ListenPacket("udp", at(f.backend1, 80))
			require.NoError(t, err)
			defer func() { _ = backend.Close() }()
			listener := listenICMP(t, top.Backend1, f)
			source := sendOne(t, top.Client, "udp", netip.AddrPortFrom(f.host, 8080), 0)
			_, peer, err := backend.ReadFrom(make([]byte, 16))
			require.NoError(t, err)
			_, err = backend.WriteTo([]byte("late\n"), peer)
			require.NoError(t, err)
			kind, code := portUnreachable.of(f.client)
			require.Equal(t, icmpError{
				from: f.client, kind: kind, code: code, proto: unix.IPPROTO_UDP,
				src: netip.AddrPortFrom(f.backend1, 80), dst: netip.AddrPortFrom(f.client, source),
			}, listener.next(t, source))
		})
	}
}

// A client program gets the error that it would get without translation.
func TestICMPErrorsReachSockets(t *testing.T) {
	top := newTopology(t, lab.Options{Parts: lab.PartBackend1})
	e := open(t, top.Host, engine.Options{})
	for _, f := range families(top) {
		publish(t, e, toward(f.wildcard, 8080, 8080)+"->"+at(f.backend1, 80)+"/udp")
		for _, from := range []*lab.NS{top.Client, top.Host} {
			// One datagram: a connected socket has the error without asking again.
			require.ErrorIs(t, dialFlow(t, from, "udp", at(f.host, 8080)).refused(t), unix.ECONNREFUSED)
		}
		labtest.EchoUDP(t, top.Backend1, "late", at(f.backend1, 80))
		require.Equal(t, "late", dialFlow(t, top.Client, "udp", at(f.host, 8080)).name(t))
	}
}
