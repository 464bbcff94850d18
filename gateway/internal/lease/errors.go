// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package lease

import (
	"errors"
	"strconv"

	"github.com/nftnat/nftnat/nat"
)

// Why a request is refused. The texts are short, because they are shown to users as they are.
var (
	ErrInvalid   = errors.New("a field is out of its range")
	ErrDenied    = errors.New("denied by the rules")
	ErrKey       = errors.New("the lease has another nonce")
	ErrTaken     = errors.New("the port is taken") // matches every *TakenError
	ErrQuota     = errors.New("the client has as many leases as it may have")
	ErrFull      = errors.New("no port is free")
	ErrNoAddress = errors.New("the WAN has no address")
	ErrDaemon    = errors.New("the daemon does not answer")
	ErrNone      = errors.New("there is no such lease")
	ErrOther     = errors.New("it is not the client's to remove")
	ErrSources   = errors.New("more sources than a mapping can have")
)

// TakenError says who has a port that was asked for.
type TakenError struct {
	Proto  nat.Proto
	Port   uint16
	Holder string // text that can follow "by"; it is for logs and operators, not for clients
	// Other is whether the holder is no client of the gateway: the port is of an operator's mapping
	// or of a program of this host.
	Other bool
}

func (e *TakenError) Error() string {
	return e.Proto.String() + " " + strconv.Itoa(int(e.Port)) + " is taken by " + e.Holder
}

// Unwrap returns [ErrTaken].
func (e *TakenError) Unwrap() error { return ErrTaken }
