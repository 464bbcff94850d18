// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nat"
)

// routeElsewhere looks at the main table and at the addresses of this host. A network's
// own are those of the interfaces that have its gateway's address: the one of its bridge,
// or many if each endpoint has its own.
func (r *routingTable) routeElsewhere(n nat.Network) (string, error) {
	family := netlink.FAMILY_V6
	if n.Prefix.Addr().Is4() {
		family = netlink.FAMILY_V4
	}
	addrs, err := r.handle.AddrList(nil, family)
	if err != nil {
		return "", fmt.Errorf("list addresses: %w", err)
	}
	own := map[int]bool{}
	for _, a := range addrs {
		if ip, _ := netip.AddrFromSlice(a.IP); ip.Unmap() == n.Gateway {
			own[a.LinkIndex] = true
		}
	}
	for _, a := range addrs {
		if ip, _ := netip.AddrFromSlice(a.IP); n.Prefix.Contains(ip.Unmap()) && !own[a.LinkIndex] {
			return fmt.Sprintf("the address %s of %s", ip.Unmap(), r.linkName(a.LinkIndex)), nil
		}
	}
	routes, err := r.handle.RouteList(nil, family)
	if err != nil {
		return "", fmt.Errorf("list routes: %w", err)
	}
	for _, route := range routes {
		dst, ok := prefixOf(route.Dst)
		// A default route leads to what no other does, and so overlaps nothing.
		if !ok || route.Type != unix.RTN_UNICAST || dst.Bits() == 0 || !dst.Overlaps(n.Prefix) {
			continue
		}
		direct := len(route.Gw) == 0 && route.Via == nil && len(route.MultiPath) == 0
		if direct && own[route.LinkIndex] && dst.Bits() >= n.Prefix.Bits() {
			continue
		}
		return r.describeRoute(route, dst), nil
	}
	return "", nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), ok
}

func (r *routingTable) describeRoute(route netlink.Route, dst netip.Prefix) string {
	switch gateway, ok := netip.AddrFromSlice(route.Gw); {
	case ok:
		return fmt.Sprintf("the route %s by %s", dst, gateway.Unmap())
	case route.LinkIndex != 0:
		return fmt.Sprintf("the route %s by %s", dst, r.linkName(route.LinkIndex))
	}
	return fmt.Sprintf("the route %s", dst)
}

// linkName is for messages: an interface that is gone by now has a number.
func (r *routingTable) linkName(index int) string {
	link, err := r.handle.LinkByIndex(index)
	if err != nil {
		return fmt.Sprintf("interface %d", index)
	}
	return link.Attrs().Name
}
