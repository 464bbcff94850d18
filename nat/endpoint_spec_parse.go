// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

// ParseEndpointSpec parses the arguments of a command line. An empty network or address is to
// be chosen; ports are those of [ParsePortSpec]. An IPv4 address mapped into IPv6 becomes the
// IPv4 address. It checks the form only: see [EndpointSpec.Validate]. Errors are
// [*InvalidError] and [*PortSpecError].
func ParseEndpointSpec(name, network, address string, ports ...string) (EndpointSpec, error) {
	a := EndpointSpec{Name: name, Network: network}
	if address != "" {
		var reason string
		if a.Address, reason = parseAddr(address); reason != "" {
			return EndpointSpec{}, &InvalidError{What: "address", Input: address, Reason: reason}
		}
	}
	for _, text := range ports {
		s, err := ParsePortSpec(text)
		if err != nil {
			return EndpointSpec{}, err
		}
		a.Ports = append(a.Ports, s)
	}
	return a, nil
}

// ValidateEndpointName reports whether an endpoint can have that name. The error is an
// [*InvalidError].
func ValidateEndpointName(name string) error { return validateLabel(WhatEndpoint, name) }

// ValidateNetworkName reports whether a network can have that name. The error is an
// [*InvalidError].
func ValidateNetworkName(name string) error { return validateLabel(WhatNetwork, name) }

func validateLabel(what, name string) error {
	if fault := labelFault(name); fault != "" {
		return &InvalidError{What: what, Input: name, Reason: fault}
	}
	return nil
}
