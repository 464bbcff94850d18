// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import "github.com/nftnat/nftnat/nat"

// These names stay for one release after the values have moved to package nat.
//
// Deprecated: use those of package nat.
type (
	Mapping       = nat.Mapping       // Mapping is [nat.Mapping].
	Network       = nat.Network       // Network is [nat.Network].
	State         = nat.State         // State is [nat.State].
	Change        = nat.Change        // Change is [nat.Change].
	Removal       = nat.Removal       // Removal is [nat.Removal].
	Report        = nat.Report        // Report is [nat.Report].
	InvalidError  = nat.InvalidError  // InvalidError is [nat.InvalidError].
	ConflictError = nat.ConflictError // ConflictError is [nat.ConflictError].
	TakenError    = nat.TakenError    // TakenError is [nat.TakenError].
	OwnedError    = nat.OwnedError    // OwnedError is [nat.OwnedError].
)
