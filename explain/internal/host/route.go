// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// RouteType is RTN_*.
type RouteType uint8

// The types as ip-route(8) names them.
var routeTypes = [...]string{
	unix.RTN_UNSPEC: "none", unix.RTN_UNICAST: "unicast", unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast",
	unix.RTN_ANYCAST: "anycast", unix.RTN_MULTICAST: "multicast", unix.RTN_BLACKHOLE: "blackhole",
	unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw", unix.RTN_NAT: "nat",
	unix.RTN_XRESOLVE: "xresolve",
}

// String returns the type as ip-route(8) names it: "unicast", "local".
func (t RouteType) String() string {
	if int(t) < len(routeTypes) {
		return routeTypes[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// error is what the kernel returns for a packet that meets a route of the type (fib_props in
// net/ipv4/fib_semantics.c); zero: it is routed.
func (t RouteType) error() unix.Errno {
	switch t {
	case unix.RTN_BLACKHOLE, unix.RTN_NAT, unix.RTN_XRESOLVE:
		return unix.EINVAL
	case unix.RTN_UNREACHABLE:
		return unix.EHOSTUNREACH
	case unix.RTN_PROHIBIT:
		return unix.EACCES
	case unix.RTN_THROW:
		return unix.EAGAIN
	}
	return 0
}

// Route is a route, and, of several next hops, the one that the kernel has chosen.
type Route struct {
	Type  RouteType
	Table uint32
	Dst   netip.Prefix // of length zero: default
	// Src is the source that a route of IPv6 is for; of length zero: any.
	Src      netip.Prefix
	Oif      int
	Gateway  netip.Addr // invalid: the destination is on link
	PrefSrc  netip.Addr // the source of packets of the host; invalid: the interface's
	MTU      int        // as the route says; zero: that of the interface
	Metric   uint32
	TOS      uint8
	Scope    uint8  // RT_SCOPE_*, of IPv4
	Protocol uint8  // RTPROT_*
	Flags    uint32 // RTNH_F_*
	NextHop  uint32 // the id of a nexthop object; zero: none
	// Hops are all next hops. Of several the kernel chooses by a hash. A route that needs none has
	// none.
	Hops    []Hop
	Expired bool // it is one of a router advertisement that has expired
	// Text is the route about as ip-route(8) prints it, and its table:
	// "default via 192.0.2.254 dev eth0 in table main".
	Text string
}

// Hop is a next hop.
type Hop struct {
	Oif     int
	Gateway netip.Addr
	Weight  int
	Flags   uint32 // RTNH_F_*
}

// Of include/uapi/linux/rtnetlink.h.
const (
	rtaNHID  = 30
	rtaxMTU  = 2
	rtnhDead = 1
	rtnhDown = 16 // RTNH_F_LINKDOWN
)

// Routes lists the routes of a table.
func (h *Host) Routes(is4 bool, table uint32) ([]*Route, error) {
	key := tableKey{is4, table}
	if list, known := h.tables[key]; known {
		return list, nil
	}
	var list []*Route
	body := make([]byte, unix.SizeofRtMsg)
	body[0] = family(is4)
	body = appendU32(body, unix.RTA_TABLE, table)
	err := h.ask(unix.NETLINK_ROUTE, unix.RTM_GETROUTE, unix.NLM_F_DUMP, body, func() { list = nil }, func(m nlwire.Message) error {
		r, err := parseRoute(m)
		// Without NETLINK_GET_STRICT_CHK all tables come.
		if err == nil && r.Table == table && r.Dst.Addr().Is4() == is4 {
			list = append(list, r)
		}
		return err
	})
	if err != nil && !errors.Is(err, unix.ENOENT) { // there is no such table
		return nil, h.note(fmt.Errorf("list routes of table %s: %w", tableText(table), err))
	}
	for _, r := range list {
		if r.NextHop != 0 && len(r.Hops) == 0 && r.Type.error() == 0 {
			// With net.ipv4.nexthop_compat_mode=0 the kernel does not say what the object has.
			if err := h.nextHops(r, r.NextHop); err != nil {
				return nil, err
			}
		}
	}
	h.tables[key] = list
	return list, nil
}

// nextHops adds the next hops of a nexthop object to a route.
func (h *Host) nextHops(r *Route, id uint32) error {
	body := appendU32(make([]byte, 8), unix.NHA_ID, id) // struct nhmsg
	hop := Hop{Weight: 1}
	var group []byte
	err := h.ask(unix.NETLINK_ROUTE, unix.RTM_GETNEXTHOP, 0, body, nil, func(m nlwire.Message) error {
		if len(m.Payload) < 8 {
			return nlwire.ErrMalformed
		}
		hop.Flags = u32(m.Payload[4:])
		a := m.Attrs(8)
		for a.Next() {
			switch a.Type {
			case unix.NHA_OIF:
				hop.Oif = int(u32(a.Payload))
			case unix.NHA_GATEWAY:
				hop.Gateway, _ = netip.AddrFromSlice(a.Payload)
			case unix.NHA_BLACKHOLE:
				r.Type = unix.RTN_BLACKHOLE
			case unix.NHA_GROUP:
				group = slices.Clone(a.Payload)
			}
		}
		return a.Err
	})
	if err != nil {
		return h.note(fmt.Errorf("read nexthop %d: %w", id, err))
	}
	if group == nil {
		if hop.Oif != 0 {
			r.addHop(hop)
		}
		return nil
	}
	for ; len(group) >= 8; group = group[8:] { // struct nexthop_grp
		if member := u32(group); member != id {
			if err := h.nextHops(r, member); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Route) addHop(hop Hop) {
	if len(r.Hops) == 0 {
		r.Oif, r.Gateway, r.Flags = hop.Oif, hop.Gateway, hop.Flags
	}
	r.Hops = append(r.Hops, hop)
}

// finish writes the text of a route.
func (h *Host) finish(r *Route) {
	if r.Text == "" {
		r.Text = h.routeText(r) + " in table " + tableText(r.Table)
	}
}

// routeText is the route about as ip-route(8) prints and takes it, without its table.
func (h *Host) routeText(r *Route) string {
	var words []string
	add := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	if r.Type != unix.RTN_UNICAST {
		add("%s", r.Type)
	}
	if r.Dst.Bits() == 0 {
		add("default")
	} else {
		add("%s", prefixText(r.Dst))
	}
	if r.Src.Bits() > 0 {
		add("from %s", prefixText(r.Src))
	}
	if r.TOS != 0 {
		add("tos %#02x", r.TOS)
	}
	hop := func(o Hop) {
		if o.Gateway.IsValid() {
			if o.Gateway.Is4() != r.Dst.Addr().Is4() {
				add("via inet6 %s", o.Gateway)
			} else {
				add("via %s", o.Gateway)
			}
		}
		if o.Oif != 0 {
			add("dev %s", h.linkName(o.Oif))
		}
	}
	if r.NextHop != 0 {
		add("nhid %d", r.NextHop)
	}
	switch {
	case r.Type.error() != 0: // of IPv6 they have the interface lo
	case len(r.Hops) > 1:
	default:
		hop(Hop{Oif: r.Oif, Gateway: r.Gateway})
	}
	if r.Metric != 0 && (r.Dst.Addr().Is4() || r.Metric != defaultMetric6 && r.Type == unix.RTN_UNICAST) {
		add("metric %d", r.Metric)
	}
	if len(r.Hops) > 1 && r.Type.error() == 0 {
		for _, o := range r.Hops {
			add("nexthop")
			hop(o)
			add("weight %d", o.Weight)
		}
	}
	return strings.Join(words, " ")
}

// defaultMetric6 is the metric of routes of IPv6 that were added without one
// (IP6_RT_PRIO_USER in include/uapi/linux/ipv6_route.h).
const defaultMetric6 = 1024

// parseRoute reads a route.
func parseRoute(m nlwire.Message) (*Route, error) {
	b := m.Payload
	if len(b) < unix.SizeofRtMsg {
		return nil, nlwire.ErrMalformed
	}
	r := &Route{TOS: b[3], Table: uint32(b[4]), Protocol: b[5], Scope: b[6], Type: RouteType(b[7]), Flags: u32(b[8:])}
	dst, src := netip.IPv6Unspecified(), netip.IPv6Unspecified()
	if b[0] == unix.AF_INET {
		dst, src = netip.IPv4Unspecified(), netip.IPv4Unspecified()
	}
	var multi []byte
	one := Hop{Weight: 1, Flags: r.Flags}
	a := m.Attrs(unix.SizeofRtMsg)
	for a.Next() {
		p := a.Payload
		switch a.Type {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(p)
		case unix.RTA_SRC:
			src, _ = netip.AddrFromSlice(p)
		case unix.RTA_OIF:
			one.Oif = int(u32(p))
		case unix.RTA_GATEWAY:
			one.Gateway, _ = netip.AddrFromSlice(p)
		case unix.RTA_VIA:
			one.Gateway = via(p)
		case unix.RTA_PRIORITY:
			r.Metric = u32(p)
		case unix.RTA_PREFSRC:
			r.PrefSrc, _ = netip.AddrFromSlice(p)
		case unix.RTA_TABLE:
			r.Table = u32(p)
		case unix.RTA_METRICS:
			r.MTU = int(u32(nlwire.Find(p, rtaxMTU)))
		case unix.RTA_CACHEINFO:
			// The third number of struct rta_cacheinfo, in ticks.
			r.Expired = len(p) >= 12 && int32(u32(p[8:])) < 0
		case unix.RTA_MULTIPATH:
			multi = p
		case rtaNHID:
			r.NextHop = u32(p)
		}
	}
	r.Dst, r.Src = netip.PrefixFrom(dst, int(b[1])), netip.PrefixFrom(src, int(b[2]))
	if !r.Dst.IsValid() || !r.Src.IsValid() {
		return nil, nlwire.ErrMalformed
	}
	if one.Oif != 0 {
		r.addHop(one)
	}
	for _, hop := range parseHops(multi) {
		r.addHop(hop)
	}
	return r, a.Err
}

// via reads struct rtvia: a gateway of the other family.
func via(b []byte) netip.Addr {
	if len(b) < 2 {
		return netip.Addr{}
	}
	addr, _ := netip.AddrFromSlice(b[2:])
	return addr
}

// parseHops reads struct rtnexthop (include/uapi/linux/rtnetlink.h).
func parseHops(b []byte) (hops []Hop) {
	for len(b) >= unix.SizeofRtNexthop {
		size := int(u16(b))
		if size < unix.SizeofRtNexthop || size > len(b) {
			break
		}
		hop := Hop{Oif: int(u32(b[4:])), Weight: int(b[3]) + 1, Flags: uint32(b[2])}
		for a := (nlwire.Attrs{Data: b[unix.SizeofRtNexthop:size]}); a.Next(); {
			switch a.Type {
			case unix.RTA_GATEWAY:
				hop.Gateway, _ = netip.AddrFromSlice(a.Payload)
			case unix.RTA_VIA:
				hop.Gateway = via(a.Payload)
			}
		}
		hops = append(hops, hop)
		b = b[min(nlwire.Align(size), len(b)):]
	}
	return hops
}
