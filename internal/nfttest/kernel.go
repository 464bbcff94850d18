// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nfttest

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nftnat/nftnat/nft"
)

// Kernel holds the tables of one network namespace. Make one with New.
type Kernel struct {
	// Now is the clock by which elements expire. Nil: time.Now. Set it before use.
	Now func() time.Time
	// NoOwners makes it a kernel without nft.TableOwned, as Linux before 6.9. Set it before
	// use.
	NoOwners bool

	mu         sync.Mutex
	advanced   time.Duration
	generation uint32
	handle     uint64 // the last that was given to a table
	tables     map[string]*table
	watchers   map[*watcher]struct{}

	injected injected
}

// New returns a kernel without tables, as that of a new network namespace.
func New() *Kernel {
	return &Kernel{generation: 1, tables: map[string]*table{}, watchers: map[*watcher]struct{}{}}
}

// Conn opens a connection, as nft.Dial does.
func (k *Kernel) Conn() *Fake { return &Fake{kernel: k} }

// Advance moves the kernel's clock on.
func (k *Kernel) Advance(d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.advanced += d
}

func (k *Kernel) now() time.Time {
	clock := k.Now
	if clock == nil {
		clock = time.Now
	}
	return clock().Add(k.advanced)
}

// Flush deletes every table that nobody owns, as "nft flush ruleset" does.
func (k *Kernel) Flush() {
	k.Edit(func(tables map[string]*Table) { clear(tables) })
}

// Table is a table of a Kernel as Edit shows it.
type Table struct {
	nft.Table
	// Elements are those of all its maps and sets, in their order, then by key.
	Elements []nft.Element
}

// Edit changes the tables as another process would, in one transaction. f gets those without
// an owner by name and may change, add and delete them. Nothing is checked, but Edit panics if
// an element names a map or set that its table has not, or a table has the name of an owned
// one. A *Table that replaces another gets a handle of its own. f must not use the Kernel.
func (k *Kernel) Edit(f func(tables map[string]*Table)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	shown, tables := map[string]*Table{}, map[string]*table{}
	for name, t := range k.tables {
		if t.owner != nil {
			tables[name] = t
			continue
		}
		shown[name] = &Table{Table: clone(t.def), Elements: t.sorted(now)}
	}
	before := maps.Clone(shown)
	f(shown)
	changed := slices.Concat(slices.Collect(maps.Keys(before)), slices.Collect(maps.Keys(shown)))
	for name, t := range shown {
		if tables[name] != nil {
			//nolint:forbidigo // a test that edits so is wrong; it has given no *testing.T to say so
			panic(fmt.Sprintf("nfttest: table %s is owned", name))
		}
		handle := k.handle + 1
		if before[name] == t {
			handle = k.tables[name].handle
		} else {
			k.handle++
		}
		tables[name] = edited(t, handle, now)
	}
	k.tables = tables
	k.commit(nil, changed...)
}

func edited(t *Table, handle uint64, now time.Time) *table {
	stored := newTable(clone(t.Table), handle)
	for _, e := range t.Elements {
		s, ok := stored.sets[e.Set]
		if !ok {
			//nolint:forbidigo // a test that edits so is wrong; it has given no *testing.T to say so
			panic(fmt.Sprintf("nfttest: table %s has no map or set for the element %s", t.Name, e))
		}
		s.put(e, now)
	}
	return stored
}

// commit ends a transaction that changed those tables.
func (k *Kernel) commit(by *Fake, tables ...string) {
	for w := range k.watchers {
		if w.conn != by && slices.Contains(tables, w.table) {
			w.wake()
		}
	}
	k.generation++
	if k.generation == 0 { // as nf_tables_commit: zero is no generation
		k.generation++
	}
}

// injected are the failures that a test set.
type injected struct {
	mu            sync.Mutex
	next          map[string][]error
	before, after func(op string) error
}

// FailNext makes the next call of the method, such as "Replace", of any connection do nothing
// but return the error. Further calls of FailNext are for the calls that follow.
func (k *Kernel) FailNext(method string, err error) {
	k.injected.mu.Lock()
	defer k.injected.mu.Unlock()
	if k.injected.next == nil {
		k.injected.next = map[string][]error{}
	}
	k.injected.next[method] = append(k.injected.next[method], err)
}

// Hook sets a function that is called before each operation, with the method's name; nil:
// none. The operation fails with its error. f may use the Kernel, to change it before a commit.
func (k *Kernel) Hook(f func(op string) error) {
	k.injected.mu.Lock()
	defer k.injected.mu.Unlock()
	k.injected.before = f
}

// After sets a function that is called after each operation that succeeded, with the method's
// name; nil: none. The operation returns its error, as if the answer was lost. f may use the
// Kernel.
func (k *Kernel) After(f func(op string) error) {
	k.injected.mu.Lock()
	defer k.injected.mu.Unlock()
	k.injected.after = f
}

func (in *injected) runBefore(op string) error {
	in.mu.Lock()
	f := in.before
	if errs := in.next[op]; len(errs) > 0 {
		in.next[op] = errs[1:]
		f = func(string) error { return errs[0] }
	}
	in.mu.Unlock()
	return call(f, op)
}

func (in *injected) runAfter(op string) error {
	in.mu.Lock()
	f := in.after
	in.mu.Unlock()
	return call(f, op)
}

func call(f func(op string) error, op string) error {
	if f == nil {
		return nil
	}
	return f(op)
}
