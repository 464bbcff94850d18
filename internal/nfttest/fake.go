// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nfttest

import (
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nft"
)

// Fake is a connection to a Kernel. It has the methods of *nft.Conn, which say what
// each does and which errors to expect.
type Fake struct {
	kernel *Kernel
	closed atomic.Bool
}

// run does one operation between the hooks. do is called with the kernel locked.
func (f *Fake) run(op string, do func(k *Kernel) error) error {
	if f.closed.Load() {
		return fmt.Errorf("%s: %w", op, os.ErrClosed)
	}
	if err := f.kernel.injected.runBefore(op); err != nil {
		return err
	}
	if err := f.locked(do); err != nil {
		return err
	}
	return f.kernel.injected.runAfter(op)
}

// ask is run of an operation with a result, which is zero if there is an error.
func ask[T any](f *Fake, op string, do func(k *Kernel) (T, error)) (result T, err error) {
	err = f.run(op, func(k *Kernel) (err error) {
		result, err = do(k)
		return err
	})
	if err != nil {
		var zero T
		return zero, err
	}
	return result, nil
}

func (f *Fake) locked(do func(k *Kernel) error) error {
	f.kernel.mu.Lock()
	defer f.kernel.mu.Unlock()
	return do(f.kernel)
}

func validate(t nft.Table, ch nft.Change) error {
	if err := t.Validate(); err != nil {
		return err
	}
	return ch.Validate(t)
}

// Replace is that of nft.Conn.
func (f *Fake) Replace(t nft.Table, es []nft.Element, generation uint32) error {
	if err := validate(t, nft.Change{Add: es}); err != nil {
		return err
	}
	return f.run("Replace", func(k *Kernel) error {
		if k.stale(generation) {
			return nft.ErrStale
		}
		if err := k.denied(f, "add table", t.Name); err != nil {
			return err
		}
		return k.replace(f, t, es)
	})
}

// Restore is that of nft.Conn.
func (f *Fake) Restore(t nft.Table, es []nft.Element, handle uint64) error {
	if err := validate(t, nft.Change{Add: es}); err != nil {
		return err
	}
	return f.run("Restore", func(k *Kernel) error {
		have, verb, refusal := uint64(0), "add table", unix.EEXIST
		if t, ok := k.tables[t.Name]; ok {
			have = t.handle
		}
		if handle != 0 {
			verb, refusal = "delete table", unix.ENOENT
		}
		if have == handle || handle == 0 {
			if err := k.denied(f, verb, t.Name); err != nil {
				return err
			}
		}
		if have != handle {
			return fmt.Errorf("%w: %w", nft.ErrStale, &nft.OpError{Op: verb, Object: "inet " + t.Name, Err: refusal})
		}
		return k.replace(f, t, es)
	})
}

func (k *Kernel) replace(f *Fake, t nft.Table, es []nft.Element) error {
	if t.Flags&nft.TablePersist != 0 && k.NoOwners {
		return &nft.OpError{Op: "add table", Object: "inet " + t.Name, Err: unix.EOPNOTSUPP}
	}
	made := newTable(clone(t), k.handle+1)
	if t.Flags != 0 {
		made.owner = f
	}
	now := k.now()
	for _, e := range es {
		if _, err := made.sets[e.Set].add(e, now); err != nil {
			return &nft.OpError{Op: "add element", Object: e.String(), Err: err}
		}
	}
	k.handle++
	k.tables[t.Name] = made
	k.commit(f, t.Name)
	return nil
}

// Create is that of nft.Conn.
func (f *Fake) Create(t nft.Table, ch nft.Change) error {
	listFurther(&ch)
	return f.Restore(t, ch.Add, 0)
}

// listFurther moves further elements of a change to its slice.
func listFurther(ch *nft.Change) {
	if ch.Further.All != nil {
		ch.Add = slices.AppendSeq(slices.Clip(ch.Add), ch.Further.All)
	}
	ch.Further = nft.Elements{}
}

// Update is that of nft.Conn.
func (f *Fake) Update(t nft.Table, ch nft.Change) error {
	listFurther(&ch)
	if ch.Empty() {
		return nil
	}
	if err := ch.Validate(t); err != nil {
		return err
	}
	return f.run("Update", func(k *Kernel) error {
		if k.stale(ch.Generation) {
			return nft.ErrStale
		}
		tx := transaction{kernel: k, table: t, now: k.now()}
		if err := tx.change(f, ch); err != nil {
			tx.rollBack()
			return err
		}
		k.commit(f, t.Name)
		return nil
	})
}

// Elements is that of nft.Conn.
func (f *Fake) Elements(t nft.Table, sets ...string) (es []nft.Element, generation uint32, err error) {
	es, err = ask(f, "Elements", func(k *Kernel) (es []nft.Element, err error) {
		generation = k.generation
		for _, name := range sets {
			if es, err = k.list(es, t, name); err != nil {
				return nil, err
			}
		}
		return es, nil
	})
	if err != nil {
		return nil, 0, err
	}
	return es, generation, nil
}

func (k *Kernel) list(es []nft.Element, t nft.Table, name string) ([]nft.Element, error) {
	want, ok := t.Set(name)
	if !ok {
		return nil, fmt.Errorf("list elements: table %s has no map or set %s", t.Name, name)
	}
	stored, ok := k.set(t.Name, name)
	if !ok {
		return nil, fmt.Errorf("list elements of %s %s: %w", want.Kind(), name, unix.ENOENT)
	}
	from := len(es)
	es = stored.list(es, k.now())
	if len(es) > from && !sameType(stored.def, want) {
		for i := range es[from:] {
			es[from+i] = nft.Element{Set: name, Foreign: "an element of another type than " + want.Key.String()}
		}
		return es, nil
	}
	for i, e := range es[from:] {
		if e.Timeout != 0 {
			es[from+i].Expires = max(e.Expires.Truncate(time.Millisecond), time.Millisecond)
		}
	}
	return es, nil
}

// CountsElements is that of nft.Conn.
func (f *Fake) CountsElements(t nft.Table) (bool, error) {
	return ask(f, "CountsElements", func(k *Kernel) (bool, error) {
		if k.tables[t.Name] == nil {
			return false, noTable(t.Name)
		}
		return true, nil
	})
}

// Table is that of nft.Conn.
func (f *Fake) Table(name string) (nft.TableInfo, error) {
	return ask(f, "Table", func(k *Kernel) (nft.TableInfo, error) {
		t, ok := k.tables[name]
		if !ok {
			return nft.TableInfo{}, noTable(name)
		}
		return nft.TableInfo{Comment: t.def.Comment, Tag: t.def.Tag, Handle: t.handle, Flags: t.flags(), Mine: t.owner == f}, nil
	})
}

func noTable(name string) error {
	return fmt.Errorf("list table inet %s: %w", name, unix.ENOENT)
}

// Generation is that of nft.Conn.
func (f *Fake) Generation() (uint32, error) {
	return ask(f, "Generation", func(k *Kernel) (uint32, error) { return k.generation, nil })
}

// Drift is that of nft.Conn.
func (f *Fake) Drift(t nft.Table) ([]nft.Difference, error) {
	return ask(f, "Drift", func(k *Kernel) ([]nft.Difference, error) {
		have, ok := k.tables[t.Name]
		if !ok {
			return nil, noTable(t.Name)
		}
		return drift(t, have.def, have.flags()), nil
	})
}

// DeleteTable is that of nft.Conn.
func (f *Fake) DeleteTable(name string) error {
	return f.run("DeleteTable", func(k *Kernel) error {
		if _, ok := k.tables[name]; !ok {
			return &nft.OpError{Op: "delete table", Object: "inet " + name, Err: unix.ENOENT}
		}
		if err := k.denied(f, "delete table", name); err != nil {
			return err
		}
		delete(k.tables, name)
		k.commit(f, name)
		return nil
	})
}

// Close is that of nft.Conn. The Kernel stays, and tables that the Fake owned are orphans, or go if
// they have no TablePersist. No hook is called.
func (f *Fake) Close() error {
	f.closed.Store(true)
	return f.locked(func(k *Kernel) error {
		for name, t := range k.tables {
			if t.owner != f {
				continue
			}
			t.owner = nil
			if t.def.Flags&nft.TablePersist == 0 {
				delete(k.tables, name) // which is no generation
			}
		}
		return nil
	})
}

// transaction is a change of elements, which is undone if one operation fails. Copying the
// tables would make each change as expensive as all their elements.
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

// stale reports whether the generation is over.
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
