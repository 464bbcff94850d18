// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/nftnat/nftnat/nat"
)

// Endpoint is a document of GET /v1/endpoints. Its mappings are one a port.
type Endpoint struct {
	Name     string    `json:"name"`
	Network  string    `json:"network"`
	Address  string    `json:"address"`
	Prefix   string    `json:"prefix"`
	Gateway  string    `json:"gateway"`
	Mappings []Mapping `json:"mappings"`
}

// EndpointOf returns the document of an endpoint.
func EndpointOf(ep nat.Endpoint) Endpoint {
	return Endpoint{
		Name: ep.Name, Network: ep.Network, Address: ep.Address.String(), Prefix: ep.Prefix.String(),
		Gateway: ep.Gateway.String(), Mappings: Mappings(ep.Mappings),
	}
}

// Endpoints returns the documents of endpoints.
func Endpoints(eps []nat.Endpoint) []Endpoint {
	docs := make([]Endpoint, len(eps)) // never nil: an empty array, not null
	for i, ep := range eps {
		docs[i] = EndpointOf(ep)
	}
	return docs
}

// endpoint reads the document back.
func (doc *Endpoint) endpoint() (ep nat.Endpoint, err error) {
	ep.Name, ep.Network = doc.Name, doc.Network
	var errs [4]error
	ep.Address, errs[0] = netip.ParseAddr(doc.Address)
	ep.Prefix, errs[1] = netip.ParsePrefix(doc.Prefix)
	ep.Gateway, errs[2] = netip.ParseAddr(doc.Gateway)
	ms, err := singles(doc.Mappings)
	ep.Mappings, errs[3] = nat.Collapse(ms), err
	if err := errors.Join(errs[:]...); err != nil {
		return nat.Endpoint{}, fmt.Errorf("read endpoint: %w", err)
	}
	return ep, nil
}

// attachRequest is the document of an endpoint that is asked for.
type attachRequest struct {
	Name    string   `json:"name"`
	Network string   `json:"network,omitempty"` // that of the address, or the only one there is
	Address string   `json:"address,omitempty"` // the next free one
	Ports   []string `json:"ports,omitempty"`   // port specs
}

func attachFields() []string { return []string{"name", "network", "address", "ports"} }

// attachRequestOf asks for an endpoint.
func attachRequestOf(a nat.EndpointSpec) attachRequest {
	r := attachRequest{Name: a.Name, Network: a.Network}
	if a.Address.IsValid() {
		r.Address = a.Address.String()
	}
	for _, s := range a.Ports {
		r.Ports = append(r.Ports, s.String())
	}
	return r
}

func (r *attachRequest) spec() (nat.EndpointSpec, error) {
	return nat.ParseEndpointSpec(r.Name, r.Network, r.Address, r.Ports...)
}
