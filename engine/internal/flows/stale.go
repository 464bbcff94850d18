// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"errors"
	"math"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// Stale deletes the flows of one protocol that contradict a change of what is published,
// in one pass over the table. Flows are compared by the address and port that the client
// sent to. published is what the change led to: a mapping for one address has its flows,
// whatever happens to one for any address.
func (d Deleter) Stale(proto nat.Proto, c *portset.Change, published *portset.Set) error {
	return d.stale(proto, c, published, false)
}

// Opening is Stale for those TCP connections alone that nobody has answered: their next SYN
// begins another flow, by the rules of then. A change that takes no backend away costs no
// pass over the table.
func (d Deleter) Opening(c *portset.Change, published *portset.Set) error {
	leaves := func(m portset.Move) bool { return m.From.Backend != m.To.Backend }
	if len(c.Removed) == 0 && !slices.ContainsFunc(c.Moved, leaves) {
		return nil
	}
	return d.stale(nat.TCP, c, published, true)
}

// Unanswered deletes the translated flows to backends that these have not answered, such as
// connections that are being opened. Their next packets begin other flows, by the rules of
// then.
func (d Deleter) Unanswered(backends map[netip.Addr]bool) error {
	var dst netip.Addr
	first := true
	for a := range backends {
		any := netip.IPv6Unspecified()
		if a.Is4() {
			any = netip.IPv4Unspecified()
		}
		dst, first = union(dst, any, first), false
	}
	var errs []error
	for _, proto := range []nat.Proto{nat.TCP, nat.UDP} {
		_, err := d.Table.Delete(conntrack.Filter{Proto: uint8(proto), Dst: dst, Unanswered: true, Translated: true}, func(f conntrack.Flow) bool {
			return backends[f.ReplySrc.Addr()]
		})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (d Deleter) stale(proto nat.Proto, c *portset.Change, published *portset.Set, unanswered bool) error {
	replaced := replacedBackends(proto, c)
	if len(replaced) == 0 {
		return nil
	}
	local := d.locals()
	f := filter(proto, replaced)
	f.Unanswered = unanswered
	replaced.index()
	_, err := d.Table.Delete(f, func(flow conntrack.Flow) bool {
		f := portset.Frontend{Proto: proto, AddrPort: flow.Dst}
		if b, by, ok := replaced.get(flow.Dst); ok {
			return b.contradictedBy(flow, by)
		}
		if _, ok := published.Get(f); ok {
			return false
		}
		b, by, ok := replaced.get(netip.AddrPortFrom(netip.Addr{}, flow.Dst.Port()))
		if !ok {
			b, by, ok = replaced.get(f.OfFamily(flow.Dst.Addr()).AddrPort)
		}
		return ok && b.contradictedBy(flow, by) && local.has(flow.Dst.Addr())
	})
	if err != nil {
		return err
	}
	return local.err
}

// backends are those of a frontend before and after a change, of a range those of its first
// port. The zero AddrPort is none.
type backends struct{ before, after netip.AddrPort }

// contradictedBy reports whether a flow to the frontend must end: after a publish, if it
// leads to another backend or to this host itself; after an unpublish, if it leads to the
// old backend. Flows to a service of the host on that port go on then. The flow is to the port
// of the frontend that is so many after the first.
func (b backends) contradictedBy(f conntrack.Flow, by uint16) bool {
	if b.after.IsValid() {
		return f.ReplySrc != shifted(b.after, by)
	}
	return f.ReplySrc == shifted(b.before, by)
}

// replacedBackends returns the frontends of a protocol that change their backends.
// Frontends that only proxies serve have no flows to a backend.
func replacedBackends(proto nat.Proto, c *portset.Change) spans[backends] {
	replaced := spans[backends]{}
	add := func(p *portset.Port, b backends) {
		if p.Proto == proto && !p.ProxiedOnly() {
			replaced.add(p, b)
		}
	}
	for i := range c.Removed {
		add(&c.Removed[i], backends{before: c.Removed[i].Backend})
	}
	for _, m := range c.Moved {
		before, after := m.Before(), m.After()
		b := backends{before: before.Backend, after: after.Backend}
		switch {
		case before.ProxiedOnly():
			add(&after, backends{after: b.after})
		case after.ProxiedOnly():
			add(&before, backends{before: b.before})
		default:
			add(&after, b)
		}
	}
	for i := range c.Added {
		add(&c.Added[i], backends{after: c.Added[i].Backend})
	}
	return replaced
}

// filter returns the narrowest filter that flows to all the frontends pass. It names the
// family if all backends are of one, because a filter for both costs two passes over the
// table.
func filter(proto nat.Proto, replaced spans[backends]) conntrack.Filter {
	filter := conntrack.Filter{Proto: uint8(proto), FirstPort: math.MaxUint16}
	first := true
	for a, all := range replaced {
		for _, x := range all {
			for _, backend := range []netip.AddrPort{x.value.before, x.value.after} {
				if !backend.IsValid() {
					continue
				}
				dst := a
				if !dst.IsValid() {
					dst = anyOf(backend.Addr())
				}
				filter.Dst = union(filter.Dst, dst, first)
				first = false
			}
			filter.FirstPort = min(filter.FirstPort, x.first)
			filter.LastPort = max(filter.LastPort, x.last)
		}
	}
	return filter
}

// union returns the narrowest destination that covers a and b, or b if first is set: one
// address, any of a family, or any at all, which is the zero Addr.
func union(a, b netip.Addr, first bool) netip.Addr {
	switch {
	case first || a == b:
		return b
	case !a.IsValid() || a.Is4() != b.Is4():
		return netip.Addr{}
	case a.Is4():
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
