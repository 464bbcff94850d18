// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nat"
)

// Socket is a TCP or UDP socket of some process, or of the kernel.
type Socket struct {
	Addr netip.AddrPort // what it is bound to
	// Peer is what it is connected to. Zero: nothing.
	Peer       netip.AddrPort
	Inode, UID uint32 // UID is the user who made it
	// V6Only is whether it is for IPv6 alone. Only Holders tells.
	V6Only bool
	// Ended is whether it belongs to an ended connection (TIME_WAIT, RFC 9293 section
	// 3.6.1), and so to no process.
	Ended bool
}

// SocketsAt returns the sockets that have a port at any address.
func SocketsAt(ns *Namespace, proto nat.Proto, port uint16) ([]Socket, error) {
	return SocketsIn(ns, proto, port, port)
}

// SocketsIn returns the sockets that have one of the ports at any address.
func SocketsIn(ns *Namespace, proto nat.Proto, first, last uint16) (found []Socket, err error) {
	d, err := openDiag(ns, proto)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.nl.Close()) }()
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		var filter diagFilter
		filter.ports(first, last)
		err := d.each(family, &filter, func(s *diagSocket) {
			at := Socket{Addr: s.local(), Inode: s.inode, UID: s.uid, Ended: s.state == tcpTimeWait}
			if peer := s.peer(); peer.Port() != 0 {
				at.Peer = peer
			}
			found = append(found, at)
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// States of include/net/tcp_states.h.
const (
	tcpEstablished = 1
	tcpSynSent     = 2
	tcpSynRecv     = 3
	tcpFinWait1    = 4
	tcpFinWait2    = 5
	tcpTimeWait    = 6
	tcpClose       = 7 // of UDP: not connected
	tcpCloseWait   = 8
	tcpLastAck     = 9
	tcpListen      = 10
	tcpClosing     = 11
)

// Connection is a TCP connection of this host, seen from one of its ends.
type Connection struct {
	Local, Peer netip.AddrPort
	// Opening is whether its SYN has come and nothing after it, Closing whether this end has sent its
	// FIN.
	Opening, Closing bool
}

// Connections calls f with the connections of this host at any of the ports, those that nobody has accepted yet
// included, and without those that both ends have ended.
func Connections(ns *Namespace, ports PortRange, f func(Connection)) (err error) {
	const closing = 1<<tcpFinWait1 | 1<<tcpFinWait2 | 1<<tcpLastAck | 1<<tcpClosing
	d, err := openDiag(ns, nat.TCP)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.nl.Close()) }()
	d.states = 1<<tcpEstablished | 1<<tcpSynRecv | 1<<tcpCloseWait | closing
	var filter diagFilter
	filter.ports(ports.First, ports.Last)
	return d.each(anyFamily, &filter, func(s *diagSocket) {
		f(Connection{Local: s.local(), Peer: s.peer(), Opening: s.state == tcpSynRecv, Closing: closing>>s.state&1 != 0})
	})
}

// GivesToClients reports whether a port is one that the kernel chooses for clients.
func (s Sysctls) GivesToClients(port uint16) (bool, error) {
	r, err := s.ClientPorts()
	return err == nil && r.First <= port && port <= r.Last, err
}

// ClientPorts reads the ports of which the kernel chooses those of clients
// (Documentation/networking/ip-sysctl.rst, ip_local_port_range).
func (s Sysctls) ClientPorts() (r PortRange, err error) {
	var text string
	err = s.Do(func() (err error) {
		text, err = s.Read("net/ipv4/ip_local_port_range")
		return err
	})
	if err != nil {
		return PortRange{}, err
	}
	if _, err := fmt.Sscan(text, &r.First, &r.Last); err != nil {
		return PortRange{}, fmt.Errorf("read sysctl: ip_local_port_range: %w", err)
	}
	return r, nil
}
