// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import "net/netip"

// EndpointSpec says what an endpoint is to be.
type EndpointSpec struct {
	// Name is as a [Network]'s name; no two endpoints have the same. It is the comment of
	// the endpoint's address and mappings in the kernel.
	Name string
	// Network is the name of the network that the address is of. Empty: the one that
	// Address is in, or the only one there is.
	Network string
	// Address is the endpoint's. Zero: the next free one of the network.
	Address netip.Addr
	// Ports are what is published of it. None: nothing.
	Ports []PortSpec
}

// Validate reports whether a can be attached to some network, as far as it alone tells.
// The error is an [*InvalidError] or an [*OverlapError].
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

// Mappings are those of the specs, to an address.
func (a EndpointSpec) Mappings(addr netip.Addr) []Mapping {
	ms := make([]Mapping, len(a.Ports))
	for i, s := range a.Ports {
		ms[i] = s.Mapping(a.Name, addr)
	}
	return ms
}
