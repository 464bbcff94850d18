// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portholder

import (
	"errors"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// ranged is the part of a change that is about ranges which are held without a socket for each port.
type ranged struct {
	added, removed []portset.Port
	// chosen are the last so many of added, whose ports the engine chose.
	chosen int
	moved  []portset.Move
	// left are ports that leave a range, and have sockets of their own from then on.
	left []portset.Port
	// done are those of added that are held.
	done []portset.Port
}

// ranged returns that part of a change.
func (h *Holder) ranged(c Change) (r ranged) {
	for i, p := range c.Added {
		if h.many.takes(&p) {
			r.added = append(r.added, p)
			if i >= len(c.Added)-c.Chosen {
				r.chosen++
			}
		}
	}
	for _, p := range c.Removed {
		if p.More != 0 || h.many.has(p.Frontend) {
			r.removed = append(r.removed, p)
		}
	}
	for _, m := range c.Moved {
		before := m.Before()
		switch {
		case h.many.takes(&before):
			r.moved = append(r.moved, m)
		case h.many.has(m.Frontend):
			r.left = append(r.left, before)
		}
	}
	return r
}

func (r *ranged) hold(h *Holder) error {
	for i, p := range r.added {
		err := h.many.hold(p)
		var busy *busyError
		switch {
		case errors.As(err, &busy) && i >= len(r.added)-r.chosen:
			return &TakenError{p.Part(busy.port, busy.port)}
		case errors.As(err, &busy):
			return h.opts.Owner(p.Part(busy.port, busy.port))
		case err != nil:
			return h.bindError(p, 1, err)
		}
		r.done = r.added[:i+1]
	}
	return nil
}

func (r *ranged) undoHold(h *Holder) error {
	var errs []error
	for _, p := range r.done {
		errs = append(errs, h.many.release(p))
	}
	return errors.Join(errs...)
}

// serveRanges serves the ranges that are added or moved, and gives up ports that left theirs.
func (s *Switch) serveRanges() error {
	r, m := &s.ranges, s.h.many
	var errs []error
	for _, p := range r.added {
		errs = append(errs, m.serve(p))
		s.h.retireIn(p)
	}
	for _, move := range r.moved {
		after := move.After()
		errs = append(errs, m.serve(after))
		s.h.retireIn(after)
		narrowed := move.From.From != move.To.From && (move.Proto == nat.UDP || s.c.KillTCP)
		if s.killsMoved(move) || narrowed {
			m.reset(after)
		}
	}
	for _, p := range r.left {
		errs = append(errs, m.release(p))
		if s.c.KillTCP {
			m.reset(p)
		}
	}
	return errors.Join(errs...)
}

func (r *ranged) undoServe(h *Holder) error {
	var errs []error
	for _, m := range r.moved {
		errs = append(errs, h.many.serve(m.Before()))
	}
	for _, p := range r.left {
		errs = append(errs, h.many.restore(p))
	}
	return errors.Join(errs...)
}

// restore holds and serves ports as before a change.
func (m *many) restore(p portset.Port) error {
	if g := m.h.opts.Guard; g != nil {
		if err := g.Add(rangeOf(spaceOf(p.Frontend), p.First(), p.Last())); err != nil {
			return err
		}
	}
	return m.serve(p)
}
