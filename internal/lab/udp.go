// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// maxDatagram is the largest UDP payload over IPv4: 65,535 less 20 bytes of IP
// and 8 of UDP header (RFC 768, RFC 791).
const maxDatagram = 65507

// EchoUDP starts a server on a UDP address inside ns. Each datagram is answered
// with one that holds the line "NAME PEER" and the payload, cut at 65,507 bytes
// together. The answer comes from the address to which the datagram was sent, also if the
// server listens on all addresses.
func EchoUDP(ns *NS, name, addr string) (*Server, error) {
	pc, err := ns.ListenPacket("udp", addr)
	if err != nil {
		return nil, err
	}
	c := pc.(*net.UDPConn)
	s := &Server{addr: addrPort(c.LocalAddr()), stop: c.Close}
	if s.addr.Addr() == netip.IPv6Unspecified() {
		if err := wantDestination(c); err != nil {
			_ = c.Close()
			return nil, fmt.Errorf("listen in %s: %w", ns.name, err)
		}
	}
	s.wg.Go(func() { echoUDP(c, name) })
	return s, nil
}

func echoUDP(c *net.UDPConn, name string) {
	buf := make([]byte, maxDatagram)
	oob := make([]byte, 128)
	out := make([]byte, 0, 2*maxDatagram)
	for {
		n, oobn, _, peer, err := c.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			// A socket that is not connected gets no ICMP errors, so it is closed.
			return
		}
		out = append(out[:0], whoami(name, peer)...)
		out = append(out, buf[:n]...)
		// An answer that cannot be sent is a lost datagram to the client.
		_, _, _ = c.WriteMsgUDPAddrPort(out[:min(len(out), maxDatagram)], source(oob[:oobn]), peer)
	}
}

// wantDestination asks for the destination address of each datagram as a
// control message. A socket on all addresses is always an IPv6 socket. It reports IPv4
// addresses as mapped ones, and accepts these
// (net/ipv6/datagram.c, ip6_datagram_recv_common_ctl; net/ipv4/ip_sockglue.c,
// ip_cmsg_send).
func wantDestination(c *net.UDPConn) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = rc.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1)
	})
	return errors.Join(err, set)
}

// source returns the control messages that send the answer from the address to which the
// datagram was sent; nil if there are none.
func source(oob []byte) []byte {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo {
			// struct in6_pktinfo: address, interface. The interface matters
			// only to an address with a zone, which the peer's has.
			return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: [16]byte(m.Data[:16])})
		}
	}
	return nil
}
