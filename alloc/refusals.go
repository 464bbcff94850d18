// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"fmt"
	"net/netip"
)

// These are the errors of what is called often. A pool that is nearly full turns many
// down, inside its mutex, and most callers ask an error what it is and never for its
// text: so the text is made when it is read.

// An exhaustedError is of Next of Addrs.
type exhaustedError struct{ prefix netip.Prefix }

func (e *exhaustedError) Error() string {
	return fmt.Sprintf("lease from %v: %v", e.prefix, ErrExhausted)
}

func (e *exhaustedError) Unwrap() error { return ErrExhausted }

// A leaseError is of Reserve of Addrs.
type leaseError struct {
	addr   netip.Addr
	prefix netip.Prefix
	err    error
}

func (e *leaseError) Error() string {
	return fmt.Sprintf("reserve %v in %v: %v", e.addr, e.prefix, e.err)
}

func (e *leaseError) Unwrap() error { return e.err }

// A chooseError is of Next and NextRun of Ports.
type chooseError struct {
	first, last, n int
	host           netip.Addr
	err            error
}

func (e *chooseError) Error() string {
	if e.n == 1 {
		return fmt.Sprintf("choose port of %d-%d for %v: %v", e.first, e.last, e.host, e.err)
	}
	return fmt.Sprintf("choose %d ports of %d-%d for %v: %v", e.n, e.first, e.last, e.host, e.err)
}

func (e *chooseError) Unwrap() error { return e.err }

// A reserveError is of Reserve and ReserveRun of Ports.
type reserveError struct {
	ap  netip.AddrPort
	n   int
	err error
}

func (e *reserveError) Error() string {
	if e.n == 1 {
		return fmt.Sprintf("reserve %v: %v", e.ap, e.err)
	}
	return fmt.Sprintf("reserve %d ports from %v on: %v", e.n, e.ap, e.err)
}

func (e *reserveError) Unwrap() error { return e.err }
