// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/nftnat/nftnat/engine/internal/hairpin"
	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/segment"
	"github.com/nftnat/nftnat/engine/internal/table"
	"github.com/nftnat/nftnat/nft"
)

// adopt takes over what the kernel holds: the table is the only record of what is
// published. An engine starts with it, and calls it when the kernel turns out to hold
// something else than the engine knows.
func (e *Engine) adopt(ctx context.Context) error {
	e.opts.Trace("adopt")
	defer e.opts.Progress(Progress{})
	return e.table.Retry(ctx, e.adoptOnce)
}

// adoptOnce is one attempt. The error matches nft.ErrStale if the table changed meanwhile.
func (e *Engine) adoptOnce() error {
	c, err := e.table.Load()
	if err != nil {
		return err
	}
	f := e.classify(c)
	switch f.outcome {
	case absent:
		return nil
	case rewrite:
		return e.rewrite(f.contents)
	case correct:
		if err := e.correct(f); err != nil {
			return err
		}
	case accept:
		e.table.Accept(c)
	}
	notes := slices.DeleteFunc(slices.Clone(behindMappings(f.elements)), func(el nft.Element) bool { return !isEnded(el) })
	if e.table.Present() {
		e.syncExternal(f, len(notes))
	} else {
		e.table.SetPresent()
		e.take(f.elements, f.ipam)
		e.hairpins.Adopt()
	}
	if e.opts.ReadOnly {
		return nil
	}
	return e.endFlows(notes)
}

// outcome is what is to be done with a table that was loaded.
type outcome int

const (
	// absent: there is no table, and none was expected.
	absent outcome = iota
	// rewrite: the table is damaged, and this engine knows what it has to hold.
	rewrite
	// correct: the table has another owner than it should have, or holds elements that no
	// engine makes, or is damaged and was met for the first time. What is right is kept.
	correct
	// accept: the table is as it should be.
	accept
)

// found is a loaded table with its outcome.
type found struct {
	outcome  outcome
	contents table.Contents
	// elements are those of the table after the outcome, and ipam what they record.
	elements []nft.Element
	ipam     *ipam.State
	// foreign are elements that no engine makes; missing are those that the records
	// ask for.
	foreign, missing []nft.Element
}

// classify decides what is to be done with a loaded table.
func (e *Engine) classify(c table.Contents) found {
	f := found{outcome: accept, contents: c}
	d := &f.contents.Damage
	known := e.table.Known()
	if !c.Exists && !known {
		f.outcome = absent
		return f
	}
	if known && len(d.Lines) == 0 {
		d.Lines = e.missingRecords(c.Elements)
	}
	if known && len(d.Lines) != 0 {
		f.outcome = rewrite
		return f
	}
	f.ipam, f.foreign = readIPAM(c.Elements)
	ours, others := e.sortOut(c.Elements, f.ipam, f.foreign)
	f.foreign = append(f.foreign, others...)
	for _, el := range f.foreign {
		d.Add("an engine makes no such element: %s", el)
	}
	f.missing = missingElements(f.ipam, ours)
	for _, el := range f.missing {
		d.Add("an element is missing: %s", el)
	}
	f.elements = append(ours, f.missing...)
	if len(d.Lines) != 0 || d.Recreate && !e.opts.ReadOnly {
		f.outcome = correct
	}
	return f
}

// sortOut parts the elements that an engine can have made from those that others must
// have written. Those cannot stay: nobody would see them, and yet they would be in the
// way of mappings. Of the records the book has said already which are strange.
func (e *Engine) sortOut(elements []nft.Element, b *ipam.State, strangeRecords []nft.Element) (ours, strange []nft.Element) {
	kinds, now, nested := mapKinds(), e.now(), nestedSegments(elements, b)
	twice := outdone(elements, kinds, now)
	bad := make(map[nft.Element]struct{}, len(strangeRecords))
	for _, el := range strangeRecords {
		bad[el] = struct{}{}
	}
	others := behindMappings(elements)
	ours = elements[:0]
	var kind kindOf
	for i := range elements[:len(elements)-len(others)] {
		el := &elements[i]
		p, ok := readPort(*el, kind.of(el.Set, kinds), now)
		if _, lost := twice[p.Frontend]; lost && kind.apart {
			ok = false
		}
		switch {
		case !ok || el.Foreign != "":
			strange = append(strange, *el)
		case len(ours) == i: // it stays where it is
			ours = elements[:i+1]
		default:
			ours = append(ours, *el)
		}
	}
	for _, el := range others {
		if _, ok := recordOf(el); ok {
			if _, no := bad[el]; !no {
				ours = append(ours, el)
			}
			continue
		}
		p, ok := el.Key.Segment()
		ok = ok && !nested[p]
		if kind, isMap := kinds[el.Set]; isMap {
			var p portset.Port
			p, ok = readPort(el, kind, now)
			if _, lost := twice[p.Frontend]; lost && kind.apart {
				ok = false
			}
		} else if isEnded(el) {
			_, ok = endedPort(el)
		}
		if isHairpinSet(el.Set) {
			_, ok = hairpinRecord(el)
		}
		if ok && el.Foreign == "" {
			ours = append(ours, el)
		} else {
			strange = append(strange, el)
		}
	}
	return ours, strange
}

// nestedSegments returns the segments that no engine makes.
func nestedSegments(elements []nft.Element, b *ipam.State) map[netip.Prefix]bool {
	var all []netip.Prefix
	for _, el := range behindMappings(elements) {
		if p, ok := el.Key.Segment(); ok {
			all = append(all, p)
		}
	}
	return segment.Nested(all, b.Prefixes())
}

// outdone are the frontends that have an element in a map that no rule looks up and
// another, which packets follow, in one that rules do. An engine never makes such.
func outdone(elements []nft.Element, kinds map[string]mapKind, now time.Time) map[portset.Frontend]struct{} {
	apart, twice := map[portset.Frontend]struct{}{}, map[portset.Frontend]struct{}{}
	var kind kindOf
	for i := range elements {
		el := &elements[i]
		if kind.of(el.Set, kinds).apart {
			p, _ := readPort(*el, kind.mapKind, now)
			apart[p.Frontend] = struct{}{}
		}
	}
	if len(apart) == 0 {
		return nil
	}
	note := func(f portset.Frontend) {
		if _, ok := apart[f]; ok {
			twice[f] = struct{}{}
		}
	}
	followed := portset.NewSet()
	for _, el := range elements {
		kind, isMap := kinds[el.Set]
		p, ok := readPort(el, kind, now)
		if !isMap || !ok || kind.apart {
			continue
		}
		if have, both := followed.Get(p.Frontend); both { // see take
			note(p.OfFamily(have.Backend.Addr()))
			p.Frontend = p.OfFamily(p.Backend.Addr())
		}
		note(p.Frontend)
		followed.Put(p)
	}
	return twice
}

// take makes the elements what the engine knows to be published.
func (e *Engine) take(elements []nft.Element, b *ipam.State) {
	e.reserved.RemoveAll(e.mappings.All)
	e.published = newPublished(e.reserved)
	var records []hairpin.Record
	b.Adopt(e.ipam)
	e.ipam = b
	for _, el := range behindMappings(elements) {
		if p, ok := el.Key.Segment(); ok {
			e.segments[p] = 0
		}
		if r, ok := hairpinRecord(el); ok {
			records = append(records, r)
		}
	}
	e.hairpins.Load(records)
	for _, p := range e.ipam.Prefixes() {
		e.segments[p] = 1 // it stays when nothing is published on it
	}
	kinds, now := mapKinds(), e.now()
	var kind kindOf
	for i := range elements {
		el := &elements[i]
		if kind.of(el.Set, kinds); !kind.ok {
			continue
		}
		p := portIn(el, kind.mapKind, now)
		if have, twice := e.mappings.Get(p.Frontend); twice {
			// Somebody has written the same port into the maps of both families:
			// neither can then be for any address of both.
			other := portset.Port{Frontend: p.Frontend, Target: have}
			e.mappings.Delete(other.Frontend)
			other.Frontend = p.OfFamily(have.Backend.Addr())
			e.put(other)
			p.Frontend = p.OfFamily(p.Backend.Addr())
		}
		e.put(p)
	}
	e.backends.AddAll(portset.Count(e.mappings.All), 1)
	e.segments.Count(e.backends, 1)
	e.reserved.Add(e.mappings.All, func(p portset.Port, err error) {
		e.log.Warn("mapping in the table conflicts with another", "table", e.opts.Table,
			"mapping", p.Mapping().String(), "conflict", err)
	})
	e.holder.Sync(&e.mappings)
}

// insideSet is the name of the set of segments of a family.
func insideSet(is4 bool) string {
	if is4 {
		return "inside4"
	}
	return "inside6"
}
