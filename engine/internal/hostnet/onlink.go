// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
	"github.com/nftnat/nftnat/internal/order"
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
		l, err := r.link(0, name)
		if errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look up interface %s: %w", name, err)
		}
		names[l.index] = name
	}
	found := make(map[string][]netip.Prefix, len(links))
	add := func(f fibRoute) {
		for _, hop := range f.hops {
			if name, ok := names[hop.link]; ok && hop.direct && f.isSegment() {
				found[name] = append(found[name], f.dst)
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

// dumpRoutes calls add with each unicast route that leads to a link, or to any if it is
// zero, and reset before each attempt.
func (r *Routes) dumpRoutes(link int, is4 bool, reset func(), add func(fibRoute)) error {
	interrupted := true
	for attempt := 0; interrupted && attempt < dumpAttempts; attempt++ {
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

func (r *Routes) dumpRoutesOnce(link int, is4 bool, add func(fibRoute)) (interrupted bool, err error) {
	header := [unix.SizeofRtMsg]byte{0: unix.AF_INET6, 7: unix.RTN_UNICAST}
	if is4 {
		header[0] = unix.AF_INET
	}
	r.seq++
	b, at := nlwire.OpenMessage(nil, unix.RTM_GETROUTE, unix.NLM_F_DUMP, r.seq)
	b = append(b, header[:]...)
	if link != 0 {
		b = nlwire.AppendAttr(b, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(link))...)
	}
	err = r.exchange(nlwire.CloseMessage(b, at), 1, func(m nlwire.Message) (done bool, err error) {
		if m.Seq != r.seq {
			return false, nil
		}
		interrupted = interrupted || m.Flags&unix.NLM_F_DUMP_INTR != 0
		if m.Type == unix.NLMSG_ERROR || m.Type == unix.NLMSG_DONE {
			a, err := m.Answer()
			return true, errors.Join(err, a.Err())
		}
		add(parseRoute(m.Payload))
		return false, nil
	})
	return interrupted, err
}

// isSegment reports whether what is on link by a route can be a segment: not the default
// route, as tunnels have, and no link-local addresses of IPv6, from which nothing is
// published.
func (f *fibRoute) isSegment() bool {
	a := f.dst.Addr()
	return f.kind == unix.RTN_UNICAST && f.dst.IsValid() && f.dst.Bits() != 0 &&
		!a.IsMulticast() && (a.Is4() || !a.IsLinkLocalUnicast())
}

// outermost returns the prefixes that do not lie within another, in order, each once.
func outermost(ps []netip.Prefix) (outer []netip.Prefix) {
	order.Sort(ps, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	for _, p := range ps { // those within a prefix follow it
		if n := len(outer); n == 0 || !outer[n-1].Overlaps(p) {
			outer = append(outer, p)
		}
	}
	return outer
}
