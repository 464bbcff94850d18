// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"

	"github.com/nftnat/nftnat/nat"
)

// Connections is how many connections one published port has: see [nat.Connections].
type Connections struct {
	Mapping Mapping `json:"mapping"`
	// Translated is how many flows netfilter leads to the backend.
	Translated int `json:"translated"`
	// Proxied is how many connections or flows the proxy carries, and ProxiedEver how many it has
	// carried since the mapping was published or the daemon was started.
	Proxied     int64  `json:"proxied"`
	ProxiedEver uint64 `json:"proxied_ever"`
}

func connectionsOf(c nat.Connections) Connections {
	return Connections{mapping(c.Mapping), c.Translated, c.Proxied, c.ProxiedEver}
}

func (c *Connections) connections() (nat.Connections, error) {
	m, err := c.Mapping.mapping()
	return nat.Connections{Mapping: m, Translated: c.Translated, Proxied: c.Proxied, ProxiedEver: c.ProxiedEver}, err
}

func (h *handler) getConnections(_ http.ResponseWriter, c *call) (any, error) {
	release, err := h.acquire(c, h.searches, h.limits.bodyTime, "count connections")
	if err != nil {
		return nil, err
	}
	defer release()
	all, err := h.Engine.Connections(c.ctx)
	return documents(all, connectionsOf), err
}

// Connections returns how many connections each published port has, without ports that have none.
func (c *Client) Connections(ctx context.Context) ([]nat.Connections, error) {
	docs, err := fetch[[]Connections](ctx, c, http.MethodGet, "/v1/connections", nil)
	if err != nil {
		return nil, err
	}
	return parseAll(docs, (*Connections).connections)
}
