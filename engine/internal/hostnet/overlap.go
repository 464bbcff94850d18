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

// Overlap names what has the addresses of a network on this host and is not the network's
// own, and says what to do: "the route 10.9.0.0/24 by eth0: delete it, or choose another
// prefix"; "" if nothing has. A network's own interfaces are those with the address of its
// gateway: its bridge, or many if each endpoint has its own.
//
// These have addresses of the network:
//
//   - another interface with an address in it, or whose subnet contains it: the machines of
//     that subnet may have them;
//   - a route to the prefix or to a part of it. A wider route is none, as 10.0.0.0/8 by a
//     VPN: the network's own route is more specific. It does not matter whether the route
//     leads somewhere or discards (blackhole, unreachable, prohibit);
//   - any route, default routes too, of a table that a rule without a condition has the
//     kernel ask before the main one, since no route of the main table is then found.
func (r *Routes) Overlap(n nat.Network) (string, error) {
	family := netlink.FAMILY_V6
	if n.Prefix.Addr().Is4() {
		family = netlink.FAMILY_V4
	}
	addrs, err := r.handle.AddrList(nil, family)
	if isFatal(err) {
		return "", fmt.Errorf("list addresses: %w", err)
	}
	o := overlap{network: n, linkName: r.linkName, links: map[int]bool{}, local: map[netip.Addr]bool{}}
	for _, a := range addrs {
		if ip, _ := prefixOf(a.IPNet); ip.Addr() == n.Gateway {
			o.links[a.LinkIndex] = true
		}
	}
	if other := o.byAddresses(addrs); other != "" {
		return other, nil
	}
	rules, err := r.handle.RuleList(family)
	if isFatal(err) {
		return "", fmt.Errorf("list policy rules: %w", err)
	}
	// A filter by no table at all is the only way to get those of all tables.
	routes, err := r.handle.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if isFatal(err) {
		return "", fmt.Errorf("list routes: %w", err)
	}
	if other := o.byMain(routes); other != "" {
		return other, nil
	}
	return o.byRules(rules, routes), nil
}

// isFatal reports whether a list could not be read. One that changed meanwhile was read: what
// is in it now and not then may come as well after the answer.
func isFatal(err error) bool { return err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) }

// overlap looks for what has addresses of a network.
type overlap struct {
	network nat.Network
	// links are the interfaces of the network, local the addresses of this host.
	links    map[int]bool
	local    map[netip.Addr]bool
	linkName func(index int) string
}

func (o *overlap) byAddresses(addrs []netlink.Addr) string {
	prefix := o.network.Prefix
	for _, a := range addrs {
		ip, ok := prefixOf(a.IPNet)
		o.local[ip.Addr()] = true
		if ok && prefix.Contains(ip.Addr()) && !o.links[a.LinkIndex] {
			return fmt.Sprintf("the address %s of %s: choose another prefix, or give the network's own interface the address %s",
				ip.Addr(), o.linkName(a.LinkIndex), o.network.Gateway)
		}
	}
	for _, a := range addrs {
		subnet, ok := prefixOf(a.IPNet)
		if peer, isPeer := prefixOf(a.Peer); isPeer {
			subnet = peer // the same, except of an interface with one peer
		}
		if ok && o.isWider(subnet) {
			return o.subnet(subnet.Masked(), a.LinkIndex)
		}
	}
	return ""
}

func (o *overlap) subnet(p netip.Prefix, link int) string {
	return fmt.Sprintf("the subnet %s of %s: choose a prefix outside of it", p, o.linkName(link))
}

// isWider reports whether a prefix contains that of the network and more. A default route
// holds where no other does, and so is not wider.
func (o *overlap) isWider(p netip.Prefix) bool {
	return p.Bits() > 0 && p.Bits() < o.network.Prefix.Bits() && p.Contains(o.network.Prefix.Addr())
}

// byMain looks for a route of the main table.
func (o *overlap) byMain(routes []netlink.Route) string {
	for i := range routes {
		route := &routes[i]
		dst, ok := prefixOf(route.Dst)
		if !ok || route.Table != unix.RT_TABLE_MAIN || !isClaim(route) || !dst.Overlaps(o.network.Prefix) {
			continue
		}
		switch {
		case dst.Bits() >= o.network.Prefix.Bits():
			if isDirect(*route) && o.links[route.LinkIndex] || o.isFallback(route, routes) {
				continue
			}
			return o.describe(route, "delete it, or choose another prefix")
		case o.isWider(dst) && isDirect(*route) && isConnected(route):
			return o.subnet(dst, route.LinkIndex)
		}
	}
	return ""
}

// isClaim reports whether a route decides what becomes of a packet. A throw route has the
// kernel go on with the next table.
func isClaim(r *netlink.Route) bool {
	switch r.Type {
	case unix.RTN_UNICAST, unix.RTN_LOCAL, unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT:
		return true
	}
	return false
}

// isConnected reports whether a route is that of a subnet of its interface: the kernel's own
// of an address, or of a prefix that a router has said to be on link.
func isConnected(r *netlink.Route) bool {
	return r.Type == unix.RTN_UNICAST && (r.Protocol == unix.RTPROT_KERNEL || r.Protocol == unix.RTPROT_RA)
}

// isFallback reports whether a route discards what the network's own route, of the same
// prefix, does not take: routers have such for prefixes that are delegated to them.
func (o *overlap) isFallback(r *netlink.Route, routes []netlink.Route) bool {
	if r.Type == unix.RTN_UNICAST || r.Type == unix.RTN_LOCAL {
		return false
	}
	to, _ := prefixOf(r.Dst)
	for i := range routes {
		other := &routes[i]
		dst, ok := prefixOf(other.Dst)
		if ok && dst == to && other.Table == r.Table && other.Type == unix.RTN_UNICAST && isDirect(*other) &&
			o.links[other.LinkIndex] && other.Priority < r.Priority {
			return true
		}
	}
	return false
}

// byRules looks for a route of a table that is asked before the main one, whatever the
// packet is.
func (o *overlap) byRules(rules []netlink.Rule, routes []netlink.Route) string {
	for i := range rules { // which the kernel lists in their order
		rule := &rules[i]
		if !o.always(rule) {
			continue
		}
		if rule.Table == unix.RT_TABLE_MAIN && rule.SuppressPrefixlen < o.network.Prefix.Bits() {
			return ""
		}
		if route := o.claim(rule, routes); route != nil {
			do := "choose a prefix outside of it"
			if route.Table != unix.RT_TABLE_LOCAL {
				do = fmt.Sprintf(`choose another prefix, or "ip rule add to %s lookup main pref %d"`, o.network.Prefix, max(rule.Priority-1, 1))
			}
			return o.describe(route, do)
		}
	}
	return ""
}

// always reports whether a rule holds for all packets to the network.
func (o *overlap) always(r *netlink.Rule) bool {
	if to, ok := prefixOf(r.Dst); ok && (!to.Contains(o.network.Prefix.Addr()) || to.Bits() > o.network.Prefix.Bits()) {
		return false
	}
	any := netlink.NewRule()
	return r.Src == nil && r.IifName == "" && r.OifName == "" && !r.Invert && r.Tos == 0 && r.TunID == 0 && r.IPProto == 0 &&
		r.Mark == any.Mark && r.Mask == nil && r.Dport == nil && r.Sport == nil && r.UIDRange == nil && r.Goto == any.Goto
}

// claim returns the route of the rule's table that has addresses of the network: one within
// the prefix, or else the narrowest of those that contain it.
func (o *overlap) claim(rule *netlink.Rule, routes []netlink.Route) (found *netlink.Route) {
	prefix, widest := o.network.Prefix, -1
	for i := range routes {
		route := &routes[i]
		dst, ok := o.destination(route)
		if !ok || route.Table != rule.Table || dst.Bits() <= rule.SuppressPrefixlen || !dst.Overlaps(prefix) {
			continue
		}
		mine := isDirect(*route) && o.links[route.LinkIndex] || route.Type == unix.RTN_LOCAL && dst.IsSingleIP() && o.local[dst.Addr()]
		switch {
		case dst.Bits() > prefix.Bits():
			if isClaim(route) && !mine {
				return route
			}
		case dst.Bits() > widest:
			widest, found = dst.Bits(), nil
			if isClaim(route) && !mine {
				found = route
			}
		}
	}
	return found
}

// destination returns the prefix of a route; of a default route, that of the whole family.
func (o *overlap) destination(r *netlink.Route) (netip.Prefix, bool) {
	if r.Dst == nil {
		return netip.PrefixFrom(o.network.Prefix.Addr(), 0).Masked(), true
	}
	return prefixOf(r.Dst)
}

// describe names a route, and says what to do.
func (o *overlap) describe(r *netlink.Route, do string) string {
	dst, _ := o.destination(r)
	kind, by, table := "", "", ""
	switch r.Type {
	case unix.RTN_LOCAL:
		kind = "local "
	case unix.RTN_BLACKHOLE:
		kind = "blackhole "
	case unix.RTN_UNREACHABLE:
		kind = "unreachable "
	case unix.RTN_PROHIBIT:
		kind = "prohibit "
	}
	if gateway, ok := netip.AddrFromSlice(r.Gw); ok {
		by = " by " + gateway.Unmap().String()
	} else if kind == "" && r.LinkIndex != 0 {
		by = " by " + o.linkName(r.LinkIndex)
		if isDirect(*r) {
			do += fmt.Sprintf(", or give the interface the address %s if it is the network's own", o.network.Gateway)
		}
	}
	if r.Table != unix.RT_TABLE_MAIN {
		table = fmt.Sprintf(" of table %d", r.Table)
		if r.Table == unix.RT_TABLE_LOCAL {
			table = " of table local"
		}
	}
	return fmt.Sprintf("the route %s%s%s%s: %s", kind, dst, by, table, do)
}
