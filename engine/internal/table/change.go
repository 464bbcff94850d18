// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/nftnat/nftnat/nft"
)

// ErrConflict means that the kernel did not hold what the caller thought it did. The
// caller loads the table and decides again.
var ErrConflict = errors.New("the table was changed by somebody else")

// Update makes a change of elements. The error matches ErrConflict if it does not fit what
// the kernel holds; after any other error the table is stale.
func (t *Table) Update(ch nft.Change) error {
	err := t.kernel.Update(t.Rules, ch)
	if isNotExist(err) || errors.Is(err, fs.ErrExist) || t.socketFailed(err) {
		return fmt.Errorf("%w: %w", ErrConflict, err)
	}
	if err == nil && !ch.Empty() {
		t.updates++
		t.changed = time.Now()
	}
	return t.Uncertain(err)
}

// Updates returns how many calls of Update have changed the ruleset, each by one generation
// or more.
func (t *Table) Updates() uint64 { return t.updates }

// UpdateFinally makes a change of elements that is not retried: one that undoes another or
// follows it. After any error the table is stale.
func (t *Table) UpdateFinally(ch nft.Change) error {
	t.changed = time.Now()
	return t.Uncertain(t.kernel.Update(t.Rules, ch))
}

// Create creates the table with the elements that a change adds. The error matches ErrConflict
// if there is a table already.
func (t *Table) Create(ch nft.Change) error {
	t.Rules.Tag = newTag()
	err := t.kernel.Create(t.Rules, ch)
	if errors.Is(err, nft.ErrStale) || t.socketFailed(err) {
		return fmt.Errorf("%w: %w", ErrConflict, err)
	}
	if err != nil {
		return t.Uncertain(err)
	}
	t.setPresent(true)
	t.changed = time.Now()
	t.readHandle()
	return nil
}

// Delete deletes the table. It is no error if there is none. After an error the table is
// stale.
func (t *Table) Delete() error {
	if !t.present {
		return nil
	}
	return t.delete()
}

func (t *Table) delete() error {
	err := t.kernel.DeleteTable(t.Rules.Name)
	if isNotExist(err) {
		err = nil
	}
	return t.Uncertain(err)
}

// UndoCreate deletes the table that Create has created, unless another program has.
func (t *Table) UndoCreate() error {
	t.setPresent(false)
	return t.delete()
}

// Uncertain marks the table stale after an error. Most errors mean that nothing changed;
// some do not, and a failed undo certainly changed something.
func (t *Table) Uncertain(err error) error {
	if err != nil {
		t.stale = true
		t.counts.Changes++
	}
	t.socketFailed(err)
	return err
}
