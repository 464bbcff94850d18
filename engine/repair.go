// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/table"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// missingRecords tells which networks, leases, segments and bridge ports that are on
// record here the table has not. They come and go by this engine alone.
func (e *Engine) missingRecords(elements []nft.Element) (lines []string) {
	if !e.table.Known() {
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
	return append(ipamElements(e.ipam.Networks(), e.ipam.Leases()), hairpinElements(e.hairpins.Records(nil))...)
}

// rewrite makes the table hold what this engine knows, and ends the flows that others
// began meanwhile and that lead elsewhere.
func (e *Engine) rewrite(c table.Contents) error {
	e.forget(e.now())
	es := e.elements(e.mappings.All, e.mappings.Len(), slices.Collect(maps.Keys(e.segments)), e.records())
	if err := e.table.Rewrite(c, es); err != nil {
		return err
	}
	e.notify(EventRepaired)
	e.warnOfFlows(errors.Join(e.deleteStrayFlows(), e.deleteOutageFlows()))
	return nil
}

// correct removes from the table what no engine makes and adds what is missing. A table
// that is only read stays as it is.
func (e *Engine) correct(f found) error {
	d := f.contents.Damage
	e.table.LogDamage(d)
	if e.opts.ReadOnly {
		return nil
	}
	ch := nft.Change{Delete: f.foreign, Add: f.missing, Generation: f.contents.Generation}
	for i := range f.elements[:len(f.elements)-len(f.missing)] {
		// Others may have written comments that nft(8) could not load. Records with such
		// comments are foreign.
		was := f.elements[i]
		if _, ok := recordOf(was); ok || isHairpinSet(was.Set) {
			continue
		}
		f.elements[i].Comment = nat.CommentText(nat.ParseComment(was.Comment))
		if f.elements[i].Comment != was.Comment {
			ch.Delete, ch.Add = append(ch.Delete, was), append(ch.Add, f.elements[i])
		}
	}
	e.opts.Trace("repair")
	if err := e.table.Correct(f.contents, f.elements, ch, e.keepThrough); err != nil {
		return err
	}
	if len(d.Lines) != 0 {
		e.notify(EventRepaired)
	}
	return nil
}

// warnOfFlows is for what nobody waits for the outcome of.
func (e *Engine) warnOfFlows(err error) {
	if err != nil {
		e.log.Warn("flows could not be ended", "table", e.opts.Table, "error", err)
	}
}

// syncExternal takes over what others have made of the mappings while the engine was open:
// proxies and flows follow, as if a caller had asked for it. So many of the elements are
// notes of mappings that have ended.
func (e *Engine) syncExternal(f found, notes int) {
	if e.isKnown(f.elements, f.ipam, notes) {
		return
	}
	before := e.mappings
	e.take(f.elements, f.ipam)
	e.hairpins.Adopt()
	c := change{Change: portset.Diff(&before, &e.mappings)}
	e.warnOfFlows(e.deleteFlows(nat.UDP, c.Change))
	e.notifyChange(c)
}

// isKnown reports whether the elements are those that this engine holds for published,
// and the records its own.
func (e *Engine) isKnown(elements []nft.Element, b *ipam.State, notes int) bool {
	kinds, now, known := mapKinds(), e.now(), 0
	var kind kindOf
	for i := range elements {
		el := &elements[i]
		if kind.of(el.Set, kinds); !kind.ok {
			continue
		}
		p := portIn(el, kind.mapKind, now)
		if have, ok := e.mappings.Get(p.Frontend); !ok || !have.SameAs(p.Target) {
			return false
		}
		known++
	}
	// None of the records is missing, so that more of them is all they can be.
	d := ipam.Compare(e.ipam, b)
	return known == e.mappings.Len() && d.Empty() &&
		len(elements) == known+notes+len(e.segments)+len(e.records())
}
