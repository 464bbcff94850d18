// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/alloc"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portholder"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/nat"
)

// Publish publishes the mappings, all or none, and returns them with the ports that
// were chosen for frontends of port 0. When it returns, packets follow them, and so
// do the UDP flows that were there before.
//
// A mapping that is published already with equal fields is left as it is. If a published
// mapping expires and differs only in its expiry, it is a lease that is renewed. Any other
// frontend that is published is a conflict, unless how.Replace is set; then, of a range
// without a name whose ports have different names, a mapping for each name is returned.
//
// Errors: ErrInvalid (nothing was touched); *ConflictError if a frontend is taken;
// ErrExhausted if no free port is left to choose; fs.ErrPermission; the context's,
// if it was done before the transaction. On any error nothing has changed.
func (e *Engine) Publish(ctx context.Context, how nat.PublishOptions, ms ...nat.Mapping) ([]nat.Mapping, error) {
	return update(ctx, e, func(c *core) ([]nat.Mapping, error) { return c.publish(ctx, how, ms) })
}

// PublishHeld is Publish of mappings whose ports are bound already: the engine holds and serves
// them by these sockets, of TCP ones that listen, in the place of its own. The descriptors are the
// caller's, who closes them so that the port is free when it is unpublished. The error is
// ErrInvalid for a socket that is not of a mapping's frontend.
func (e *Engine) PublishHeld(ctx context.Context, how nat.PublishOptions, sockets []PortSocket, ms ...nat.Mapping) ([]nat.Mapping, error) {
	return update(ctx, e, func(c *core) ([]nat.Mapping, error) {
		defer func() {
			c.given = nil
			c.holder.HoldGiven(&c.mappings)
		}()
		for _, s := range sockets {
			if err := c.give(s); err != nil {
				return nil, err
			}
			c.given = append(c.given, portset.Frontend{Proto: s.Proto, AddrPort: s.Frontend})
		}
		return c.publish(ctx, how, ms)
	})
}

// give passes a copy of a socket to the holder.
func (e *core) give(s PortSocket) error {
	if !e.holder.Enabled() {
		return nil
	}
	fd, err := unix.FcntlInt(uintptr(s.FD), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	return e.holder.Give(portset.Frontend{Proto: s.Proto, AddrPort: s.Frontend}, fd)
}

func (e *core) publish(ctx context.Context, how nat.PublishOptions, ms []nat.Mapping) (done []nat.Mapping, err error) {
	if err := how.Validate(); err != nil {
		return nil, err
	}
	how.IfName = nat.Name(how.IfName)
	if err := e.validate(ms); err != nil || len(ms) == 0 {
		return nil, err
	}
	hosts := hostnet.NewRouteCache(e.host.Lookup, hostnet.RouteMap{})
	hosts.InNetwork = e.ipam.Contains
	for i := range ms {
		if err := hosts.Check(&ms[i]); err != nil {
			return nil, err
		}
	}
	e.warnUnreachable(hosts)
	err = e.retryOnConflict(ctx, func() (err error) {
		done, err = e.publishOnce(ctx, ms, change{routes: hosts.Routes, killTCP: how.Kill}, how)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("publish %s: %w", describeAll(ms), err)
	}
	return done, nil
}

// chooseAttempts bounds how often other ports are chosen because another process holds one.
// An attempt costs microseconds. Listeners hold ports, and so do clients, for which the
// kernel chooses from much the same range.
const chooseAttempts = 1000

// publishOnce reserves and commits, together with a base change. If another process holds a
// port that it chose, it chooses others.
func (e *core) publishOnce(ctx context.Context, ms []nat.Mapping, base change, how nat.PublishOptions) ([]nat.Mapping, error) {
	// Held ports stay reserved until the end, so that they are not chosen again.
	var held []portset.Port
	defer func() { e.reserved.Release(held) }()
	for {
		done, err := e.publishChosen(ctx, ms, base, how)
		var taken *portholder.TakenError
		if !errors.As(err, &taken) {
			return done, err
		}
		if len(held) == chooseAttempts {
			return nil, e.findHolder(taken.Port)
		}
		if err := e.reserved.Reserve(taken.Port.Frontend); err != nil {
			return nil, err
		}
		held = append(held, taken.Port)
	}
}

// publishChosen chooses ports once.
func (e *core) publishChosen(ctx context.Context, ms []nat.Mapping, c change, how nat.PublishOptions) ([]nat.Mapping, error) {
	e.opts.Trace("reserve")
	done, err := e.reserve(ms, &c, how)
	switch {
	case err != nil:
	case c.Empty() && c.ipamDiff.Empty():
		e.unchanged(true)
		err = e.confirm()
	default:
		if err = e.commit(ctx, c); err == nil {
			e.renewed(&c)
		}
	}
	if err != nil {
		e.reserved.Release(c.Added)
		return nil, asked(err, len(ms) == 1 && c.edit == nil, ms)
	}
	e.noteRivals(&c.Change)
	return done, nil
}

// reserve reserves the frontends of the mappings and adds them to the change: to Added, or
// to Moved if they are published differently. After an error, Added has those that were
// reserved.
func (e *core) reserve(ms []nat.Mapping, c *change, how nat.PublishOptions) ([]nat.Mapping, error) {
	done := make([]nat.Mapping, 0, len(ms))
	var choose []int // the positions in done of those whose ports are chosen
	for _, m := range ms {
		// The kernel counts milliseconds; so Mappings returns the same.
		m.Expires = m.Expires.Truncate(time.Millisecond).UTC()
		m.Name = nat.Name(m.Name)
		if m.Frontend.Port() == 0 {
			choose, done = append(choose, len(done)), append(done, m)
			continue
		}
		keepNames := how.Replace && m.Name == ""
		var named []portset.Port
		if m.More == 0 && !keepNames {
			p := portset.Of(m)
			if err := e.reservePort(p, e.mappings.Find(p.Frontend), c, how); err != nil {
				return nil, err
			}
			done = append(done, m)
			continue
		}
		for whole := range portset.Expand(&m) {
			for p, have := range e.mappings.Split(whole) {
				if have != nil && keepNames {
					// Not of somebody else's either that leads there already: it would be answered as done.
					if err := mayReplace(p, have, how); err != nil {
						return nil, err
					}
					p.Name = inherited(have, how)
				}
				if keepNames {
					named = append(named, p)
				}
				if err := e.reservePort(p, have, c, how); err != nil {
					return nil, err
				}
			}
		}
		if keepNames {
			done = append(done, portset.Collapse(named)...)
		} else {
			done = append(done, m)
		}
	}
	// Ports are chosen last, so that none is that is asked for further on.
	for _, i := range choose {
		m := &done[i]
		first, err := e.reserved.Choose(portset.FrontendOf(*m), int(m.More)+1)
		if err != nil {
			err = fmt.Errorf("choose a port for %s: %w", *m, err)
			if errors.Is(err, alloc.ErrExhausted) {
				err = &nat.ExhaustedError{Err: err}
			}
			return nil, err
		}
		m.Frontend = netip.AddrPortFrom(m.Frontend.Addr(), first)
		before := len(c.Added)
		c.Added = slices.AppendSeq(c.Added, portset.Expand(m))
		c.chosen += len(c.Added) - before
	}
	return done, nil
}

// inherited returns the name that a port without one gets when it takes the place of have. A name with a colon is that of a
// program, which ends or changes by it what it has made: what somebody has put there is not the program's.
func inherited(have *portset.Target, how nat.PublishOptions) string {
	if how.IfName == "" && strings.Contains(have.Name, ":") {
		return ""
	}
	return have.Name
}

// mayReplace returns an error if what is published at the frontends of p has another name than that which is replaced.
func mayReplace(p portset.Port, have *portset.Target, how nat.PublishOptions) error {
	if how.IfName == "" || have.Name == how.IfName {
		return nil
	}
	is := portset.Port{Frontend: p.Frontend, Target: *have, More: p.More}
	return &nat.ConflictError{Want: p.Mapping(), Have: is.Mapping()}
}

// reservePort adds a port or a range to the change. have is what is published at its
// frontends; nil: nothing is.
func (e *core) reservePort(p portset.Port, have *portset.Target, c *change, how nat.PublishOptions) error {
	if have != nil && *have == p.Target && !how.Kill { // else connections to another backend end
		return nil
	}
	renewed := have != nil && have.RenewedBy(p.Target)
	if have != nil && !renewed { // which takes no owner's permission
		if err := mayReplace(p, have, how); err != nil {
			return err
		}
	}
	switch {
	case have != nil && (how.Replace || renewed):
		if err := e.checkElements(p, *have); err != nil {
			return err
		}
		if !have.From.IsZero() && p.From.IsZero() {
			e.log.Warn("anyone may reach the port now", "frontend", nat.DescribeFrontend(p.Mapping()), "before", have.From)
		}
		c.Moved = append(c.Moved, portset.Move{Frontend: p.Frontend, From: *have, To: p.Target, More: p.More})
		return nil
	}
	var err error
	if have != nil {
		err = e.reserved.Reserve(p.Frontend)
	} else {
		err = e.reserved.ReservePort(&p)
	}
	if err != nil {
		return e.conflict(p, err)
	}
	c.Added = append(c.Added, p)
	return nil
}

// checkElements returns an error if a port that moves needs the element of another one.
func (l *published) checkElements(p portset.Port, have portset.Target) error {
	if !l.reserved.AnyOverlapped() {
		return nil
	}
	was := portset.Port{Frontend: p.Frontend, Target: have, More: p.More}
	for single := range p.Singles {
		if other, ok := l.elementTaken(single, was.Part(single.First(), single.First()).Target); ok {
			return &nat.ConflictError{Want: single.Mapping(), Have: other.Mapping()}
		}
	}
	return nil
}

// elementTaken finds the other port whose element a port needs when it moves to a backend
// of the other family: one of the two is overlapped.
func (l *published) elementTaken(p portset.Port, have portset.Target) (portset.Port, bool) {
	key := schema.PortKey(p)
	if key == schema.PortKey(portset.Port{Frontend: p.Frontend, Target: have}) {
		return portset.Port{}, false
	}
	any := portset.Frontend{Proto: p.Proto, AddrPort: netip.AddrPortFrom(netip.Addr{}, p.AddrPort.Port())}
	for _, f := range []portset.Frontend{any, any.OfFamily(p.Backend.Addr())} {
		t, ok := l.mappings.Get(f)
		if other := (portset.Port{Frontend: f, Target: t}); ok && f != p.Frontend && schema.PortKey(other) == key {
			return other, true
		}
	}
	return portset.Port{}, false
}

// conflict finds out which mapping stands behind a refused reservation of a port or a range.
func (l *published) conflict(p portset.Port, err error) error {
	f, ok := portset.Holder(p.Proto, err)
	if !ok {
		return err
	}
	have, ok := l.mappings.Alike(f)
	if !ok {
		return fmt.Errorf("%w: %w", nat.ErrConflict, err)
	}
	return &nat.ConflictError{Want: p.Mapping(), Have: have}
}

// asked has an error about ports name the mapping that they are of, as the caller has given it.
// said is whether the text says it anyway.
func asked(err error, said bool, ms []nat.Mapping) error {
	var conflict *nat.ConflictError
	var many *nat.RangesError
	var want *nat.Mapping
	switch {
	case errors.As(err, &conflict):
		want = &conflict.Want
	case errors.As(err, &many):
		want, said = &many.Want, true
	default:
		return err
	}
	p := portset.Of(*want)
	i := slices.IndexFunc(ms, func(m nat.Mapping) bool {
		whole := portset.Whole(&m)
		return whole.Contains(p.Frontend)
	})
	if i < 0 {
		return err
	}
	*want = ms[i]
	if said || want.More == 0 {
		return err
	}
	return fmt.Errorf("%s: %w", nat.DescribeFrontend(*want), err)
}

// describeAll names what a call is about: the first of its mappings, and how many
// more there are.
func describeAll(ms []nat.Mapping) string {
	switch len(ms) {
	case 0:
		return "nothing"
	case 1:
		return nat.DescribeFrontend(ms[0])
	}
	return fmt.Sprintf("%s and %d more", nat.DescribeFrontend(ms[0]), len(ms)-1)
}

// validate refuses what no host could publish.
func (e *core) validate(ms []nat.Mapping) error {
	if err := nat.ValidateAll(ms...); err != nil {
		return err
	}
	now, choice := e.now(), int(e.opts.LastPort)-int(e.opts.FirstPort)+1
	for i := range ms {
		m := &ms[i]
		switch {
		case over(m, now):
			return &nat.InvalidError{What: nat.WhatMapping, Input: m.String(),
				Reason: "it expired at " + m.Expires.Format(time.RFC3339)}
		case m.Frontend.Port() == 0 && int(m.More) >= choice:
			return &nat.InvalidError{What: nat.WhatMapping, Input: m.String(),
				Reason: fmt.Sprintf("there are only %d ports to choose from", choice)}
		}
	}
	return nil
}
