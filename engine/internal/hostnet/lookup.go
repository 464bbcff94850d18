// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Lookup returns the route to an address.
func (r *Routes) Lookup(addr netip.Addr) (Route, error) {
	found, err := r.LookupAll([]netip.Addr{addr})
	return found.Of(addr), err
}

// lookupBatch is how many routes are asked for in one datagram. The answers, of some
// hundred bytes each, have to fit the receive buffer (net.core.rmem_default).
const lookupBatch = 64

// LookupAll returns the routes to addresses.
func (r *Routes) LookupAll(addrs []netip.Addr) (found RouteMap, err error) {
	var rs regions
	if len(addrs) >= manyAddrs && r.lists != nil {
		rs = r.regions(addrs)
	}
	if rs == nil {
		return r.lookUpEach(addrs)
	}
	asked := make([]netip.Addr, len(rs)) // of each region, one of the addresses
	in := 0
	for _, a := range addrs {
		in = rs.near(in, a)
		asked[in] = a
	}
	answers, err := r.lookUpEach(slices.DeleteFunc(slices.Clone(asked), func(a netip.Addr) bool { return !a.IsValid() }))
	if err != nil {
		return RouteMap{}, err
	}
	var route *Route
	for _, a := range addrs {
		if next := rs.near(in, a); next != in || found.Len() == 0 {
			in, route = next, answers.Map.Of(asked[next])
		}
		found.Set(a, route)
	}
	return found, nil
}

// lookUpEach asks the kernel for the route to each address, once.
func (r *Routes) lookUpEach(addrs []netip.Addr) (found RouteMap, err error) {
	links := map[int]link{} // that were looked up, by index
	batch := make([]netip.Addr, 0, min(len(addrs), lookupBatch))
	for len(addrs) != 0 {
		places := make([]Route, min(len(addrs), lookupBatch))
		for batch = batch[:0]; len(addrs) != 0 && len(batch) < lookupBatch; addrs = addrs[1:] {
			if found.Map.Of(addrs[0]) == nil {
				found.Set(addrs[0], &places[len(batch)])
				batch = append(batch, addrs[0])
			}
		}
		// The kernel answers with the entry of the table and all its next hops, where a plain
		// look-up answers for the one address.
		routes, errs, err := r.lookUpBatch(batch, unix.RTM_F_FIB_MATCH)
		for i := 0; i < len(batch) && err == nil; i++ {
			// The next hops of nexthop objects are not there with nexthop_compat_mode=0.
			if routes[i].kind == unix.RTN_UNICAST && len(routes[i].hops) == 0 {
				var plain []fibRoute
				if plain, _, err = r.lookUpBatch(batch[i:i+1], 0); err == nil {
					routes[i].hops = plain[0].hops
				}
			}
		}
		for i := 0; i < len(batch) && err == nil; i++ {
			places[i], err = r.routeOf(routes[i], errs[i], links)
			if err != nil {
				err = fmt.Errorf("look up route to %s: %w", batch[i], err)
			}
		}
		if err != nil {
			return RouteMap{}, err
		}
	}
	return found, nil
}

// lookUpBatch asks for several routes at once, and returns the kernel's answer for each.
func (r *Routes) lookUpBatch(addrs []netip.Addr, flags uint32) (routes []fibRoute, errs []error, err error) {
	var b []byte
	first := r.seq + 1
	for _, a := range addrs {
		r.seq++
		var at int
		b, at = nlwire.OpenMessage(b, unix.RTM_GETROUTE, 0, r.seq)
		header := [unix.SizeofRtMsg]byte{unix.AF_INET6, byte(a.BitLen())}
		if a.Is4() {
			header[0] = unix.AF_INET
		}
		binary.NativeEndian.PutUint32(header[8:], flags)
		b = append(b, header[:]...)
		b = nlwire.CloseMessage(nlwire.AppendAttr(b, unix.RTA_DST, a.AsSlice()...), at)
	}
	routes, errs = make([]fibRoute, len(addrs)), make([]error, len(addrs))
	err = r.exchange(b, len(addrs), func(m nlwire.Message) (bool, error) {
		i := m.Seq - first
		if int(i) >= len(addrs) {
			return false, nil
		}
		if m.Type == unix.NLMSG_ERROR {
			a, err := m.Answer()
			errs[i] = a.Err()
			return true, err
		}
		routes[i] = parseRoute(m.Payload)
		return true, nil
	})
	if err != nil {
		err = fmt.Errorf("look up routes: %w", err)
	}
	return routes, errs, err
}

// exchange sends requests, and calls f with each message until it has reported that so many
// are answers.
func (r *Routes) exchange(requests []byte, answers int, f func(nlwire.Message) (bool, error)) error {
	return r.exchangeOn(r.socket, requests, answers, f)
}

func (r *Routes) exchangeOn(s *nlwire.Socket, requests []byte, answers int, f func(nlwire.Message) (bool, error)) error {
	if err := s.Send(requests); err != nil {
		return err
	}
	for answers > 0 {
		n, err := s.Receive(r.buf, false) // there is something, or it is lost
		if err != nil {
			return err
		}
		m := nlwire.Messages{Data: r.buf[:n]}
		for m.Next() {
			is, err := f(m.Message)
			if err != nil {
				return err
			}
			if is {
				answers--
			}
		}
		if m.Err != nil {
			return m.Err
		}
	}
	return nil
}

// routeOf makes a Route of the kernel's answer.
func (r *Routes) routeOf(f fibRoute, answer error, links map[int]link) (route Route, err error) {
	switch {
	case errors.Is(answer, unix.ENETUNREACH), errors.Is(answer, unix.EHOSTUNREACH):
		return Route{Kind: Unreachable}, nil
	case errors.Is(answer, unix.EINVAL), errors.Is(answer, unix.EACCES): // blackhole, prohibit
		return Route{Kind: Other}, nil
	case answer != nil:
		return Route{}, answer
	}
	switch f.kind {
	case unix.RTN_LOCAL:
		return Route{Kind: Local}, nil
	case unix.RTN_BROADCAST:
		return Route{Kind: Broadcast}, nil
	case unix.RTN_UNICAST:
	default:
		return Route{Kind: Other}, nil
	}
	route.Kind = Unicast
	for i, hop := range f.hops {
		l, ok := links[hop.link]
		if !ok {
			if l, err = r.link(hop.link, ""); err != nil {
				return Route{}, fmt.Errorf("look up interface %d: %w", hop.link, err)
			}
			links[hop.link] = l
		}
		switch {
		case i == 0:
			route.Link = l.name
			// A default route without a gateway, as tunnels have, is on no segment.
			if l.isBridge && hop.direct && len(f.hops) == 1 && f.dst.Bits() > 0 {
				route.Bridge = hop.link
			}
		case l.name != route.Link && !slices.Contains(route.More, l.name):
			route.More = append(route.More, l.name)
		}
	}
	return route, nil
}

// skipStats is RTEXT_FILTER_SKIP_STATS of include/uapi/linux/rtnetlink.h.
const skipStats = 1 << 3

// link is an interface.
type link struct {
	index    int
	name     string
	isBridge bool
}

// link looks an interface up by its index, or, if that is zero, by its name. The error is
// unix.ENODEV if there is none.
func (r *Routes) link(index int, name string) (l link, err error) {
	r.seq++
	b, at := nlwire.OpenMessage(nil, unix.RTM_GETLINK, 0, r.seq)
	header := [unix.SizeofIfInfomsg]byte{unix.AF_UNSPEC}
	binary.NativeEndian.PutUint32(header[4:], uint32(index))
	b = append(b, header[:]...)
	if index == 0 {
		b = nlwire.AppendString(b, unix.IFLA_IFNAME, name)
	}
	b = nlwire.AppendAttr(b, unix.IFLA_EXT_MASK, binary.NativeEndian.AppendUint32(nil, skipStats)...)
	err = r.exchange(nlwire.CloseMessage(b, at), 1, func(m nlwire.Message) (bool, error) {
		if m.Seq != r.seq {
			return false, nil
		}
		if m.Type == unix.NLMSG_ERROR {
			a, err := m.Answer()
			return true, errors.Join(err, a.Err())
		}
		if len(m.Payload) < unix.SizeofIfInfomsg {
			return false, nlwire.ErrMalformed
		}
		l.index = int(binary.NativeEndian.Uint32(m.Payload[4:]))
		for a := m.Attrs(unix.SizeofIfInfomsg); a.Next(); {
			switch a.Type {
			case unix.IFLA_IFNAME:
				l.name = unix.ByteSliceToString(a.Payload)
			case unix.IFLA_LINKINFO:
				l.isBridge = nlwire.FindString(a.Payload, unix.IFLA_INFO_KIND) == "bridge"
			}
		}
		return true, nil
	})
	return l, err
}

// fibRoute is a route as the kernel lists it.
type fibRoute struct {
	kind byte // unix.RTN_UNICAST
	dst  netip.Prefix
	hops []hop
}

// hop is a next hop.
type hop struct {
	link   int
	direct bool // without a gateway
}

func parseRoute(b []byte) (f fibRoute) {
	if len(b) < unix.SizeofRtMsg {
		return f
	}
	f.kind = b[7]
	dst := netip.IPv6Unspecified()
	if b[0] == unix.AF_INET {
		dst = netip.IPv4Unspecified()
	}
	one := hop{direct: true}
	for a := (nlwire.Attrs{Data: b[unix.SizeofRtMsg:]}); a.Next(); {
		switch a.Type {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(a.Payload)
		case unix.RTA_OIF:
			if len(a.Payload) == 4 {
				one.link = int(binary.NativeEndian.Uint32(a.Payload))
			}
		case unix.RTA_GATEWAY, unix.RTA_VIA:
			one.direct = false
		case unix.RTA_MULTIPATH:
			f.hops = parseNextHops(a.Payload)
		}
	}
	f.dst = netip.PrefixFrom(dst, int(b[1]))
	if one.link != 0 && len(f.hops) == 0 {
		f.hops = []hop{one}
	}
	return f
}

// parseNextHops reads struct rtnexthop (include/uapi/linux/rtnetlink.h).
func parseNextHops(b []byte) (hops []hop) {
	for len(b) >= unix.SizeofRtNexthop {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtNexthop || size > len(b) {
			break
		}
		h := hop{link: int(binary.NativeEndian.Uint32(b[4:])), direct: true}
		for a := (nlwire.Attrs{Data: b[unix.SizeofRtNexthop:size]}); a.Next(); {
			h.direct = h.direct && a.Type != unix.RTA_GATEWAY && a.Type != unix.RTA_VIA
		}
		if h.link != 0 {
			hops = append(hops, h)
		}
		b = b[min(nlwire.Align(size), len(b)):]
	}
	return hops
}
