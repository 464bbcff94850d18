// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// Values is an engine that returns endpoints as values: what a server of package api
// needs.
type Values struct{ *Engine }

// Attach is [Engine.Attach].
func (v Values) Attach(ctx context.Context, a nat.EndpointSpec) (nat.Endpoint, error) {
	return update(ctx, v.Engine, func(c *core) (nat.Endpoint, error) { return c.valueOf(c.attach(ctx, a)) })
}

// Endpoint is [Engine.Endpoint].
func (v Values) Endpoint(ctx context.Context, name string) (nat.Endpoint, error) {
	return view(ctx, v.Engine, func(c *core) (nat.Endpoint, error) { return c.valueOf(c.endpoint(name)) })
}

// Endpoints is [Engine.Endpoints].
func (v Values) Endpoints(ctx context.Context) ([]nat.Endpoint, error) {
	s, err := v.State(ctx)
	return nat.EndpointsOf(s), err
}

func (e *core) valueOf(ep *Endpoint, err error) (nat.Endpoint, error) {
	if err != nil {
		return nat.Endpoint{}, err
	}
	l := ep.lease.Load()
	return nat.Endpoint{
		Name: l.Name, Network: l.Network, Address: l.Addr, Prefix: l.Prefix, Gateway: l.Gateway,
		Mappings: portset.Collapse(e.portsOf(l)),
	}, nil
}
