// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"iter"
	"net/netip"
	"time"

	"github.com/nftnat/nftnat/nat"
)

// The names below are those of values that are in package nat now. They stay until the
// release after 0.1.

type (
	// Mapping is [nat.Mapping].
	//
	// Deprecated: use that.
	Mapping = nat.Mapping
	// Proto is [nat.Proto].
	//
	// Deprecated: use that.
	Proto = nat.Proto
	// PortSpec is [nat.PortSpec].
	//
	// Deprecated: use that.
	PortSpec = nat.PortSpec
	// Network is [nat.Network].
	//
	// Deprecated: use that.
	Network = nat.Network
	// Attachment is [nat.EndpointSpec].
	//
	// Deprecated: use that.
	Attachment = nat.EndpointSpec
	// State is [nat.State].
	//
	// Deprecated: use that.
	State = nat.State
	// Record is [nat.StoredState].
	//
	// Deprecated: use that.
	Record = nat.StoredState
	// Change is [nat.Change].
	//
	// Deprecated: use that.
	Change = nat.Change
	// InvalidError is [nat.InvalidError].
	//
	// Deprecated: use that.
	InvalidError = nat.InvalidError
	// OverlapError is [nat.OverlapError].
	//
	// Deprecated: use that.
	OverlapError = nat.OverlapError
	// PortSpecError is [nat.PortSpecError].
	//
	// Deprecated: use that.
	PortSpecError = nat.PortSpecError
	// ConflictError is [nat.ConflictError].
	//
	// Deprecated: use that.
	ConflictError = nat.ConflictError
	// TakenError is [nat.TakenError].
	//
	// Deprecated: use that.
	TakenError = nat.TakenError
	// HeldError is [nat.HeldError].
	//
	// Deprecated: use that.
	HeldError = nat.HeldError
	// OwnedError is [nat.OwnedError].
	//
	// Deprecated: use that.
	OwnedError = nat.OwnedError
)

const (
	// TCP is [nat.TCP].
	//
	// Deprecated: use that.
	TCP = nat.TCP
	// UDP is [nat.UDP].
	//
	// Deprecated: use that.
	UDP = nat.UDP
)

var (
	// ErrInvalid is [nat.ErrInvalid].
	//
	// Deprecated: use that.
	ErrInvalid = nat.ErrInvalid
	// ErrConflict is [nat.ErrConflict].
	//
	// Deprecated: use that.
	ErrConflict = nat.ErrConflict
	// ErrNotFound is [nat.ErrNotFound].
	//
	// Deprecated: use that.
	ErrNotFound = nat.ErrNotFound
	// ErrClosed is [nat.ErrClosed].
	//
	// Deprecated: use that.
	ErrClosed = nat.ErrClosed
	// ErrReadOnly is [nat.ErrReadOnly].
	//
	// Deprecated: use that.
	ErrReadOnly = nat.ErrReadOnly
	// ErrOwned is [nat.ErrOwned].
	//
	// Deprecated: use that.
	ErrOwned = nat.ErrOwned
	// ErrForeign is [nat.ErrForeign].
	//
	// Deprecated: use that.
	ErrForeign = nat.ErrForeign
	// ErrNewer is [nat.ErrNewer].
	//
	// Deprecated: use that.
	ErrNewer = nat.ErrNewer
)

// NewMapping is [nat.NewMapping].
//
// Deprecated: use that.
func NewMapping(proto, frontend, backend string) (Mapping, error) {
	return nat.NewMapping(proto, frontend, backend)
}

// ParseMapping is [nat.ParseMapping].
//
// Deprecated: use that.
func ParseMapping(s string) (Mapping, error) { return nat.ParseMapping(s) }

// ParseFrontend is [nat.ParseFrontend].
//
// Deprecated: use that.
func ParseFrontend(s string) (frontend netip.AddrPort, more uint16, err error) {
	return nat.ParseFrontend(s)
}

// ParseProto is [nat.ParseProto].
//
// Deprecated: use that.
func ParseProto(s string) (Proto, error) { return nat.ParseProto(s) }

// ParsePortSpec is [nat.ParsePortSpec].
//
// Deprecated: use that.
func ParsePortSpec(spec string) (PortSpec, error) { return nat.ParsePortSpec(spec) }

// ParseNetwork is [nat.ParseNetwork].
//
// Deprecated: use that.
func ParseNetwork(name, prefix, gateway string) (Network, error) {
	return nat.ParseNetwork(name, prefix, gateway)
}

// ParseAttachment is [nat.ParseEndpointSpec].
//
// Deprecated: use that.
func ParseAttachment(name, network, address string, ports ...string) (Attachment, error) {
	return nat.ParseEndpointSpec(name, network, address, ports...)
}

// ParseTTL is [nat.ParseTTL].
//
// Deprecated: use that.
func ParseTTL(s string) (time.Duration, error) { return nat.ParseTTL(s) }

// ValidateAll is [nat.ValidateAll].
//
// Deprecated: use that.
func ValidateAll(ms ...Mapping) error { return nat.ValidateAll(ms...) }

// ValidateName is [nat.ValidateName].
//
// Deprecated: use that.
func ValidateName(name string) error { return nat.ValidateName(name) }

// ValidateEndpointName is [nat.ValidateEndpointName].
//
// Deprecated: use that.
func ValidateEndpointName(name string) error { return nat.ValidateEndpointName(name) }

// ValidateNetworkName is [nat.ValidateNetworkName].
//
// Deprecated: use that.
func ValidateNetworkName(name string) error { return nat.ValidateNetworkName(name) }

// Expand is [nat.Expand].
//
// Deprecated: use that.
func Expand(m Mapping) iter.Seq[Mapping] { return nat.Expand(m) }

// Collapse is [nat.Collapse].
//
// Deprecated: use that.
func Collapse(ms []Mapping) []Mapping { return nat.Collapse(ms) }

// Compare is [nat.Compare].
//
// Deprecated: use that.
func Compare(a, b Mapping) int { return nat.Compare(a, b) }
