// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"iter"
	"slices"
)

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

// Mappings are mappings of which there may be very many, and which are made one by one, whenever
// they are asked for: always the same.
type Mappings struct {
	Len int
	All iter.Seq[Mapping] // nil if Len is zero
}

// Slice returns them.
func (ms Mappings) Slice() []Mapping {
	if ms.Len == 0 {
		return nil
	}
	return slices.AppendSeq(make([]Mapping, 0, ms.Len), ms.All)
}
