// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"errors"
	"iter"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/bpf"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/nat"
)

// LocalMaps are the maps of the programs that lead sockets on localhost, a *bpf.Local outside of tests.
type LocalMaps interface {
	Change(remove, put []bpf.LocalEntry) error
	Replace([]bpf.LocalEntry) error
	// Connected returns what a connected socket asked for and was led to, by its cookie.
	Connected(cookie uint64) (frontend, backend netip.AddrPort, ok bool)
	// AnyLed reports whether there are any.
	AnyLed() bool
}

// Localhost leads sockets on localhost to the backends of what is published. It has no lock: the caller
// makes one call at a time.
type Localhost struct {
	maps   LocalMaps
	mirror mirror[backend]
	left   error // why ports were left to the proxies; nil: none was
}

// backend is where ports lead. Port zero is that which was asked for.
type backend struct {
	addr netip.Addr
	port uint16
}

// NewLocalhost returns a Localhost of maps. Sync says what is published.
func NewLocalhost(maps LocalMaps) *Localhost {
	return &Localhost{maps: maps, mirror: newMirror[backend]()}
}

// Sync makes the maps hold what is published, whatever they held.
func (l *Localhost) Sync(published *portset.Set) error {
	l.mirror, l.left = newMirror[backend](), nil
	_, put := l.entries(runsOfAll(published))
	err := l.maps.Replace(put)
	if errors.Is(err, bpf.ErrFull) {
		l.mirror, l.left = newMirror[backend](), err
		return l.maps.Replace(nil)
	}
	return err
}

// Left returns why ports are left to the proxies; nil: none is.
func (l *Localhost) Left() error { return l.left }

// Withdraw keeps new connections from backends of the change that it takes away, or that only a proxy
// leads to after it.
func (l *Localhost) Withdraw(c *portset.Change) error {
	return l.change(func(yield func(run[backend]) bool) {
		for _, p := range c.Removed {
			if !yieldRuns(p, backend{}, yield) {
				return
			}
		}
		moved := portset.Change{Moved: c.Moved}
		for r := range runsOf(moved.After) {
			if r.target == (backend{}) && !yield(r) {
				return
			}
		}
	})
}

// UndoWithdraw leads to the backends of before the change.
func (l *Localhost) UndoWithdraw(c *portset.Change) error {
	return l.change(runsOf(c.Before))
}

// Lead leads to the backends that the change adds.
func (l *Localhost) Lead(c *portset.Change) error { return l.change(runsOf(c.After)) }

// UndoLead keeps new connections from the backends that the change adds. UndoWithdraw must follow.
func (l *Localhost) UndoLead(c *portset.Change) error {
	return l.change(func(yield func(run[backend]) bool) {
		for p := range c.After {
			if !yieldRuns(p, backend{}, yield) {
				return
			}
		}
	})
}

// Contradicts returns a condition on connected sockets of a protocol: one that is led from a frontend of the
// ports elsewhere than to what is published. The zero Seq: from any. Nil: no socket is led.
func (l *Localhost) Contradicts(proto nat.Proto, ports iter.Seq[portset.Port], published *portset.Set) func(peer netip.AddrPort, cookie uint64) bool {
	if !l.maps.AnyLed() {
		return nil
	}
	var of portset.Set
	if ports != nil {
		of = portset.NewSet()
		for p := range ports {
			of.Put(p)
		}
	}
	return func(peer netip.AddrPort, cookie uint64) bool {
		frontend, backend, ok := l.maps.Connected(cookie)
		if !ok || backend != peer {
			return false
		}
		if ports != nil && !Backend(&of, proto, frontend).IsValid() {
			return false
		}
		return Backend(published, proto, frontend) != backend
	}
}

// Backend returns where sockets on localhost are led that ask for a frontend; zero: nowhere.
func Backend(published *portset.Set, proto nat.Proto, asked netip.AddrPort) netip.AddrPort {
	any := netip.IPv6Unspecified()
	if asked.Addr().Is4() {
		any = netip.IPv4Unspecified()
	}
	for _, a := range []netip.Addr{asked.Addr(), any, {}} {
		if t, ok := published.Get(portset.Frontend{Proto: proto, AddrPort: netip.AddrPortFrom(a, asked.Port())}); ok {
			if !direct(proto, t) || asked.Addr().Is4() && !t.Backend.Addr().Is4() {
				return netip.AddrPort{}
			}
			return t.Backend
		}
	}
	return netip.AddrPort{}
}

// change makes ports lead elsewhere. If the maps are full, single ports that come are left to the proxies.
func (l *Localhost) change(runs iter.Seq[run[backend]]) error {
	remove, put := l.entries(runs)
	if len(remove)+len(put) == 0 {
		return nil
	}
	err := l.maps.Change(remove, put)
	if errors.Is(err, bpf.ErrFull) && !slices.ContainsFunc(put, l.inRange) {
		l.left = err
		return l.maps.Change(slices.Concat(remove, put), nil)
	}
	return err
}

// inRange reports whether an entry is a range or in one: without it, its ports would lead elsewhere.
func (l *Localhost) inRange(e bpf.LocalEntry) bool {
	s := l.mirror.spaces[Space{protoOf(e), e.Frontend.Addr()}]
	return e.Last != 0 || s != nil && s.has(e.Frontend.Port())
}

func protoOf(e bpf.LocalEntry) nat.Proto {
	if e.Protocol == bpf.UDP {
		return nat.UDP
	}
	return nat.TCP
}

// entries are what changes in the maps.
func (l *Localhost) entries(runs iter.Seq[run[backend]]) (remove, put []bpf.LocalEntry) {
	for _, e := range l.mirror.plan(runs) {
		le := bpf.LocalEntry{Protocol: bpf.TCP, Frontend: netip.AddrPortFrom(e.Addr, e.first)}
		if e.Proto == nat.UDP {
			le.Protocol = bpf.UDP
		}
		if e.isRange {
			le.Last = e.last
		}
		if e.gone {
			remove = append(remove, le)
			continue
		}
		if e.target.addr.IsValid() {
			port := e.target.port
			if port == 0 {
				port = e.first
			}
			le.Backend = netip.AddrPortFrom(e.target.addr, port)
		}
		put = append(put, le)
	}
	return remove, put
}

// tftp is a port of UDP whose servers answer from other ones (RFC 1350 section 4). A proxy follows
// them; a socket that was led would see a peer that it has not asked.
const tftp = 69

// direct reports whether sockets on localhost are led to a target.
func direct(proto nat.Proto, t portset.Target) bool {
	return !t.NoProxy && !t.ProxyOnly && (proto != nat.UDP || t.Backend.Port() != tftp)
}

// Leads reports whether sockets on localhost that ask for a port of the mapping are led straight to its
// backend, if they are of that family and the frontend leads there at all.
func Leads(m *nat.Mapping, asked netip.Addr) bool {
	for space := range spacesOf(portset.Of(*m)) {
		if direct(m.Proto, portset.TargetOf(*m)) && space.Addr.Is4() == asked.Unmap().Is4() && (space.Addr.IsUnspecified() || space.Addr == asked.Unmap()) {
			return !asked.Unmap().Is4() || m.Backend.Addr().Is4()
		}
	}
	return false
}

// spacesOf yields the addresses of localhost that a frontend is for.
func spacesOf(p portset.Port) iter.Seq[Space] {
	return func(yield func(Space) bool) {
		switch a := p.AddrPort.Addr(); {
		case !a.IsValid():
			_ = yield(Space{p.Proto, netip.IPv4Unspecified()}) && yield(Space{p.Proto, netip.IPv6Unspecified()})
		case a.IsUnspecified(), a.IsLoopback():
			yield(Space{p.Proto, a})
		}
	}
}

// runsOf yields the runs of ports, and where they lead.
func runsOf(ports iter.Seq[portset.Port]) iter.Seq[run[backend]] {
	return func(yield func(run[backend]) bool) {
		for p := range ports {
			for _, part := range besideTFTP(p) {
				var to backend
				if direct(part.Proto, part.Target) {
					to.addr = part.Backend.Addr()
					if part.Backend.Port() != part.First() {
						to.port = part.Backend.Port()
					}
				}
				if !yieldRuns(part, to, yield) {
					return
				}
			}
		}
	}
}

// besideTFTP returns a range in parts, so that the port of TFTP is one of its own.
func besideTFTP(p portset.Port) []portset.Port {
	if p.More == 0 || p.Proto != nat.UDP || p.First() > tftp || p.Last() < tftp {
		return []portset.Port{p}
	}
	parts := []portset.Port{p.Part(tftp, tftp)}
	if p.First() < tftp {
		parts = append(parts, p.Part(p.First(), tftp-1))
	}
	if p.Last() > tftp {
		parts = append(parts, p.Part(tftp+1, p.Last()))
	}
	return parts
}

// yieldRuns yields the runs of a port or range that leads to a backend; the zero backend: nowhere.
func yieldRuns(p portset.Port, to backend, yield func(run[backend]) bool) bool {
	for s := range spacesOf(p) {
		r := run[backend]{s, p.AddrPort.Port(), p.Last(), to}
		if s.Addr.Is4() && !to.addr.Is4() { // no socket of IPv4 leads to a backend of IPv6
			r.target = backend{}
		}
		if !yield(r) {
			return false
		}
	}
	return true
}

// runsOfAll yields the runs of what is published: ranges first, and those that few ports interrupt as one.
func runsOfAll(published *portset.Set) iter.Seq[run[backend]] {
	var ranges, ports []run[backend]
	for r := range runsOf(published.All) {
		if r.first != r.last {
			ranges = append(ranges, r)
		} else if r.target != (backend{}) {
			ports = append(ports, r)
		}
	}
	return slices.Values(slices.Concat(joined(ranges), ports))
}

// joined returns ranges, with those that lead to the same place as one if few ports are between them,
// which lead nowhere.
func joined[T comparable](ranges []run[T]) []run[T] {
	order.Sort(ranges, func(a, b run[T]) int {
		return compareSpaces(a.Space, b.Space, int(a.first)-int(b.first))
	})
	var whole, holes []run[T]
	for _, r := range ranges {
		if i := len(whole) - 1; i >= 0 {
			last := &whole[i]
			if gap := int(r.first) - int(last.last) - 1; last.Space == r.Space && last.target == r.target && gap <= narrow {
				if gap > 0 {
					holes = append(holes, run[T]{Space: r.Space, first: last.last + 1, last: r.first - 1})
				}
				last.last = r.last
				continue
			}
		}
		whole = append(whole, r)
	}
	return slices.Concat(whole, holes)
}

func compareSpaces(a, b Space, or int) int {
	if a.Proto != b.Proto {
		return int(a.Proto) - int(b.Proto)
	}
	if c := a.Addr.Compare(b.Addr); c != 0 {
		return c
	}
	return or
}
