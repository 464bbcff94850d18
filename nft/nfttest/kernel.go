// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nfttest

import (
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/nftnat/nftnat/nft"
)

// Kernel holds the tables of one network namespace. Make one with New.
type Kernel struct {
	// Now is the clock by which elements end. Nil: time.Now. Set it before the
	// Kernel is used.
	Now func() time.Time

	mu         sync.Mutex
	advanced   time.Duration
	generation uint32
	handle     uint64 // the last that was given to a table
	tables     map[string]*table

	injected injected
}

// New returns a kernel without tables, at the generation at which a network
// namespace begins.
func New() *Kernel {
	return &Kernel{generation: 1, tables: map[string]*table{}}
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

// Flush deletes every table, as "nft flush ruleset" does.
func (k *Kernel) Flush() {
	k.Edit(func(tables map[string]*Table) { clear(tables) })
}

// Table is a table of a Kernel as Edit shows it.
type Table struct {
	nft.Table
	// Elements are those of all its maps and sets, in their order, then by key.
	Elements []nft.Element
}

// Edit changes the tables as another process would, in one transaction. f gets them
// by name and may change, add and delete as it likes: nothing is checked, except
// that an element of a map or set which the table has not makes Edit panic. A *Table
// that f puts in place of another is a new table with a handle of its own. f must
// not use the Kernel.
func (k *Kernel) Edit(f func(tables map[string]*Table)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	shown := map[string]*Table{}
	for name, t := range k.tables {
		shown[name] = &Table{Table: clone(t.def), Elements: t.sorted(now)}
	}
	before := maps.Clone(shown)
	f(shown)
	tables := map[string]*table{}
	for name, t := range shown {
		handle := k.handle + 1
		if before[name] == t {
			handle = k.tables[name].handle
		} else {
			k.handle++
		}
		tables[name] = edited(t, handle, now)
	}
	k.tables = tables
	k.commit()
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

// commit ends a transaction that changed something.
func (k *Kernel) commit() {
	k.generation++
	if k.generation == 0 { // as nf_tables_commit: zero is no generation
		k.generation++
	}
}
