// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nat"
)

// host is what the engine asks of the machine's routing table: the seam at which
// tests put a machine of their own.
type host interface {
	// route tells what becomes of a packet to the address.
	route(netip.Addr) (route, error)
	// routeElsewhere names a route, or an address of this host, that the network
	// overlaps and that is not its own: `the route 10.0.0.0/8 by eth0`. "": none.
	routeElsewhere(nat.Network) (string, error)
	close()
}

// route is the routing table's word on an address.
type route struct {
	kind routeKind
	// onLink is the prefix on whose segment the address lies, reached without a
	// gateway; zero if it is reached by one.
	onLink netip.Prefix
	// link is the name of the interface that leads there.
	link string
	// bridge is the index of that interface if it is a bridge, else zero.
	bridge int
}

type routeKind int

const (
	unreachable routeKind = iota
	unicast
	localAddress     // an address of this host
	segmentBroadcast // of a segment
	otherRoute       // multicast, anycast, prohibited, …
)

// routingTable is the kernel's.
type routingTable struct{ handle *netlink.Handle }

func openRoutingTable(ns *namespace) (*routingTable, error) {
	h, err := openNetlink(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open routing table: %w", err)
	}
	return &routingTable{h}, nil
}

// openNetlink opens a socket of one netlink family in the namespace. A handle without
// one opens it when it is used, in the namespace of whatever thread that is.
func openNetlink(ns *namespace, family int) (*netlink.Handle, error) {
	if ns.fd() == 0 {
		return netlink.NewHandle(family)
	}
	return netlink.NewHandleAt(ns.handle, family)
}

func (r *routingTable) close() { r.handle.Close() }

func (r *routingTable) route(addr netip.Addr) (route, error) {
	// FIBMatch answers with the entry of the table itself and its whole prefix,
	// where a plain look-up answers for the one address (RTM_F_FIB_MATCH).
	found, err := r.handle.RouteGetWithOptions(addr.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH):
		return route{kind: unreachable}, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EACCES): // blackhole, prohibit
		return route{kind: otherRoute}, nil
	case err != nil:
		return route{}, fmt.Errorf("look up route to %s: %w", addr, err)
	case len(found) == 0:
		return route{kind: unreachable}, nil
	}
	return r.read(found[0])
}

func (r *routingTable) read(f netlink.Route) (route, error) {
	var rt route
	switch f.Type {
	case unix.RTN_LOCAL:
		return route{kind: localAddress}, nil
	case unix.RTN_BROADCAST:
		return route{kind: segmentBroadcast}, nil
	case unix.RTN_UNICAST:
		rt.kind = unicast
	default:
		return route{kind: otherRoute}, nil
	}
	if f.LinkIndex != 0 {
		link, err := r.handle.LinkByIndex(f.LinkIndex)
		if err != nil {
			return route{}, fmt.Errorf("look up interface %d: %w", f.LinkIndex, err)
		}
		rt.link = link.Attrs().Name
		if link.Type() == kindBridge {
			rt.bridge = f.LinkIndex
		}
	}
	direct := f.Gw == nil && f.Via == nil && len(f.MultiPath) == 0
	if direct && f.Dst != nil {
		addr, _ := netip.AddrFromSlice(f.Dst.IP)
		ones, _ := f.Dst.Mask.Size()
		// A default route without a gateway, as tunnels have, is no segment.
		if ones > 0 {
			rt.onLink = netip.PrefixFrom(addr.Unmap(), ones).Masked()
		}
	}
	return rt, nil
}
