// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"github.com/nftnat/nftnat/engine/internal/portset"

	"math"
	"net/netip"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/nat"
)

// flowTable is what the engine asks of connection tracking.
type flowTable interface {
	Delete(conntrack.Filter, func(conntrack.Flow) bool) (int, error)
	Each(conntrack.Filter, func(conntrack.Flow) error) error
	Count() (entries, limit int, err error)
	Close() error
}

// contradiction says what a change has made of one frontend: what flows to it must
// not follow any more.
type contradiction struct {
	// was is the backend that the frontend had. Zero: none.
	was netip.AddrPort
	// is is the backend that it has now. Zero: none.
	is netip.AddrPort
}

// contradicts reports whether a flow to the frontend must go. Rules are consulted
// for the first packet of a flow only, so a flow that began before the change goes
// on as it began: a UDP client with a fixed source port would never see the change.
//
// What was published: flows from other backends and flows to this host itself, but
// not those that go where the mapping leads already. What was unpublished: flows to
// the old backend alone; a service of the host's own on that port keeps its flows.
func (c contradiction) contradicts(f conntrack.Flow) bool {
	if c.is.IsValid() {
		return f.ReplySrc != c.is
	}
	return f.ReplySrc == c.was
}

// contradictions are what the change means to the flows of each frontend of a
// protocol. What proxies alone serve is not translated: nothing that flows to such a
// frontend is in its way, but what goes where the frontend led before.
func (c change) contradictions(proto nat.Proto) map[portset.Frontend]contradiction {
	var m map[portset.Frontend]contradiction // many changes are of the other protocol alone
	note := func(f portset.Frontend, c contradiction) {
		if m == nil {
			m = map[portset.Frontend]contradiction{}
		}
		m[f] = c
	}
	for p := range c.Before {
		if p.Proto == proto && !p.ProxiedOnly() {
			note(p.Frontend, contradiction{was: p.Backend})
		}
	}
	for p := range c.After {
		if p.Proto == proto && !p.ProxiedOnly() {
			note(p.Frontend, contradiction{was: m[p.Frontend].was, is: p.Backend})
		}
	}
	return m
}

// deleteFlows deletes the flows of one protocol that contradict the change, in one
// pass over the table, however many ports it is about. Flows are told by the address
// and port that the client sent to; a backend's own port number does not count.
func (e *Engine) deleteFlows(proto nat.Proto, c change) error {
	changes := c.contradictions(proto)
	if len(changes) == 0 {
		return nil
	}
	local := locality{host: e.host, known: map[netip.Addr]bool{}}
	_, err := e.flows.Delete(flowFilter(proto, changes), func(flow conntrack.Flow) bool {
		if c, ok := changes[portset.Frontend{Proto: proto, AddrPort: flow.Dst}]; ok {
			return c.contradicts(flow)
		}
		if _, ok := e.mappings.Get(portset.Frontend{Proto: proto, AddrPort: flow.Dst}); ok {
			return false // one for this address goes before one for any
		}
		c, ok := anyAddress(changes, proto, flow.Dst)
		return ok && c.contradicts(flow) && local.is(flow.Dst.Addr())
	})
	if err != nil {
		return err
	}
	return local.err
}

// flowFilter is the narrowest filter that flows to all the frontends pass. A family
// that is not named costs a pass over the table of its own, so one is named where
// the backends are all of one.
func flowFilter(proto nat.Proto, changes map[portset.Frontend]contradiction) conntrack.Filter {
	filter := conntrack.Filter{Proto: uint8(proto), FirstPort: math.MaxUint16}
	for f, c := range changes {
		dst := f.AddrPort.Addr()
		if !dst.IsValid() && !c.crossesFamilies() {
			dst = f.OfFamily(c.backend().Addr()).AddrPort.Addr()
		}
		filter.Dst = narrowest(filter.Dst, dst, filter.LastPort == 0)
		filter.FirstPort = min(filter.FirstPort, f.AddrPort.Port())
		filter.LastPort = max(filter.LastPort, f.AddrPort.Port())
	}
	return filter
}

// crossesFamilies reports whether the frontend had a backend of one family and has one
// of the other.
func (c contradiction) crossesFamilies() bool {
	return c.was.IsValid() && c.is.IsValid() && c.was.Addr().Is4() != c.is.Addr().Is4()
}

// backend is one that the change is about: of two the later.
func (c contradiction) backend() netip.AddrPort {
	if c.is.IsValid() {
		return c.is
	}
	return c.was
}

// narrowest is the narrowest destination of a filter that covers both: one address,
// any of a family, or any at all, which is the zero Addr.
func narrowest(have, more netip.Addr, first bool) netip.Addr {
	switch {
	case first || have == more:
		return more
	case !have.IsValid() || have.Is4() != more.Is4():
		return netip.Addr{}
	case have.Is4():
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// anyAddress finds the change of a frontend for any address, or any of one family,
// that a flow's destination falls under.
func anyAddress(changes map[portset.Frontend]contradiction, proto nat.Proto, dst netip.AddrPort) (contradiction, bool) {
	any := portset.Frontend{Proto: proto, AddrPort: netip.AddrPortFrom(netip.Addr{}, dst.Port())}
	if c, ok := changes[any]; ok {
		return c, true
	}
	c, ok := changes[any.OfFamily(dst.Addr())]
	return c, ok
}

// locality tells which addresses a mapping for any address is about: those of this
// host. A flow that only passes through to the same port of another host is none of
// it, nor is what the host says to itself over loopback.
type locality struct {
	host  host
	known map[netip.Addr]bool
	err   error // the first look-up that failed; its flows are kept
}

func (l *locality) is(a netip.Addr) bool {
	if a.IsLoopback() {
		return false
	}
	is, known := l.known[a]
	if !known {
		r, err := l.host.Lookup(a)
		if err != nil && l.err == nil {
			l.err = err
		}
		is = err == nil && r.Kind == hostnet.Local
		l.known[a] = is
	}
	return is
}
