// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TunnelAt names the interface for which the kernel has a UDP socket of that address:
// "vxlan interface vx0". Where the kernel does not say the port of an interface without its
// keys (WireGuard), the name is a guess, and begins with "perhaps". Empty: none is known.
func TunnelAt(ns *Namespace, at netip.AddrPort) (name string, certain bool, err error) {
	h, err := netlink.NewHandleAt(ns.Handle(), unix.NETLINK_ROUTE)
	if err != nil {
		return "", false, err
	}
	defer h.Close()
	links, err := h.LinkList()
	if isFatal(err) {
		return "", false, fmt.Errorf("list interfaces: %w", err)
	}
	name, certain = tunnelOf(links, at)
	return name, certain, nil
}

func tunnelOf(links []netlink.Link, at netip.AddrPort) (name string, certain bool) {
	var guesses []string
	for _, l := range links {
		a := l.Attrs()
		// One that is down has no socket, and one that was made in another namespace has its
		// socket there.
		if a.Flags&net.FlagUp == 0 || a.NetNsID >= 0 {
			continue
		}
		name := l.Type() + " interface " + a.Name
		four, six, port := false, false, 0
		switch l := l.(type) {
		case *netlink.Vxlan:
			port = l.Port
			if local, ok := netip.AddrFromSlice(l.SrcAddr); !at.Addr().IsUnspecified() && (!ok || local.Unmap() != at.Addr()) {
				continue
			}
			six = l.FlowBased || isIPv6(l.Group) || isIPv6(l.SrcAddr)
			four = l.FlowBased || !six
		case *netlink.Geneve:
			port = int(l.Dport)
			six = l.FlowBased || isIPv6(l.Remote)
			four = l.FlowBased || !six
		case *netlink.BareUDP: // by IPv6 if the kernel has it, for both
			port, four, six = int(l.Port), true, true
		case *netlink.Wireguard:
			guesses = append(guesses, name)
		}
		// No process can have the port as well, since the kernel does not share it.
		if port == int(at.Port()) && (four && at.Addr().Is4() || six && at.Addr().Is6()) {
			return name, true
		}
	}
	if len(guesses) == 0 || !at.Addr().IsUnspecified() {
		return "", false
	}
	return "perhaps " + strings.Join(guesses, " or "), false
}

func isIPv6(ip net.IP) bool { return ip != nil && ip.To4() == nil }
