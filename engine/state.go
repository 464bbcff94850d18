// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/segment"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// State is all that is there now: networks and endpoints by name, mappings in the order
// of Compare, ranges as one.
func (e *Engine) State(ctx context.Context) (nat.State, error) {
	return view(ctx, e, func() (nat.State, error) { return stateOf(e.book, e.mappings.All), nil })
}

// stateOf is the state that a book and ports make.
func stateOf(b book, all iter.Seq[portset.Port]) nat.State {
	s := nat.State{Networks: b.sortedNetworks()}
	ports := map[string][]nat.PortSpec{}
	var others []nat.Mapping
	for p := range all {
		m := p.Mapping()
		if ep := b.endpoints[p.Name]; ep == nil || ep.addr != p.Backend.Addr() {
			others = append(others, m)
		} else if _, ok := nat.SpecOf(m); !ok {
			others = append(others, m)
		} else {
			ports[ep.name] = append(ports[ep.name], nat.PortSpec{Proto: m.Proto, Frontend: m.Frontend, Backend: m.Backend.Port()})
		}
	}
	s.Mappings = nat.Collapse(others)
	for _, ep := range b.sortedEndpoints() {
		a := nat.EndpointSpec{Name: ep.name, Network: ep.network, Address: ep.addr, Ports: ports[ep.name]}
		a.Ports = collapseSpecs(a)
		s.Endpoints = append(s.Endpoints, a)
	}
	return s
}

// collapseSpecs are the attachment's ports in order, with ranges as one.
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

// DiffState tells what ApplyState would change, and changes nothing.
func (e *Engine) DiffState(ctx context.Context, s nat.State) ([]nat.Change, error) {
	return view(ctx, e, func() ([]nat.Change, error) {
		_, lines, err := e.stateDifference(s)
		return lines, err
	})
}

// ApplyState makes networks, endpoints and mappings exactly these, in one transaction,
// and returns what it changed. What is the same already is not touched. TCP connections
// to endpoints that go end, as with Release.
//
// Errors are those of Attach, CreateNetwork and Publish; on any error nothing has
// changed.
func (e *Engine) ApplyState(ctx context.Context, s nat.State) ([]nat.Change, error) {
	return update(ctx, e, func() ([]nat.Change, error) { return e.applyState(ctx, s) })
}

func (e *Engine) applyState(ctx context.Context, s nat.State) (lines []nat.Change, err error) {
	err = e.retryOnConflict(ctx, func() error {
		var c change
		if c, lines, err = e.stateDifference(s); err != nil || len(lines) == 0 && c.records.empty() {
			e.unchanged(err == nil)
			return err
		}
		return e.applyOnce(ctx, c)
	})
	switch {
	case errors.Is(err, nat.ErrInvalid):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("apply %d networks, %d endpoints and %d mappings: %w",
			len(s.Networks), len(s.Endpoints), len(s.Mappings), err)
	}
	return lines, nil
}

func (e *Engine) stateDifference(s nat.State) (change, []nat.Change, error) {
	b, err := e.wantedBook(s)
	if err != nil {
		return change{}, nil, err
	}
	c, err := e.difference(allMappings(s))
	if err != nil {
		return change{}, nil, err
	}
	c.records = recordsBetween(e.book.elements(), b.elements())
	lines := e.differences(b)
	for _, ep := range e.endpoints {
		if b.endpoints[ep.name] == nil || b.endpoints[ep.name].addr != ep.addr {
			c.released = append(c.released, e.portsOf(ep)...)
		}
	}
	c.apply = func() { e.open(b) }
	for name, n := range b.networks {
		if have := e.networks[name]; have == nil || have.Prefix != n.Prefix {
			c.forwards = append(c.forwards, n)
		}
	}
	if len(c.forwards) != 0 || len(b.networks) != len(e.networks) {
		c.rearranged, c.networks = true, b.networks
		routes := hostnet.NewRouteCache(e.host.Lookup, c.routes)
		after := e.mappingsAfter(c)
		if err := lookUpBackends(routes, after.All); err != nil {
			return change{}, nil, err
		}
	}
	return c, append(lines, c.Lines()...), nil
}

// wantedBook is the book of a state, unless it cannot be.
func (e *Engine) wantedBook(s nat.State) (book, error) {
	b := newBook()
	for _, want := range s.Networks {
		if err := want.Validate(); err != nil {
			return b, err
		}
		if b.networks[want.Name] != nil {
			return b, &nat.InvalidError{What: nat.WhatNetwork, Input: want.Name, Reason: "there are two of that name"}
		}
		n, err := e.wantedNetwork(want)
		if err != nil {
			return b, err
		}
		b.networks[n.Name] = n
	}
	if err := checkApart(s.Networks); err != nil {
		return b, err
	}
	prefixes := b.prefixes()
	for _, a := range s.Endpoints {
		if err := e.wantEndpoint(b, prefixes, a); err != nil {
			return b, err
		}
	}
	// Last, for it is the first free address from there on.
	for _, want := range s.Networks {
		n := b.networks[want.Name]
		next := want.Next
		if have := e.networks[want.Name]; !next.IsValid() && have != nil && have.Prefix == n.Prefix {
			next = have.addrs.Cursor()
		}
		if next.IsValid() {
			if err := n.addrs.SetCursor(next); err != nil {
				return b, err
			}
		}
		n.cursor = n.addrs.Cursor()
	}
	return b, nil
}

// checkApart refuses networks of which two overlap.
func checkApart(ns []nat.Network) error {
	// Of two prefixes that overlap one lies within the other, and comes right after it or
	// after others that do.
	ns = slices.SortedFunc(slices.Values(ns), func(a, b nat.Network) int { return segment.Compare(a.Prefix.Masked(), b.Prefix.Masked()) })
	for i := 1; i < len(ns); i++ {
		if ns[i-1].Prefix.Overlaps(ns[i].Prefix) {
			return &nat.InvalidError{What: nat.WhatNetwork, Input: ns[i].String(), Reason: "it overlaps network " + ns[i-1].String()}
		}
	}
	return nil
}

// wantedNetwork makes a network that is to be, the routes being asked about its prefix
// if it is new.
func (e *Engine) wantedNetwork(want nat.Network) (*network, error) {
	if have := e.networks[want.Name]; have != nil && have.Prefix == want.Prefix {
		return newNetwork(want)
	}
	return e.checkNetwork(want, nil)
}

func (e *Engine) wantEndpoint(b book, prefixes networkPrefixes, a nat.EndpointSpec) error {
	bad := func(reason string) error {
		return &nat.InvalidError{What: nat.WhatEndpoint, Input: a.Name, Reason: reason}
	}
	if err := a.Validate(); err != nil {
		return err
	}
	p, found := segment.Around(prefixes, a.Address)
	switch {
	case b.endpoints[a.Name] != nil:
		return bad("there are two of that name")
	case !a.Address.IsValid():
		return bad("what is applied needs an address")
	case a.Network != "" && b.networks[a.Network] == nil:
		return bad("there is no network " + a.Network)
	case !found || a.Network != "" && prefixes[p].Name != a.Network:
		return bad(fmt.Sprintf("its address %s is not in its network", a.Address))
	}
	for _, s := range a.Ports {
		if s.Frontend.Port() == 0 {
			return bad(fmt.Sprintf("what is applied needs a frontend port, and %s has none", s))
		}
	}
	n := prefixes[p]
	if err := n.addrs.Reserve(a.Address); err != nil {
		return bad(fmt.Sprintf("its address %s is another's, or none that network %s leases", a.Address, n))
	}
	b.endpoints[a.Name] = &Endpoint{name: a.Name, network: n.Name, prefix: n.Prefix, gateway: n.Gateway, addr: a.Address}
	return nil
}

// recordsBetween is the change from some records to others, without what is the same.
func recordsBetween(before, after []nft.Element) (r records) {
	have := make(map[nft.Element]struct{}, len(before))
	for _, el := range before {
		have[el] = struct{}{}
	}
	for _, el := range after {
		if _, ok := have[el]; ok {
			delete(have, el)
		} else {
			r.come = append(r.come, el)
		}
	}
	r.gone = slices.Collect(maps.Keys(have))
	return r
}

// differences are what makes one book of another, in order.
func (b book) differences(after book) (lines []nat.Change) {
	describe := func(b book) map[string]string {
		words := map[string]string{}
		for _, n := range b.networks {
			words["network "+n.Name] = describeNetwork(n.Network)
		}
		for _, ep := range b.endpoints {
			words["endpoint "+ep.name] = fmt.Sprintf("endpoint %s %s", ep.name, ep.addr)
		}
		return words
	}
	was, is := describe(b), describe(after)
	for key, old := range was {
		if is[key] != old {
			lines = append(lines, nat.Change{Before: old, After: is[key]})
		}
	}
	for key, now := range is {
		if was[key] == "" {
			lines = append(lines, nat.Change{After: now})
		}
	}
	slices.SortFunc(lines, func(a, b nat.Change) int { return strings.Compare(changeOrder(a), changeOrder(b)) })
	return lines
}

// changeOrder puts networks before endpoints, and each by name.
func changeOrder(c nat.Change) string {
	words := c.Before
	if words == "" {
		words = c.After
	}
	if strings.HasPrefix(words, nat.WhatNetwork) {
		return "0" + words
	}
	return "1" + words
}

// describeNetwork returns all of a network as one line.
func describeNetwork(n nat.Network) string {
	s := fmt.Sprintf("network %s gateway %s", n, n.Gateway)
	if n.NoMasquerade {
		s += " no-masquerade"
	}
	if n.NoGuard {
		s += " no-guard"
	}
	return s
}
