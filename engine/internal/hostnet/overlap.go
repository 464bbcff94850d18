// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nat"
)

// Overlap names a route of the main table, or an address of this host, that the network
// overlaps and that is not its own: "the route 10.0.0.0/8 by eth0"; "" if there is none.
// A network's own interfaces are those with the address of its gateway: its bridge, or
// many if each endpoint has its own.
func (r *Routes) Overlap(n nat.Network) (string, error) {
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
		// A default route holds where no other does, and so overlaps nothing.
		if !ok || route.Type != unix.RTN_UNICAST || dst.Bits() == 0 || !dst.Overlaps(n.Prefix) {
			continue
		}
		if isDirect(route) && own[route.LinkIndex] && dst.Bits() >= n.Prefix.Bits() {
			continue
		}
		by := ""
		if gateway, ok := netip.AddrFromSlice(route.Gw); ok {
			by = " by " + gateway.Unmap().String()
		} else if route.LinkIndex != 0 {
			by = " by " + r.linkName(route.LinkIndex)
		}
		return fmt.Sprintf("the route %s%s", dst, by), nil
	}
	return "", nil
}

// linkName is for messages: an interface that was deleted meanwhile has a number.
func (r *Routes) linkName(index int) string {
	link, err := r.handle.LinkByIndex(index)
	if err != nil {
		return fmt.Sprintf("interface %d", index)
	}
	return link.Attrs().Name
}
