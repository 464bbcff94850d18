// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// The fake's networks and endpoints: addresses are leased one after another, and only
// equal ones are in conflict.

// missing is the engine's error for a name that is not there.
func missing(what, name string) error {
	return &fakeMissing{fmt.Sprintf("there is no %s %q", what, name)}
}

type fakeMissing struct{ text string }

func (e *fakeMissing) Error() string { return e.text }

func (e *fakeMissing) Unwrap() error { return nat.ErrNotFound }

func (f *fakeEngine) CreateNetwork(ctx context.Context, n nat.Network) (nat.Network, error) {
	f.mu.Lock()
	have, ok := f.networks[n.Name]
	same := f.repeats && f.err == nil && ok && have.Prefix == n.Prefix
	f.mu.Unlock()
	if same {
		reportFrom(ctx).Unchanged = true
		return have, nil
	}
	err := f.begin()
	defer f.mu.Unlock()
	if err != nil {
		return nat.Network{}, err
	}
	if err := n.Validate(); err != nil {
		return nat.Network{}, err
	}
	if have, ok := f.networks[n.Name]; ok {
		return nat.Network{}, fmt.Errorf("create network %s: %w", n.Name, &nat.TakenError{What: "network " + have.String()})
	}
	f.changes++
	f.networks[n.Name] = complete(n)
	return f.networks[n.Name], nil
}

func complete(n nat.Network) nat.Network {
	if !n.Gateway.IsValid() {
		n.Gateway = n.Prefix.Addr().Next()
	}
	if !n.Next.IsValid() {
		n.Next = n.Prefix.Addr().Next().Next()
	}
	return n
}

func (f *fakeEngine) RemoveNetwork(ctx context.Context, name string) error {
	reportFrom(ctx).Notes = f.notes
	err := f.begin()
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	if _, ok := f.networks[name]; !ok {
		return fmt.Errorf("remove network %s: %w", name, missing("network", name))
	}
	for _, ep := range f.endpoints {
		if ep.Network == name {
			return fmt.Errorf("remove network %s: %w", name, &nat.TakenError{What: "network " + name, Holder: "endpoint " + ep.Name})
		}
	}
	f.changes++
	delete(f.networks, name)
	return nil
}

func (f *fakeEngine) Network(_ context.Context, name string) (nat.Network, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, ok := f.networks[name]
	if !ok {
		return nat.Network{}, missing("network", name)
	}
	return n, f.err
}

func (f *fakeEngine) Attach(ctx context.Context, a nat.EndpointSpec) (nat.Endpoint, error) {
	if have, err := f.Endpoint(ctx, a.Name); f.repeats && err == nil {
		reportFrom(ctx).Unchanged = true
		return have, nil
	}
	if err := a.Validate(); err != nil {
		return nat.Endpoint{}, err
	}
	f.mu.Lock()
	n, ok := f.networks[a.Network]
	have, taken := f.endpoints[a.Name]
	f.mu.Unlock()
	switch {
	case !ok:
		return nat.Endpoint{}, fmt.Errorf("attach %s: %w", a.Name, missing("network", a.Network))
	case taken:
		return nat.Endpoint{}, fmt.Errorf("attach %s: %w", a.Name, &nat.TakenError{What: fmt.Sprintf("endpoint %s (%s)", a.Name, have.Address)})
	}
	if !a.Address.IsValid() {
		a.Address = n.Next
	}
	ms, err := f.publish(mappingsOf(a), false)
	if err != nil {
		return nat.Endpoint{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n.Next = a.Address.Next()
	f.networks[n.Name] = n
	ep := nat.Endpoint{Name: a.Name, Network: n.Name, Address: a.Address, Prefix: n.Prefix, Gateway: n.Gateway}
	f.endpoints[a.Name] = ep
	ep.Mappings = nat.Collapse(ms)
	return ep, nil
}

func mappingsOf(a nat.EndpointSpec) []nat.Mapping {
	ms := make([]nat.Mapping, len(a.Ports))
	for i, s := range a.Ports {
		ms[i] = nat.Mapping{Proto: s.Proto, Frontend: s.Frontend, Backend: netip.AddrPortFrom(a.Address, s.Backend), More: s.More, Name: a.Name}
	}
	return ms
}

func (f *fakeEngine) Detach(ctx context.Context, name string) ([]nat.Mapping, error) {
	ep, err := f.Endpoint(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("detach %s: %w", name, err)
	}
	gone, err := f.unpublish(ep.Mappings...)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.endpoints, name)
	return gone, nil
}

func (f *fakeEngine) Endpoint(_ context.Context, name string) (nat.Endpoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ep, ok := f.endpoints[name]
	if !ok {
		return nat.Endpoint{}, missing("endpoint", name)
	}
	for _, m := range f.ports {
		if m.Name == name && m.Backend.Addr() == ep.Address {
			ep.Mappings = append(ep.Mappings, m)
		}
	}
	ep.Mappings = nat.Collapse(ep.Mappings)
	return ep, f.err
}

func (f *fakeEngine) State(context.Context) (nat.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var s nat.State
	for _, n := range f.networks {
		s.Networks = append(s.Networks, n)
	}
	slices.SortFunc(s.Networks, func(a, b nat.Network) int { return strings.Compare(a.Name, b.Name) })
	ports := map[string][]nat.Mapping{}
	for _, m := range f.ports {
		if ep, ok := f.endpoints[m.Name]; ok && ep.Address == m.Backend.Addr() && !m.NoProxy && m.Expires.IsZero() {
			ports[m.Name] = append(ports[m.Name], m)
		} else {
			s.Mappings = append(s.Mappings, m)
		}
	}
	s.Mappings = nat.Collapse(s.Mappings)
	for _, ep := range f.endpoints {
		a := nat.EndpointSpec{Name: ep.Name, Network: ep.Network, Address: ep.Address}
		for _, m := range nat.Collapse(ports[ep.Name]) {
			a.Ports = append(a.Ports, nat.PortSpec{Proto: m.Proto, Frontend: m.Frontend, Backend: m.Backend.Port(), More: m.More})
		}
		s.Endpoints = append(s.Endpoints, a)
	}
	slices.SortFunc(s.Endpoints, func(a, b nat.EndpointSpec) int { return strings.Compare(a.Name, b.Name) })
	return s, f.err
}

func (f *fakeEngine) DiffState(ctx context.Context, s nat.State) ([]nat.Change, error) {
	lines, err := f.Diff(ctx, allOf(s)...)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range s.Networks {
		if _, ok := f.networks[n.Name]; !ok {
			lines = append(lines, nat.Change{After: "network " + n.String()})
		}
	}
	for name, n := range f.networks {
		if !slices.ContainsFunc(s.Networks, func(w nat.Network) bool { return w.Name == name }) {
			lines = append(lines, nat.Change{Before: "network " + n.String()})
		}
	}
	return lines, nil
}

func allOf(s nat.State) []nat.Mapping {
	ms := slices.Clone(s.Mappings)
	for _, a := range s.Endpoints {
		ms = append(ms, mappingsOf(a)...)
	}
	return ms
}

func (f *fakeEngine) ApplyState(ctx context.Context, s nat.State) ([]nat.Change, error) {
	lines, err := f.DiffState(ctx, s)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changes++
	f.ports = newFake(allOf(s)...).ports
	clear(f.networks)
	clear(f.endpoints)
	for _, n := range s.Networks {
		f.networks[n.Name] = complete(n)
	}
	for _, a := range s.Endpoints {
		n := f.networks[a.Network]
		f.endpoints[a.Name] = nat.Endpoint{Name: a.Name, Network: n.Name, Address: a.Address, Prefix: n.Prefix, Gateway: n.Gateway}
	}
	return lines, nil
}

// all is everything that the fake has, to compare.
func (f *fakeEngine) all() (ports map[nat.Mapping]nat.Mapping, networks map[string]nat.Network, endpoints map[string]nat.Endpoint) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.ports), maps.Clone(f.networks), maps.Clone(f.endpoints)
}
