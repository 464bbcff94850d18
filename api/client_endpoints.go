// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/nftnat/nftnat/nat"
)

// Attach attaches an endpoint as [Engine].Attach does.
func (c *Client) Attach(ctx context.Context, a nat.EndpointSpec) (nat.Endpoint, error) {
	var doc Endpoint
	if err := c.call(ctx, http.MethodPost, "/v1/endpoints", attachRequestOf(a), &doc); err != nil {
		return nat.Endpoint{}, err
	}
	return doc.endpoint()
}

// Detach releases an endpoint as [Engine].Detach does, and returns what was
// published of it.
func (c *Client) Detach(ctx context.Context, name string) ([]nat.Mapping, error) {
	var docs []Mapping
	if err := c.call(ctx, http.MethodDelete, "/v1/endpoints/"+url.PathEscape(name), nil, &docs); err != nil {
		return nil, err
	}
	gone, err := singles(docs)
	return nat.Collapse(gone), err
}

// Endpoints returns all endpoints, by name.
func (c *Client) Endpoints(ctx context.Context) ([]nat.Endpoint, error) {
	var docs []Endpoint
	if err := c.call(ctx, http.MethodGet, "/v1/endpoints", nil, &docs); err != nil {
		return nil, err
	}
	all := make([]nat.Endpoint, len(docs))
	for i := range docs {
		var err error
		if all[i], err = docs[i].endpoint(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Endpoint finds the endpoint of a name. The error is nat.ErrNotFound if there is
// none.
func (c *Client) Endpoint(ctx context.Context, name string) (nat.Endpoint, error) {
	all, err := c.Endpoints(ctx)
	if err != nil {
		return nat.Endpoint{}, err
	}
	for _, ep := range all {
		if ep.Name == name {
			return ep, nil
		}
	}
	if _, err := c.Inspect(ctx, name); err != nil { // which says that there is none
		return nat.Endpoint{}, err
	}
	return nat.Endpoint{}, fmt.Errorf("endpoint %s was attached at this moment", name)
}

// Inspect returns the `inspect` document of an endpoint. The error is nat.ErrNotFound
// if there is none.
func (c *Client) Inspect(ctx context.Context, name string) (Inspection, error) {
	var doc Inspection
	err := c.call(ctx, http.MethodGet, "/v1/endpoints/"+url.PathEscape(name), nil, &doc)
	return doc, err
}

// CreateNetwork declares a network as [Engine].CreateNetwork does.
func (c *Client) CreateNetwork(ctx context.Context, n nat.Network) (nat.Network, error) {
	var doc Network
	if err := c.call(ctx, http.MethodPost, "/v1/networks", networkRequestOf(n), &doc); err != nil {
		return nat.Network{}, err
	}
	return doc.network()
}

// RemoveNetwork takes a network back as [Engine].RemoveNetwork does.
func (c *Client) RemoveNetwork(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/networks/"+url.PathEscape(name), nil, nil)
}

// Network finds the network of a name. The error is nat.ErrNotFound if there is none.
func (c *Client) Network(ctx context.Context, name string) (nat.Network, error) {
	var doc Network
	if err := c.call(ctx, http.MethodGet, "/v1/networks/"+url.PathEscape(name), nil, &doc); err != nil {
		return nat.Network{}, err
	}
	return doc.network()
}

// Networks returns all networks, by name.
func (c *Client) Networks(ctx context.Context) ([]nat.Network, error) {
	var docs []Network
	if err := c.call(ctx, http.MethodGet, "/v1/networks", nil, &docs); err != nil {
		return nil, err
	}
	all := make([]nat.Network, 0, len(docs))
	for i := range docs {
		n, err := docs[i].network()
		if err != nil {
			return nil, fmt.Errorf("read network: %w", err)
		}
		all = append(all, n)
	}
	return all, nil
}

// State returns all that there is, as [Engine].State does.
func (c *Client) State(ctx context.Context) (nat.State, error) {
	var doc state
	if err := c.call(ctx, http.MethodGet, "/v1/state", nil, &doc); err != nil {
		return nat.State{}, err
	}
	return doc.state()
}

// ApplyState makes networks, endpoints and mappings exactly these, as
// [Engine].ApplyState does, and returns what that changed.
func (c *Client) ApplyState(ctx context.Context, s nat.State) ([]nat.Change, error) {
	return c.put(ctx, "/v1/state", stateOf(s))
}

// DiffState tells what ApplyState would change.
func (c *Client) DiffState(ctx context.Context, s nat.State) ([]nat.Change, error) {
	return c.put(ctx, "/v1/state?dry-run=true", stateOf(s))
}
