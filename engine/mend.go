// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/nft"
)

// A table that is not as it should be is put right where it stands, if it can be: the
// elements of interval sets that come with a table are found by packets a moment after its
// rules are, and the guard of the networks is open as long.

// damage is what is wrong with a table.
type damage struct {
	lines []string // for the log
	// whole is whether nothing less than another table in its place puts it right.
	whole bool
}

func (d *damage) add(format string, args ...any) {
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

// damageOf is what differs from the table that is wanted in the one that was found, but
// for its elements.
func (e *Engine) damageOf(drift []nft.Difference, info nft.TableInfo) (d damage) {
	for _, difference := range drift {
		d.lines = append(d.lines, difference.String())
		d.whole = d.whole || !difference.Mendable()
	}
	if info.Flags&^nft.TableDormant != e.table.Flags {
		d.whole = true
	}
	if info.Comment != e.table.Comment {
		d.add("it is of an earlier version: its comment is %q", info.Comment)
		d.whole = true // the kernel reads it with a new table only
	}
	if e.known() && e.handle != 0 && info.Handle != e.handle {
		d.add("it was deleted by somebody else, and another made")
		d.whole = true
	}
	return d
}

// known reports whether the engine knows what the table has to hold: one that it meets
// for the first time holds what it holds.
func (e *Engine) known() bool { return e.present && !e.opts.ReadOnly }

// mend puts the table right where it stands, if that is all it takes.
func (e *Engine) mend(d damage, handle uint64, change func() (nft.Change, error)) (done bool) {
	if d.whole {
		return false
	}
	ch, err := change()
	if err == nil {
		err = e.kernel.Mend(e.table, ch, handle)
	}
	if err != nil {
		e.log.Warn("table could not be repaired in place, and is recreated", "table", e.opts.Table, "error", err)
		return false
	}
	e.handle = handle
	return true
}

// elementPlace is where an element stands.
type elementPlace struct {
	set string
	key nft.Key
}

// changeTo is what has to be done to the elements of the table that they are these.
func (e *Engine) changeTo(want []nft.Element) (ch nft.Change, err error) {
	have, generation, err := e.readElements()
	if err != nil {
		return ch, err
	}
	missing := make(map[elementPlace]nft.Element, len(want))
	for _, el := range want {
		missing[elementPlace{el.Set, el.Key}] = el
	}
	kept := have[:0]
	for _, el := range have {
		at := elementPlace{el.Set, el.Key}
		if w, ok := missing[at]; ok && sameElement(el, w) {
			delete(missing, at)
			kept = append(kept, el)
		} else {
			ch.Delete = append(ch.Delete, el)
		}
	}
	for _, el := range want {
		if _, ok := missing[elementPlace{el.Set, el.Key}]; ok {
			ch.Add = append(ch.Add, el)
		}
	}
	ch.Generation = generation
	return ch, apartFrom(ch.Delete, kept)
}

// sameElement reports whether the element that was read is the one that is wanted.
func sameElement(have, want nft.Element) bool {
	left := want.Expires
	if left == 0 {
		left = want.Timeout
	}
	return have.Value == want.Value && have.Comment == want.Comment && have.Strange == "" &&
		(have.Timeout == 0) == (want.Timeout == 0) && (have.Expires-left).Abs() <= expiryTolerance
}

// apartFrom reports as an error which of the elements cannot be deleted for sure: what has
// no key, and ranges that overlap with others, of which the kernel may take another.
func apartFrom(gone, kept []nft.Element) error {
	for i, el := range gone {
		if el.Key == (nft.Key{}) {
			return fmt.Errorf("delete element %s: it has no key", el)
		}
		p, ok := rangeOf(el)
		if !ok {
			continue
		}
		for _, others := range [][]nft.Element{kept, gone[:i]} {
			j := slices.IndexFunc(others, func(o nft.Element) bool {
				q, ok := rangeOf(o)
				return ok && o.Set == el.Set && p.Overlaps(q)
			})
			if j >= 0 {
				return fmt.Errorf("delete element %s: it overlaps with %s", el, others[j])
			}
		}
	}
	return nil
}

// rangeOf is the prefix that an element of an interval set is for.
func rangeOf(el nft.Element) (netip.Prefix, bool) {
	if p, ok := el.Key.Segment(); ok {
		return p, true
	}
	return el.Key.Prefix()
}
