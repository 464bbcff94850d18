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
	for _, e := range ch.Delete[:min(1, len(ch.Delete))] {
		if err := tx.kernel.deniedElement(f, "delete element", tx.table.Name, e); err != nil {
			return err
		}
	}
	for _, e := range ch.Add[:min(1, len(ch.Add))] {
		if err := tx.kernel.deniedElement(f, "add element", tx.table.Name, e); err != nil {
			return err
		}
	}
	for _, e := range ch.Delete {
		key := nft.Element{Set: e.Set, Key: e.Key}
		if err := tx.operate("delete element", key, tx.remove); err != nil {
			return err
		}
	}
	for _, e := range ch.Add {
		if err := tx.operate("add element", e, tx.add); err != nil {
			return err
		}
	}
	return nil
}

func (tx *transaction) operate(verb string, e nft.Element, do func(*set, nft.Element) error) error {
	s, ok := tx.kernel.set(tx.table.Name, e.Set)
	if !ok {
		return &nft.OpError{Op: verb, Object: e.Set, Err: unix.ENOENT}
	}
	// The key and the value are encoded as the caller's table has them.
	if want, _ := tx.table.Set(e.Set); !sameType(s.def, want) {
		return &nft.OpError{Op: verb, Object: e.String(), Err: unix.EINVAL}
	}
	if err := do(s, e); err != nil {
		return &nft.OpError{Op: verb, Object: e.String(), Err: err}
	}
	return nil
}

func (tx *transaction) remove(s *set, e nft.Element) error {
	return tx.did(s.remove(e.Key, tx.now))
}

func (tx *transaction) add(s *set, e nft.Element) error {
	return tx.did(s.add(e, tx.now))
}

func (tx *transaction) did(undo func(), err error) error {
	if err == nil {
		tx.undo = append(tx.undo, undo)
	}
	return err
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
