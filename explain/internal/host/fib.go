// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/order"
)

// flow is what policy rules and routes ask of a packet (struct flowi in include/net/flow.h).
type flow struct {
	RouteQuery
	iif    int // of the host's own packets that of loopback
	l3mdev int // the VRF of the interface; zero: none
	// ignoreDown has next hops used whose link is down, whatever the sysctl says.
	ignoreDown bool
}

// loopback is the index of the interface lo of every namespace.
const loopback = 1

// flowOf makes the flow of a packet (l3mdev_update_flow in net/l3mdev/l3mdev.c).
func (h *Host) flowOf(q RouteQuery) (f flow, err error) {
	f = flow{RouteQuery: q, iif: cmp.Or(q.Iif, loopback)}
	f.Dst, f.Src = f.Dst.Unmap().WithZone(""), f.Src.Unmap().WithZone("")
	if q.Iif != 0 {
		f.UID = 0 // so the kernel says of what it has received
	}
	if f.Proto == 0 && f.Dst.Is4() {
		f.Proto = unix.IPPROTO_UDP
	}
	switch {
	case f.Oif != 0:
		l, err := h.Link(f.Oif)
		if err != nil {
			return f, err
		}
		f.l3mdev = l.vrf()
		if f.l3mdev == f.Oif {
			f.Oif = 0
		}
	case f.iif > loopback:
		l, err := h.Link(f.iif)
		if err != nil {
			return f, err
		}
		f.l3mdev = l.vrf()
	}
	return f, nil
}

// vrf returns the index of the VRF that it is or belongs to; zero: none.
func (l *Link) vrf() int {
	switch {
	case l.Kind == "vrf":
		return l.Index
	case l.MasterKind == "vrf":
		return l.Master
	}
	return 0
}

// decision is what policy rules and routes decide.
type decision struct {
	rule  *PolicyRule // the rule that decided; nil: none did
	route *Route      // the route that it led to; nil: none
	hop   Hop         // of the route: the first one that can be used
	errno unix.Errno  // zero: the packet is routed
	throw *Route      // a route of that type that was met
	// unknown is a rule of which it cannot be known whether it has decided.
	unknown *PolicyRule
}

// evaluate asks the policy rules in their order, as fib_rules_lookup of net/core/fib_rules.c
// does.
func (h *Host) evaluate(f flow) (d decision, err error) {
	rules, err := h.PolicyRules(f.Dst.Is4())
	if err != nil {
		return d, err
	}
	for i := 0; i < len(rules); i++ {
		r := rules[i]
		if r.Unread {
			d.unknown = cmp.Or(d.unknown, r)
		}
		matches, err := h.ruleMatches(r, f)
		if err != nil {
			return d, err
		}
		if !matches {
			continue
		}
		switch r.Action {
		case unix.FR_ACT_GOTO:
			if to := slices.IndexFunc(rules, func(o *PolicyRule) bool { return o.Priority == r.Goto }); to > i {
				i = to - 1
			}
		case unix.FR_ACT_NOP:
		case unix.FR_ACT_TO_TBL:
			found, err := h.lookUpTable(f, r)
			if err != nil {
				return d, err
			}
			d.throw = cmp.Or(d.throw, found.throw)
			if found.route != nil && r.SuppressGroup >= 0 && !r.Is4 && len(found.route.Hops) > 1 {
				// IPv6 asks for the interface of the next hop that a hash chooses.
				d.unknown = cmp.Or(d.unknown, r)
			}
			if found.errno == unix.EAGAIN || found.errno == 0 && h.suppressed(r, found) {
				continue
			}
			found.throw, found.unknown = d.throw, d.unknown
			return found, nil
		case unix.FR_ACT_UNREACHABLE:
			d.rule, d.errno = r, unix.ENETUNREACH
			return d, nil
		case unix.FR_ACT_PROHIBIT:
			d.rule, d.errno = r, unix.EACCES
			return d, nil
		default: // blackhole
			d.rule, d.errno = r, unix.EINVAL
			return d, nil
		}
	}
	d.errno = unix.ENETUNREACH
	return d, nil
}

// suppressed reports whether a rule has a route ignored (fib4_rule_suppress in
// net/ipv4/fib_rules.c).
func (h *Host) suppressed(r *PolicyRule, d decision) bool {
	if d.route.Dst.Bits() <= r.SuppressLength {
		return true
	}
	if r.SuppressGroup < 0 || d.hop.Oif == 0 {
		return false
	}
	l, err := h.Link(d.hop.Oif)
	return err == nil && int64(l.Group) == r.SuppressGroup
}

// ruleMatches is fib_rule_match of net/core/fib_rules.c.
func (h *Host) ruleMatches(r *PolicyRule, f flow) (bool, error) {
	matches := (f.Mark^r.Mark)&r.Mask == 0 && r.TunID == 0 && (!r.L3MDev || f.l3mdev != 0) &&
		(r.UIDs == nil || r.UIDs[0] <= f.UID && f.UID <= r.UIDs[1]) &&
		inPrefix(r.From, f.Src) && inPrefix(r.To, f.Dst) && (f.TOS^r.TOS)&r.TOSMask == 0 &&
		(r.Proto == 0 || r.Proto == f.Proto) && r.SrcPorts.has(f.SrcPort) && r.DstPorts.has(f.DstPort)
	for _, of := range [...]struct {
		name     string
		detached bool
		link     int
	}{{r.Iif, r.IifDetached, f.iif}, {r.Oif, r.OifDetached, f.Oif}} {
		switch {
		case !matches || of.name == "":
		case of.detached:
			matches = false
		default:
			l, err := h.LinkByName(of.name)
			if errors.Is(err, fs.ErrNotExist) {
				matches = false
				continue
			}
			if err != nil {
				return false, err
			}
			matches = l.Index == of.link || l.Kind == "vrf" && l.Index == f.l3mdev
		}
	}
	return matches != r.Not, nil
}

// inPrefix reports whether an address is within a prefix. One that is not known is within that of
// length zero alone.
func inPrefix(p netip.Prefix, a netip.Addr) bool {
	return !p.IsValid() || p.Bits() == 0 || p.Contains(a)
}

// lookUpTable finds the route of the longest prefix in the table that a rule leads to, as
// fib_table_lookup of net/ipv4/fib_trie.c and fib6_table_lookup of net/ipv6/route.c do. The errno is
// EAGAIN if there is none.
func (h *Host) lookUpTable(f flow, rule *PolicyRule) (d decision, err error) {
	table := rule.Table
	if rule.L3MDev {
		l, err := h.Link(f.l3mdev)
		if err != nil {
			return d, err
		}
		table = l.VRFTable
	}
	all, err := h.Routes(f.Dst.Is4(), table)
	if err != nil {
		return d, err
	}
	d = decision{rule: rule, errno: unix.EAGAIN}
	for _, r := range candidates(all, f) {
		hop, ok, err := h.usableHop(r, f)
		if err != nil {
			return d, err
		}
		errno := r.Type.error()
		switch {
		case errno != 0 && f.Dst.Is4():
			// It counts whatever its next hop.
		case !ok:
			continue
		}
		if errno == unix.EAGAIN {
			d.throw = r
			return d, nil
		}
		d.route, d.hop, d.errno = r, hop, errno
		return d, nil
	}
	return d, nil
}

// candidates returns the routes for a flow in the order in which the kernel tries them.
func candidates(all []*Route, f flow) (list []*Route) {
	for _, r := range all {
		tos := r.TOS == 0 || r.TOS == f.TOS&legacyTOSMask
		if r.Dst.Contains(f.Dst) && inPrefix(r.Src, f.Src) && tos && !r.Expired {
			list = append(list, r)
		}
	}
	order.Sort(list, func(a, b *Route) int {
		return cmp.Or(b.Dst.Bits()-a.Dst.Bits(), b.Src.Bits()-a.Src.Bits(), int(b.TOS)-int(a.TOS), cmp.Compare(a.Metric, b.Metric))
	})
	return list
}

// usableHop returns the first next hop of a route that the kernel uses for a flow.
func (h *Host) usableHop(r *Route, f flow) (hop Hop, ok bool, err error) {
	for _, hop := range r.Hops {
		if hop.Flags&rtnhDead != 0 || f.Oif != 0 && hop.Oif != f.Oif {
			continue
		}
		if hop.Flags&rtnhDown != 0 && !f.ignoreDown {
			ignored, _, err := h.Setting(f.Dst.Is4(), hop.Oif, "ignore_routes_with_linkdown")
			if err != nil {
				return Hop{}, false, err
			}
			if ignored != 0 {
				continue
			}
		}
		return hop, true, nil
	}
	return Hop{}, false, nil
}

// FIB evaluates policy rules and routes alone, as the fib expressions of nft do: without forwarding
// switches and the reverse path filter. It reads the tables that it comes to. Of several next hops
// it gives the first.
func (h *Host) FIB(q RouteQuery) (route *Route, fault *RouteFault, err error) {
	f, err := h.flowOf(q)
	if err != nil {
		return nil, nil, err
	}
	f.ignoreDown = true
	d, err := h.evaluate(f)
	if err != nil {
		return nil, nil, err
	}
	if d.unknown != nil {
		return nil, nil, h.note(fmt.Errorf("look up route to %s: rule %s: its conditions are not known: %w", q.Dst, d.unknown, unix.EOPNOTSUPP))
	}
	if d.errno != 0 {
		return nil, h.faultOf(d, f), nil
	}
	return h.routeOf(d), nil, nil
}

// routeOf returns the route of a decision with its next hop.
func (h *Host) routeOf(d decision) *Route {
	r := *d.route
	r.Oif, r.Gateway, r.Flags = d.hop.Oif, d.hop.Gateway, d.hop.Flags
	h.finish(&r)
	return &r
}

// AddressType returns what an address is to the host, as fib expressions and the match addrtype ask:
// RTN_LOCAL, RTN_BROADCAST, RTN_MULTICAST, RTN_ANYCAST or RTN_UNICAST, and of IPv6 RTN_UNREACHABLE
// if no route leads there. A link that is not zero limits the first two to addresses of that
// interface.
func (h *Host) AddressType(addr netip.Addr, link int) (RouteType, error) {
	addr = addr.Unmap().WithZone("")
	switch {
	case addr.IsMulticast():
		return unix.RTN_MULTICAST, nil
	case addr.Is4() && (addr.As4()[0] == 0 || addr == limitedBroadcast):
		return unix.RTN_BROADCAST, nil
	}
	d, err := h.lookUpTable(flow{RouteQuery: RouteQuery{Dst: addr}, iif: loopback, ignoreDown: true},
		&PolicyRule{Is4: addr.Is4(), Table: unix.RT_TABLE_LOCAL})
	switch {
	case err != nil:
		return 0, err
	case d.route != nil && d.errno == 0 && (link == 0 || d.hop.Oif == link || h.hasAddress(link, addr)):
		return d.route.Type, nil
	case addr.Is4() || d.route != nil && d.errno == 0:
		return unix.RTN_UNICAST, nil
	}
	_, fault, err := h.FIB(RouteQuery{Dst: addr})
	if fault == nil {
		return unix.RTN_UNICAST, err
	}
	return fault.addressType(), err
}

// addressType is the type of an address of IPv6 whose look-up ends so.
func (f *RouteFault) addressType() RouteType {
	switch {
	case f.Kind == FaultRoute && f.Route.Type == unix.RTN_BLACKHOLE, f.Kind == FaultRule && f.Rule.Action == unix.FR_ACT_BLACKHOLE:
		return unix.RTN_BLACKHOLE
	case f.Kind == FaultRoute && f.Route.Type == unix.RTN_PROHIBIT, f.Kind == FaultRule && f.Rule.Action == unix.FR_ACT_PROHIBIT:
		return unix.RTN_PROHIBIT
	}
	return unix.RTN_UNREACHABLE
}

var limitedBroadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// hasAddress reports whether an address is one of an interface: the local routes of IPv6 lead to lo
// in some kernels.
func (h *Host) hasAddress(link int, addr netip.Addr) bool {
	of, err := h.AddressesOf(link)
	return err == nil && slices.ContainsFunc(of, func(a *Address) bool { return a.Prefix.Addr() == addr })
}
