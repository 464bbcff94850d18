// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/nat"
)

// CreateNetwork declares a network, and turns on IP forwarding if nobody has. Its
// bridge, or whatever carries it, is the caller's; it may come later.
//
// Declaring one again that is there just like that changes nothing; where its Next is not
// given, whatever it is by now is right.
//
// Errors: ErrInvalid; *TakenError, which is ErrConflict, if there is another of that name,
// or the prefix overlaps another network or a route that leads elsewhere than to the
// interface that has the gateway's address. On any error nothing has changed.
func (e *Engine) CreateNetwork(ctx context.Context, n nat.Network) (nat.Network, error) {
	return update(ctx, e, func() (nat.Network, error) { return e.createNetwork(ctx, n) })
}

func (e *Engine) createNetwork(ctx context.Context, n nat.Network) (nat.Network, error) {
	if err := n.Validate(); err != nil {
		return nat.Network{}, err
	}
	var made *network
	err := e.retryOnConflict(ctx, func() error {
		var err error
		if have := e.networks[n.Name]; have != nil && have.declaredAs(n) {
			made = have
			e.unchanged(true)
			return e.confirm()
		}
		if made, err = e.checkNetwork(n, e.networks); err != nil {
			return err
		}
		return e.rearrange(ctx, func(c *change) {
			c.records.come = append(made.declared(), made.cursorElement(made.addrs.Cursor()))
			c.apply = func() {
				made.cursor = made.addrs.Cursor()
				e.networks[made.Name] = made
			}
		}, made, nil)
	})
	if err != nil {
		return nat.Network{}, fmt.Errorf("create network %s: %w", n.Name, err)
	}
	return made.now(), nil
}

// declaredAs reports whether declaring the network makes this one.
func (n *network) declaredAs(other nat.Network) bool {
	made, err := newNetwork(other)
	if err != nil {
		return false
	}
	now := n.now()
	want := made.now()
	if !other.Next.IsValid() {
		want.Next = now.Next
	}
	return now == want
}

// checkNetwork makes the network, unless something is in its way.
func (e *Engine) checkNetwork(n nat.Network, others map[string]*network) (*network, error) {
	if others[n.Name] != nil {
		return nil, &nat.TakenError{What: "network " + others[n.Name].String()}
	}
	made, err := newNetwork(n)
	if err != nil {
		return nil, err
	}
	what := "prefix " + n.Prefix.String()
	for _, have := range others {
		if have.Prefix.Overlaps(n.Prefix) {
			return nil, &nat.TakenError{What: what, Holder: "network " + have.String()}
		}
	}
	other, err := e.host.Overlap(made.Network)
	if err == nil && other != "" {
		err = &nat.TakenError{What: what, Holder: other}
	}
	if err != nil {
		return nil, err
	}
	return made, nil
}

// RemoveNetwork takes a network back, as long as no endpoint is in it. Mappings to
// addresses of it that are no endpoint's stay.
//
// Errors: ErrNotFound; *TakenError, which is ErrConflict, while endpoints are in it. On
// any error nothing has changed.
func (e *Engine) RemoveNetwork(ctx context.Context, name string) error {
	_, err := update(ctx, e, func() (struct{}, error) { return struct{}{}, e.removeNetwork(ctx, name) })
	return err
}

func (e *Engine) removeNetwork(ctx context.Context, name string) error {
	err := e.retryOnConflict(ctx, func() error {
		n := e.networks[name]
		if n == nil {
			return &missingError{nat.WhatNetwork, name}
		}
		if inside := e.endpointsIn(name); len(inside) != 0 {
			return &nat.TakenError{What: "network " + name, Holder: "endpoint " + strings.Join(inside, ", ")}
		}
		return e.rearrange(ctx, func(c *change) {
			c.records.gone = n.recorded()
			c.apply = func() { delete(e.networks, name) }
		}, nil, n)
	})
	if err != nil {
		return fmt.Errorf("remove network %s: %w", name, err)
	}
	return nil
}

// endpointsIn names the endpoints of a network, in order, the first few of them.
func (e *Engine) endpointsIn(network string) (names []string) {
	const few = 3
	for _, ep := range e.sortedEndpoints() {
		if ep.network != network {
			continue
		}
		if len(names) == few {
			return append(names, "…")
		}
		names = append(names, ep.name)
	}
	return names
}

// Network finds the network of a name. The error is ErrNotFound if there is none.
func (e *Engine) Network(ctx context.Context, name string) (nat.Network, error) {
	return view(ctx, e, func() (nat.Network, error) {
		n := e.networks[name]
		if n == nil {
			return nat.Network{}, &missingError{nat.WhatNetwork, name}
		}
		return n.now(), nil
	})
}

// Networks returns all networks, by name.
func (e *Engine) Networks(ctx context.Context) ([]nat.Network, error) {
	return view(ctx, e, func() ([]nat.Network, error) { return e.sortedNetworks(), nil })
}

func (b book) sortedNetworks() []nat.Network {
	all := make([]nat.Network, 0, len(b.networks))
	for _, n := range b.networks {
		all = append(all, n.now())
	}
	slices.SortFunc(all, func(a, b nat.Network) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// rearrange commits a change of what networks there are, one that comes or one that
// goes: with it the segments are worked out anew, from all that is published.
func (e *Engine) rearrange(ctx context.Context, fill func(*change), come, gone *network) error {
	c := change{networks: maps.Clone(e.networks), rearranged: true}
	if gone != nil {
		delete(c.networks, gone.Name)
	}
	if come != nil {
		c.networks[come.Name] = come
		c.forwards = []*network{come}
	}
	routes := hostnet.NewRouteCache(e.host.Lookup, nil)
	if err := lookUpBackends(routes, e.mappings.All); err != nil {
		return err
	}
	c.routes = routes.Routes()
	fill(&c)
	return e.commit(ctx, c)
}
