// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"io/fs"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/nft"
)

// optionElements returns the elements of the options of all that is published.
func (e *core) optionElements() []nft.Element {
	if !e.options.Any() {
		return nil
	}
	return schema.SetOptions(&e.mappings, e.now())
}

// countOptions counts the options of what is published.
func (e *core) countOptions() {
	e.options = portset.NewOptions()
	for entry := range e.mappings.Entries {
		e.options.Count(&entry, 1)
	}
}

// removeOptions removes what the table still says of ports that have expired. What it says of a
// range is removed when the table is read next.
func (e *core) removeOptions(over []portset.Port) {
	over = slices.DeleteFunc(slices.Clone(over), func(p portset.Port) bool { return p.From.IsZero() && !p.Masquerade })
	if len(over) == 0 {
		return
	}
	if e.options.Ranges != 0 || e.mappings.HasRanges() || slices.ContainsFunc(over, func(p portset.Port) bool { return p.More != 0 }) {
		e.countOptions()
		if !e.opts.ReadOnly {
			e.table.MarkStale()
		}
		return
	}
	c := portset.Change{Removed: over}
	gone, _ := schema.MasqueradesDiff(&c, e.options.Masqueraded)
	for i := range over {
		e.options.Count(&portset.Entry{Port: over[i]}, -1)
		gone = append(gone, schema.LimitElements(over[i], e.now())...)
	}
	if !e.opts.ReadOnly {
		e.removeOrphans(gone)
	}
}

// removeOrphans removes elements that mean nothing without their ports. If that fails, the
// next engine that reads the table removes them.
func (e *core) removeOrphans(gone []nft.Element) {
	if len(gone) == 0 || !e.table.Present() {
		return
	}
	if err := e.table.UpdateFinally(nft.Change{Delete: inSets(gone)}); err != nil {
		e.table.MarkStale()
		if !errors.Is(err, fs.ErrNotExist) { // else they are gone, or the table is
			e.log.Warn("records of expired mappings could not be removed from the table", "table", e.opts.Table, "error", err)
		}
	}
}
