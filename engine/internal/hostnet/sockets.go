// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nat"
)

// Socket is a TCP or UDP socket of some process.
type Socket struct {
	Addr       netip.AddrPort // what it is bound to
	Inode, UID uint32         // UID is the user who made it
	// Ended is whether it belongs to an ended connection (TIME_WAIT, RFC 9293 section
	// 3.6.1), and so to no process.
	Ended bool
}

// FindSocket finds a socket whose address blocks a port. It prefers one without a peer. The
// zero Socket means that there is none.
func FindSocket(ns *Namespace, proto nat.Proto, blocks func(netip.AddrPort) bool) (found Socket, err error) {
	diag, err := netlink.NewHandleAt(ns.Handle(), unix.NETLINK_INET_DIAG)
	if err != nil {
		return Socket{}, err
	}
	defer diag.Close()
	list := diag.SocketDiagTCP
	if proto == nat.UDP {
		list = diag.SocketDiagUDP
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := list(family)
		if err != nil && !errors.Is(err, unix.ENOENT) { // no IPv6, or no module for it
			return Socket{}, err
		}
		for _, s := range sockets {
			addr, ok := netip.AddrFromSlice(s.ID.Source)
			at := netip.AddrPortFrom(addr.Unmap(), s.ID.SourcePort)
			if !ok || !blocks(at) {
				continue
			}
			// The kernel gives clients their ports without SO_REUSEADDR, and so they too
			// keep others from these ports.
			found = Socket{at, s.INode, s.UID, s.State == tcpTimeWait}
			if s.State == tcpListen || s.State == tcpClose {
				return found, nil
			}
		}
	}
	return found, nil
}

// TCP states of include/net/tcp_states.h. A UDP socket without a peer is in TCP_CLOSE,
// and so is a TCP socket that was bound and does not listen.
const (
	tcpTimeWait = 6
	tcpClose    = 7
	tcpListen   = 10
)
