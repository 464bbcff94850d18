// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/nftnat/nftnat/nft"
)

// A damaged table is repaired in place if possible. Else it is recreated behind a stand-in.

// Rewrite makes the table hold exactly these elements, in one transaction: in place if the
// damage allows, else by recreating it, also if there is no table.
func (t *Table) Rewrite(c Contents, want []nft.Element) error {
	t.LogDamage(c.Damage)
	repaired := t.repair(c, want, func(uint32) (nft.Change, error) { return t.changeTo(want) })
	if !repaired {
		want = t.exemptionsFirst(want)
		err := t.behindStandIn(c.Handle != 0, want, func(uint32) error { return t.kernel.Restore(t.Rules, want, c.Handle) })
		if err != nil {
			return err
		}
		t.readHandle()
	}
	t.NoteRepair()
	return nil
}

// Correct repairs a table and keeps the elements that are right. It makes the change in
// place, or recreates the table with the given elements, which are those after the change.
func (t *Table) Correct(c Contents, elements []nft.Element, ch nft.Change) error {
	loaded := ch.Generation
	elements = keepTime(elements)
	repaired := t.repair(c, elements, func(commits uint32) (nft.Change, error) {
		ch.Generation = later(loaded, commits)
		return ch, deletable(ch.Delete, elements)
	})
	if !repaired {
		// Elements of the guards may be missing: add all or none.
		elements = t.exemptionsFirst(elements)
		err := t.behindStandIn(true, elements, func(commits uint32) error {
			return t.kernel.Replace(t.Rules, elements, later(loaded, commits))
		})
		if err != nil {
			return err
		}
		t.readHandle()
	}
	if len(c.Damage.Lines) == 0 {
		t.Log.Info("table was recreated to change its owner", "table", t.Rules.Name, "owned", t.Rules.Flags != 0)
		return nil
	}
	t.NoteRepair()
	return nil
}

// Release recreates a table that this process owns as one without flags, with the same
// elements. After its owner has ended, a table with the flag persist could not be loaded from
// what some versions of nft(8) list, and flags cannot be changed in place.
func (t *Table) Release() error {
	info, err := t.kernel.Table(t.Rules.Name)
	if isNotExist(err) || err == nil && !info.Mine {
		return nil
	}
	if err != nil {
		return err
	}
	es, _, err := t.readElements()
	if err != nil {
		return err
	}
	rules := t.Rules
	rules.Flags = 0
	es = t.exemptionsFirst(keepTime(es))
	return t.behindStandIn(true, es, func(uint32) error { return t.kernel.Restore(rules, es, info.Handle) })
}

// exemptionsFirst returns the elements in the order in which the sets of ranges of a new table are to be
// filled.
func (t *Table) exemptionsFirst(es []nft.Element) []nft.Element {
	if t.Exempts == nil {
		return es
	}
	first := make([]nft.Element, 0, len(es))
	for _, exempting := range []bool{true, false} {
		for _, el := range es {
			if t.Exempts(el.Set) == exempting {
				first = append(first, el)
			}
		}
	}
	return first
}

// later returns the generation after some commits. Zero, any generation, stays zero.
func later(generation, commits uint32) uint32 {
	if generation != 0 {
		for range commits {
			if generation++; generation == 0 { // the kernel skips it
				generation++
			}
		}
	}
	return generation
}

// keepTime returns the elements without those that expire now, which would get their whole
// time-out again.
func keepTime(es []nft.Element) []nft.Element {
	return slices.DeleteFunc(es, func(el nft.Element) bool { return el.Timeout != 0 && el.Expires == 0 })
}

// Accept records that the loaded table is as it should be.
func (t *Table) Accept(c Contents) { t.handle = c.Handle }

// SetPresent records that the caller has adopted the loaded table.
func (t *Table) SetPresent() { t.setPresent(true) }

// repair repairs the table in place, if that is possible. The elements are those after it.
func (t *Table) repair(c Contents, after []nft.Element, change func(commits uint32) (nft.Change, error)) (done bool) {
	if c.Damage.Recreate {
		return false
	}
	err := t.behindStandIn(c.Damage.Empty, after, func(commits uint32) error {
		ch, err := change(commits)
		if err != nil {
			return err
		}
		return t.kernel.Repair(t.Rules, ch, c.Handle)
	})
	if err != nil {
		t.Log.Warn("table could not be repaired in place, and is recreated", "table", t.Rules.Name, "error", err)
		return false
	}
	t.handle = c.Handle
	return true
}

// NoteRepair counts and logs a repair.
func (t *Table) NoteRepair() {
	t.counts.Repaired++
	t.Log.Warn("table was repaired", "table", t.Rules.Name)
}

// maxDamageLines bounds how many differences are logged.
const maxDamageLines = 20

// LogDamage logs the differences.
func (t *Table) LogDamage(d Damage) {
	for _, line := range d.Lines[:min(len(d.Lines), maxDamageLines)] {
		t.Log.Warn("table differs from what it should be", "table", t.Rules.Name, "drift", line)
	}
	if more := len(d.Lines) - maxDamageLines; more > 0 {
		t.Log.Warn("table differs from what it should be", "table", t.Rules.Name, "drift", fmt.Sprintf("%d more differences", more))
	}
}

// changeTo returns the change that makes the elements of the table these.
func (t *Table) changeTo(want []nft.Element) (ch nft.Change, err error) {
	have, generation, err := t.readElements()
	if err != nil {
		return ch, err
	}
	missing := make(map[nft.ElementKey]nft.Element, len(want))
	for _, el := range want {
		missing[el.ElementKey()] = el
	}
	kept := have[:0]
	for _, el := range have {
		at := el.ElementKey()
		if w, ok := missing[at]; ok && sameElement(el, w) {
			delete(missing, at)
			kept = append(kept, el)
		} else {
			ch.Delete = append(ch.Delete, el)
		}
	}
	for _, el := range want {
		if _, ok := missing[el.ElementKey()]; ok {
			ch.Add = append(ch.Add, el)
		}
	}
	ch.Generation = generation
	return ch, deletable(ch.Delete, kept)
}

// ExpiryTolerance is by how much two ends of one mapping may differ: the kernel counts
// the time that is left, and rounds it.
const ExpiryTolerance = time.Second

// sameElement reports whether the element that was read is the one that is wanted.
func sameElement(have, want nft.Element) bool {
	left := want.Expires
	if left == 0 {
		left = want.Timeout
	}
	return have.Value == want.Value && have.Mark == want.Mark && have.Comment == want.Comment && have.Foreign == "" &&
		(have.Timeout == 0) == (want.Timeout == 0) && (have.Expires-left).Abs() <= ExpiryTolerance
}

// deletable returns an error if one of the elements cannot be deleted reliably: an element
// without a key, or a range that overlaps another, which the kernel may delete instead.
func deletable(gone, kept []nft.Element) error {
	for i, el := range gone {
		if el.Key == (nft.Key{}) {
			return fmt.Errorf("delete element %s: it has no key", el)
		}
		link, p, ok := rangeOf(el)
		if !ok {
			continue
		}
		for _, others := range [][]nft.Element{kept, gone[:i]} {
			j := slices.IndexFunc(others, func(o nft.Element) bool {
				other, q, ok := rangeOf(o)
				return ok && o.Set == el.Set && other == link && p.Overlaps(q)
			})
			if j >= 0 {
				return fmt.Errorf("delete element %s: it overlaps with %s", el, others[j])
			}
		}
	}
	return nil
}

// rangeOf returns the prefix of an element of an interval set, and the link of a segment.
func rangeOf(el nft.Element) (link string, p netip.Prefix, ok bool) {
	if link, p, ok = el.Key.Segment(); ok {
		return link, p, true
	}
	if p, ok = el.Key.Pair(); ok {
		return "", p, true
	}
	p, ok = el.Key.Prefix()
	return "", p, ok
}
