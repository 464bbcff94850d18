// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nftnat/nftnat/engine/internal/hairpin"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portholder"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/engine/internal/sleep"
	"github.com/nftnat/nftnat/engine/internal/table"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// changeAttempts bounds how often a call is tried again because another program keeps
// changing the table.
const changeAttempts = 5

// retryOnConflict calls f until its error is not table.ErrConflict. Between attempts it
// loads the table.
func (e *core) retryOnConflict(ctx context.Context, f func() error) error {
	defer e.opts.Progress(Progress{})
	e.table.SetCurrent(false)
	var err error
	for attempt := range changeAttempts {
		if err := sleep.For(ctx, time.Duration(attempt)*table.Pause); err != nil {
			return err
		}
		switch resyncErr := e.resync(ctx); {
		case resyncErr != nil && err != nil:
			return fmt.Errorf("%w: %w", err, resyncErr)
		case resyncErr != nil:
			return resyncErr
		}
		if err = f(); !errors.Is(err, table.ErrConflict) {
			return err
		}
		e.table.MarkStale()
	}
	return err
}

// resync loads the table if it may differ from what the engine knows.
func (e *core) resync(ctx context.Context) error {
	if !e.table.Stale() {
		e.retryLocalhost()
		return nil
	}
	if err := e.adopt(ctx); err != nil {
		return err
	}
	e.table.SetCurrent(true)
	e.saveFound()
	return nil
}

// commit makes a change. Its steps: bind sockets that hold the added ports; turn on
// forwarding; take hairpin mode from bridge ports that do not need it any more; change the
// table; give hairpin mode to other bridge ports; save the state; delete the flows that
// contradict the change; open the proxies. If a step fails, the earlier ones are undone,
// the last first, and errors of undoing are joined to the cause. A context that is done
// stops the change only before the table changes.
//
// The caller has reserved the added ports; commit releases the removed ones.
func (e *core) commit(ctx context.Context, c change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e.unchanged(false)
	if err := e.checkMasquerade(&c.Change); err != nil {
		return err
	}
	if err := e.lookUpLinks(&c); err != nil {
		return err
	}
	p, err := e.plan(c)
	if err == nil && p.Apart != nil {
		if err = e.separate(p.Apart); err == nil {
			p, err = e.plan(c)
		}
	}
	if err != nil {
		return err
	}
	e.findPlaces(p.exits.Hosts())
	var undo undoList
	ports := e.holder.Switch(portholder.Change{
		Change: &c.Change, Chosen: c.chosen, KillTCP: c.killTCP, Released: c.released, Denied: e.denied,
	})
	if e.holder.Enabled() {
		e.opts.Trace("bind")
		undo.add(ports.UndoBind)
		if err := ports.Bind(); err != nil {
			return undo.after(err)
		}
	}
	if !e.opts.NoSysctl {
		e.opts.Trace("forward")
	}
	if err := e.forward(p, &undo); err != nil {
		return undo.after(err)
	}
	if p.hairpins = e.hairpins.Plan(ctx, p.countsAfter.Map, p.countsBefore.Map, c.routes); p.hairpins != nil {
		undo.add(p.hairpins.PutBack())
	}
	e.opts.Trace("commit")
	if err := ctx.Err(); err != nil {
		return undo.after(err)
	}
	if err := e.withdraw(&c.Change, &undo); err != nil {
		return undo.after(err)
	}
	if err := e.commitTable(p, &undo); err != nil {
		return undo.after(err)
	}
	p.exits.Commit()
	undo.add(p.exits.Revert)
	if p.hairpins != nil {
		undo.add(p.hairpins.SwitchOn())
	}
	if e.opts.Store != nil {
		e.opts.Trace("save")
		removed := e.stored.removed
		e.noteRemoved(&p.Change, &p.ipamDiff)
		if err := e.save(p.state()); err != nil {
			e.stored.removed = removed
			return undo.after(err)
		}
		undo.add(func() error {
			e.stored.removed = removed
			c.edit.Revert()
			return e.table.Uncertain(e.save(e.state()))
		})
	}
	e.opts.Trace("flows")
	if err := e.deleteStale(p); err != nil {
		return undo.after(err)
	}
	if changesMasquerade(p.ipamDiff) {
		if err := e.endLeft(nat.UDP, p.exits.Check(e.exits.places)); err != nil {
			return undo.after(err)
		}
	}
	if err := e.deleteOptionFlows(&c.Change, c.killTCP); err != nil {
		return undo.after(err)
	}
	if e.holder.Enabled() {
		e.opts.Trace("open")
		undo.add(e.syncShared)
		undo.add(ports.UndoServe)
		if err := ports.Serve(); err != nil {
			return undo.after(err)
		}
		if err := e.lead(&c.Change, &undo); err != nil {
			return undo.after(err)
		}
		if err := e.leadShared(&c.Change); err != nil {
			return undo.after(err)
		}
		ports.Finish()
	}
	late := append(p.notes.Ended, p.late(e.now())...) // by what is published before the change
	e.finishRanges(p.layout, p.optionSteps(e.now()))
	e.note(p)
	if !p.layout.IsPlain() {
		e.holder.Rejoin(&e.mappings, p.After)
	}
	e.endLed(&p.Change, p.killTCP, p.released)
	e.removeNotes(late)
	e.endExpired(e.now()) // nobody else does without Run
	e.holder.RetryNow()
	e.sendChange(&p.Change)
	if e.sourced { // else the first rule to come has Run call it
		e.warnOfRules(e.followRules())
	}
	e.opts.Trace("done")
	return nil
}

// commitTable changes the elements of the table, or creates the table if there is none, without the
// ports if this host may have connections at them. If another program has created one meanwhile, the
// error is table.ErrConflict.
func (e *core) commitTable(p *plan, undo *undoList) error {
	if !e.table.Present() {
		all := p.wholeTable(e.now(), append(schema.HairpinElements(e.hairpins.Records(p.hairpins)), e.shared.elements()...))
		first, limited := all, slices.ContainsFunc(all.Add, schema.LimitsPort)
		apart := limited || e.hasConnections(p.Added)
		var limits, rest []nft.Element
		if apart {
			first = nft.Change{}
			first.Add, limits, rest = optionsApart(all.Add)
		}
		if err := e.table.Create(first); err != nil {
			return err
		}
		undo.add(e.table.UndoCreate)
		e.rememberRivals()
		if !apart {
			return nil
		}
		if limited {
			if err := e.table.Update(nft.Change{Add: limits}); err != nil {
				return err
			}
		}
		e.table.Grace()
		// Tracking has begun with the table: what comes from now on is known.
		e.opts.Trace("track")
		e.trackConnections(translatedTCP(slices.Values(p.Added)))
		return e.table.Update(nft.Change{Add: rest, Further: all.Further})
	}
	if served := e.servedByOthers(p.Added); len(served) != 0 {
		e.opts.Trace("track")
		e.trackConnections(slices.Values(served))
	}
	if err := e.prepare(p.layout, p.optionSteps(e.now())); err != nil {
		return err
	}
	changed := false
	gone, come := e.hairpins.Diff(p.hairpins)
	undo.add(func() error {
		if !changed {
			return e.unprepare(p.layout, p.optionSteps(e.now()))
		}
		return e.undoTable(p, gone, come)
	})
	now := e.now()
	ch := p.transaction(now, schema.HairpinElements(gone), schema.HairpinElements(come))
	if err := e.table.Update(ch); err != nil {
		return err
	}
	changed = true
	e.slowest = max(e.slowest, e.now().Sub(now))
	return nil
}

// undoTable undoes the change of the table. By now, leases have less time left.
func (e *core) undoTable(p *plan, gone, come []hairpin.Record) error {
	after := e.mappings
	now := e.now()
	if !p.layout.IsPlain() {
		e.finishRanges(p.layout, p.optionSteps(now))
		after = p.mappingsAfter()
	}
	back, options, before := p.layout.Inverse(&after, &p.Change), optionSteps{}, after
	if !back.IsPlain() {
		before = after.Clone()
		before.Do(back)
		options = optionsOf(&after, &before, back, p.Added, nil, now)
	}
	if err := e.prepare(back, options); err != nil {
		return err
	}
	added, removed := p.records(now)
	if p.layout.IsPlain() {
		removed = append(removed, p.optionSteps(now).prepared...)
	}
	removed, added = append(removed, schema.HairpinElements(come)...), append(added, schema.HairpinElements(gone)...)
	// The limits of what was removed are still there.
	removed, added = append(removed, options.gone...), append(added, p.withoutLate(options.come, now)...)
	if err := e.table.UpdateFinally(changeOf(now, back, removed, added)); err != nil {
		return err
	}
	e.finishRanges(back, options)
	if !back.IsPlain() {
		e.mappings = before
		return e.table.UpdateFinally(nft.Change{Delete: inSets(options.late)})
	}
	return nil
}

// prepare adds what replaces ranges to the second maps, and waits if that is needed before the
// change.
func (e *core) prepare(l *portset.Plan, o optionSteps) error {
	clients, limits, rest := optionsApart(o.prepared)
	es := slices.Concat(seconds(e.now(), l.Prepared), limits, rest)
	if len(clients)+len(es) != 0 {
		e.opts.Trace("prepare")
	}
	if len(clients) != 0 {
		if err := e.table.Update(nft.Change{Add: inSets(clients)}); err != nil {
			return err
		}
	}
	if len(es) != 0 {
		if err := e.table.Update(nft.Change{Add: inSets(es)}); err != nil {
			if len(clients) != 0 {
				err = errors.Join(err, e.table.UpdateFinally(nft.Change{Delete: inSets(clients)}))
			}
			return err
		}
	}
	if l.Waits || o.waits {
		e.table.Grace()
	}
	return nil
}

// optionsApart returns the clients and the limits among elements, and the other elements, each by their sets if
// the elements are. The kernel lets packets see an element of a hash before a prefix of the same
// transaction: who may reach a port, which another program may serve until now, is there before the
// port is limited.
func optionsApart(es []nft.Element) (clients, limits, rest []nft.Element) {
	for _, el := range es {
		switch {
		case schema.AdmitsClient(el):
			clients = append(clients, el)
		case schema.LimitsPort(el):
			limits = append(limits, el)
		default:
			rest = append(rest, el)
		}
	}
	return clients, limits, rest
}

func (e *core) unprepare(l *portset.Plan, o optionSteps) error {
	es := append(seconds(e.now(), l.Prepared), o.prepared...)
	if len(es) == 0 {
		return nil
	}
	return e.table.UpdateFinally(nft.Change{Delete: inSets(es)})
}

// finishRanges brings the table of a change to rest: ranges that replace others are added to the first
// maps, and what is not needed any more is deleted. What fails is done when the table is loaded
// next.
func (e *core) finishRanges(l *portset.Plan, o optionSteps) {
	if len(l.Prepared)+len(l.Cleaned)+len(l.Beneath)+len(o.replaced)+len(o.placed) == 0 {
		return
	}
	e.opts.Trace("settle")
	now := e.now()
	var err error
	if len(o.replaced)+len(o.placed) != 0 {
		err = e.table.UpdateFinally(nft.Change{Delete: inSets(o.replaced), Add: inSets(o.placed)})
		if slices.ContainsFunc(o.placed, schema.LimitsPort) {
			e.table.Grace() // a packet that knows of no limit must not find the range
		}
	}
	if err == nil && len(l.Settled) != 0 {
		err = e.table.UpdateFinally(nft.Change{Add: elementsOf(now, slices.Values(l.Settled), len(l.Settled), nil)})
	}
	if err == nil {
		if len(l.Prepared)+len(l.Beneath) != 0 {
			e.table.Grace()
		}
		e.opts.Trace("clean")
		err = e.table.UpdateFinally(nft.Change{
			Delete: elementsOf(now, slices.Values(l.Cleaned), len(l.Cleaned), append(seconds(now, slices.Concat(l.Prepared, l.Between)), o.cleaned...)),
			Add:    elementsOf(now, slices.Values(l.Beneath), len(l.Beneath), nil),
		})
	}
	if err != nil {
		e.log.Warn("ranges could not be brought to rest, which will be tried again", "table", e.opts.Table, "error", err)
	}
}

// forward turns on the IP forwarding that the plan needs.
func (e *core) forward(p *plan, undo *undoList) error {
	if e.opts.NoSysctl {
		return nil
	}
	changed, err := e.turnOnForwarding(p.forwarding())
	undo.add(func() error { return e.forwarding.Restore(changed) })
	for _, s := range changed {
		e.log.Info("turned on forwarding", "sysctl", s.Name, "was", s.Before, "is", s.After)
	}
	return err
}

// turnOnForwarding turns on IP forwarding, and returns what it changed, also with an error.
func (e *core) turnOnForwarding(n hostnet.ForwardingNeeds) ([]hostnet.Setting, error) {
	changed, atRisk, err := e.forwarding.TurnOn(n)
	if len(atRisk) != 0 {
		e.log.Warn("IPv6 forwarding makes these interfaces ignore router advertisements, "+
			"and with them their default route; accept_ra=2 keeps them", "interfaces", atRisk)
	}
	return changed, err
}

// note records that the planned change was made.
func (e *core) note(p *plan) {
	e.mappings.Do(p.layout)
	for _, port := range p.Removed {
		e.reserved.Remove(port)
		e.holder.RetireAll(port)
	}
	for port := range p.After {
		e.expect(port)
	}
	e.options.Do(p.layout)
	e.backends.AddAll(p.countsBefore, -1)
	e.backends.AddAll(p.countsAfter, 1)
	e.segments.Apply(p.segments)
	if e.ipam != p.ipamAfter {
		e.ipam = p.ipamAfter
		e.handles.update(e.ipam)
	}
	for _, l := range p.ipamDiff.RemovedLeases {
		delete(e.handles.byName, l.Name)
	}
	e.hairpins.Commit(p.hairpins)
	if len(p.notes.Again) != 0 {
		e.over = slices.DeleteFunc(e.over, func(over portset.Port) bool { return slices.Contains(p.notes.Again, over) })
	}
}

// undoList undoes what was done so far.
type undoList []func() error

func (u *undoList) add(f func() error) { *u = append(*u, f) }

// after undoes everything, the last first, because of an error.
func (u undoList) after(cause error) error {
	for _, f := range slices.Backward(u) {
		if err := f(); err != nil {
			cause = undone(cause, err)
		}
	}
	return cause
}

// undone joins an error of undoing to its cause, on one line.
func undone(cause, err error) error { return fmt.Errorf("%w; and undo: %w", cause, err) }
