// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// RouteQuery is a packet that is to be routed.
type RouteQuery struct {
	Dst netip.Addr
	// Src is its source; invalid: the host's own packet, which has none yet.
	Src netip.Addr
	// Iif is the interface by which it came. Zero: the host sends it.
	Iif int
	// Oif is the interface to which its sender is bound. Zero: none.
	Oif              int
	Mark             uint32
	Proto            uint8 // zero: not known; of IPv4 the kernel takes it for UDP
	SrcPort, DstPort uint16
	UID              uint32 // of the sender of the host's own packet
	TOS              uint8
}

// Lookup asks the kernel for the route of a packet: by its policy rules, forwarding switches and
// reverse path filter. A zone of the destination is the interface that the sender is bound to. One of route and fault is nil. An error says that it could not be asked.
func (h *Host) Lookup(q RouteQuery) (route *Route, fault *RouteFault, err error) {
	if zone := q.Dst.Zone(); zone != "" && q.Iif == 0 && q.Oif == 0 {
		l, err := h.LinkByName(zone)
		if err != nil {
			return nil, nil, err
		}
		q.Oif = l.Index
	}
	q.Dst, q.Src = q.Dst.Unmap().WithZone(""), q.Src.Unmap().WithZone("")
	if q.Iif != 0 && !q.Src.IsValid() {
		return nil, nil, fmt.Errorf("look up route to %s: no source", q.Dst)
	}
	if fault, err = h.neverRouted(q); fault != nil || err != nil {
		return nil, fault, err
	}
	route, err = h.getRoute(q, 0)
	var errno unix.Errno
	switch {
	case errors.As(err, &errno) && isRouteError(errno):
		fault, err = h.cause(q, errno)
		return nil, fault, err
	case err != nil:
		return nil, nil, h.note(fmt.Errorf("look up route to %s: %w", q.Dst, err))
	case route == nil:
		return nil, nil, fmt.Errorf("look up route to %s: %w", q.Dst, nlwire.ErrMalformed)
	}
	// IPv6 answers with routes that refuse, and does not look at its switch.
	if errno := route.Type.error(); errno != 0 {
		fault, err = h.cause(q, errno)
		return nil, fault, err
	}
	if q.Dst.Is6() && q.Iif != 0 && route.Type == unix.RTN_UNICAST {
		if fault, err = h.forward6(q); fault != nil || err != nil {
			return nil, fault, err
		}
	}
	// The entry itself, for its prefix, its metric and all its next hops.
	if entry, err := h.getRoute(q, unix.RTM_F_FIB_MATCH); err == nil && entry != nil {
		if entry.NextHop != 0 && q.Dst.Is6() {
			if entry, err = h.sharedNextHop(q, entry); err != nil {
				return nil, nil, err
			}
		}
		if route.Type == unix.RTN_UNICAST {
			entry.Oif, entry.Gateway, entry.MTU = route.Oif, route.Gateway, route.MTU
		}
		entry.PrefSrc = route.PrefSrc
		if entry.Table == unix.RT_TABLE_MAIN && (entry.Type == unix.RTN_LOCAL || entry.Type == unix.RTN_BROADCAST) {
			entry.Table = unix.RT_TABLE_LOCAL // IPv4 has both in one as long as there were no policy rules
		}
		route = entry
	}
	h.finish(route)
	return route, nil, nil
}

// sharedNextHop finds the entry of a route of IPv6 by a nexthop object. The kernel answers with any
// of the entries that have the object, since they share the route that it keeps there for each CPU
// (rt6_get_pcpu_route in net/ipv6/route.c).
func (h *Host) sharedNextHop(q RouteQuery, entry *Route) (*Route, error) {
	f, err := h.flowOf(q)
	if err != nil {
		return nil, err
	}
	d, err := h.evaluate(f)
	if err != nil || d.errno != 0 || d.unknown != nil || d.route.NextHop != entry.NextHop {
		return entry, err
	}
	found := *d.route
	return &found, nil
}

func isRouteError(errno unix.Errno) bool {
	return slices.Contains([]unix.Errno{unix.EINVAL, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EACCES, unix.EXDEV, unix.EAGAIN}, errno)
}

// getRoute asks the kernel for a route.
func (h *Host) getRoute(q RouteQuery, flags uint32) (route *Route, err error) {
	bits := q.Dst.BitLen()
	body := make([]byte, unix.SizeofRtMsg)
	body[0], body[1], body[3] = family(q.Dst.Is4()), byte(bits), q.TOS
	if q.Dst.Is4() { // IPv6 says the table always, and refuses the flag
		flags |= unix.RTM_F_LOOKUP_TABLE
	}
	binary.NativeEndian.PutUint32(body[8:], flags)
	body = nlwire.AppendAttr(body, unix.RTA_DST, q.Dst.AsSlice()...)
	if q.Src.IsValid() {
		body[2] = byte(bits)
		body = nlwire.AppendAttr(body, unix.RTA_SRC, q.Src.AsSlice()...)
	}
	for _, a := range [...]struct {
		typ uint16
		v   uint32
	}{{unix.RTA_IIF, uint32(q.Iif)}, {unix.RTA_OIF, uint32(q.Oif)}, {unix.RTA_MARK, q.Mark}} {
		if a.v != 0 {
			body = appendU32(body, a.typ, a.v)
		}
	}
	uid := q.UID
	if q.Iif != 0 {
		// Packets that come in are root's. If nothing is said, IPv6 takes this question for nobody's.
		uid = 0
	}
	body = appendU32(body, unix.RTA_UID, uid)
	if q.Proto == unix.IPPROTO_TCP || q.Proto == unix.IPPROTO_UDP { // the kernel takes no others with ports
		body = nlwire.AppendAttr(body, unix.RTA_IP_PROTO, q.Proto)
		if q.SrcPort != 0 {
			body = nlwire.AppendAttr(body, unix.RTA_SPORT, binary.BigEndian.AppendUint16(nil, q.SrcPort)...)
		}
		if q.DstPort != 0 {
			body = nlwire.AppendAttr(body, unix.RTA_DPORT, binary.BigEndian.AppendUint16(nil, q.DstPort)...)
		}
	}
	err = h.ask(unix.NETLINK_ROUTE, unix.RTM_GETROUTE, 0, body, nil, func(m nlwire.Message) (err error) {
		route, err = parseRoute(m)
		return err
	})
	return route, err
}
