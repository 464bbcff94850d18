// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// Exchange unpublishes mappings and publishes others, in one transaction, and returns what it
// changed. A frontend that is in both gets the new target with no moment without one. What it takes
// does not grow with what else is published.
//
// Errors are those of Publish and Remove: ErrNotFound if one that goes is not published as it says,
// whenever it expires; on any error nothing has changed.
func (e *Engine) Exchange(ctx context.Context, x nat.Exchange) ([]nat.Change, error) {
	return update(ctx, e, func(c *core) ([]nat.Change, error) { return c.exchange(ctx, x) })
}

func (e *core) exchange(ctx context.Context, x nat.Exchange) (lines []nat.Change, err error) {
	err = e.retryOnConflict(ctx, func() error {
		c, err := e.exchanged(x)
		if err != nil {
			return err
		}
		if c.Empty() {
			e.unchanged(true)
			return e.confirm()
		}
		if err := e.applyOnce(ctx, c); err != nil {
			return asked(err, false, x.Publish)
		}
		lines = e.linesOf(&c)
		return nil
	})
	if err != nil && !errors.Is(err, nat.ErrInvalid) {
		err = fmt.Errorf("exchange %d mappings for %d: %w", len(x.Remove), len(x.Publish), err)
	}
	return lines, err
}

// exchanged returns the change that an exchange is.
func (e *core) exchanged(x nat.Exchange) (c change, err error) {
	if err := e.validate(x.Publish); err != nil {
		return c, err
	}
	hosts := hostnet.NewRouteCache(e.host.Lookup, hostnet.RouteMap{})
	hosts.InNetwork = e.ipam.Contains
	going, coming := portset.NewSet(), portset.NewSet()
	var gone []portset.Port
	for i := range x.Remove {
		for whole := range portset.Expand(&x.Remove[i]) {
			for p, have := range e.mappings.Split(whole) {
				switch {
				case have == nil:
					return c, e.notPublished(p.Frontend)
				case !have.SameButEnd(p.Target):
					is := nat.ConflictError{Have: portset.Port{Frontend: p.Frontend, Target: *have, More: p.More}.Mapping()}
					return c, fmt.Errorf("%s is %w: %s", p.Mapping(), nat.ErrNotFound, is.Error())
				}
				p.Target = *have
				going.Add(p)
				gone = append(gone, p)
			}
		}
	}
	for i := range x.Publish {
		m := &x.Publish[i]
		if m.Frontend.Port() == 0 {
			return c, &nat.InvalidError{What: nat.WhatMapping, Input: m.String(), Reason: "what is exchanged needs a frontend port"}
		}
		if err := hosts.Check(m); err != nil {
			return c, err
		}
		for whole := range portset.Expand(m) {
			coming.Add(whole)
			for p, have := range e.mappings.Split(whole) {
				if err := e.exchangePort(&c, &p, have, &going); err != nil {
					return c, err
				}
			}
		}
	}
	for _, p := range gone {
		for rest := range coming.Without(p) {
			c.Removed = append(c.Removed, rest)
		}
	}
	e.warnUnreachable(hosts)
	c.routes = hosts.Routes
	return c, e.checkMasquerade(&c.Change)
}

// exchangePort adds to the change what makes a port published. have is what is published there; nil:
// nothing is.
func (e *core) exchangePort(c *change, p *portset.Port, have *portset.Target, going *portset.Set) error {
	if have != nil && !have.SameAs(p.Target) {
		for range going.Without(*p) {
			is := portset.Port{Frontend: p.Frontend, Target: *have, More: p.More}
			return &nat.ConflictError{Want: p.Mapping(), Have: is.Mapping()}
		}
		if err := e.checkElements(*p, *have); err != nil {
			return err
		}
	}
	c.want(p, have)
	return nil
}
