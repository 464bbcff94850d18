// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"errors"
	"fmt"
)

var (
	// ErrClosed is returned by every method of an engine after its Close or Purge.
	ErrClosed = errors.New("engine is closed")
	// ErrReadOnly is returned by methods that change something if the engine was
	// opened to read.
	ErrReadOnly = errors.New("engine is open for reading only")
	// ErrOwned matches every *OwnedError: another engine has the table.
	ErrOwned = errors.New("owned by another engine")
	// ErrExhausted matches every *ExhaustedError: no free port or address is left.
	ErrExhausted = errors.New("exhausted")
	// ErrForeign means that there is a table of that name which no engine made.
	ErrForeign = errors.New("the table is not one of nftnat's")
	// ErrNewer means that the table was made by a later version, whose rules this
	// one does not know.
	ErrNewer = errors.New("the table was made by a newer version of nftnat")
)

// ExhaustedError says that no free port or address is left to choose. It matches
// [ErrExhausted], and what Err does.
type ExhaustedError struct{ Err error }

func (e *ExhaustedError) Error() string { return e.Err.Error() }

func (e *ExhaustedError) Unwrap() []error { return []error{ErrExhausted, e.Err} }

// OwnedError says that another engine has the table.
type OwnedError struct {
	Table string
	// PID and UID are those of the owning process. PID is zero if the process is in another
	// PID namespace or does not answer.
	PID int
	UID int
}

func (e *OwnedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("table %s is owned by a process that cannot be seen from here", e.Table)
	}
	return fmt.Sprintf("table %s is owned by pid %d (uid %d)", e.Table, e.PID, e.UID)
}

func (e *OwnedError) Unwrap() error { return ErrOwned }
