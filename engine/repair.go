// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// missingRecords tells which networks, leases, segments and bridge ports that are on
// record here the table has not. They come and go by this engine alone.
func (e *Engine) missingRecords(elements []nft.Element) (lines []string) {
	if !e.known() {
		return nil
	}
	found := make(map[nft.Element]struct{})
	segments := map[netip.Prefix]struct{}{}
	for _, el := range behindMappings(elements) {
		if _, ok := recordOf(el); ok || isHairpinSet(el.Set) {
			found[el] = struct{}{}
		}
		if p, ok := el.Key.Segment(); ok {
			segments[p] = struct{}{}
		}
	}
	for _, el := range e.records() {
		if _, ok := found[el]; !ok {
			lines = append(lines, "an element is missing: "+el.String())
		}
	}
	for p := range e.segments {
		if _, ok := segments[p]; !ok {
			lines = append(lines, "an element is missing: "+segmentElement(p).String())
		}
	}
	return lines
}

// records are the elements of all that is on record here beside mappings and segments.
func (e *Engine) records() []nft.Element {
	return append(e.book.elements(), e.hairpins.all(nil)...)
}

// remake makes the table hold what this engine knows, in one transaction: the one with
// the handle where it stands, or another in its place; zero: where there is none. What
// clients have begun meanwhile, and leads elsewhere, ends.
func (e *Engine) remake(handle uint64, d damage) error {
	e.warnOf(d)
	e.forget(e.now())
	es := e.elements(e.mappings.all, e.mappings.len(), slices.Collect(maps.Keys(e.segments)), e.records())
	if !e.mend(d, handle, func() (nft.Change, error) { return e.changeTo(es) }) {
		if err := e.kernel.Restore(e.table, es, handle); err != nil {
			return err
		}
		e.readHandle()
	}
	e.noteRepair()
	e.warnOfFlows(errors.Join(e.deleteStrayFlows(), e.deleteGapFlows()))
	return nil
}

// mostDrift bounds how much is logged of a table of which next to nothing is as it was.
const mostDrift = 20

func (e *Engine) warnOf(d damage) {
	for _, line := range d.lines[:min(len(d.lines), mostDrift)] {
		e.log.Warn("table differs from what it should be", "table", e.opts.Table, "drift", line)
	}
	if more := len(d.lines) - mostDrift; more > 0 {
		e.log.Warn("table differs from what it should be", "table", e.opts.Table, "drift", fmt.Sprintf("%d more differences", more))
	}
}

func (e *Engine) noteRepair() {
	e.repaired++
	e.log.Warn("table was repaired", "table", e.opts.Table)
	e.notify(EventRepaired)
}

// warnOfFlows is for what nobody waits for the outcome of.
func (e *Engine) warnOfFlows(err error) {
	if err != nil {
		e.log.Warn("flows could not be ended", "table", e.opts.Table, "error", err)
	}
}

// follow takes over what others have made of the mappings while the engine was open:
// proxies and flows follow, as if it had been asked for here. So many of the elements are
// notes of what has ended.
func (e *Engine) follow(elements []nft.Element, b book, notes int) {
	if e.isKnown(elements, b, notes) {
		return
	}
	before := e.mappings
	e.take(elements, b)
	e.adoptHairpins()
	c := changeBetween(before, e.mappings)
	e.warnOfFlows(e.deleteFlows(nat.UDP, c))
	e.notifyChange(c)
}

// isKnown reports whether the elements are those that this engine holds for published,
// and the records its own.
func (e *Engine) isKnown(elements []nft.Element, b book, notes int) bool {
	kinds, now, known := mapKinds(), e.now(), 0
	var kind kindOf
	for i := range elements {
		el := &elements[i]
		if kind.of(el.Set, kinds); !kind.ok {
			continue
		}
		p := portIn(el, kind.mapKind, now)
		if have, ok := e.mappings.get(p.frontend); !ok || !have.same(p.target) {
			return false
		}
		known++
	}
	// None of the records is missing, so that more of them is all they can be.
	return known == e.mappings.len() && len(b.elements()) == len(e.book.elements()) &&
		len(elements) == known+notes+len(e.segments)+len(e.records())
}

// changeBetween is what makes some mappings of others.
func changeBetween(before, after registry) (c change) {
	for p := range before.all {
		now, ok := after.get(p.frontend)
		switch {
		case !ok:
			c.removed = append(c.removed, p)
		case !now.same(p.target):
			c.moved = append(c.moved, move{p.frontend, p.target, now})
		}
	}
	for p := range after.all {
		if _, ok := before.get(p.frontend); !ok {
			c.added = append(c.added, p)
		}
	}
	return c
}
