// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"
	"strings"
	"time"
)

// GatewayAgent is what a gateway calls itself when it asks a daemon; see [Client.As].
const GatewayAgent = "nftnat-gateway"

// IsLease reports whether a mapping with this name is a gateway's lease.
func IsLease(name string) bool {
	return strings.HasPrefix(name, "pmp:") || strings.HasPrefix(name, "pcp:") || strings.HasPrefix(name, "igd:")
}

// Gateway is how a gateway is, and what leases its clients have: the document of GET /v1/gateway
// on the gateway's own socket.
type Gateway struct {
	// Version is that of the program, and Started when it began to serve.
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	// Epoch is how many seconds ago leases were lost for the last time, as clients are told.
	Epoch uint32 `json:"epoch"`
	// WAN is the interface of the leases, and Address its address; empty: it has none.
	WAN     string `json:"wan"`
	Address string `json:"address,omitempty"`
	// Devices are the interfaces whose clients are served.
	Devices []string `json:"devices"`
	// Leases are those that there are, by protocol and port.
	Leases []GatewayLease `json:"leases"`
	// Refusals are the last requests that were refused, the newest first.
	Refusals []GatewayRefusal `json:"refusals"`
	// Warnings are what somebody should look into, a line each.
	Warnings []string `json:"warnings"`
	// Drops is how many datagrams were dropped without an answer, by reason. Absent: none.
	Drops map[string]uint64 `json:"drops,omitempty"`
}

// GatewayLease is a port of the WAN that a client has.
type GatewayLease struct {
	// Kind is the protocol by which the client has asked: "pmp", "pcp" or "igd". A later version may
	// add more.
	Kind string `json:"kind"`
	// Client is its address, and Internal its port.
	Client   string `json:"client"`
	Proto    string `json:"proto"`
	Internal uint16 `json:"internal"`
	// External is the port of the WAN.
	External uint16 `json:"external"`
	// Description is the client's own. Absent: it gave none.
	Description string `json:"description,omitempty"`
	// From are the prefixes from which others may connect. Absent: all.
	From []string `json:"from,omitempty"`
	// Expires is when the lease ends. Absent: never.
	Expires *time.Time `json:"expires,omitempty"`
}

// GatewayRefusal is a request that was refused.
type GatewayRefusal struct {
	// Time is when it was refused for the last time, and Count how often the same client was for the
	// same reason.
	Time  time.Time `json:"time"`
	Count int       `json:"count"`
	// Kind is as that of a lease, and Client the address that the request came from.
	Kind   string `json:"kind"`
	Client string `json:"client"`
	// Request is what was asked for, in words; it may hold text of the client. Absent: it is not
	// known.
	Request string `json:"request,omitempty"`
	// Reason is why it was refused.
	Reason string `json:"reason"`
}

// Gateway returns the document of the gateway whose socket is the client's.
func (c *Client) Gateway(ctx context.Context) (Gateway, error) {
	return fetch[Gateway](ctx, c, http.MethodGet, "/v1/gateway", nil)
}
