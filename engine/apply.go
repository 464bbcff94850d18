// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/table"
	"github.com/nftnat/nftnat/nat"
)

// Diff tells what Apply would change, and changes nothing.
func (e *Engine) Diff(ms ...nat.Mapping) ([]nat.Change, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, nat.ErrClosed
	}
	if err := e.resync(); err != nil {
		return nil, err
	}
	e.forget(e.now())
	c, err := e.difference(ms)
	if err != nil {
		return nil, err
	}
	return c.lines(), nil
}

// Apply makes what is published exactly the given mappings, in one transaction, and
// returns what it changed. What is the same already is not touched, so that applying
// again changes nothing; a mapping whose time is over counts as not given.
//
// Errors are those of Publish; on any error nothing has changed.
func (e *Engine) Apply(ms ...nat.Mapping) ([]nat.Change, error) { return e.Reporting(nil).Apply(ms...) }

func (e *Engine) apply(ms []nat.Mapping) (lines []nat.Change, err error) {
	err = e.retryOnConflict(func() error {
		c, err := e.difference(ms)
		if err != nil {
			return err
		}
		lines = c.lines()
		if c.empty() {
			e.unchanged(true)
			return nil
		}
		return e.applyOnce(c)
	})
	switch {
	case errors.Is(err, nat.ErrInvalid): // as Publish and Diff say it
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("apply %d mappings: %w", len(ms), err)
	}
	return lines, nil
}

// applyOnce reserves and commits a difference. What it removes has to be released
// before what it adds can be reserved, and is reserved again if the commit fails.
func (e *Engine) applyOnce(c change) error {
	e.opts.Trace("reserve")
	e.release(c.removed)
	if n, err := e.reserveAll(c.added); err != nil {
		return e.unreserve(c.added[:n], c.removed, e.conflict(c.added[n].mapping(), err))
	}
	if err := e.commit(c); err != nil {
		return e.unreserve(c.added, c.removed, err)
	}
	return nil
}

// reserveAll reserves ports, and returns how many: all, or those before the first that
// cannot be. Those that come one after the other are asked for at once.
func (e *Engine) reserveAll(ports []port) (n int, err error) {
	for rest := ports; len(rest) > 0; rest = ports[n:] {
		run := 1
		for run < len(rest) && rest[run].nextTo(rest[run-1].frontend) {
			run++
		}
		p := rest[0]
		if e.ports[p.proto].ReserveRun(reservation(p.ap), run) == nil {
			n += run
			continue
		}
		for i, p := range rest[:run] { // one of them cannot be
			if err := e.ports[p.proto].Reserve(reservation(p.ap)); err != nil {
				return n + i, err
			}
		}
		n += run
	}
	return n, nil
}

// nextTo reports whether the frontend is the one after the other.
func (f frontend) nextTo(o frontend) bool {
	return f.proto == o.proto && f.ap.Addr() == o.ap.Addr() && int(f.ap.Port()) == int(o.ap.Port())+1
}

// unreserve takes reservations back because of an error: what was to come is
// released, what was to go is reserved again.
func (e *Engine) unreserve(come, gone []port, cause error) error {
	e.release(come)
	for _, p := range gone {
		if _, ok := e.crowded[p.frontend]; ok {
			continue // it was not reserved
		}
		if err := e.ports[p.proto].Reserve(reservation(p.ap)); err != nil {
			cause = undone(cause, err)
		}
	}
	return cause
}

// difference is the change that makes what is published these mappings.
func (e *Engine) difference(ms []nat.Mapping) (change, error) {
	if err := nat.ValidateAll(ms...); err != nil {
		return change{}, err
	}
	c := change{added: make([]port, 0, max(len(ms)-e.mappings.len(), 0))}
	hosts := hostnet.NewRouteCache(e.host.Lookup, nil)
	now := e.now()
	kept := 0
	for i := range ms {
		m := &ms[i]
		if m.Frontend.Port() == 0 {
			return change{}, &nat.InvalidError{What: nat.WhatMapping, Input: m.String(), Reason: "what is applied needs a frontend port"}
		}
		if over(m, now) {
			continue
		}
		before := len(c.added) + len(c.moved)
		for p := range portsOf(m) {
			have, ok := e.mappings.get(p.frontend)
			switch {
			case !ok:
				c.added = append(c.added, p)
				continue
			case !have.same(p.target):
				c.moved = append(c.moved, move{p.frontend, have, p.target})
			}
			kept++
		}
		if len(c.added)+len(c.moved) == before {
			continue // published as it is wanted
		}
		if err := hosts.Check(m); err != nil {
			return change{}, err
		}
	}
	if kept != e.mappings.len() {
		c.removed = e.unwanted(ms, now)
	}
	e.warnUnreachable(hosts)
	c.routes = hosts.Routes()
	return c, nil
}

// unwanted are the published ports that are not among the mappings.
func (e *Engine) unwanted(ms []nat.Mapping, now time.Time) []port {
	wanted := newRegistry()
	for i := range ms {
		if over(&ms[i], now) {
			continue
		}
		for p := range portsOf(&ms[i]) {
			wanted.put(p)
		}
	}
	var gone []port
	for p := range e.mappings.all {
		if _, ok := wanted.get(p.frontend); !ok {
			gone = append(gone, p)
		}
	}
	return gone
}

// over reports whether the mapping's time is over.
func over(m *nat.Mapping, now time.Time) bool { return !m.Expires.IsZero() && !m.Expires.After(now) }

// expiryTolerance is by how much a mapping's end may differ and be the same: the
// kernel tells how much time is left, from which the end is worked out anew by each
// engine that adopts the table.
const expiryTolerance = table.ExpiryTolerance

func (t target) same(o target) bool {
	apart := time.Duration(t.expires-o.expires) * time.Millisecond
	expiry := (t.expires == 0) == (o.expires == 0) && apart.Abs() <= expiryTolerance
	return expiry && t.backend == o.backend && t.name == o.name && t.noProxy == o.noProxy
}

// lines are the change as it is shown: ranges as one, in order.
func (c change) lines() []nat.Change {
	gone, come := runsOf(c.removed), runsOf(c.added)
	lines := make([]nat.Change, 0, len(c.moved)+len(gone)+len(come))
	for _, m := range c.moved {
		lines = append(lines, nat.Change{Old: m.before().mapping(), New: m.after().mapping()})
	}
	slices.SortFunc(lines, func(a, b nat.Change) int { return nat.Compare(a.New, b.New) })
	for _, r := range gone {
		lines = append(lines, nat.Change{Old: r.mapping()})
	}
	for _, r := range come {
		lines = append(lines, nat.Change{New: r.mapping()})
	}
	return lines
}
