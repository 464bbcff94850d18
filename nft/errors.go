// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"errors"
	"fmt"
)

// ErrStale means that a change guarded by a generation was refused, because some
// ruleset of the namespace has changed since; nothing was done. Read again and
// decide again.
var ErrStale = errors.New("the ruleset has changed since it was read")

// ErrInterrupted means that the ruleset changed during every attempt to read it, so
// that no reading could be trusted.
var ErrInterrupted = errors.New("the ruleset kept changing while it was read")

// OpError is what the kernel said to one operation of a transaction, or to a
// request. Nothing of the transaction was done.
//
// errors.Is finds the kernel's error behind it: unix.EEXIST for an element whose
// key is there already, fs.ErrNotExist for a table, chain or element that is not,
// fs.ErrPermission where the privilege CAP_NET_ADMIN is missing or another process
// owns the table, unix.ENFILE where a map is full.
type OpError struct {
	// Op is what was asked: "add element", "delete element", "list table", …
	Op string
	// Object is what it was asked of, as nft(8) spells it.
	Object string
	// Err is the kernel's error number, with its own words where it gave some.
	Err error
}

func (e *OpError) Error() string { return fmt.Sprintf("%s %s: %v", e.Op, e.Object, e.Err) }

func (e *OpError) Unwrap() error { return e.Err }
