// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/engine/internal/table"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// records returns the elements of all that is published but the ports.
func (e *core) records() []nft.Element {
	es := append(schema.IPAMElements(e.ipam.Networks(), e.ipam.Leases()), schema.HairpinElements(e.hairpins.Records(nil))...)
	es = append(es, schema.AnswerElements(e.answers)...)
	for _, s := range e.segments.Table() {
		es = append(es, schema.SegmentElement(s))
	}
	return es
}

// rewrite makes the table hold what this engine knows, and deletes flows that began while
// it was damaged and that contradict it.
func (e *core) rewrite(c table.Contents) error {
	e.forget(e.now())
	now := e.now()
	records := slices.Concat(e.records(), e.outElements(now), e.optionElements(), schema.AllNotes(e.mappings.Whole, e.over), e.shared.elements())
	es := elementsOf(now, e.mappings.Entries, e.mappings.LenEntries(), records)
	e.trackConnections(translatedTCP(e.mappings.All)) // nothing may have been tracked without the rules
	if err := e.table.Rewrite(c, es); err != nil {
		return err
	}
	e.send(nat.EventRepaired)
	e.warnOfFlows(errors.Join(e.deleteStrayFlows(), e.deleteOutageFlows(), e.endDenied()))
	return nil
}

// correct removes from the table what no engine makes and adds what is missing. A table
// that is only read stays as it is.
func (e *core) correct(f found) error {
	d := f.loaded.Damage
	e.table.LogDamage(d)
	if e.opts.ReadOnly {
		return nil
	}
	ch := f.Correction()
	ch.Generation = f.loaded.Generation
	e.opts.Trace("repair")
	if len(d.Lines) != 0 {
		e.trackConnections(translatedTCP(f.Ports.All))
	}
	if err := e.table.Correct(f.loaded, f.Elements, ch); err != nil {
		return err
	}
	if len(d.Lines) != 0 {
		e.send(nat.EventRepaired)
	}
	return nil
}

// warnOfFlows logs an error of deleting flows that no caller waits for.
func (e *core) warnOfFlows(err error) {
	if err != nil {
		e.log.Warn("flows could not be ended", "table", e.opts.Table, "error", err)
	}
}

// syncExternal accepts what other programs have changed in the maps: proxies and flows
// follow, as for a call.
func (e *core) syncExternal(c *schema.Contents) {
	if e.isKnown(c) {
		return
	}
	before, leasesBefore := e.mappings, e.ipam
	e.takeOver(c)
	routes, err := e.routesToBackends()
	if err == nil {
		err = e.followSegments(routes)
	}
	if err != nil { // the next change tries again
		e.log.Warn("the host could not be looked at, which will be tried again", "error", err)
	}
	e.hairpins.Adopt()
	ch, d := portset.Diff(&before, &e.mappings), ipam.Compare(leasesBefore, e.ipam)
	e.noteRemoved(&ch, &d)
	e.warnOfFlows(errors.Join(e.endContradicting(ch), e.deleteOptionFlows(&ch, false)))
	e.endLed(&ch, false, nil)
	e.sendChange(&ch)
}

// isKnown reports whether the contents are what this engine knows. No record is missing, so
// it is enough to count them.
func (e *core) isKnown(c *schema.Contents) bool {
	for p := range c.Ports.All {
		for part, have := range e.mappings.Split(p) {
			if have == nil || !have.SameAs(part.Target) {
				return false
			}
		}
	}
	d := ipam.Compare(e.ipam, c.IPAM)
	return c.Ports.Len() == e.mappings.Len() && c.Ports.LenEntries() == e.mappings.LenEntries() && d.Empty() &&
		len(c.Segments) == e.segments.Len() && len(c.Hairpins) == len(e.hairpins.Records(nil)) &&
		c.Answers.Len() == e.answers.Len()
}
