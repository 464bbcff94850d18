// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nfttest

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nft"
)

// transaction is a change of elements under way. What it has done is undone if one
// operation is refused; copying the tables would make each change as dear as all
// their elements.
type transaction struct {
	kernel *Kernel
	table  nft.Table
	now    time.Time
	undo   []func()
}

func (tx *transaction) change(f *Fake, ch nft.Change) error {
	if err := tx.kernel.deniedElement(f, "delete element", tx.table.Name, ch.Delete); err != nil {
		return err
	}
	if err := tx.kernel.deniedElement(f, "add element", tx.table.Name, ch.Add); err != nil {
		return err
	}
	for _, e := range ch.Delete {
		if err := tx.operate("delete element", nft.Element{Set: e.Set, Key: e.Key}, (*set).remove); err != nil {
			return err
		}
	}
	for _, e := range ch.Add {
		if err := tx.operate("add element", e, (*set).add); err != nil {
			return err
		}
	}
	return nil
}

func (tx *transaction) operate(verb string, e nft.Element, do func(*set, nft.Element, time.Time) (func(), error)) error {
	s, ok := tx.kernel.set(tx.table.Name, e.Set)
	if !ok {
		return &nft.OpError{Op: verb, Object: e.Set, Err: unix.ENOENT}
	}
	// The key and the value are encoded as the caller's table has them.
	if want, _ := tx.table.Set(e.Set); !sameType(s.def, want) {
		return &nft.OpError{Op: verb, Object: e.String(), Err: unix.EINVAL}
	}
	undo, err := do(s, e, tx.now)
	if err != nil {
		return &nft.OpError{Op: verb, Object: e.String(), Err: err}
	}
	tx.undo = append(tx.undo, undo)
	return nil
}

func (tx *transaction) rollBack() {
	for _, undo := range slices.Backward(tx.undo) {
		undo()
	}
}

// stale reports whether a change guarded by the generation comes too late.
func (k *Kernel) stale(generation uint32) bool {
	return generation != 0 && generation != k.generation
}

func (k *Kernel) set(table, name string) (*set, bool) {
	t, ok := k.tables[table]
	if !ok {
		return nil, false
	}
	s, ok := t.sets[name]
	return s, ok
}
