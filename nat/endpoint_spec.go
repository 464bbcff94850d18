// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import "net/netip"

// EndpointSpec describes an endpoint that is to be attached.
type EndpointSpec struct {
	// Name has the form of a [Network]'s name, and is unique among endpoints. It is the
	// comment of the endpoint's address and mappings in the kernel.
	Name string
	// Network is the name of the network of the address. Empty: the one that Address is
	// in, or the only one.
	Network string
	// Address is the endpoint's address. Zero: the next free one of the network.
	Address netip.Addr
	// Ports are the ports to publish. Nil: none.
	Ports []PortSpec
}

// Validate reports whether a can be attached to some network, as far as that depends on a
// alone. The error is an [*InvalidError] or an [*OverlapError].
func (a EndpointSpec) Validate() error {
	if fault := labelFault(a.Name); fault != "" {
		return &InvalidError{What: WhatEndpoint, Input: a.Name, Reason: fault}
	}
	if a.Network != "" {
		if fault := labelFault(a.Network); fault != "" {
			return &InvalidError{What: WhatNetwork, Input: a.Network, Reason: fault}
		}
	}
	if a.Address.IsValid() {
		if kind := notBackend(a.Address); kind != "" {
			return &InvalidError{What: "address", Input: a.Address.String(), Reason: "it is " + kind}
		}
	}
	return nil
}

// Mappings returns the mappings of the ports, to an address.
func (a EndpointSpec) Mappings(addr netip.Addr) []Mapping {
	ms := make([]Mapping, len(a.Ports))
	for i, s := range a.Ports {
		ms[i] = s.Mapping(a.Name, addr)
	}
	return ms
}
