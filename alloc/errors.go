// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"errors"
	"fmt"
	"net/netip"
)

// Errors to branch on with [errors.Is]. What the methods return wraps them with
// the address or port concerned.
var (
	// ErrExhausted: every address of the pool, or every port of the dynamic
	// range that the host could have had, is taken. Release one and try again.
	ErrExhausted = errors.New("exhausted")

	// ErrInUse: the address is leased already, or a reservation of the port
	// conflicts with the one asked for. [Ports] wraps it in an [*InUseError].
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

// InUseError names the reservation that a new one conflicts with. It unwraps to
// [ErrInUse].
type InUseError struct {
	// Have is the existing reservation, as [Ports.Release] takes it: its address
	// is unmapped, 0.0.0.0 is every IPv4 address, :: every address of both
	// families, and [IPv6Only] every IPv6 address. Of several conflicts it is the
	// one with the lowest port; at the same port a wildcard comes before specific
	// addresses, and the lowest of these first. It is never the zero AddrPort.
	Have netip.AddrPort
}

// Error names the existing reservation.
func (e *InUseError) Error() string { return "in use by " + e.Have.String() }

// Unwrap returns [ErrInUse].
func (e *InUseError) Unwrap() error { return ErrInUse }

// The calls that return the errors below can fail often, while they hold the
// mutex, and most callers only pass the error to errors.Is. So the text is made
// when it is read.

// addrError is an error of [Addrs.Reserve], or of [Addrs.Next] if it has no
// address.
type addrError struct {
	addr   netip.Addr
	prefix netip.Prefix
	err    error
}

func (e *addrError) Error() string {
	if errors.Is(e.err, ErrExhausted) {
		return fmt.Sprintf("lease from %v: %v", e.prefix, e.err)
	}
	return fmt.Sprintf("reserve %v in %v: %v", e.addr, e.prefix, e.err)
}

func (e *addrError) Unwrap() error { return e.err }

// portError is an error of [Ports.NextRun], which chooses from first to last, or
// of [Ports.ReserveRun], where last is 0.
type portError struct {
	host           netip.Addr
	first, last, n int
	err            error
}

func (e *portError) Error() string {
	from := netip.AddrPortFrom(e.host, uint16(e.first))
	switch {
	case e.last == 0 && e.n == 1:
		return fmt.Sprintf("reserve %v: %v", from, e.err)
	case e.last == 0:
		return fmt.Sprintf("reserve %d ports from %v on: %v", e.n, from, e.err)
	case e.n == 1:
		return fmt.Sprintf("choose port of %d-%d for %v: %v", e.first, e.last, e.host, e.err)
	}
	return fmt.Sprintf("choose %d ports of %d-%d for %v: %v", e.n, e.first, e.last, e.host, e.err)
}

func (e *portError) Unwrap() error { return e.err }
