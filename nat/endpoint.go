// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import "net/netip"

// Endpoint is an address of a network with its mappings, at the time of the call that
// returned it.
type Endpoint struct {
	Name string
	// Network is the name of the network of Address, and Prefix its prefix.
	Network string
	Address netip.Addr
	Prefix  netip.Prefix
	// Gateway is the host's address on the network.
	Gateway netip.Addr
	// Mappings are its mappings, in the order of Compare, with ranges collapsed. Nil: none.
	Mappings []Mapping
}

// EndpointsOf returns the endpoints of a state that an engine returned, in the same order.
func EndpointsOf(s State) []Endpoint {
	networks := make(map[string]Network, len(s.Networks))
	for _, n := range s.Networks {
		networks[n.Name] = n
	}
	// A mapping that cannot be written as a port spec is not among an endpoint's ports.
	others := map[string][]Mapping{}
	for _, m := range s.Mappings {
		if m.Name != "" {
			others[m.Name] = append(others[m.Name], m)
		}
	}
	all := make([]Endpoint, len(s.Endpoints))
	for i, a := range s.Endpoints {
		n := networks[a.Network]
		ep := Endpoint{Name: a.Name, Network: a.Network, Address: a.Address, Prefix: n.Prefix, Gateway: n.Gateway}
		ms := a.Mappings(a.Address)
		for _, m := range others[a.Name] {
			if m.Backend.Addr() == a.Address {
				ms = append(ms, m)
			}
		}
		ep.Mappings = Collapse(ms)
		all[i] = ep
	}
	return all
}
