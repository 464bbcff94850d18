// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/nat"
)

// Endpoint is what an [engine.Endpoint] was when it was asked about. In JSON it is a
// document of GET /v1/endpoints, whose mappings are told a port at a time.
type Endpoint struct {
	Name string
	// Network is the name of the network that Address is of, and Prefix is where that
	// network's addresses are.
	Network string
	Address netip.Addr
	Prefix  netip.Prefix
	// Gateway is the host's address on the network.
	Gateway netip.Addr
	// Mappings are what is published of it, in the order of nat.Compare, ranges as
	// one. Nil: nothing.
	Mappings []nat.Mapping
}

// EndpointOf asks an endpoint.
func EndpointOf(ep *engine.Endpoint) Endpoint {
	address := ep.Address()
	return Endpoint{
		Name: ep.Name(), Network: ep.Network(), Address: address.Addr(), Prefix: address.Masked(),
		Gateway: ep.Gateway(), Mappings: nat.Collapse(slices.Collect(ep.Mappings())),
	}
}

// EndpointsOf are the endpoints of a state that an engine has told, in its order.
func EndpointsOf(s nat.State) []Endpoint {
	networks := make(map[string]nat.Network, len(s.Networks))
	for _, n := range s.Networks {
		networks[n.Name] = n
	}
	// Their ports are not all that is published of them: a mapping says more than a
	// port spec can.
	others := map[string][]nat.Mapping{}
	for _, m := range s.Mappings {
		if m.Name != "" {
			others[m.Name] = append(others[m.Name], m)
		}
	}
	all := make([]Endpoint, len(s.Endpoints))
	for i, a := range s.Endpoints {
		n := networks[a.Network]
		ep := Endpoint{Name: a.Name, Network: a.Network, Address: a.Address, Prefix: n.Prefix, Gateway: n.Gateway}
		for _, spec := range a.Ports {
			ep.Mappings = append(ep.Mappings, nat.Mapping{
				Proto: spec.Proto, Frontend: spec.Frontend, Backend: netip.AddrPortFrom(a.Address, spec.Backend),
				More: spec.More, Name: a.Name,
			})
		}
		for _, m := range others[a.Name] {
			if m.Backend.Addr() == a.Address {
				ep.Mappings = append(ep.Mappings, m)
			}
		}
		ep.Mappings = nat.Collapse(ep.Mappings)
		all[i] = ep
	}
	return all
}

// endpointDocument is an Endpoint in JSON.
type endpointDocument struct {
	Name     string    `json:"name"`
	Network  string    `json:"network"`
	Address  string    `json:"address"`
	Prefix   string    `json:"prefix"`
	Gateway  string    `json:"gateway"`
	Mappings []Mapping `json:"mappings"`
}

// MarshalJSON returns the endpoint's document.
func (ep Endpoint) MarshalJSON() ([]byte, error) {
	return json.Marshal(endpointDocument{
		Name: ep.Name, Network: ep.Network, Address: ep.Address.String(), Prefix: ep.Prefix.String(),
		Gateway: ep.Gateway.String(), Mappings: Mappings(slices.Values(ep.Mappings)),
	})
}

// UnmarshalJSON reads an endpoint's document.
func (ep *Endpoint) UnmarshalJSON(text []byte) error {
	var doc endpointDocument
	if err := json.Unmarshal(text, &doc); err != nil {
		return err
	}
	read := Endpoint{Name: doc.Name, Network: doc.Network}
	var err error
	if read.Address, err = netip.ParseAddr(doc.Address); err != nil {
		return fmt.Errorf("read endpoint: %w", err)
	}
	if read.Prefix, err = netip.ParsePrefix(doc.Prefix); err != nil {
		return fmt.Errorf("read endpoint: %w", err)
	}
	if read.Gateway, err = netip.ParseAddr(doc.Gateway); err != nil {
		return fmt.Errorf("read endpoint: %w", err)
	}
	ms, err := singles(doc.Mappings)
	if err != nil {
		return err
	}
	read.Mappings = nat.Collapse(ms)
	*ep = read
	return nil
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

func (r *attachRequest) attachment() (nat.EndpointSpec, error) {
	return nat.ParseEndpointSpec(r.Name, r.Network, r.Address, r.Ports...)
}
