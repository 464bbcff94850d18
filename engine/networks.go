// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"strings"

	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/nat"
)

// CreateNetwork declares a network, and turns on IP forwarding if it is off. The caller
// creates its bridge or other link, before or after.
//
// Declaring a network that exists, with equal fields, changes nothing. Next is compared
// only if it is given.
//
// Errors: ErrInvalid; *TakenError, which is ErrConflict, if there is another of that name,
// or the prefix overlaps another network, or something else on this host has addresses of
// it: another interface, or a route to a part of it. A wider route is no conflict. On any
// error nothing has changed.
func (e *Engine) CreateNetwork(ctx context.Context, n nat.Network) (nat.Network, error) {
	return update(ctx, e, func(c *core) (nat.Network, error) { return c.createNetwork(ctx, n) })
}

func (e *core) createNetwork(ctx context.Context, n nat.Network) (nat.Network, error) {
	if err := n.Validate(); err != nil {
		return nat.Network{}, err
	}
	n.Name = nat.Name(n.Name)
	err := e.retryOnConflict(ctx, func() error {
		if e.ipam.Has(n) {
			e.unchanged(true)
			return e.confirm()
		}
		after := e.ipam.Clone()
		if err := after.AddNetwork(n); err != nil {
			return err
		}
		if err := checkPrefix(e.host, n); err != nil {
			return err
		}
		return e.commitNetworks(ctx, after)
	})
	if err != nil {
		return nat.Network{}, fmt.Errorf("create network %s: %w", n.Name, err)
	}
	n, _ = e.ipam.Network(n.Name)
	return n, nil
}

// checkPrefix refuses a network whose addresses something else on this host has.
func checkPrefix(h host, n nat.Network) error {
	other, err := h.Overlap(n.WithDefaults())
	if err == nil && other != "" {
		err = &nat.TakenError{What: "prefix " + n.Prefix.String(), Holder: other}
	}
	return err
}

// RemoveNetwork removes a network that has no endpoints. Mappings to its addresses stay.
//
// Errors: ErrNotFound; *TakenError, which is ErrConflict, while endpoints are in it. On
// any error nothing has changed.
func (e *Engine) RemoveNetwork(ctx context.Context, name string) error {
	_, err := update(ctx, e, func(c *core) (struct{}, error) { return struct{}{}, c.removeNetwork(ctx, name) })
	return err
}

func (e *core) removeNetwork(ctx context.Context, name string) error {
	name = nat.Name(name)
	err := e.retryOnConflict(ctx, func() error {
		if _, ok := e.ipam.Network(name); !ok {
			return &missingError{nat.WhatNetwork, name}
		}
		if inside := e.endpointsIn(name); len(inside) != 0 {
			return &nat.TakenError{What: "network " + name, Holder: "endpoint " + strings.Join(inside, ", ")}
		}
		after := e.ipam.Clone()
		after.RemoveNetwork(name)
		return e.commitNetworks(ctx, after)
	})
	if err != nil {
		return fmt.Errorf("remove network %s: %w", name, err)
	}
	return nil
}

// endpointsIn names the endpoints of a network, in order, the first few of them.
func (l *published) endpointsIn(network string) (names []string) {
	const few = 3
	for _, l := range l.ipam.Leases() {
		if l.Network != network {
			continue
		}
		if len(names) == few {
			return append(names, "…")
		}
		names = append(names, l.Name)
	}
	return names
}

// Network finds the network of a name. The error is ErrNotFound if there is none.
func (e *Engine) Network(ctx context.Context, name string) (nat.Network, error) {
	return view(ctx, e, func(c *core) (nat.Network, error) {
		n, ok := c.ipam.Network(nat.Name(name))
		if !ok {
			return nat.Network{}, &missingError{nat.WhatNetwork, name}
		}
		return n, nil
	})
}

// Networks returns all networks, by name.
func (e *Engine) Networks(ctx context.Context) ([]nat.Network, error) {
	return view(ctx, e, func(c *core) ([]nat.Network, error) { return c.ipam.Networks(), nil })
}

// commitNetworks commits a change of networks alone.
func (e *core) commitNetworks(ctx context.Context, after *ipam.State) error {
	var c change
	e.changeIPAM(&c, after)
	return e.commit(ctx, c)
}

// changeIPAM adds to a change that networks and leases become those of another state.
func (l *published) changeIPAM(c *change, after *ipam.State) {
	c.ipam, c.ipamDiff = after, ipam.Compare(l.ipam, after)
	for _, n := range c.ipamDiff.AddedNetworks {
		if have, ok := l.ipam.Network(n.Name); !ok || have.Prefix != n.Prefix {
			c.newNetworks = append(c.newNetworks, n)
		}
	}
}

// missingError says that there is no network or endpoint of a name. It is ErrNotFound.
type missingError struct{ what, name string }

func (e *missingError) Error() string {
	if e.name == "" {
		return "there is no " + e.what + " yet"
	}
	return fmt.Sprintf("there is no %s %q", e.what, e.name)
}

func (e *missingError) Unwrap() error { return nat.ErrNotFound }
