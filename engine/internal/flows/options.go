// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"net/netip"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// Options deletes the flows of one protocol that contradict the options of the ports that a
// change adds or moves: those of clients that may not reach a port, and those that would be
// masqueraded now, or not any more. unanswered: only those that nobody has answered. published
// is what the change led to.
func (d Deleter) Options(proto nat.Proto, c *portset.Change, published *portset.Set, unanswered bool) error {
	ports := spans[options]{}
	for p := range c.After {
		if p.Proto == proto && (!p.From.IsZero() || p.Masquerade) {
			ports.add(&p, options{Port: p})
		}
	}
	for _, m := range c.Moved {
		if m.Proto == proto && m.From.Masquerade && !m.To.Masquerade {
			after := m.After()
			ports.add(&after, options{Port: after, wasMasqueraded: true})
		}
	}
	if len(ports) == 0 {
		return nil
	}
	local := d.locals()
	filter := portsFilter(proto, ports)
	ports.index()
	_, err := d.Table.Delete(filter, func(f conntrack.Flow) bool {
		if unanswered && f.Status&conntrack.StatusSeenReply != 0 {
			return false
		}
		o, by, ok := ports.get(f.Dst)
		if ok {
			return o.contradictedBy(f, by, local)
		}
		at := portset.Frontend{Proto: proto, AddrPort: f.Dst}
		if _, other := published.Get(at); other {
			return false
		}
		if o, by, ok = ports.get(netip.AddrPortFrom(netip.Addr{}, f.Dst.Port())); !ok {
			o, by, ok = ports.get(at.OfFamily(f.Dst.Addr()).AddrPort)
		}
		return ok && o.contradictedBy(f, by, local) && local.has(f.Dst.Addr())
	})
	if err != nil {
		return err
	}
	return local.err
}

// options are those of a port or a range after a change.
type options struct {
	portset.Port
	wasMasqueraded bool
}

// contradictedBy reports whether a flow to the port that is so many after the first must end.
func (o *options) contradictedBy(f conntrack.Flow, by uint16, local *locals) bool {
	src := f.Src.Addr()
	if !o.From.Allow(src) && !src.IsLoopback() && !local.has(src) {
		return true
	}
	if f.ReplySrc != shifted(o.Backend, by) { // a proxy has it, or Stale ends it
		return false
	}
	if o.wasMasqueraded {
		return f.ReplyDst != f.Src
	}
	return o.Masquerade && f.ReplyDst == f.Src && !local.has(src)
}

// portsFilter returns a filter that flows to all the ports pass.
func portsFilter(proto nat.Proto, ports spans[options]) conntrack.Filter {
	filter := conntrack.Filter{Proto: uint8(proto), FirstPort: 65535}
	first := true
	for a, all := range ports {
		filter.Dst = union(filter.Dst, a, first)
		first = false
		for _, x := range all {
			filter.FirstPort = min(filter.FirstPort, x.first)
			filter.LastPort = max(filter.LastPort, x.last)
		}
	}
	return filter
}
