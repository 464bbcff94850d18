// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
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
func SocketsAt(ns *Namespace, proto nat.Proto, port uint16) (found []Socket, err error) {
	diag, err := netlink.NewHandleAt(ns.Handle(), unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, err
	}
	defer diag.Close()
	list := diag.SocketDiagTCP
	if proto == nat.UDP {
		list = diag.SocketDiagUDP
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := list(family)
		if isFatal(err) && !errors.Is(err, unix.ENOENT) { // no IPv6, or no module for it
			return nil, err
		}
		for _, s := range sockets {
			addr, ok := netip.AddrFromSlice(s.ID.Source)
			if !ok || s.ID.SourcePort != port {
				continue
			}
			at := Socket{Addr: netip.AddrPortFrom(addr.Unmap(), port), Inode: s.INode, UID: s.UID, Ended: s.State == tcpTimeWait}
			if peer, ok := netip.AddrFromSlice(s.ID.Destination); ok && s.ID.DestinationPort != 0 {
				at.Peer = netip.AddrPortFrom(peer.Unmap(), s.ID.DestinationPort)
			}
			found = append(found, at)
		}
	}
	return found, nil
}

// States of include/net/tcp_states.h.
const (
	tcpTimeWait = 6
	tcpClose    = 7 // of UDP: not connected
	tcpListen   = 10
)

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
