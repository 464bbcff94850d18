// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/wayout"
	"github.com/nftnat/nftnat/nat"
)

// Purge deletes the table with all mappings, deletes their UDP flows, takes hairpin mode
// from the bridge ports that the engine gave it, removes its rules of policy routing, and
// closes the engine. It is no error if
// there is no table. IP forwarding stays on, because other programs may need it.
//
// If the table cannot be deleted, nothing has changed and the engine stays open. If
// the flows cannot be ended, the table is gone and the engine closed all the same.
func (e *Engine) Purge(ctx context.Context) error {
	_, err := update(ctx, e, func(c *core) (struct{}, error) { return struct{}{}, c.purge(ctx) })
	return err
}

func (e *core) purge(ctx context.Context) error {
	if err := e.resync(ctx); err != nil {
		return err
	}
	undo := undoList{e.hairpins.Purge()}
	if e.opts.Store != nil {
		// First: nothing must be restored if the process is killed after this.
		removed := e.stored.removed
		all := ipam.Compare(e.ipam, ipam.New())
		e.noteRemoved(&portset.Change{Removed: slices.Collect(e.mappings.All)}, &all)
		if err := e.store(nat.State{}, ""); err != nil {
			e.stored.removed = removed
			return undo.after(err)
		}
		undo.add(func() error {
			e.stored.removed = removed
			return e.save(e.state())
		})
	}
	if err := e.removeRules(); err != nil {
		return undo.after(err)
	}
	undo.add(e.followRules)
	if e.options.Limited != 0 { // without the table anyone would reach their proxies
		for p := range e.mappings.All {
			if !p.From.IsZero() {
				e.holder.RetireAll(p)
			}
		}
		undo.add(func() error { e.holder.Sync(&e.mappings); return nil })
	}
	if e.programs.Localhost != nil {
		undo.add(func() error { e.syncLocalhost(); return nil })
		if err := e.programs.Localhost.Sync(&portset.Set{}); err != nil {
			return undo.after(err)
		}
	}
	if err := e.table.Delete(); err != nil {
		return undo.after(err)
	}
	e.exits.index = wayout.New()
	err := e.endContradicting(portset.Change{Removed: slices.Collect(e.mappings.All)})
	e.end()
	return errors.Join(err, e.disconnect())
}
