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
	"strings"

	"github.com/nftnat/nftnat/alloc"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// Endpoint is an address of a network with what is published of it. Its methods may be
// called at the same time.
type Endpoint struct {
	engine        *Engine
	name, network string
	prefix        netip.Prefix
	gateway, addr netip.Addr
}

// Name is the endpoint's name, and Network that of its network.
func (ep *Endpoint) Name() string { return ep.name }

// Network is the name of the network that the address is of.
func (ep *Endpoint) Network() string { return ep.network }

// Address is the endpoint's address with the length of its network's prefix.
func (ep *Endpoint) Address() netip.Prefix { return netip.PrefixFrom(ep.addr, ep.prefix.Bits()) }

// Gateway is the host's address on the network.
func (ep *Endpoint) Gateway() netip.Addr { return ep.gateway }

// Mappings returns what is published of the endpoint now, in the order of Compare, each of
// a single port: mappings that have its name and lead to its address. None after Release.
func (ep *Endpoint) Mappings(ctx context.Context) ([]nat.Mapping, error) {
	e := ep.engine
	return view(ctx, e, func() ([]nat.Mapping, error) {
		if e.endpoints[ep.name] != ep {
			return nil, nil
		}
		return sortedMappings(slices.Values(e.portsOf(ep))), nil
	})
}

// portsOf are the published ports of an endpoint.
func (e *Engine) portsOf(ep *Endpoint) (ports []portset.Port) {
	for p := range e.mappings.All {
		if p.Name == ep.name && p.Backend.Addr() == ep.addr {
			ports = append(ports, p)
		}
	}
	return ports
}

// Attach leases an address and publishes the ports of it, all or nothing, in one
// transaction. When it returns, packets follow.
//
// Attaching again what is there just like that changes nothing: the network and the address
// are those that were given, if they were, and of the ports each is published, and no other
// but those that say more than a port spec can. A frontend that is not given may be any of
// those that are chosen.
//
// Errors: those of Publish, and ErrInvalid for an address that the network does not
// lease; ErrNotFound if there is no such network; *TakenError, which is ErrConflict,
// for a name or an address in use; alloc.ErrExhausted if the network is full. On any
// error nothing has changed.
func (e *Engine) Attach(ctx context.Context, a nat.EndpointSpec) (*Endpoint, error) {
	return update(ctx, e, func() (*Endpoint, error) { return e.attach(ctx, a) })
}

func (e *Engine) attach(ctx context.Context, a nat.EndpointSpec) (*Endpoint, error) {
	if err := a.Validate(); err != nil {
		return nil, err
	}
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

func (e *Engine) attachOnce(ctx context.Context, a nat.EndpointSpec) (_ *Endpoint, err error) {
	if have := e.endpoints[a.Name]; have != nil {
		if e.attachedAs(have, a) {
			e.unchanged(true)
			return have, e.confirm()
		}
		return nil, &nat.TakenError{What: fmt.Sprintf("endpoint %s (%s)", a.Name, have.addr)}
	}
	n, err := e.networkFor(a)
	if err != nil {
		return nil, err
	}
	before := n.addrs.Cursor()
	addr, err := e.lease(n, a.Address)
	if err != nil {
		return nil, errors.Join(err, n.addrs.SetCursor(before))
	}
	defer func() {
		if err != nil {
			n.addrs.Release(addr)
			err = errors.Join(err, n.addrs.SetCursor(before))
		}
	}()
	ms := a.Mappings(addr)
	if err := e.validate(ms); err != nil {
		return nil, err
	}
	hosts := hostnet.NewRouteCache(e.host.Lookup, nil)
	for i := range ms {
		if err := hosts.Check(&ms[i]); err != nil {
			return nil, err
		}
	}
	ep := &Endpoint{engine: e, name: a.Name, network: n.Name, prefix: n.Prefix, gateway: n.Gateway, addr: addr}
	base := change{routes: hosts.Routes(), records: n.moveCursor()}
	base.records.come = append(base.records.come, leaseElement(a.Name, addr))
	base.apply = func() {
		n.cursor = n.addrs.Cursor()
		e.endpoints[a.Name] = ep
	}
	if _, err := e.publishOnce(ctx, ms, base, nat.PublishOptions{}); err != nil {
		return nil, err
	}
	return ep, nil
}

// attachedAs reports whether attaching again makes this endpoint.
func (e *Engine) attachedAs(ep *Endpoint, a nat.EndpointSpec) bool {
	if a.Network != "" && a.Network != ep.network || a.Address.IsValid() && a.Address != ep.addr {
		return false
	}
	left := map[portset.Frontend]portset.Target{} // that no spec has asked for yet
	for _, p := range e.portsOf(ep) {
		if _, ok := nat.SpecOf(p.Mapping()); ok {
			left[p.Frontend] = p.Target
		}
	}
	a.Ports = slices.SortedFunc(slices.Values(a.Ports), givenFirst)
	for _, m := range a.Mappings(ep.addr) {
		if m.Frontend.Port() == 0 {
			e.findChosen(&m, left)
		}
		if m.Frontend.Port() == 0 || !takePorts(m, left) {
			return false
		}
	}
	return len(left) == 0
}

// givenFirst puts specs that say their frontend before those that do not, and of these
// ranges before single ports, which could be a part of one.
func givenFirst(a, b nat.PortSpec) int {
	return cmp.Or(cmp.Compare(b.Frontend.Port(), a.Frontend.Port()), cmp.Compare(b.More, a.More))
}

// findChosen gives a mapping whose ports are chosen a frontend of those that were.
func (e *Engine) findChosen(m *nat.Mapping, published map[portset.Frontend]portset.Target) {
	for f := range published {
		found := *m
		found.Frontend = f.AddrPort
		chosen := f.AddrPort.Port() >= e.opts.FirstPort && int(f.AddrPort.Port())+int(m.More) <= int(e.opts.LastPort)
		if chosen && f.Proto == m.Proto && f.AddrPort.Addr() == m.Frontend.Addr() && hasPorts(found, published) {
			*m = found
			return
		}
	}
}

// hasPorts reports whether all ports of a mapping are among the published.
func hasPorts(m nat.Mapping, published map[portset.Frontend]portset.Target) bool {
	for single := range nat.Expand(m) {
		if t, ok := published[portset.FrontendOf(single)]; !ok || t != portset.TargetOf(single) {
			return false
		}
	}
	return true
}

// takePorts takes the ports of a mapping out of the published, if all are there.
func takePorts(m nat.Mapping, published map[portset.Frontend]portset.Target) bool {
	if !hasPorts(m, published) {
		return false
	}
	for single := range nat.Expand(m) {
		delete(published, portset.FrontendOf(single))
	}
	return true
}

// networkFor finds the network that an endpoint is to be in.
func (e *Engine) networkFor(a nat.EndpointSpec) (*network, error) {
	switch {
	case a.Network != "":
		n := e.networks[a.Network]
		if n == nil {
			return nil, &missingError{nat.WhatNetwork, a.Network}
		}
		return n, nil
	case a.Address.IsValid():
		for _, n := range e.networks {
			if n.Prefix.Contains(a.Address) {
				return n, nil
			}
		}
		return nil, &nat.InvalidError{What: "address", Input: a.Address.String(), Reason: "it is in none of the networks"}
	case len(e.networks) == 0:
		return nil, &missingError{nat.WhatNetwork, ""}
	case len(e.networks) > 1:
		names := make([]string, 0, len(e.networks))
		for name := range e.networks {
			names = append(names, name)
		}
		slices.Sort(names)
		return nil, &nat.InvalidError{What: nat.WhatEndpoint, Input: a.Name, Reason: "say which network it is in: " + strings.Join(names, ", ")}
	}
	for _, n := range e.networks {
		return n, nil
	}
	return nil, nil
}

// leaseAttempts bounds how many addresses are passed over because they are this host's
// own.
const leaseAttempts = 64

// lease takes an address of the network: this one, or the next.
func (e *Engine) lease(n *network, want netip.Addr) (netip.Addr, error) {
	if want.IsValid() {
		return want, e.leaseThis(n, want)
	}
	var own []netip.Addr
	defer func() {
		for _, a := range own {
			n.addrs.Release(a)
		}
	}()
	for range leaseAttempts {
		a, err := n.addrs.Next()
		if err != nil {
			return netip.Addr{}, fmt.Errorf("network %s is full: %w", n, err)
		}
		r, err := e.host.Lookup(a)
		if err != nil || r.Kind != hostnet.Local {
			if err != nil {
				own = append(own, a)
			}
			return a, err
		}
		own = append(own, a)
	}
	return netip.Addr{}, fmt.Errorf("network %s: the next %d addresses are this host's own: %w", n, leaseAttempts, alloc.ErrExhausted)
}

func (e *Engine) leaseThis(n *network, want netip.Addr) error {
	invalid := func(reason string) error {
		return &nat.InvalidError{What: "address", Input: want.String(), Reason: reason}
	}
	switch err := n.addrs.Reserve(want); {
	case errors.Is(err, alloc.ErrRange):
		return invalid(fmt.Sprintf("it is not in network %s", n))
	case errors.Is(err, alloc.ErrReserved) && want == n.Gateway:
		return invalid(fmt.Sprintf("it is the gateway of network %s", n))
	case errors.Is(err, alloc.ErrReserved) && want == n.Prefix.Addr():
		return invalid(fmt.Sprintf("it is the first address of network %s, which no host has", n))
	case errors.Is(err, alloc.ErrReserved):
		return invalid(fmt.Sprintf("it is the broadcast address of network %s", n))
	case errors.Is(err, alloc.ErrInUse):
		return &nat.TakenError{What: "address " + want.String(), Holder: e.holderOf(want)}
	case err != nil:
		return err
	}
	r, err := e.host.Lookup(want)
	if err == nil && r.Kind == hostnet.Local {
		err = &nat.TakenError{What: "address " + want.String(), Holder: "this host itself"}
	}
	if err != nil {
		n.addrs.Release(want)
	}
	return err
}

// holderOf names the endpoint that has an address.
func (e *Engine) holderOf(a netip.Addr) string {
	for _, ep := range e.endpoints {
		if ep.addr == a {
			return "endpoint " + ep.name
		}
	}
	return "an endpoint"
}

// Release gives the address and all ports of the endpoint back, in one transaction, and
// ends the connections to it: its address may be somebody else's next. Releasing again,
// or what is gone already, does nothing. On an error nothing has changed, and Release
// can be called again.
func (ep *Endpoint) Release(ctx context.Context) error {
	e := ep.engine
	_, err := update(ctx, e, func() (struct{}, error) {
		err := e.retryOnConflict(ctx, func() error {
			if e.endpoints[ep.name] != ep {
				return nil
			}
			return e.detachOnce(ctx, ep)
		})
		if err != nil {
			err = fmt.Errorf("detach %s: %w", ep.name, err)
		}
		return struct{}{}, err
	})
	return err
}

// Detach releases the endpoint of a name, and returns what was published of it. The
// error is ErrNotFound if there is none.
func (e *Engine) Detach(ctx context.Context, name string) ([]nat.Mapping, error) {
	return update(ctx, e, func() ([]nat.Mapping, error) { return e.detach(ctx, name) })
}

func (e *Engine) detach(ctx context.Context, name string) (done []nat.Mapping, err error) {
	err = e.retryOnConflict(ctx, func() error {
		ep := e.endpoints[name]
		if ep == nil {
			return &missingError{nat.WhatEndpoint, name}
		}
		ports := e.portsOf(ep)
		done = portset.Collapse(ports)
		return e.detachOnce(ctx, ep)
	})
	if err != nil {
		return nil, fmt.Errorf("detach %s: %w", name, err)
	}
	return done, nil
}

func (e *Engine) detachOnce(ctx context.Context, ep *Endpoint) error {
	n := e.networks[ep.network]
	before := n.addrs.Cursor()
	n.addrs.Release(ep.addr)
	c := change{Change: portset.Change{Removed: e.portsOf(ep)}, killTCP: true, records: n.moveCursor()}
	c.records.gone = append(c.records.gone, leaseElement(ep.name, ep.addr))
	c.apply = func() {
		n.cursor = n.addrs.Cursor()
		delete(e.endpoints, ep.name)
	}
	if err := e.commit(ctx, c); err != nil {
		return errors.Join(err, n.addrs.Reserve(ep.addr), n.addrs.SetCursor(before))
	}
	return nil
}

// Endpoint finds the endpoint of a name. The error is ErrNotFound if there is none.
func (e *Engine) Endpoint(ctx context.Context, name string) (*Endpoint, error) {
	return view(ctx, e, func() (*Endpoint, error) {
		ep := e.endpoints[name]
		if ep == nil {
			return nil, &missingError{nat.WhatEndpoint, name}
		}
		return ep, nil
	})
}

// Endpoints returns all endpoints, by name.
func (e *Engine) Endpoints(ctx context.Context) ([]*Endpoint, error) {
	return view(ctx, e, func() ([]*Endpoint, error) { return e.sortedEndpoints(), nil })
}

func (b book) sortedEndpoints() []*Endpoint {
	all := make([]*Endpoint, 0, len(b.endpoints))
	for _, ep := range b.endpoints {
		all = append(all, ep)
	}
	slices.SortFunc(all, func(a, b *Endpoint) int { return strings.Compare(a.name, b.name) })
	return all
}
