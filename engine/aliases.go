// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import "github.com/nftnat/nftnat/nat"

// These names stay for one release, now that the values are in package nat.
//
// Deprecated: use those of package nat.
type (
	// Mapping is [nat.Mapping].
	Mapping = nat.Mapping
	// Network is [nat.Network].
	Network = nat.Network
	// State is [nat.State].
	State = nat.State
	// Change is [nat.Change].
	Change = nat.Change
	// Removal is [nat.Removal].
	Removal = nat.Removal
	// Report is [nat.Report].
	Report = nat.Report
	// InvalidError is [nat.InvalidError].
	InvalidError = nat.InvalidError
	// ConflictError is [nat.ConflictError].
	ConflictError = nat.ConflictError
	// TakenError is [nat.TakenError].
	TakenError = nat.TakenError
	// OwnedError is [nat.OwnedError].
	OwnedError = nat.OwnedError
)
