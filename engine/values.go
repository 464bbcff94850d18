// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"

	"github.com/nftnat/nftnat/nat"
)

// Values is an engine that returns endpoints as values: what a server of package api
// needs.
type Values struct{ *Engine }

// Attach is [Engine.Attach].
func (v Values) Attach(ctx context.Context, a nat.EndpointSpec) (nat.Endpoint, error) {
	ep, err := v.Engine.Attach(ctx, a)
	if err != nil {
		return nat.Endpoint{}, err
	}
	return ep.value(ctx)
}

// Endpoint is [Engine.Endpoint].
func (v Values) Endpoint(ctx context.Context, name string) (nat.Endpoint, error) {
	ep, err := v.Engine.Endpoint(ctx, name)
	if err != nil {
		return nat.Endpoint{}, err
	}
	return ep.value(ctx)
}

// Endpoints is [Engine.Endpoints].
func (v Values) Endpoints(ctx context.Context) ([]nat.Endpoint, error) {
	s, err := v.State(ctx)
	return nat.EndpointsOf(s), err
}

func (ep *Endpoint) value(ctx context.Context) (nat.Endpoint, error) {
	ms, err := ep.Mappings(ctx)
	l := ep.lease
	return nat.Endpoint{
		Name: l.Name, Network: l.Network, Address: l.Addr, Prefix: l.Prefix, Gateway: l.Gateway,
		Mappings: nat.Collapse(ms),
	}, err
}
