// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portholder

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/proxy"
)

// Change is a change of the published ports.
type Change struct {
	*portset.Change
	// Chosen is how many of Added, at its end, have ports that the engine chose.
	Chosen int
	// KillTCP ends the TCP connections that contradict the change.
	KillTCP bool
	// Released are ports of endpoints that end: all their connections do.
	Released []portset.Port
	// Denied returns a condition on clients that may not reach a port; nil: there are none.
	Denied func(nat.Sources) func(netip.Addr) bool
}

// Switch is a change under way. The steps are Bind, then Serve, then Finish; the first two
// can be undone, also after an error.
type Switch struct {
	h        *Holder
	c        Change
	released map[portset.Frontend]struct{}
	bound    []portset.Port
	given    []given
	ranges   ranged
	shared   sharedSwitch
	whole    *portset.Change // as it was given
}

// given is a port that was given up for the change, and its proxy, which may still have
// connections; nil: it had none.
type given struct {
	portset.Port
	proxy proxy.Proxy
}

// TakenError says that another process has a port that the engine chose.
type TakenError struct{ Port portset.Port }

func (e *TakenError) Error() string {
	return nat.DescribeFrontend(e.Port.Mapping()) + " is held by another process"
}

// Switch prepares a change.
func (h *Holder) Switch(c Change) *Switch {
	s := &Switch{h: h, whole: c.Change}
	s.shared, c = splitShared(c)
	s.ranges = h.ranged(c)
	c = h.perPort(c)
	s.c = c
	if len(c.Released) != 0 {
		s.released = make(map[portset.Frontend]struct{}, len(c.Released))
	}
	for _, p := range c.Released {
		s.released[p.Frontend] = struct{}{}
	}
	return s
}

// Bind binds the added ports, and before that gives up removed ones that overlap with
// them. The error is a *TakenError if another process has a port that the engine chose.
func (s *Switch) Bind() error {
	s.giveUp()
	if len(s.h.shared.at) != 0 {
		for p := range s.whole.After {
			if err := s.h.shared.makeRoom(p); err != nil {
				return err
			}
		}
	}
	if err := s.ranges.hold(s.h); err != nil {
		return err
	}
	for i, p := range s.c.Added {
		s.h.opts.Progress("bind", i, len(s.c.Added))
		if err := s.h.bind(p.Frontend); err != nil {
			if i >= len(s.c.Added)-s.c.Chosen && errors.Is(err, unix.EADDRINUSE) {
				return &TakenError{p}
			}
			return s.h.bindError(p, len(s.c.Added), err)
		}
		s.bound = s.c.Added[:i+1]
	}
	return nil
}

// giveUp retires removed ports that have the number of an added one.
func (s *Switch) giveUp() {
	type number struct {
		proto nat.Proto
		port  uint16
	}
	added := make(map[number]struct{}, len(s.c.Added))
	for _, p := range s.c.Added {
		added[number{p.Proto, p.AddrPort.Port()}] = struct{}{}
	}
	for _, p := range s.c.Removed {
		if _, ok := added[number{p.Proto, p.AddrPort.Port()}]; ok {
			s.given = append(s.given, given{p, s.h.ports[p.Frontend].proxy})
			s.h.Retire(p.Frontend)
		}
	}
}

// UndoBind gives the bound ports back and takes those again that were given up.
func (s *Switch) UndoBind() error {
	var errs []error
	for _, p := range s.bound {
		errs = append(errs, s.h.release(p.Frontend, proxy.Proxy.Close), s.h.many.leadAgain(p.Frontend))
	}
	for _, g := range s.given {
		errs = append(errs, s.h.restore(g.Port))
	}
	return errors.Join(append(errs, s.ranges.undoHold(s.h))...)
}

// restore holds a port as before the change.
func (h *Holder) restore(p portset.Port) error {
	err := h.hold(p)
	if err != nil {
		h.scheduleRetry(p.Frontend)
		err = h.bindError(p, 1, err)
	}
	return err
}

// Serve opens the proxies of added ports, and gives those of moved ones their new
// backends.
func (s *Switch) Serve() error {
	for i, p := range s.c.Added {
		s.h.opts.Progress("open", i, s.c.LenAfter())
		if err := s.h.serve(p); err != nil {
			return fmt.Errorf("open proxy of %s: %w", p.Mapping(), err)
		}
	}
	for i, m := range s.c.Moved {
		s.h.opts.Progress("open", len(s.c.Added)+i, s.c.LenAfter())
		end := proxy.Proxy.Retire
		if s.killsMoved(m) {
			end = proxy.Proxy.Close
		}
		if err := s.h.move(m, end); err != nil {
			return fmt.Errorf("move proxy of %s: %w", m.After().Mapping(), err)
		}
	}
	if err := s.serveRanges(); err != nil {
		return err
	}
	if err := s.shared.serve(s); err != nil {
		return err
	}
	for _, m := range s.c.Moved {
		if s.killsMoved(m) {
			s.h.reset(m.Frontend)
		}
	}
	for _, m := range s.c.Moved {
		// The flows of UDP end in any case, as those of netfilter do.
		if m.From.From != m.To.From && s.c.Denied != nil && (m.Proto == nat.UDP || s.c.KillTCP) {
			s.h.ResetClients(m.Frontend, s.c.Denied(m.To.From))
		}
	}
	for _, p := range s.c.Released { // one may be published as it was, by itself
		s.h.reset(p.Frontend)
	}
	return nil
}

// UndoServe gives the proxies of moved ports their old backends.
func (s *Switch) UndoServe() error {
	var errs []error
	for _, m := range s.c.Moved {
		errs = append(errs, s.h.restore(m.Before()))
	}
	return errors.Join(append(errs, s.ranges.undoServe(s.h), s.shared.undo(s.h.shared))...)
}

// Finish ends the connections of removed ports that the change is to end.
func (s *Switch) Finish() {
	s.shared.finish(s)
	for _, p := range s.ranges.removed {
		if s.kills(p.Frontend) {
			s.h.logEnd(p.Frontend, s.h.many.release(p))
			s.h.many.reset(p)
		}
	}
	for _, p := range s.c.Removed {
		if s.kills(p.Frontend) {
			s.h.logEnd(p.Frontend, s.h.release(p.Frontend, proxy.Proxy.Close))
		}
	}
	for _, g := range s.given {
		if g.proxy != nil && s.kills(g.Frontend) {
			s.h.logEnd(g.Frontend, g.proxy.Close())
		}
	}
}

func (s *Switch) kills(f portset.Frontend) bool {
	_, released := s.released[f]
	return s.c.KillTCP || released
}

func (s *Switch) killsMoved(m portset.Move) bool {
	_, released := s.released[m.Frontend]
	return released || s.c.KillTCP && m.From.Backend != m.To.Backend
}

// ResetClientsOf is ResetClients for a port or a range. All clients of a range's proxies begin anew.
func (h *Holder) ResetClientsOf(p portset.Port, which func(netip.Addr) bool) {
	h.ResetClients(p.Frontend, which)
	if which != nil && h.many.has(p.Frontend) {
		h.many.reset(p)
	}
}

// ResetClients ends the connections and flows of a port's proxy whose clients match. nil: none.
func (h *Holder) ResetClients(f portset.Frontend, which func(netip.Addr) bool) {
	if px := h.ports[f].proxy; px != nil && which != nil {
		_ = px.ResetClients(which) // the only error: it is closed, and so are they
	}
}

// reset ends the connections and flows of a port's proxy.
func (h *Holder) reset(f portset.Frontend) {
	if px := h.ports[f].proxy; px != nil {
		_ = px.Reset() // the only error: it is closed, and so are they
	}
}
