// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// Diff returns what Apply would change, and changes nothing.
func (e *Engine) Diff(ctx context.Context, ms ...nat.Mapping) ([]nat.Change, error) {
	return view(ctx, e, func(c *core) ([]nat.Change, error) {
		ch, err := c.difference(ms, c.ipam)
		if err != nil {
			return nil, err
		}
		return ch.Lines(), nil
	})
}

// Apply publishes exactly the given mappings and unpublishes all others, in one
// transaction, and returns what it changed. Mappings that are published already are not
// touched; expired ones are ignored.
//
// Errors are those of Publish; on any error nothing has changed.
func (e *Engine) Apply(ctx context.Context, ms ...nat.Mapping) ([]nat.Change, error) {
	return update(ctx, e, func(c *core) ([]nat.Change, error) { return c.apply(ctx, ms) })
}

func (e *core) apply(ctx context.Context, ms []nat.Mapping) (lines []nat.Change, err error) {
	err = e.retryOnConflict(ctx, func() error {
		c, err := e.difference(ms, e.ipam)
		if err != nil {
			return err
		}
		if c.Empty() {
			e.unchanged(true)
			return e.confirm()
		}
		if err := e.applyOnce(ctx, c); err != nil {
			return asked(err, false, ms)
		}
		lines = e.linesOf(&c)
		return nil
	})
	switch {
	case errors.Is(err, nat.ErrInvalid): // as Publish and Diff say it
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("apply %d mappings: %w", len(ms), err)
	}
	return lines, nil
}

// applyOnce reserves and commits a difference. Removed ports are released first, because
// added ones may conflict with them, and reserved again if the commit fails.
func (e *core) applyOnce(ctx context.Context, c change) error {
	e.opts.Trace("reserve")
	e.reserved.Release(c.Removed)
	if n, err := e.reserved.ReserveAll(c.Added); err != nil {
		return e.unreserve(c.Added[:n], c.Removed, e.conflict(c.Added[n], err))
	}
	if err := e.commit(ctx, c); err != nil {
		return e.unreserve(c.Added, c.Removed, err)
	}
	e.noteRivals(&c.Change)
	return nil
}

// unreserve undoes reservations after an error: added ports are released, removed ones
// reserved again.
func (l *published) unreserve(come, gone []portset.Port, cause error) error {
	l.reserved.Release(come)
	for _, err := range l.reserved.Restore(gone) {
		cause = undone(cause, err)
	}
	return cause
}

// difference returns the change to exactly these mappings, with these networks.
func (e *core) difference(ms []nat.Mapping, networks *ipam.State) (change, error) {
	if err := nat.ValidateAll(ms...); err != nil {
		return change{}, err
	}
	c := change{Change: portset.Change{Added: make([]portset.Port, 0, max(len(ms)-e.mappings.Len(), 0))}}
	hosts := hostnet.NewRouteCache(e.host.Lookup, hostnet.RouteMap{})
	hosts.InNetwork = networks.Contains
	now := e.now()
	kept := 0
	var changed []*nat.Mapping
	for i := range ms {
		m := &ms[i]
		if m.Frontend.Port() == 0 {
			return change{}, &nat.InvalidError{What: nat.WhatMapping, Input: m.String(), Reason: "what is applied needs a frontend port"}
		}
		if over(m, now) {
			continue
		}
		before := len(c.Added) + len(c.Moved)
		if m.More == 0 {
			p := portset.Of(*m)
			if have, ok := e.mappings.Get(p.Frontend); ok { // Find would allocate it
				kept += c.want(&p, &have)
			} else {
				c.want(&p, nil)
			}
		} else {
			kept += c.wantRange(m, &e.mappings)
		}
		if len(c.Added)+len(c.Moved) > before {
			changed = append(changed, m)
		}
	}
	if err := hosts.CheckAll(changed, e.host.LookupAll); err != nil {
		return change{}, err
	}
	if kept != e.mappings.Len() {
		c.Removed = e.unwanted(ms, now)
	}
	e.warnUnreachable(hosts)
	c.routes = hosts.Routes
	return c, e.checkMasquerade(&c.Change)
}

// want adds to the change what makes a port or a range published, and returns how many of its ports
// are published already, perhaps differently. have is what is at its frontends; nil: nothing.
func (c *change) want(p *portset.Port, have *portset.Target) (kept int) {
	switch {
	case have == nil:
		c.Added = append(c.Added, *p)
		return 0
	case !have.SameAs(p.Target):
		c.Moved = append(c.Moved, portset.Move{Frontend: p.Frontend, From: *have, To: p.Target, More: p.More})
	}
	return p.Len()
}

// wantRange is want of a mapping of several ports.
func (c *change) wantRange(m *nat.Mapping, published *portset.Set) (kept int) {
	for whole := range portset.Expand(m) {
		for p, have := range published.Split(whole) {
			kept += c.want(&p, have)
		}
	}
	return kept
}

// unwanted returns the published ports that the mappings do not have.
func (l *published) unwanted(ms []nat.Mapping, now time.Time) []portset.Port {
	wanted := portset.NewSet()
	for i := range ms {
		if over(&ms[i], now) {
			continue
		}
		for p := range portset.Expand(&ms[i]) {
			wanted.Add(p)
		}
	}
	var gone []portset.Port
	for p := range l.mappings.All {
		if p.More != 0 {
			gone = slices.AppendSeq(gone, wanted.Without(p))
		} else if _, ok := wanted.Get(p.Frontend); !ok {
			gone = append(gone, p)
		}
	}
	return gone
}

// over reports whether the mapping has expired.
func over(m *nat.Mapping, now time.Time) bool { return !m.Expires.IsZero() && !m.Expires.After(now) }
