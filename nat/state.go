// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

// State is everything that an engine has published, and what a state file lists.
type State struct {
	Networks []Network
	// Endpoints have an address, and their ports a frontend port.
	Endpoints []EndpointSpec
	// Mappings do not include those of the endpoints' ports.
	Mappings []Mapping
}

// StoredState is a state and the table that had it.
type StoredState struct {
	State
	// Table identifies that table: no other table, in any namespace and after any reboot,
	// has the same. Empty: not known, as in a file written by hand.
	Table string
	// Removed is what was published before and is not any more, the latest last: mappings,
	// also those that were replaced, without ends; endpoints without ports; networks. Of a
	// table that was loaded from an older ruleset it is not published again. Each list is
	// bounded.
	Removed State
}
