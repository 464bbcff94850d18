// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// RouteFault is why a packet is not routed.
type RouteFault struct {
	// Kind is one of the constants.
	Kind FaultKind
	// Thing is it as its own tool names it: "blackhole 172.30.0.2 in table main", "rule 32000: from
	// 172.30.0.2 blackhole", "net.ipv4.ip_forward = 0".
	Thing string
	// What says what it does, in some words: "discards packets to 172.30.0.2".
	What string
	// Remedy is a command that would correct it: "ip route del blackhole 172.30.0.2". Empty: there is
	// none that is always right.
	Remedy string
	// Silent is false if the sender gets an ICMP error.
	Silent bool
	Route  *Route      // nil: none
	Rule   *PolicyRule // the rule that led to it; nil: none
}

// FaultKind is a kind of RouteFault.
type FaultKind string

// The kinds.
const (
	FaultRoute      FaultKind = "route"      // a route of type blackhole, unreachable or prohibit
	FaultRule       FaultKind = "rule"       // a policy rule that does so
	FaultNoRoute    FaultKind = "no route"   // none matches
	FaultForwarding FaultKind = "forwarding" // of the interface or the host
	FaultRPFilter   FaultKind = "rp_filter"
	FaultSource     FaultKind = "source"      // an address that no such packet may come from
	FaultDest       FaultKind = "destination" // an address that no such packet may go to
	FaultDisabled   FaultKind = "disabled"    // the family on the interface
	FaultLink       FaultKind = "link"        // the interface is down
	FaultUnknown    FaultKind = "unknown"     // the kernel refuses, and the cause was not found
)

// faultOf says why a decision refuses.
func (h *Host) faultOf(d decision, f flow) *RouteFault {
	fault := &RouteFault{Rule: d.rule, Route: d.route, Silent: d.errno == unix.EINVAL}
	tool := "ip"
	if f.Dst.Is6() {
		tool = "ip -6"
	}
	what := map[unix.Errno]string{
		unix.EINVAL: "discards", unix.EACCES: "refuses as prohibited",
		unix.EHOSTUNREACH: "refuses as unreachable", unix.ENETUNREACH: "refuses as unreachable",
	}[d.errno] + fmt.Sprintf(" packets to %s", f.Dst)
	switch {
	case d.route != nil:
		h.finish(d.route)
		fault.Kind, fault.Thing, fault.What = FaultRoute, d.route.Text, what
		text := h.routeText(d.route)
		if d.route.NextHop != 0 { // the nexthop refuses: ip-route(8) wants the route without a type
			text = strings.TrimPrefix(text, d.route.Type.String()+" ")
		}
		fault.Remedy = tool + " route del " + text
		if d.route.Table != unix.RT_TABLE_MAIN {
			fault.Remedy += " table " + tableText(d.route.Table)
			if d.route.Table != unix.RT_TABLE_LOCAL {
				fault.What += fmt.Sprintf(" (rule %s)", d.rule)
			}
		}
	case d.rule != nil:
		fault.Kind, fault.Thing, fault.What = FaultRule, "rule "+d.rule.String(), what
		fault.Remedy = fmt.Sprintf("%s rule del priority %d %s", tool, d.rule.Priority, d.rule.spec())
	default:
		fault.Kind, fault.Thing = FaultNoRoute, fmt.Sprintf("no route to %s", f.Dst)
		fault.What = "no policy rule leads to a route for it"
		fault.Remedy = fmt.Sprintf("%s route add %s via GATEWAY", tool, f.Dst)
		if d.throw == nil {
			break
		}
		h.finish(d.throw)
		if h.thrown(d.throw, f) {
			fault.Kind, fault.Thing, fault.Route = FaultRoute, d.throw.Text, d.throw
			fault.What = fmt.Sprintf("has the other routes of its table to %s ignored, and no other table has one", f.Dst)
			fault.Remedy = tool + " route del " + h.routeText(d.throw)
			if d.throw.Table != unix.RT_TABLE_MAIN {
				fault.Remedy += " table " + tableText(d.throw.Table)
			}
			break
		}
		fault.What += ": " + d.throw.Text
	}
	return fault
}

// thrown reports whether a route would be found in the table of a throw route without it.
func (h *Host) thrown(throw *Route, f flow) bool {
	all, err := h.Routes(f.Dst.Is4(), throw.Table)
	if err != nil {
		return false
	}
	for _, r := range candidates(all, f) {
		if r.Type == unix.RTN_THROW {
			continue
		}
		_, ok, err := h.usableHop(r, f)
		if err == nil && ok && r.Type.error() == 0 {
			return true
		}
	}
	return false
}

// neverRouted says why a packet of IPv6 that came in is dropped before it is routed; nil: it is
// not.
func (h *Host) neverRouted(q RouteQuery) (*RouteFault, error) {
	if q.Iif == 0 || q.Dst.Is4() {
		return nil, nil
	}
	l, err := h.Link(q.Iif)
	if err != nil {
		return nil, err
	}
	off, from, err := h.Setting(false, q.Iif, "disable_ipv6")
	switch {
	case err != nil:
		return nil, err
	case off != 0:
		return &RouteFault{
			Kind: FaultDisabled, Thing: from + " = 1", What: l.Name + " takes no packets of IPv6", Remedy: "sysctl " + from + "=0", Silent: true,
		}, nil
	case q.Src.IsMulticast():
		return fromNobody(q, "a multicast address"), nil
	case q.Iif != loopback && q.Src.IsLoopback():
		return fromNobody(q, "the loopback address"), nil
	case q.Iif != loopback && q.Dst.IsLoopback():
		return toNobody(q, "the loopback address"), nil
	}
	return nil, nil
}

// forward6 says why a packet of IPv6 is not forwarded though there is a route (ip6_forward in
// net/ipv6/ip6_output.c); nil: it is.
func (h *Host) forward6(q RouteQuery) (*RouteFault, error) {
	fault, err := h.Forwarding(false, q.Iif)
	if fault != nil || err != nil {
		return fault, err
	}
	if q.Src.IsLinkLocalUnicast() || q.Src.IsUnspecified() {
		fault = fromNobody(q, "a link-local address, which is not forwarded")
		fault.Silent = false
		return fault, nil
	}
	return nil, nil
}

func fromNobody(q RouteQuery, what string) *RouteFault {
	return &RouteFault{Kind: FaultSource, Thing: fmt.Sprintf("source %s", q.Src), What: "it is " + what, Silent: true}
}

func toNobody(q RouteQuery, what string) *RouteFault {
	return &RouteFault{Kind: FaultDest, Thing: fmt.Sprintf("destination %s", q.Dst), What: "it is " + what, Silent: true}
}

// cause finds out why the kernel refuses to route a packet.
func (h *Host) cause(q RouteQuery, errno unix.Errno) (fault *RouteFault, err error) {
	f, err := h.flowOf(q)
	if err != nil {
		return nil, err
	}
	switch {
	case q.Iif != 0 && q.Dst.Is4():
		fault, err = h.inputCause(q, f)
	case q.Iif == 0:
		fault, err = h.outputCause(q, f)
	default:
		var d decision
		if d, err = h.evaluate(f); err == nil && d.errno != 0 {
			fault = h.faultOf(d, f)
		}
	}
	if fault == nil && err == nil {
		fault = &RouteFault{
			Kind: FaultUnknown, Thing: fmt.Sprintf("route to %s: %v", q.Dst, errno), What: "the kernel refuses to route it", Silent: errno == unix.EINVAL,
		}
	}
	return fault, err
}

// outputCause is for the host's own packets (ip_route_output_key_hash_rcu in
// net/ipv4/route.c).
func (h *Host) outputCause(q RouteQuery, f flow) (*RouteFault, error) {
	if q.Dst.Is4() && q.Src.IsValid() && !q.Src.IsUnspecified() {
		typ, err := h.AddressType(q.Src, 0)
		if err != nil {
			return nil, err
		}
		if typ != unix.RTN_LOCAL {
			return fromNobody(q, "no address of this host"), nil
		}
	}
	if q.Oif != 0 {
		l, err := h.Link(q.Oif)
		if err != nil {
			return nil, err
		}
		if !l.Up() {
			return &RouteFault{Kind: FaultLink, Thing: "interface " + l.Name, What: "it is down", Remedy: "ip link set " + l.Name + " up"}, nil
		}
	}
	d, err := h.evaluate(f)
	if err != nil || d.errno == 0 {
		return nil, err
	}
	return h.faultOf(d, f), nil
}

// inputCause is for packets of IPv4 that came in (ip_route_input_slow in net/ipv4/route.c).
func (h *Host) inputCause(q RouteQuery, f flow) (*RouteFault, error) {
	if fault, err := h.martian(q); fault != nil || err != nil {
		return fault, err
	}
	d, err := h.evaluate(f)
	if err != nil {
		return nil, err
	}
	forwarding, err := h.Forwarding(true, q.Iif)
	switch {
	case err != nil:
		return nil, err
	case d.errno != 0:
		fault := h.faultOf(d, f)
		fault.Silent = fault.Silent || forwarding != nil
		return fault, nil
	case d.route.Type == unix.RTN_LOCAL:
		return h.checkSource(q, loopback)
	case d.route.Type == unix.RTN_BROADCAST:
		return nil, nil
	case forwarding != nil:
		return forwarding, nil
	case d.route.Type != unix.RTN_UNICAST:
		return toNobody(q, "of type "+d.route.Type.String()), nil
	}
	// The way back may depend on the next hop, which is chosen by a hash.
	for _, hop := range d.route.Hops {
		if fault, err := h.checkSource(q, hop.Oif); fault != nil || err != nil {
			return fault, err
		}
	}
	return nil, nil
}

// martian says why addresses of a packet of IPv4 are never right; nil: they may be.
func (h *Host) martian(q RouteQuery) (*RouteFault, error) {
	if q.Src.IsValid() && (q.Src.IsMulticast() || q.Src == limitedBroadcast) {
		return fromNobody(q, "no address of a single host"), nil
	}
	if q.Src.IsValid() && q.Src.As4()[0] == 0 {
		return fromNobody(q, "in 0.0.0.0/8"), nil
	}
	if q.Dst.IsValid() && q.Dst.As4()[0] == 0 {
		return toNobody(q, "in 0.0.0.0/8"), nil
	}
	if q.Iif == loopback || !q.Src.IsLoopback() && !q.Dst.IsLoopback() {
		return nil, nil
	}
	on, _, err := h.Setting(true, q.Iif, "route_localnet")
	if on != 0 || err != nil {
		return nil, err
	}
	name := sysctlName(confPath(true, h.linkName(q.Iif), "route_localnet"))
	fault := toNobody(q, "a loopback address, and "+name+" = 0")
	if q.Src.IsLoopback() {
		fault = fromNobody(q, "a loopback address, and "+name+" = 0")
	}
	fault.Remedy = "sysctl " + name + "=1"
	return fault, nil
}

// checkSource is fib_validate_source of net/ipv4/fib_frontend.c. oif is the interface that the packet
// leaves by, that of loopback for one to the host; zero: not known.
func (h *Host) checkSource(q RouteQuery, oif int) (*RouteFault, error) {
	filter, filterName, err := h.Setting(true, q.Iif, "rp_filter")
	if err != nil {
		return nil, err
	}
	local, _, err := h.Setting(true, q.Iif, "accept_local")
	if err != nil {
		return nil, err
	}
	l, err := h.Link(q.Iif)
	if err != nil {
		return nil, err
	}
	f := flow{RouteQuery: RouteQuery{Dst: q.Src, Src: q.Dst, Proto: q.Proto, SrcPort: q.DstPort, DstPort: q.SrcPort, TOS: q.TOS}, iif: oif, l3mdev: l.vrf()}
	if oif == 0 {
		f.iif = loopback
	}
	if valid, _, err := h.Setting(true, q.Iif, "src_valid_mark"); err != nil {
		return nil, err
	} else if valid != 0 {
		f.Mark = q.Mark
	}
	if filter == 0 {
		// The kernel looks no route up, and asks for the host's own addresses alone.
		typ, err := h.AddressType(q.Src, 0)
		if err != nil || typ != unix.RTN_LOCAL || local != 0 {
			return nil, err
		}
		return h.ownSource(q, l), nil
	}
	d, err := h.evaluate(f)
	if err != nil {
		return nil, err
	}
	refused := &RouteFault{
		Kind: FaultRPFilter, Thing: fmt.Sprintf("%s = %d", filterName, filter), Silent: true, Route: d.route, Rule: d.rule,
		Remedy: "sysctl " + sysctlName(confPath(true, l.Name, "rp_filter")) + "=2",
	}
	addresses, err := h.AddressesOf(q.Iif)
	if err != nil {
		return nil, err
	}
	has4 := slices.ContainsFunc(addresses, func(a *Address) bool { return a.Prefix.Addr().Is4() })
	switch {
	case d.errno != 0:
		refused.What = fmt.Sprintf("drops packets from %s by %s: %s", q.Src, l.Name, h.faultOf(d, f).Thing)
		refused.Remedy = fmt.Sprintf("ip route add %s dev %s", q.Src, l.Name)
		return refused, nil
	case d.route.Type == unix.RTN_LOCAL && local == 0:
		return h.ownSource(q, l), nil
	case d.route.Type != unix.RTN_LOCAL && d.route.Type != unix.RTN_UNICAST:
		return fromNobody(q, "of type "+d.route.Type.String()), nil
	case h.uses(d.route, q.Iif) || d.route.Type == unix.RTN_LOCAL && q.Iif == loopback:
		return nil, nil
	case filter == 1 || !has4: // of an interface without an address the loose filter takes nothing
		refused.What = fmt.Sprintf("drops packets from %s by %s: %s", q.Src, l.Name, h.routeOf(d).Text)
		return refused, nil
	}
	return nil, nil
}

func (h *Host) ownSource(q RouteQuery, l *Link) *RouteFault {
	fault := fromNobody(q, "an address of this host, and came in by "+l.Name)
	fault.Remedy = "sysctl " + sysctlName(confPath(true, l.Name, "accept_local")) + "=1"
	return fault
}

// uses reports whether a route leads to an interface, or to one of the VRF that it is.
func (h *Host) uses(r *Route, link int) bool {
	return slices.ContainsFunc(r.Hops, func(o Hop) bool {
		if o.Oif == link {
			return true
		}
		l, err := h.Link(o.Oif)
		return err == nil && l.vrf() == link
	})
}
