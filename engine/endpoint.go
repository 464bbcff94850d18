// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/nat"
)

// Endpoint is an address of a network with what is published of it. Its methods may be
// called at the same time.
type Endpoint struct {
	engine *Engine
	// lease is replaced by one of the same name and address when the network changes.
	lease atomic.Pointer[ipam.Lease]
}

// Name is the endpoint's name.
func (ep *Endpoint) Name() string { return ep.lease.Load().Name }

// Network is the name of the network that the address belongs to.
func (ep *Endpoint) Network() string { return ep.lease.Load().Network }

// Address is the endpoint's address with the length of its network's prefix.
func (ep *Endpoint) Address() netip.Prefix {
	l := ep.lease.Load()
	return netip.PrefixFrom(l.Addr, l.Prefix.Bits())
}

// Gateway is the host's address on the network.
func (ep *Endpoint) Gateway() netip.Addr { return ep.lease.Load().Gateway }

// handles are the endpoints that callers have, one for each lease.
type handles struct {
	owner  *Engine // whose lock the endpoints take
	byName map[string]*Endpoint
}

// of returns the handle of a lease: the same one each time.
func (h handles) of(l *ipam.Lease) *Endpoint {
	ep := h.byName[l.Name]
	if ep == nil {
		ep = &Endpoint{engine: h.owner}
		ep.lease.Store(l)
		h.byName[l.Name] = ep
	}
	return ep
}

// update replaces the leases of the handles. A handle whose address is not leased to its
// name any more is released.
func (h handles) update(leases *ipam.State) {
	for name, ep := range h.byName {
		if l := leases.Lease(name); l != nil && l.Addr == ep.lease.Load().Addr {
			ep.lease.Store(l)
		} else {
			delete(h.byName, name)
		}
	}
}

// released reports whether the endpoint is gone.
func (ep *Endpoint) released() bool { return ep.engine.core.handles.byName[ep.Name()] != ep }

// Mappings returns what is published of the endpoint now, in the order of Compare, each of
// a single port: mappings that have its name and lead to its address. None after Release.
func (ep *Endpoint) Mappings(ctx context.Context) ([]nat.Mapping, error) {
	e := ep.engine
	return view(ctx, e, func(c *core) ([]nat.Mapping, error) {
		if ep.released() {
			return nil, nil
		}
		ports := c.portsOf(ep.lease.Load())
		return sortedMappings(slices.Values(ports), len(ports)), nil
	})
}

// portsOf returns the published ports of an endpoint.
func (all *published) portsOf(l *ipam.Lease) (ports []portset.Port) {
	for p := range all.mappings.All {
		if p.Name == l.Name && p.Backend.Addr() == l.Addr {
			ports = append(ports, p)
		}
	}
	return ports
}

// Attach leases an address and publishes the ports of it, all or nothing, in one
// transaction. When it returns, packets follow.
//
// Attaching an endpoint again with the same spec changes nothing. The spec is the same if
// its network and address, where given, are those of the endpoint, and its ports are those
// that are published. A port without a frontend matches any frontend that the engine chose.
// Mappings that no port spec can express are ignored.
//
// Errors: those of Publish, and ErrInvalid for an address that the network does not
// lease; ErrNotFound if there is no such network; *TakenError, which is ErrConflict,
// for a name or an address in use; ErrExhausted if the network is full. On any
// error nothing has changed.
func (e *Engine) Attach(ctx context.Context, a nat.EndpointSpec) (*Endpoint, error) {
	return update(ctx, e, func(c *core) (*Endpoint, error) { return c.attach(ctx, a) })
}

func (e *core) attach(ctx context.Context, a nat.EndpointSpec) (*Endpoint, error) {
	if err := a.Validate(); err != nil {
		return nil, err
	}
	a = named(a)
	var ep *Endpoint
	err := e.retryOnConflict(ctx, func() (err error) {
		ep, err = e.attachOnce(ctx, a)
		return err
	})
	switch {
	case errors.Is(err, nat.ErrInvalid): // it says what of the input, and that is enough
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("attach %s: %w", a.Name, err)
	}
	return ep, nil
}

// named returns a spec with names as they are kept.
func named(a nat.EndpointSpec) nat.EndpointSpec {
	a.Name, a.Network = nat.Name(a.Name), nat.Name(a.Network)
	return a
}

func (e *core) attachOnce(ctx context.Context, a nat.EndpointSpec) (_ *Endpoint, err error) {
	if have := e.ipam.Lease(a.Name); have != nil {
		if e.attachedAs(have, a) {
			e.unchanged(true)
			return e.handles.of(have), e.confirm()
		}
		return nil, &nat.TakenError{What: fmt.Sprintf("endpoint %s (%s)", a.Name, have.Addr)}
	}
	lease, edit, err := e.ipam.Attach(a, e.isLocal)
	if errors.Is(err, ipam.ErrNoNetwork) {
		return nil, &missingError{nat.WhatNetwork, a.Network}
	} else if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			edit.Revert()
		}
	}()
	ms := a.Mappings(lease.Addr)
	if err := e.validate(ms); err != nil {
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
	base := change{routes: hosts.Routes, edit: edit, ipamDiff: edit.Diff}
	if _, err := e.publishOnce(ctx, ms, base, nat.PublishOptions{}); err != nil {
		return nil, err
	}
	return e.handles.of(lease), nil
}

// isLocal reports whether an address is this host's own.
func (e *core) isLocal(a netip.Addr) (bool, error) {
	r, err := e.host.Lookup(a)
	return r.Kind == hostnet.Local, err
}

// attachedAs reports whether a spec describes the endpoint as it is.
func (e *core) attachedAs(l *ipam.Lease, a nat.EndpointSpec) bool {
	if a.Network != "" && a.Network != l.Network || a.Address.IsValid() && a.Address != l.Addr {
		return false
	}
	left := portset.NewSet() // what no spec has asked for yet
	for _, p := range e.portsOf(l) {
		if _, ok := nat.SpecOf(p.Mapping()); ok {
			left.Add(p)
		}
	}
	a.Ports = order.Sorted(slices.Values(a.Ports), givenFirst)
	for _, m := range a.Mappings(l.Addr) {
		if m.Frontend.Port() == 0 {
			e.findChosen(&m, &left)
		}
		if m.Frontend.Port() == 0 || !takePorts(m, &left) {
			return false
		}
	}
	return left.Len() == 0
}

// givenFirst sorts specs with a frontend first, then ranges, then single ports, which could
// match a part of a range.
func givenFirst(a, b nat.PortSpec) int {
	return cmp.Or(cmp.Compare(b.Frontend.Port(), a.Frontend.Port()), cmp.Compare(b.More, a.More))
}

// findChosen gives a mapping without a frontend one that the engine chose before.
func (e *core) findChosen(m *nat.Mapping, published *portset.Set) {
	for whole := range published.All {
		for p := range whole.Singles {
			found := *m
			found.Frontend = p.AddrPort
			chosen := p.First() >= e.opts.FirstPort && int(p.First())+int(m.More) <= int(e.opts.LastPort)
			if chosen && p.Proto == m.Proto && p.AddrPort.Addr() == m.Frontend.Addr() && hasPorts(found, published) {
				*m = found
				return
			}
		}
	}
}

// hasPorts reports whether all ports of a mapping are among the published.
func hasPorts(m nat.Mapping, published *portset.Set) bool {
	for whole := range portset.Expand(&m) {
		for p, have := range published.Split(whole) {
			if have == nil || *have != p.Target {
				return false
			}
		}
	}
	return true
}

// takePorts takes the ports of a mapping out of the published, if all are there.
func takePorts(m nat.Mapping, published *portset.Set) bool {
	if !hasPorts(m, published) {
		return false
	}
	for p := range portset.Expand(&m) {
		published.DeleteAll(p)
	}
	return true
}

// Release gives the address and all ports of the endpoint back, in one transaction, and
// ends the connections to it, because another endpoint may get the address. Releasing an
// endpoint that is released does nothing. On an error nothing has changed, and Release can
// be called again.
func (ep *Endpoint) Release(ctx context.Context) error {
	e := ep.engine
	_, err := update(ctx, e, func(c *core) (struct{}, error) {
		err := c.retryOnConflict(ctx, func() error {
			if ep.released() {
				return nil
			}
			return c.detachOnce(ctx, ep.lease.Load())
		})
		if err != nil {
			err = fmt.Errorf("detach %s: %w", ep.Name(), err)
		}
		return struct{}{}, err
	})
	return err
}

// Detach releases the endpoint of a name, and returns what was published of it. The
// error is ErrNotFound if there is none.
func (e *Engine) Detach(ctx context.Context, name string) ([]nat.Mapping, error) {
	return update(ctx, e, func(c *core) ([]nat.Mapping, error) { return c.detach(ctx, name) })
}

func (e *core) detach(ctx context.Context, name string) (done []nat.Mapping, err error) {
	name = nat.Name(name)
	err = e.retryOnConflict(ctx, func() error {
		lease := e.ipam.Lease(name)
		if lease == nil {
			return &missingError{nat.WhatEndpoint, name}
		}
		done = portset.Collapse(e.portsOf(lease))
		return e.detachOnce(ctx, lease)
	})
	if err != nil {
		return nil, fmt.Errorf("detach %s: %w", name, err)
	}
	return done, nil
}

func (e *core) detachOnce(ctx context.Context, l *ipam.Lease) error {
	edit := e.ipam.Release(l.Name)
	c := change{Change: portset.Change{Removed: e.portsOf(l)}, killTCP: true, edit: edit, ipamDiff: edit.Diff}
	err := e.commit(ctx, c)
	if err != nil {
		edit.Revert()
	}
	return err
}

// Endpoint finds the endpoint of a name. The error is ErrNotFound if there is none.
func (e *Engine) Endpoint(ctx context.Context, name string) (*Endpoint, error) {
	return view(ctx, e, func(c *core) (*Endpoint, error) { return c.endpoint(name) })
}

func (e *core) endpoint(name string) (*Endpoint, error) {
	lease := e.ipam.Lease(nat.Name(name))
	if lease == nil {
		return nil, &missingError{nat.WhatEndpoint, name}
	}
	return e.handles.of(lease), nil
}

// Endpoints returns all endpoints, by name.
func (e *Engine) Endpoints(ctx context.Context) ([]*Endpoint, error) {
	return view(ctx, e, func(c *core) ([]*Endpoint, error) {
		leases := c.ipam.Leases()
		all := make([]*Endpoint, len(leases))
		for i, l := range leases {
			all[i] = c.handles.of(l)
		}
		return all, nil
	})
}
