// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"io/fs"
)

var (
	// ErrClosed is returned by every method of an engine after Close or Purge.
	ErrClosed = errors.New("engine is closed")
	// ErrReadOnly is returned by methods that change something if the engine was
	// opened to read.
	ErrReadOnly = errors.New("engine is open for reading only")
	// ErrConflict is what every *ConflictError is: the frontend is taken.
	ErrConflict = errors.New("in use")
	// ErrNotFound means that what was named is not published. It is also
	// fs.ErrNotExist.
	ErrNotFound error = notFound{}
	// ErrOwned is what every *OwnedError is: another engine has the table.
	ErrOwned = errors.New("owned by another engine")
	// ErrForeign means that a table of that name is there which no engine made.
	ErrForeign = errors.New("the table is not one of nftnat's")
	// ErrNewer means that the table was made by a later version, whose rules this
	// one does not know.
	ErrNewer = errors.New("the table was made by a newer version of nftnat")
)

type notFound struct{}

func (notFound) Error() string { return "not published" }

func (notFound) Unwrap() error { return fs.ErrNotExist }

// ConflictError says that a frontend is taken, and by what.
type ConflictError struct {
	// Want is the mapping that was asked for.
	Want Mapping
	// Have is the published mapping that holds the frontend, or an address of it
	// if one of the two is for any address.
	Have Mapping
}

func (e *ConflictError) Error() string {
	s := fmt.Sprintf("%s is published as %s", describeFrontend(e.Have), e.Have)
	if e.Have.Name != "" {
		s += fmt.Sprintf(" by %q", e.Have.Name)
	}
	return s
}

func (e *ConflictError) Unwrap() error { return ErrConflict }

// OwnedError says that another engine has the table.
type OwnedError struct {
	Table string
	// PID and UID are those of the owning process; a PID of zero is one that
	// cannot be seen, for it is of another PID namespace or does not answer.
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

// describeFrontend names a mapping in an error: "tcp 8080", "udp [::1]:53".
func describeFrontend(m Mapping) string { return m.Proto.String() + " " + m.FrontendText() }
