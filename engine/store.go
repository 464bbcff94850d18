// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"

	"github.com/nftnat/nftnat/nat"
)

// Store keeps the state of an engine for the next boot. While the kernel has the table,
// the kernel's state counts and not the stored one.
//
// An engine calls one method at a time.
type Store interface {
	// Load returns the state that was saved last, or another valid one that has replaced
	// it; found is false if there is none. Open and Resume call it once, before they read
	// the table; after an error nothing has changed.
	Load() (s nat.StoredState, found bool, err error)
	// Save stores s so that it survives a power failure once Save has returned. On an
	// error what was saved before is still stored. An engine calls it for every change,
	// after the kernel's transaction and before it returns, and undoes the change if Save
	// fails.
	Save(s nat.StoredState) error
}

// stored is what an engine knows of its Store.
type stored struct {
	// namespace identifies the network namespace.
	namespace string
	// reconciled is whether the stored state and the kernel's have been merged. Before that
	// nothing is saved.
	reconciled bool
	// record is what was loaded, until then; nil: nothing was.
	record *nat.StoredState
}

// tableMark identifies the present table in a [nat.StoredState]; empty: there is none.
// The kernel counts the tables of a namespace, and gives no number twice.
func (e *core) tableMark() (string, error) {
	handle, err := e.table.KernelHandle()
	if err != nil || handle == 0 {
		return "", err
	}
	return e.stored.markOf(handle), nil
}

// anyMark is a mark of any table in this namespace.
func (s *stored) anyMark() string { return "any of " + s.namespace }

// markOf is the mark of the table with the handle.
func (s *stored) markOf(handle uint64) string { return fmt.Sprintf("%d of %s", handle, s.namespace) }

// save stores a state.
func (e *core) save(s nat.State) error {
	if e.opts.Store == nil {
		return nil
	}
	mark, err := e.tableMark()
	if err != nil {
		return err
	}
	return e.opts.Store.Save(nat.StoredState{State: s, Table: mark})
}

// saveFound stores what was found in the kernel. An engine serves even if that fails.
func (e *core) saveFound() {
	if !e.stored.reconciled {
		return
	}
	if err := e.save(e.state()); err != nil {
		e.log.Warn("state could not be stored for a reboot; changes will be refused", "error", err)
	}
}
