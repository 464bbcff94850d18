// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"maps"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/nft"
)

// hairpinChange works out which ports get hairpin mode, and which are put back, with a
// change of what is published. Nil: nothing has to do with it. That it cannot be told is
// no reason to refuse the change.
func (e *Engine) hairpinChange(ctx context.Context, c change) *hairpinDraft {
	h := e.hairpins
	if h.bridges == nil {
		return nil
	}
	search := e.onBridges(c)
	if len(search) == 0 && len(h.records) == 0 && len(h.places) == 0 {
		return nil
	}
	d := h.draft()
	for _, a := range e.leavers(c) {
		d.leave(a)
	}
	e.search(ctx, d, search, true)
	return d
}

// onBridges are the backends which a change publishes, and that the routing table has
// on a bridge, with that bridge. One whose place is known is not looked for again if
// somebody watches it.
func (e *Engine) onBridges(c change) map[netip.Addr]int {
	var all map[netip.Addr]int
	for a, r := range c.routes {
		known := e.hairpins.watched && e.hairpins.places[a].port != 0
		if r.Bridge != 0 && r.OnLink.IsValid() && !known {
			if all == nil {
				all = map[netip.Addr]int{}
			}
			all[a] = r.Bridge
		}
	}
	if all == nil {
		return nil
	}
	maps.DeleteFunc(all, func(a netip.Addr, _ int) bool { return c.countsAfter[a] == 0 })
	return all
}

// leavers are the backends of which something is known and to which nothing leads any
// more after a change.
func (e *Engine) leavers(c change) []netip.Addr {
	h := e.hairpins
	left := map[netip.Addr]int{}
	for a := range h.records {
		left[a] = e.backends[a]
	}
	for a := range h.places {
		left[a] = e.backends[a]
	}
	maps.DeleteFunc(left, func(a netip.Addr, n int) bool { return n-c.countsBefore[a]+c.countsAfter[a] > 0 })
	return slices.SortedFunc(maps.Keys(left), netip.Addr.Compare)
}

// search looks for backends and makes what it finds part of the draft.
func (e *Engine) search(ctx context.Context, d *hairpinDraft, backends map[netip.Addr]int, wait bool) {
	found, err := d.of.find(ctx, backends, wait)
	if err != nil {
		e.log.Warn("backends could not be looked for on their bridge", "error", err)
	}
	for _, a := range backendsOf(found) {
		d.settle(a, found[a])
	}
}

// applyHairpins makes a draft that comes with no change of what is published. Where
// there is no table nothing could be recorded; the change that makes it again looks anew.
func (e *Engine) applyHairpins(d *hairpinDraft) {
	if !e.table.Present() {
		return
	}
	d.putBack()
	if removed, added := d.removed(), d.added(); len(removed)+len(added) != 0 {
		if err := e.table.UpdateFinally(nft.Change{Delete: removed, Add: added}); err != nil {
			if undoErr := d.undoPutBack(); undoErr != nil {
				err = undone(err, undoErr)
			}
			e.log.Warn("hairpin mode of bridge ports could not be recorded, and stays as it was", "table", e.opts.Table, "error", err)
			return
		}
	}
	d.switchOn()
	e.hairpins.note(d)
}

// adoptHairpins goes on where the engine before this one was killed: it puts back what
// nobody needs any more, and looks for backends whose port was recorded and not
// switched.
func (e *Engine) adoptHairpins() {
	h := e.hairpins
	if h.bridges == nil || len(h.records) == 0 {
		return
	}
	names := slices.Sorted(maps.Values(h.records))
	byName, err := h.bridges.portsNamed(slices.Compact(names))
	if err != nil {
		e.log.Warn("recorded bridge ports could not be looked at", "error", err)
		return
	}
	d := h.draft()
	search := map[netip.Addr]int{}
	for a, name := range h.records {
		l, there := byName[name]
		switch {
		case e.backends[a] == 0:
			d.leave(a)
		case !there:
			d.loseNamed(name)
			e.searchFor(search, a)
		case l.hairpin:
			h.ports[l.index] = hairpinPort{name: name, bridge: l.bridge, mode: hairpinOurs}
		default:
			e.searchFor(search, a)
		}
	}
	e.search(context.Background(), d, search, false)
	e.applyHairpins(d)
}

// searchFor adds a backend to what is to be looked for, if it is on a bridge, and
// reports whether it is.
func (e *Engine) searchFor(search map[netip.Addr]int, a netip.Addr) bool {
	r, err := e.host.Lookup(a)
	if err != nil || r.Bridge == 0 || !r.OnLink.IsValid() {
		return false
	}
	search[a] = r.Bridge
	return true
}

// purgeHairpins puts back every port that is recorded. What it returns undoes that.
func (e *Engine) purgeHairpins() (undo func() error) {
	if e.hairpins.bridges == nil {
		return func() error { return nil }
	}
	d := e.hairpins.draft()
	clear(d.records)
	d.putBack()
	return d.undoPutBack
}
