// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// State returns networks and endpoints by name, and mappings in the order of Compare,
// collapsed to ranges.
func (e *Engine) State(ctx context.Context) (nat.State, error) {
	return view(ctx, e, func(c *core) (nat.State, error) { return stateOf(c.ipam, c.mappings.All), nil })
}

// stateOf returns the state that networks, leases and ports make.
func stateOf(leases *ipam.State, all iter.Seq[portset.Port]) nat.State {
	s := nat.State{Networks: leases.Networks()}
	ports := map[string][]nat.PortSpec{}
	var others []nat.Mapping
	for p := range all {
		m := p.Mapping()
		if l := leases.Lease(p.Name); l == nil || l.Addr != p.Backend.Addr() {
			others = append(others, m)
		} else if spec, ok := nat.SpecOf(m); !ok {
			others = append(others, m)
		} else {
			ports[p.Name] = append(ports[p.Name], spec)
		}
	}
	s.Mappings = nat.Collapse(others)
	for _, l := range leases.Leases() {
		a := nat.EndpointSpec{Name: l.Name, Network: l.Network, Address: l.Addr, Ports: ports[l.Name]}
		a.Ports = collapseSpecs(a)
		s.Endpoints = append(s.Endpoints, a)
	}
	return s
}

// collapseSpecs returns the ports of a spec in order, with ranges collapsed.
func collapseSpecs(a nat.EndpointSpec) []nat.PortSpec {
	ms := nat.Collapse(a.Mappings(a.Address))
	specs := make([]nat.PortSpec, len(ms))
	for i, m := range ms {
		specs[i], _ = nat.SpecOf(m)
	}
	return specs
}

// allMappings returns the mappings of a state and those of its endpoints.
func allMappings(s nat.State) []nat.Mapping {
	if len(s.Endpoints) == 0 { // of mappings there may be very many
		return s.Mappings
	}
	ms := slices.Clone(s.Mappings)
	for _, a := range s.Endpoints {
		ms = append(ms, a.Mappings(a.Address)...)
	}
	return ms
}

// DiffState returns what ApplyState would change, and changes nothing.
func (e *Engine) DiffState(ctx context.Context, s nat.State) ([]nat.Change, error) {
	return view(ctx, e, func(c *core) ([]nat.Change, error) {
		ch, err := c.stateDifference(s)
		if err != nil {
			return nil, err
		}
		return ch.Lines(), nil
	})
}

// ApplyState makes networks, endpoints and mappings exactly those of a state, in one
// transaction, and returns what it changed. What is equal already is not touched. TCP
// connections to removed endpoints end, as with Release.
//
// Errors are those of Attach, CreateNetwork and Publish; on any error nothing has
// changed.
func (e *Engine) ApplyState(ctx context.Context, s nat.State) ([]nat.Change, error) {
	return e.ApplyMany(ctx, s, nat.Mappings{})
}

// ApplyMany is ApplyState of a state with more mappings, of which there may be very many. They are
// valid, no two of them overlap, and where nothing is published they are never there all at once.
func (e *Engine) ApplyMany(ctx context.Context, s nat.State, more nat.Mappings) ([]nat.Change, error) {
	return update(ctx, e, func(c *core) ([]nat.Change, error) { return c.applyState(ctx, s, more) })
}

func (e *core) applyState(ctx context.Context, s nat.State, more nat.Mappings) (lines []nat.Change, err error) {
	collect := func() {
		s.Mappings = append(slices.Clip(s.Mappings), more.Slice()...)
		more = nat.Mappings{}
	}
	err = e.retryOnConflict(ctx, func() error {
		c, ok := e.firstDifference(&s, more)
		if !ok {
			collect()
			if c, err = e.stateDifference(s); err != nil {
				return err
			}
		}
		if c.Empty() && c.ipamDiff.Empty() {
			e.unchanged(true)
			return e.confirm()
		}
		if err := e.applyOnce(ctx, c); err != nil {
			collect()
			return asked(err, false, allMappings(s))
		}
		lines = e.linesOf(&c)
		return nil
	})
	switch {
	case errors.Is(err, nat.ErrInvalid):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("apply %d networks, %d endpoints and %d mappings: %w",
			len(s.Networks), len(s.Endpoints), len(s.Mappings)+more.Len, err)
	}
	return lines, nil
}

// firstDifference is stateDifference of very many mappings where nothing is published, without a
// list of them. ok is false if that is not so, or if something is wrong, which stateDifference says.
func (e *core) firstDifference(s *nat.State, more nat.Mappings) (c change, ok bool) {
	if more.Len == 0 || len(s.Mappings)+len(s.Endpoints)+e.mappings.Len() != 0 {
		return change{}, false
	}
	after, err := e.wantedIPAM(*s)
	if err != nil {
		return change{}, false
	}
	c.Added = make([]portset.Port, 0, more.Len)
	now := e.now()
	for m := range more.All {
		if over(&m, now) {
			continue
		}
		if p := portset.Of(m); m.More == 0 {
			c.want(&p, nil)
		} else {
			c.wantRange(&m, &e.mappings)
		}
	}
	hosts := hostnet.NewRouteCache(e.host.Lookup, hostnet.RouteMap{})
	hosts.InNetwork = after.Contains
	err = hosts.Fetch(func(yield func(netip.Addr) bool) {
		for i := range c.Added {
			if !yield(c.Added[i].Backend.Addr()) {
				return
			}
		}
	}, e.host.LookupAll)
	for i := 0; i < len(c.Added) && err == nil; i++ {
		var reason string
		if reason, err = hosts.Fault(c.Added[i].AddrPort.Addr(), c.Added[i].Backend.Addr()); reason != "" {
			return change{}, false
		}
	}
	if err != nil || e.checkMasquerade(&c.Change) != nil {
		return change{}, false
	}
	e.warnUnreachable(hosts)
	c.routes = hosts.Routes
	e.changeIPAM(&c, after)
	return c, true
}

func (e *core) stateDifference(s nat.State) (change, error) {
	after, err := e.wantedIPAM(s)
	if err != nil {
		return change{}, err
	}
	c, err := e.difference(allMappings(s), after)
	if err != nil {
		return change{}, err
	}
	e.changeIPAM(&c, after)
	for _, l := range c.ipamDiff.RemovedLeases {
		c.released = append(c.released, e.portsOf(l)...)
	}
	return c, nil
}

// linesOf returns the lines of a change that was made, or passes them on.
func (e *core) linesOf(c *change) []nat.Change {
	if e.opts.Changes == nil {
		return c.Lines()
	}
	for _, line := range c.ipamDiff.Lines() {
		e.opts.Changes(line)
	}
	for line := range c.EachLine {
		e.opts.Changes(line)
	}
	return nil
}

// Lines returns the change as users see it: networks and endpoints first.
func (c *change) Lines() []nat.Change {
	lines := c.Change.Lines()
	if of := c.ipamDiff.Lines(); len(of) != 0 {
		lines = append(of, lines...)
	}
	return lines
}

// wantedIPAM returns the networks and leases of a state, or an error if they are invalid or
// conflict with routes.
func (e *core) wantedIPAM(s nat.State) (*ipam.State, error) {
	names := map[string]bool{}
	s.Networks = slices.Clone(s.Networks)
	for i := range s.Networks {
		n := &s.Networks[i]
		if err := n.Validate(); err != nil {
			return nil, err
		}
		n.Name = nat.Name(n.Name)
		if names[n.Name] {
			return nil, &nat.InvalidError{What: nat.WhatNetwork, Input: n.Name, Reason: "there are two of that name"}
		}
		names[n.Name] = true
		if have, ok := e.ipam.Network(n.Name); ok && have.Prefix == n.Prefix {
			continue
		}
		if err := checkPrefix(e.host, *n); err != nil {
			return nil, err
		}
	}
	if err := ipam.CheckApart(s.Networks); err != nil {
		return nil, err
	}
	after := ipam.New()
	for _, n := range s.Networks {
		if err := after.AddNetwork(n); err != nil {
			return nil, err
		}
	}
	for _, a := range s.Endpoints {
		if err := addEndpoint(after, a); err != nil {
			return nil, err
		}
	}
	// Last, because SetNext skips addresses in use.
	for _, n := range s.Networks {
		next := n.Next
		if have, ok := e.ipam.Network(n.Name); !next.IsValid() && ok && have.Prefix == n.Prefix {
			next = have.Next
		}
		if !next.IsValid() {
			continue
		}
		if err := after.SetNext(n.Name, next); err != nil {
			return nil, err
		}
	}
	return after, nil
}

// addEndpoint adds an endpoint whose ports are all given.
func addEndpoint(to *ipam.State, a nat.EndpointSpec) error {
	for _, s := range a.Ports {
		if s.Frontend.Port() == 0 {
			return &nat.InvalidError{What: nat.WhatEndpoint, Input: a.Name,
				Reason: fmt.Sprintf("what is applied needs a frontend port, and %s has none", s)}
		}
	}
	return to.Add(named(a))
}
