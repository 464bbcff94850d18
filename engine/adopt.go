// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"slices"
	"time"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/engine/internal/segment"
	"github.com/nftnat/nftnat/engine/internal/table"
)

// adopt loads the table, the only record of what is published, and takes over or repairs
// what it holds. Open calls it, and each call that finds that the table has changed.
func (e *core) adopt(ctx context.Context) error {
	e.opts.Trace("adopt")
	defer e.opts.Progress(Progress{})
	return e.table.Retry(ctx, e.adoptOnce)
}

// adoptOnce is one attempt. The error matches nft.ErrStale if the table changed meanwhile.
func (e *core) adoptOnce() error {
	c, err := e.table.Load()
	if err != nil {
		return err
	}
	f := e.classify(c)
	switch f.outcome {
	case absent:
		return nil
	case rewrite:
		return e.rewrite(f.loaded)
	case correct:
		e.renewSegments(f.Contents)
		if err := e.correct(f); err != nil {
			return err
		}
		f.Orphans = nil
	case accept:
		e.table.Accept(c)
	}
	known := e.table.Present()
	if known {
		e.syncExternal(f.Contents)
	} else {
		e.table.SetPresent()
		e.takeOver(f.Contents)
		e.hairpins.Adopt()
	}
	if e.opts.ReadOnly {
		return nil
	}
	if err := e.adoptExits(f.Out, known); err != nil {
		return err
	}
	if err := e.adoptShared(f.Shared); err != nil {
		return err
	}
	e.finishRanges(f.unfinished, f.finishOptions(e.now()))
	e.removeOrphans(f.Orphans)
	if err := e.endFlows(f.Ended); err != nil {
		return err
	}
	return e.addNotes(f.Unnoted)
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

// found is a loaded table with what its elements say, and its outcome.
type found struct {
	outcome outcome
	loaded  table.Contents
	*schema.Contents
	// unfinished is what remains of a change of ranges that was not brought to rest.
	unfinished *portset.Plan
}

// classify decides what is to be done with a loaded table.
func (e *core) classify(c table.Contents) found {
	f := found{outcome: accept, loaded: c}
	d := &f.loaded.Damage
	known := e.table.Known()
	if !c.Exists && !known {
		f.outcome = absent
		return f
	}
	if known && len(d.Lines) == 0 {
		for _, el := range schema.Missing(append(e.records(), e.optionElements()...), c.Elements) {
			d.Add("an element is missing: %s", el)
		}
	}
	if known && len(d.Lines) != 0 {
		f.outcome = rewrite
		return f
	}
	f.Contents = schema.Classify(c.Elements, e.now())
	f.unfinished = finish(&f.Ports, f.Next)
	for _, el := range f.Foreign {
		if d.Recreate && schema.WasSegment(el) { // of an earlier version
			continue
		}
		d.Add("an engine makes no such element: %s", el)
	}
	for _, el := range f.Missing {
		d.Add("an element is missing: %s", el)
	}
	if len(d.Lines) != 0 || d.Recreate && !e.opts.ReadOnly {
		f.outcome = correct
	}
	return f
}

// finish returns what remains to be done of a change of ranges. second is what the second maps
// have. The set is as it will be then.
func finish(ports *portset.Set, second []portset.Entry) *portset.Plan {
	p := &portset.Plan{Prepared: second}
	for _, e := range ports.Settling(second) {
		if ports.Load(e) {
			p.Settled = append(p.Settled, e)
		}
	}
	p.Cleaned = ports.Redundant()
	for _, e := range p.Cleaned {
		ports.Unload(e)
	}
	p.Beneath = ports.Unbacked()
	for _, e := range p.Beneath {
		ports.Load(e)
	}
	return p
}

// finishOptions returns what remains to be done of the options of such a change. What it takes care of
// is no orphan any more.
func (f *found) finishOptions(now time.Time) (s optionSteps) {
	if len(f.unfinished.Prepared) == 0 {
		return s
	}
	have := keysOf(slices.Concat(f.Elements, f.Missing, f.Orphans))
	for _, e := range f.unfinished.Prepared {
		for _, el := range schema.RangeOptions(e, true, now) {
			if have[el.ElementKey()] {
				s.cleaned = append(s.cleaned, el)
			}
		}
	}
	for _, e := range f.unfinished.Settled {
		s.placed = append(s.placed, schema.RangeOptions(e, false, now)...)
		proxied := schema.ProxiedLimits(&f.Ports, e, now)
		f.Orphans = withoutKeys(f.Orphans, keysOf(proxied))
		s.placed = append(s.placed, withoutKeys(proxied, have)...)
	}
	// Those of another range with the same bounds would count for this one.
	for _, el := range f.Orphans {
		if schema.IsRangeOption(el.Set) {
			s.replaced = append(s.replaced, el)
		}
	}
	f.Orphans = withoutKeys(f.Orphans, keysOf(s.replaced))
	return s
}

// takeOver makes the contents of a table what is published.
func (e *core) takeOver(c *schema.Contents) {
	e.reserved.RemoveAll(e.mappings.All)
	places, unended, over := e.exits.places, e.exits.unended, e.over
	e.published = newPublished(e.reserved)
	e.exits.places, e.exits.unended, e.over = places, unended, over
	e.mappings, e.ipam, e.answers = c.Ports, c.IPAM, c.Answers
	e.indexExits()
	e.handles.update(e.ipam)
	for p := range e.mappings.All {
		e.expect(p)
	}
	e.countOptions()
	e.hairpins.Load(c.Hairpins)
	e.backends.AddAll(portset.Count(e.mappings.All), 1)
	e.segments = segment.New(c.Segments, e.backends.Len())
	e.reserved.Add(e.mappings.All, func(p portset.Port, err error) {
		e.log.Warn("mapping in the table conflicts with another", "table", e.opts.Table,
			"mapping", p.Mapping().String(), "conflict", err)
	})
	e.holder.Sync(&e.mappings)
	e.syncLocalhost()
}
