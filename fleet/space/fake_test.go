// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package space

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/nftnat/nftnat/alloc"
	"github.com/nftnat/nftnat/nat"
)

// fakeDaemon is a daemon with the allocator of the real one. It outlives the managers that use it, as the
// kernel's table does.
type fakeDaemon struct {
	mu       sync.Mutex
	networks map[string]*fakeNetwork
	leases   map[string]nat.Endpoint
	mappings []nat.Mapping
}

type fakeNetwork struct {
	nat.Network
	addrs *alloc.Addrs
}

func newFakeDaemon() *fakeDaemon {
	return &fakeDaemon{networks: map[string]*fakeNetwork{}, leases: map[string]nat.Endpoint{}}
}

func (d *fakeDaemon) Networks(context.Context) (all []nat.Network, _ error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range d.networks {
		all = append(all, n.Network)
	}
	slices.SortFunc(all, func(a, b nat.Network) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

func (d *fakeDaemon) Network(_ context.Context, name string) (nat.Network, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.networks[name]
	if n == nil {
		return nat.Network{}, nat.ErrNotFound
	}
	now := n.Network
	now.Next = n.addrs.Cursor()
	return now, nil
}

func (d *fakeDaemon) CreateNetwork(_ context.Context, n nat.Network) (nat.Network, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := n.Validate(); err != nil {
		return nat.Network{}, err
	}
	n = n.WithDefaults()
	if have := d.networks[n.Name]; have != nil {
		if have.Network == n {
			return n, nil
		}
		return nat.Network{}, &nat.TakenError{What: "network " + n.Name}
	}
	for _, o := range d.networks {
		if o.Prefix.Overlaps(n.Prefix) {
			return nat.Network{}, &nat.TakenError{What: "prefix " + n.Prefix.String(), Holder: "network " + o.String()}
		}
	}
	addrs, err := alloc.NewAddrs(n.Prefix, n.Gateway)
	if err != nil {
		return nat.Network{}, err
	}
	d.networks[n.Name] = &fakeNetwork{n, addrs}
	return n, nil
}

func (d *fakeDaemon) RemoveNetwork(_ context.Context, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.networks[name]
	switch {
	case n == nil:
		return nat.ErrNotFound
	case n.addrs.Len() != 0:
		return &nat.TakenError{What: "network " + name, Holder: "an endpoint"}
	}
	delete(d.networks, name)
	return nil
}

func (d *fakeDaemon) Attach(ctx context.Context, a nat.EndpointSpec) (nat.Endpoint, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if have, ok := d.leases[a.Name]; ok {
		if have.Network == a.Network && (!a.Address.IsValid() || a.Address == have.Address) {
			if report := nat.ReportFrom(ctx); report != nil {
				report.Unchanged = true
			}
			return have, nil
		}
		return nat.Endpoint{}, &nat.TakenError{What: "endpoint " + a.Name}
	}
	n := d.networks[a.Network]
	if n == nil {
		return nat.Endpoint{}, nat.ErrNotFound
	}
	at := a.Address
	var err error
	if at.IsValid() {
		err = n.addrs.Reserve(at)
	} else if at, err = n.addrs.Next(); err != nil {
		err = &nat.ExhaustedError{Err: fmt.Errorf("network %s is full: %w", n.Network, err)}
	}
	if err != nil {
		return nat.Endpoint{}, err
	}
	ep := nat.Endpoint{Name: a.Name, Network: n.Name, Address: at, Prefix: n.Prefix, Gateway: n.Gateway}
	d.leases[a.Name] = ep
	return ep, nil
}

func (d *fakeDaemon) Detach(_ context.Context, name string) ([]nat.Mapping, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ep, ok := d.leases[name]
	if !ok {
		return nil, nat.ErrNotFound
	}
	d.networks[ep.Network].addrs.Release(ep.Address)
	delete(d.leases, name)
	return nil, nil
}

func (d *fakeDaemon) Endpoint(_ context.Context, name string) (nat.Endpoint, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ep, ok := d.leases[name]
	if !ok {
		return nat.Endpoint{}, nat.ErrNotFound
	}
	return ep, nil
}

func (d *fakeDaemon) Endpoints(context.Context) (all []nat.Endpoint, _ error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, ep := range d.leases {
		all = append(all, ep)
	}
	return all, nil
}

func (d *fakeDaemon) Mappings(context.Context) ([]nat.Mapping, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.mappings), nil
}

func (d *fakeDaemon) Publish(_ context.Context, _ nat.PublishOptions, ms ...nat.Mapping) ([]nat.Mapping, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range ms {
		for _, o := range d.mappings {
			if o.Proto == m.Proto && o.Frontend == m.Frontend {
				return nil, &nat.ConflictError{Have: o, Want: m}
			}
		}
	}
	d.mappings = append(d.mappings, ms...)
	return ms, nil
}

// unpublish removes a mapping, as an operator may.
func (d *fakeDaemon) unpublish(proto nat.Proto, at netip.AddrPort) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mappings = slices.DeleteFunc(d.mappings, func(o nat.Mapping) bool { return o.Proto == proto && o.Frontend == at })
}
