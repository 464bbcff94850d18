// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// maxSingleLinks is up to how many links are asked for one by one. The kernel walks all
// routes for each, and sends those of the link.
const maxSingleLinks = 8

// OnLink returns what is on link by each of the named interfaces: the destinations of its
// unicast routes, in any table, that have no gateway. The default route, as tunnels have,
// and link-local addresses of IPv6 are left out, and so is what lies within another. An
// interface that does not exist has none.
func (r *Routes) OnLink(links []string, is4 bool) (map[string][]netip.Prefix, error) {
	names := make(map[int]string, len(links)) // by index
	for _, name := range links {
		link, err := r.handle.LinkByName(name)
		if notFound := (netlink.LinkNotFoundError{}); errors.As(err, &notFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look up interface %s: %w", name, err)
		}
		names[link.Attrs().Index] = name
	}
	found := make(map[string][]netip.Prefix, len(links))
	add := func(b []byte) {
		p, by := parseOnLink(b)
		for _, index := range by {
			if name, ok := names[index]; ok {
				found[name] = append(found[name], p)
			}
		}
	}
	if len(names) > maxSingleLinks {
		if err := r.dumpRoutes(0, is4, func() { clear(found) }, add); err != nil {
			return nil, err
		}
	} else {
		all := names
		for index, name := range all {
			// A route may lead to several of them.
			names = map[int]string{index: name}
			if err := r.dumpRoutes(index, is4, func() { delete(found, name) }, add); err != nil {
				return nil, err
			}
		}
	}
	for name, ps := range found {
		found[name] = outermost(ps)
	}
	return found, nil
}

// routeDumpAttempts bounds how often routes are listed again because they changed meanwhile.
const routeDumpAttempts = 5

// dumpRoutes calls add with each unicast route that leads to a link, or to any if it is
// zero, and reset before each attempt.
func (r *Routes) dumpRoutes(link int, is4 bool, reset func(), add func([]byte)) error {
	interrupted := true
	for attempt := 0; interrupted && attempt < routeDumpAttempts; attempt++ {
		reset()
		var err error
		interrupted, err = r.dumpRoutesOnce(link, is4, add)
		if errors.Is(err, unix.ENODEV) { // it is gone
			return nil
		}
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
	}
	return nil // if it was interrupted again, the notification of that change is still to come
}

func (r *Routes) dumpRoutesOnce(link int, is4 bool, add func([]byte)) (interrupted bool, err error) {
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[7] = unix.AF_INET6, unix.RTN_UNICAST
	if is4 {
		header[0] = unix.AF_INET
	}
	r.seq++
	b, at := nlwire.OpenMessage(nil, unix.RTM_GETROUTE, unix.NLM_F_DUMP, r.seq)
	b = append(b, header...)
	if link != 0 {
		b = nlwire.AppendAttr(b, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(link))...)
	}
	if err := r.dumps.Send(nlwire.CloseMessage(b, at)); err != nil {
		return false, err
	}
	buf := make([]byte, nlwire.LargestDatagram)
	for {
		n, err := r.dumps.Receive(buf, false) // there is something, or it is lost
		if err != nil {
			return false, err
		}
		m := nlwire.Messages{Data: buf[:n]}
		for m.Next() {
			if m.Seq != r.seq {
				continue
			}
			interrupted = interrupted || m.Flags&unix.NLM_F_DUMP_INTR != 0
			if m.Type == unix.NLMSG_ERROR || m.Type == unix.NLMSG_DONE {
				a, err := m.Answer()
				return interrupted, errors.Join(err, a.Err())
			}
			add(m.Payload)
		}
		if m.Err != nil {
			return false, m.Err
		}
	}
}

// dialDumps opens a socket that has the kernel heed which routes are asked for
// (NETLINK_GET_STRICT_CHK), and not send all those of the Internet.
func dialDumps(ns *Namespace) (*nlwire.Socket, error) {
	s, err := nlwire.Dial(nlwire.Config{Protocol: unix.NETLINK_ROUTE, NetNS: ns.FD()})
	if err != nil {
		return nil, err
	}
	err = s.Control(func(fd int) error {
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1))
	})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// parseOnLink returns the destination of a route, and the indices of the interfaces that it
// is on link by: none if it is no destination of a segment.
func parseOnLink(b []byte) (p netip.Prefix, links []int) {
	if len(b) < unix.SizeofRtMsg || b[7] != unix.RTN_UNICAST {
		return p, nil
	}
	bits := int(b[1])
	var dst netip.Addr
	link, direct := 0, true
	for a := (nlwire.Attrs{Data: b[unix.SizeofRtMsg:]}); a.Next(); {
		switch a.Type {
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(a.Payload)
		case unix.RTA_OIF:
			if len(a.Payload) == 4 {
				link = int(binary.NativeEndian.Uint32(a.Payload))
			}
		case unix.RTA_GATEWAY, unix.RTA_VIA:
			direct = false
		case unix.RTA_MULTIPATH:
			direct, links = false, parseNextHops(a.Payload)
		}
	}
	if direct && link != 0 {
		links = []int{link}
	}
	p = netip.PrefixFrom(dst, bits)
	if !p.IsValid() || bits == 0 || dst.IsLinkLocalUnicast() && dst.Is6() || dst.IsMulticast() {
		return p, nil
	}
	return p, links
}

// parseNextHops returns the interfaces of the next hops without a gateway.
func parseNextHops(b []byte) (links []int) {
	for len(b) >= unix.SizeofRtNexthop {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtNexthop || size > len(b) {
			break
		}
		direct := true
		for a := (nlwire.Attrs{Data: b[unix.SizeofRtNexthop:size]}); a.Next(); {
			direct = direct && a.Type != unix.RTA_GATEWAY && a.Type != unix.RTA_VIA
		}
		if direct {
			links = append(links, int(binary.NativeEndian.Uint32(b[4:])))
		}
		b = b[min(nlwire.Align(size), len(b)):]
	}
	return links
}

// outermost returns the prefixes that do not lie within another, in order, each once.
func outermost(ps []netip.Prefix) (outer []netip.Prefix) {
	slices.SortFunc(ps, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	for _, p := range ps { // those within a prefix follow it
		if n := len(outer); n == 0 || !outer[n-1].Overlaps(p) {
			outer = append(outer, p)
		}
	}
	return outer
}
