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
	// Proto is [nat.Proto].
	Proto = nat.Proto
	// PortSpec is [nat.PortSpec].
	PortSpec = nat.PortSpec
	// Attachment is [nat.EndpointSpec].
	Attachment = nat.EndpointSpec
	// Network is [nat.Network].
	Network = nat.Network
	// State is [nat.State].
	State = nat.State
	// Change is [nat.Change].
	Change = nat.Change
	// Connections is [nat.Connections].
	Connections = nat.Connections
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

// Deprecated: use those of package nat.
const (
	// TCP is [nat.TCP].
	TCP = nat.TCP
	// UDP is [nat.UDP].
	UDP = nat.UDP
)

// Deprecated: use those of package nat.
var (
	// ErrInvalid is [nat.ErrInvalid].
	ErrInvalid = nat.ErrInvalid
	// ErrConflict is [nat.ErrConflict].
	ErrConflict = nat.ErrConflict
	// ErrNotFound is [nat.ErrNotFound].
	ErrNotFound = nat.ErrNotFound
	// ErrClosed is [nat.ErrClosed].
	ErrClosed = nat.ErrClosed
	// ErrReadOnly is [nat.ErrReadOnly].
	ErrReadOnly = nat.ErrReadOnly
	// ErrOwned is [nat.ErrOwned].
	ErrOwned = nat.ErrOwned
	// ErrForeign is [nat.ErrForeign].
	ErrForeign = nat.ErrForeign
	// ErrNewer is [nat.ErrNewer].
	ErrNewer = nat.ErrNewer
)
