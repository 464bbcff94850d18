// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

// State is all that an engine keeps: what a file of it says.
type State struct {
	Networks []Network
	// Endpoints have addresses, and their ports frontends, for it is said which.
	Endpoints []EndpointSpec
	// Mappings are those that are not said by an endpoint's ports.
	Mappings []Mapping
}
