// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"errors"
	"net/netip"
)

// Errors to branch on with [errors.Is]. What the methods return wraps them with
// the address or port concerned.
var (
	// ErrExhausted: every address of the pool, or every port of the dynamic
	// range that the host could have had, is taken. Release one and try again.
	ErrExhausted = errors.New("exhausted")

	// ErrInUse: the address is leased already, or the port is held by a
	// reservation that excludes the one asked for. [Ports] wraps it in an
	// [*InUseError].
	ErrInUse = errors.New("in use")

	// ErrReserved: the address is in the prefix but is never leased: network,
	// broadcast or subnet-router anycast address, or one given to [NewAddrs] as
	// reserved. Unlike with ErrInUse no release will change that.
	ErrReserved = errors.New("reserved")

	// ErrRange: the address is not of the prefix, the port is not one of 1 to
	// 65535, the count is not positive or more than the range has, the host is
	// no valid address, or the arguments are in the wrong order.
	ErrRange = errors.New("out of range")
)

// InUseError says which reservation stands in the way. It unwraps to
// [ErrInUse].
type InUseError struct {
	// Have is a reservation that excludes the one asked for, as it could be
	// given to [Ports.Release]: its address is unmapped, 0.0.0.0 is every IPv4
	// address, :: every address of both families, and [IPv6Only] every IPv6
	// address. When several stand in the way it is one of the lowest port;
	// among those a wildcard before specific addresses, and the lowest address
	// of these. It is never the zero AddrPort.
	Have netip.AddrPort
}

// Error names the reservation that stands in the way.
func (e *InUseError) Error() string { return "in use by " + e.Have.String() }

// Unwrap returns [ErrInUse].
func (e *InUseError) Unwrap() error { return ErrInUse }
