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
	ports := map[portset.Frontend]options{}
	for p := range c.After {
		if p.Proto == proto && (!p.From.IsZero() || p.Masquerade) {
			ports[p.Frontend] = options{Port: p}
		}
	}
	for _, m := range c.Moved {
		if m.Proto == proto && m.From.Masquerade && !m.To.Masquerade {
			ports[m.Frontend] = options{Port: m.After(), wasMasqueraded: true}
		}
	}
	if len(ports) == 0 {
		return nil
	}
	local := d.locals()
	_, err := d.Table.Delete(portsFilter(proto, ports), func(f conntrack.Flow) bool {
		if unanswered && f.Status&conntrack.StatusSeenReply != 0 {
			return false
		}
		at := portset.Frontend{Proto: proto, AddrPort: f.Dst}
		o, ok := ports[at]
		if ok {
			return o.contradictedBy(f, local)
		}
		if _, other := published.Get(at); other {
			return false
		}
		if o, ok = ports[portset.Frontend{Proto: proto, AddrPort: netip.AddrPortFrom(netip.Addr{}, f.Dst.Port())}]; !ok {
			o, ok = ports[at.OfFamily(f.Dst.Addr())]
		}
		return ok && o.contradictedBy(f, local) && local.has(f.Dst.Addr())
	})
	if err != nil {
		return err
	}
	return local.err
}

// options are those of a port after a change.
type options struct {
	portset.Port
	wasMasqueraded bool
}

func (o *options) contradictedBy(f conntrack.Flow, local *locals) bool {
	src := f.Src.Addr()
	if !o.From.Allow(src) && !src.IsLoopback() && !local.has(src) {
		return true
	}
	if f.ReplySrc != o.Backend { // a proxy has it, or Stale ends it
		return false
	}
	if o.wasMasqueraded {
		return f.ReplyDst != f.Src
	}
	return o.Masquerade && f.ReplyDst == f.Src && !local.has(src)
}

// portsFilter returns a filter that flows to all the ports pass.
func portsFilter(proto nat.Proto, ports map[portset.Frontend]options) conntrack.Filter {
	filter := conntrack.Filter{Proto: uint8(proto), FirstPort: 65535}
	first := true
	for f := range ports {
		filter.Dst = union(filter.Dst, f.AddrPort.Addr(), first)
		first = false
		filter.FirstPort = min(filter.FirstPort, f.AddrPort.Port())
		filter.LastPort = max(filter.LastPort, f.AddrPort.Port())
	}
	return filter
}
