// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portholder

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/proxy"
)

// shared serves ports that other programs have, which are not held: each has a proxy for each family of clients, at
// another port of a loopback address, to which the table leads clients on this host.
type shared struct {
	h       *Holder
	proxies map[Local]proxy.Proxy
	// at are whose the proxies are, by their own ports.
	at        map[localPort]Local
	inherited map[Local]*proxy.Socket
	// moved have a proxy at another port than before, since the caller has asked for the last time.
	moved map[Local]struct{}
}

// Local is a frontend as clients of one family on this host ask for it.
type Local struct {
	portset.Frontend
	Is4 bool
}

// localsOf yields what a frontend is to clients on this host.
func localsOf(f portset.Frontend) iter.Seq[Local] {
	return func(yield func(Local) bool) {
		for _, is4 := range []bool{true, false} {
			if a := f.AddrPort.Addr(); (!a.IsValid() || a.Is4() == is4) && !yield(Local{f, is4}) {
				return
			}
		}
	}
}

// localPort is a port of a protocol and family.
type localPort struct {
	proto nat.Proto
	is4   bool
	port  uint16
}

func newShared(h *Holder) *shared {
	return &shared{
		h: h, proxies: map[Local]proxy.Proxy{}, at: map[localPort]Local{},
		inherited: map[Local]*proxy.Socket{}, moved: map[Local]struct{}{},
	}
}

// portTries bounds how often another port is asked for because one is published.
const portTries = 100

// isShared reports whether a port is shared.
func isShared(p *portset.Port) bool { return p.Hold == nat.HoldShared }

// unshared yields the ports that are not shared.
func unshared(ports iter.Seq[portset.Port]) iter.Seq[portset.Port] {
	return func(yield func(portset.Port) bool) {
		for p := range ports {
			if !isShared(&p) && !yield(p) {
				return
			}
		}
	}
}

// of yields the shared ports that have a proxy. Wide ranges have none; neither have others where eBPF is to be had,
// which leads clients on this host without.
func (s *shared) of(ports iter.Seq[portset.Port]) iter.Seq[portset.Port] {
	return func(yield func(portset.Port) bool) {
		for p := range ports {
			if !isShared(&p) || p.NoProxy || s.leaves(&p) {
				continue
			}
			for single := range p.Singles {
				if !yield(single) {
					return
				}
			}
		}
	}
}

// leaves reports whether a shared range has no proxies.
func (s *shared) leaves(p *portset.Port) bool {
	return p.More != 0 && (s.h.opts.Guard != nil || p.Len() > widest)
}

// Shared yields the shared ports that have a proxy, and the port of the loopback address at which it is.
func (h *Holder) Shared(yield func(Local, uint16) bool) {
	for l, px := range h.shared.proxies {
		if !yield(l, portOf(px)) {
			return
		}
	}
}

// SharedAt returns the port of the loopback address at which the proxy of a shared port is; zero: it has none.
func (h *Holder) SharedAt(l Local) uint16 {
	if px := h.shared.proxies[l]; px != nil {
		return portOf(px)
	}
	return 0
}

// SharedMoved returns the shared ports whose proxies are elsewhere than when it was called last.
func (h *Holder) SharedMoved() (moved []Local) {
	for l := range h.shared.moved {
		moved = append(moved, l)
	}
	clear(h.shared.moved)
	return moved
}

func portOf(px proxy.Proxy) uint16 {
	at, err := netip.ParseAddrPort(px.FrontendAddr().String())
	if err != nil {
		return 0
	}
	return at.Port()
}

// open opens the proxies of a port, or leads those that it has to its backend. A host without IPv6 has none of that family.
func (s *shared) open(p portset.Port) error {
	for l := range localsOf(p.Frontend) {
		if err := s.openOne(l, p.Backend); err != nil && (l.Is4 || !errors.Is(err, unix.EAFNOSUPPORT)) {
			return err
		}
	}
	return nil
}

func (s *shared) openOne(l Local, backend netip.AddrPort) error {
	to := socketAddr(l.Proto, backend)
	if px := s.proxies[l]; px != nil {
		if px.BackendAddr().String() == backend.String() {
			return nil // SetBackend would end its flows
		}
		return px.SetBackend(to)
	}
	socket := s.inherited[l]
	delete(s.inherited, l)
	if socket == nil {
		var err error
		if socket, err = s.bind(l, portset.Port{}); err != nil {
			return err
		}
	}
	px, err := socket.Proxy(to, s.options())
	if err != nil {
		return errors.Join(err, socket.Close())
	}
	if !s.h.waiting {
		if err := px.Open(); err != nil {
			return errors.Join(err, px.Close())
		}
	}
	s.proxies[l] = px
	s.at[localPort{l.Proto, l.Is4, portOf(px)}] = l
	s.moved[l] = struct{}{}
	return nil
}

// bind binds a socket to a port that is neither published nor about to be: p.
func (s *shared) bind(l Local, p portset.Port) (socket *proxy.Socket, err error) {
	var refused []*proxy.Socket
	defer func() {
		for _, other := range refused {
			_ = other.Close() // of no use to anybody
		}
	}()
	any := socketAddr(l.Proto, netip.AddrPortFrom(loopbackOf(l.Is4), 0))
	for range portTries {
		if socket, err = proxy.Bind(any, s.options()); err != nil {
			return nil, err
		}
		at, err := netip.ParseAddrPort(socket.Addr().String())
		if err == nil && !s.h.many.hasNumber(l.Proto, at.Port()) && (at.Port() < p.First() || at.Port() > p.Last()) {
			return socket, nil
		}
		refused = append(refused, socket)
	}
	return nil, fmt.Errorf("find a port for a proxy: %w", unix.EADDRINUSE)
}

func loopbackOf(is4 bool) netip.Addr {
	if is4 {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// options are those of the sockets.
func (s *shared) options() *proxy.Options {
	return &proxy.Options{Group: s.h.group, BeforeBind: s.h.beforeBind(), FreeBind: true}
}

// makeRoom has the proxies leave the ports of a port or a range that is about to be published.
func (s *shared) makeRoom(p portset.Port) error {
	for _, at := range s.ownIn(p) {
		l := s.at[at]
		backend, err := netip.ParseAddrPort(s.proxies[l].BackendAddr().String())
		if err != nil {
			return err
		}
		socket, err := s.bind(l, p)
		if err != nil {
			return err
		}
		s.h.logEnd(l.Frontend, s.releaseOne(l, proxy.Proxy.Retire))
		s.inherited[l] = socket
		if err := s.openOne(l, backend); err != nil {
			s.h.scheduleRetry(l.Frontend)
			return err
		}
	}
	return nil
}

// ownIn returns the proxies' own ports that have the numbers of a port or a range.
func (s *shared) ownIn(p portset.Port) (found []localPort) {
	if 2*p.Len() < len(s.at) { // else there are fewer proxies than ports that they could be at
		for port := int(p.First()); port <= int(p.Last()); port++ {
			for _, is4 := range [...]bool{true, false} {
				at := localPort{p.Proto, is4, uint16(port)}
				if _, ok := s.at[at]; ok {
					found = append(found, at)
				}
			}
		}
		return found
	}
	for at := range s.at {
		if at.proto == p.Proto && at.port >= p.First() && at.port <= p.Last() {
			found = append(found, at)
		}
	}
	return found
}

// release ends the proxies of a port or a range.
func (s *shared) release(p portset.Port, end func(proxy.Proxy) error) error {
	for f := range s.h.retry.ports {
		if p.Contains(f) {
			delete(s.h.retry.ports, f)
		}
	}
	var errs []error
	if p.Len() > len(s.proxies) {
		for l := range s.proxies {
			if p.Contains(l.Frontend) {
				errs = append(errs, s.releaseOne(l, end))
			}
		}
		return errors.Join(errs...)
	}
	for single := range p.Singles {
		for l := range localsOf(single.Frontend) {
			errs = append(errs, s.releaseOne(l, end))
		}
	}
	return errors.Join(errs...)
}

func (s *shared) releaseOne(l Local, end func(proxy.Proxy) error) error {
	px := s.proxies[l]
	if px == nil {
		return nil
	}
	delete(s.proxies, l)
	delete(s.at, localPort{l.Proto, l.Is4, portOf(px)})
	return end(px)
}

// sync opens the proxies of the shared ports of the set, and ends all others.
func (s *shared) sync(published *portset.Set) {
	wanted := map[portset.Frontend]struct{}{}
	for p := range s.of(published.All) {
		wanted[p.Frontend] = struct{}{}
		err := s.open(p)
		if err == nil {
			delete(s.h.retry.ports, p.Frontend)
		} else if _, known := s.h.retry.ports[p.Frontend]; !known {
			s.h.scheduleRetry(p.Frontend)
			s.h.opts.Log.Warn("mapping has no proxy", "mapping", p.Mapping().String(), "error", s.h.bindError(p, 1, err))
		}
	}
	for l := range s.proxies {
		if _, ok := wanted[l.Frontend]; !ok {
			s.h.logEnd(l.Frontend, s.releaseOne(l, proxy.Proxy.Retire))
		}
	}
}

// sharedSwitch is the part of a change that is about shared ports.
type sharedSwitch struct {
	added, removed []portset.Port
	moved          []portset.Move
	// left are ports that are shared from then on, as they were before; returned are those that were.
	left, returned []portset.Port
}

// splitShared takes the part of a change that is about shared ports out of it. To what is left, a port that is
// shared from then on is one that goes, and one that was is one that comes.
func splitShared(c Change) (sharedSwitch, Change) {
	var s sharedSwitch
	some := false
	for p := range c.Before {
		some = some || isShared(&p)
	}
	for p := range c.After {
		some = some || isShared(&p)
	}
	if !some {
		return s, c
	}
	ch := portset.Change{}
	for _, p := range c.Removed {
		if isShared(&p) {
			s.removed = append(s.removed, p)
		} else {
			ch.Removed = append(ch.Removed, p)
		}
	}
	for _, m := range c.Moved {
		before, after := m.Before(), m.After()
		switch {
		case isShared(&before) && isShared(&after):
			s.moved = append(s.moved, m)
		case isShared(&after):
			s.added, s.left = append(s.added, after), append(s.left, before)
			ch.Removed = append(ch.Removed, before)
		case isShared(&before):
			s.returned = append(s.returned, before)
			ch.Added = append(ch.Added, after) // before the chosen ones
		default:
			ch.Moved = append(ch.Moved, m)
		}
	}
	for _, p := range c.Added {
		if isShared(&p) {
			s.added = append(s.added, p)
		} else {
			ch.Added = append(ch.Added, p)
		}
	}
	c.Change = &ch
	return s, c
}

// serve opens the proxies of added ports, and leads those of moved ones to their new backends.
func (s *sharedSwitch) serve(sw *Switch) error {
	all := sw.h.shared
	for p := range all.of(slices.Values(s.added)) {
		if err := all.open(p); err != nil {
			return fmt.Errorf("open proxy of %s: %w", p.Mapping(), sw.h.bindError(p, len(s.added), err))
		}
	}
	for _, m := range s.moved {
		end := proxy.Proxy.Retire
		if sw.killsMoved(m) {
			end = proxy.Proxy.Close
		}
		if err := s.move(all, m, end); err != nil {
			return fmt.Errorf("move proxy of %s: %w", m.After().Mapping(), err)
		}
		if sw.killsMoved(m) {
			after := m.After()
			for l, px := range all.proxies {
				if after.Contains(l.Frontend) {
					_ = px.Reset() // the only error: it is closed, and so are they
				}
			}
		}
	}
	return nil
}

// move gives proxies their new backends.
func (s *sharedSwitch) move(all *shared, m portset.Move, end func(proxy.Proxy) error) error {
	after := m.After()
	if after.NoProxy || all.leaves(&after) {
		return all.release(after, end)
	}
	for p := range all.of(func(yield func(portset.Port) bool) { yield(after) }) {
		if err := all.open(p); err != nil {
			return err
		}
	}
	return nil
}

// undo does what serve did back.
func (s *sharedSwitch) undo(all *shared) error {
	var errs []error
	for _, p := range s.added {
		errs = append(errs, all.release(p, proxy.Proxy.Close))
	}
	for _, m := range s.moved {
		errs = append(errs, s.move(all, portset.Move{Frontend: m.Frontend, From: m.To, To: m.From, More: m.More}, proxy.Proxy.Retire))
	}
	return errors.Join(errs...)
}

// finish gives back what ports had that are shared from then on, and the proxies of those that were.
func (s *sharedSwitch) finish(sw *Switch) {
	for _, p := range s.left {
		sw.h.retireOwn(p)
	}
	for _, p := range append(s.returned, s.removed...) {
		end := proxy.Proxy.Retire
		if sw.kills(p.Frontend) {
			end = proxy.Proxy.Close
		}
		sw.h.logEnd(p.Frontend, sw.h.shared.release(p, end))
	}
}
