// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"

	"github.com/nftnat/nftnat/nat"
)

// Store keeps the state of an engine for the next boot, all of a nat.StoredState. While the
// kernel has the table, the kernel's state counts and not the stored one.
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
	// removed is what was published before and is not any more.
	removed nat.State
}

// tableMark identifies the present table in a [nat.StoredState]; empty: there is none.
// The kernel counts the tables of a namespace, and gives no number twice.
func (e *core) tableMark() (string, error) {
	is, err := e.table.Identity()
	if err != nil || is == "" {
		return "", err
	}
	return e.stored.markOf(is), nil
}

// anyMark is a mark of any table in this namespace, which earlier versions have stored before
// they recreated a table.
func (s *stored) anyMark() string { return "any of " + s.namespace }

// markOf is the mark of the table with the identity.
func (s *stored) markOf(identity string) string { return identity + " of " + s.namespace }

// save stores a state.
func (e *core) save(s nat.State) error {
	if e.opts.Store == nil {
		return nil
	}
	mark, err := e.tableMark()
	if err != nil {
		return err
	}
	return e.store(s, mark)
}

// store stores a state as that of the table with the mark.
func (e *core) store(s nat.State, mark string) error {
	return e.opts.Store.Save(nat.StoredState{State: s, Table: mark, Removed: e.stored.removed})
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

// release leaves a table that this engine owned as one that nobody owns.
func (e *core) release() {
	if !e.table.Known() || !e.table.Owned() {
		return
	}
	e.opts.Trace("release")
	err := e.resync(context.Background())
	if err == nil {
		err = e.table.Release()
	}
	if err != nil {
		e.log.Warn("table stays as that of an owner; some versions of nft cannot load what they list of it",
			"table", e.opts.Table, "error", err)
	}
}
