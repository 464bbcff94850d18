// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/nftnat/nftnat/engine/internal/hairpin"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/engine/internal/portholder"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/engine/internal/segment"
	"github.com/nftnat/nftnat/engine/internal/sleep"
	"github.com/nftnat/nftnat/engine/internal/table"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// change is what one call makes of the published ports, in one transaction.
type change struct {
	portset.Change
	// chosen is how many of what is added, the last of it, have ports that the
	// engine chose and the caller did not ask for.
	chosen int
	// countsBefore are the ports that the change removes or moves, by their backends, and
	// countsAfter those that it adds or moves. They are counted when it is committed.
	countsBefore, countsAfter portset.Counts
	// routes to the backends of what is added and moved.
	routes map[netip.Addr]hostnet.Route
	// hairpins is what becomes of bridge ports with it; nil: nothing.
	hairpins *hairpin.Draft
	// killTCP ends the TCP flows that contradict the change as well as those of UDP,
	// and the connections that the proxies of what it removes carry.
	killTCP bool
	// released are ports of endpoints that go: what flows to them ends over TCP as well.
	// They are among what it removes, or moves if the frontend is somebody else's then, or
	// none of both if that leads to the same.
	released []portset.Port
	// ipam is the state of networks and leases after the change, nil: that before it.
	// ipamDiff is what differs.
	ipam     *ipam.State
	ipamDiff ipam.Diff
	// newNetworks need IP forwarding.
	newNetworks []nat.Network
	// allSegments is whether all segments are computed again, because the networks are
	// others. Then routes has all backends that are published.
	allSegments bool
	// notes are elements for UDP ports that the change removes: see ended.go.
	notes []nft.Element
}

// changeAttempts bounds how often a call is decided again because somebody else
// keeps changing the table.
const changeAttempts = 5

// retryOnConflict calls f, again as long as it finds that the kernel has changed.
func (e *Engine) retryOnConflict(ctx context.Context, f func() error) error {
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

// resync loads the table if the kernel may hold something else than the engine knows.
func (e *Engine) resync(ctx context.Context) error {
	if !e.table.Stale() {
		return nil
	}
	if err := e.adopt(ctx); err != nil {
		return err
	}
	e.table.SetCurrent(true)
	e.saveFound()
	return nil
}

// commit makes the change: it binds the sockets that hold the ports against other
// processes, turns on forwarding, changes the kernel's table, has the store keep it,
// deletes the flows that contradict it, and opens the proxies. Bridge ports that no
// backend needs in hairpin mode are put back before the table changes, others switched
// after it. If one of them fails, those before it are undone, the last first, and the
// errors of undoing are joined to the cause. What the change adds has been reserved
// already; what it removes is released here. A context that is done is heeded until the
// table changes.
func (e *Engine) commit(ctx context.Context, c change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e.unchanged(false)
	c.countsBefore, c.countsAfter = c.Count()
	var undo undoList
	ports := e.holder.Switch(portholder.Change{Change: &c.Change, Chosen: c.chosen, KillTCP: c.killTCP, Released: c.released})
	if e.holder.Enabled() {
		e.opts.Trace("bind")
		undo.add(ports.UndoBind)
		if err := ports.Bind(); err != nil {
			return undo.after(err)
		}
	}
	if !e.opts.NoSysctl {
		e.opts.Trace("forward")
		if err := e.forward(c, &undo); err != nil {
			return undo.after(err)
		}
	}
	if c.hairpins = e.hairpins.Plan(ctx, c.countsAfter, c.countsBefore, c.routes); c.hairpins != nil {
		undo.add(c.hairpins.PutBack())
	}
	e.opts.Trace("commit")
	segments := e.segmentsAfter(c)
	c.notes = schema.EndedElements(c.Removed)
	if err := ctx.Err(); err != nil {
		return undo.after(err)
	}
	if err := e.commitTable(c, segments, &undo); err != nil {
		return undo.after(err)
	}
	if c.hairpins != nil {
		undo.add(c.hairpins.SwitchOn())
	}
	if e.opts.Store != nil {
		e.opts.Trace("save")
		if err := e.save(c); err != nil {
			return undo.after(err)
		}
		undo.add(func() error { return e.table.Uncertain(e.save(change{})) })
	}
	e.opts.Trace("flows")
	err := e.deleteFlows(nat.UDP, c.Change)
	if err == nil && c.killTCP {
		err = e.deleteFlows(nat.TCP, c.Change)
	} else if err == nil {
		err = e.deleteFlows(nat.TCP, portset.Change{Removed: c.released})
	}
	if err != nil {
		return undo.after(err)
	}
	if e.holder.Enabled() {
		e.opts.Trace("open")
		undo.add(ports.UndoServe)
		if err := ports.Serve(); err != nil {
			return undo.after(err)
		}
		ports.Finish()
	}
	e.note(c, segments)
	e.forgetEnded(c.notes)
	e.holder.RetryNow()
	e.sendChange(c)
	e.opts.Trace("done")
	return nil
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

// forward turns IP forwarding on as far as what comes needs it. What proxies alone
// serve does not: nothing of it is forwarded.
func (e *Engine) forward(c change, undo *undoList) error {
	var four, six bool
	var links []string
	for backend := range c.countsAfter {
		if backend.Is4() {
			four = true
			continue
		}
		six = true
		if link := c.routes[backend].Link; link != "" && !slices.Contains(links, link) {
			links = append(links, link)
		}
	}
	for _, n := range c.newNetworks {
		four, six = four || n.Gateway.Is4(), six || n.Gateway.Is6()
	}
	changed, atRisk, err := e.forwarding.TurnOn(four, six, links)
	undo.add(func() error { return e.forwarding.Restore(changed) })
	for _, s := range changed {
		e.log.Info("turned on forwarding", "sysctl", s.Name, "was", s.Before, "is", s.After)
	}
	if len(atRisk) != 0 {
		e.log.Warn("IPv6 forwarding makes these interfaces ignore router advertisements, "+
			"and with them their default route; accept_ra=2 keeps them", "interfaces", atRisk)
	}
	return err
}

// commitTable brings the change into the kernel: as a change of elements, or, where
// there is no table, as the whole of it.
func (e *Engine) commitTable(c change, after segment.Counts, undo *undoList) error {
	if !e.table.Present() {
		return e.makeTable(c, after, undo)
	}
	removed, added := segment.Diff(e.segments, after)
	gone, come := schema.IPAMDiff(c.ipamDiff)
	goneRecords, comeRecords := e.hairpins.Diff(c.hairpins)
	ch := nft.Change{
		Delete: append(e.elements(c.Before, c.LenBefore(), removed, gone), schema.HairpinElements(goneRecords)...),
		Add:    append(e.elements(c.After, c.LenAfter(), added, append(come, c.notes...)), schema.HairpinElements(comeRecords)...),
	}
	if err := e.table.Update(ch); err != nil {
		return err
	}
	undo.add(func() error { return e.table.UpdateFinally(ch.Inverse()) })
	return nil
}

// makeTable makes the table with all its elements as the change will have left them.
// One that somebody else has made meanwhile it does not touch.
func (e *Engine) makeTable(c change, segments segment.Counts, undo *undoList) error {
	all, count := iter.Seq[portset.Port](c.After), c.LenAfter()
	if e.mappings.Len() != 0 { // else what comes is all there is
		after := e.mappingsAfter(c)
		all, count = after.All, after.Len()
	}
	state := e.ipamAfter(c)
	es := e.elements(all, count, slices.Collect(maps.Keys(segments)), append(schema.IPAMElements(state.Networks(), state.Leases()), c.notes...))
	es = append(es, schema.HairpinElements(e.hairpins.Records(c.hairpins))...)
	if err := e.table.Create(es); err != nil {
		return err
	}
	undo.add(e.table.UndoCreate)
	return nil
}

// segmentsAfter returns the segments after a change.
func (e *Engine) segmentsAfter(c change) segment.Counts {
	onLink := func(backend netip.Addr) netip.Prefix { return c.routes[backend].OnLink }
	networks := e.ipamAfter(c).Prefixes()
	if !c.allSegments {
		return e.segments.Changed(e.backends, c.countsBefore, c.countsAfter, networks, onLink)
	}
	after := e.mappingsAfter(c)
	return segment.Of(networks, portset.Count(after.All), onLink)
}

// ipamAfter returns the state of networks and leases after a change.
func (e *Engine) ipamAfter(c change) *ipam.State {
	if c.ipam != nil {
		return c.ipam
	}
	return e.ipam
}

// mappingsAfter are all that is published after a change.
func (e *Engine) mappingsAfter(c change) portset.Set {
	after := e.mappings.Clone()
	for p := range c.Before {
		after.Delete(p.Frontend)
	}
	for p := range c.After {
		after.Put(p)
	}
	return after
}

// elements are what the kernel is to hold for ports, segments and records, those of one
// set together, for they go in one message; count is how many ports there are.
func (e *Engine) elements(ports iter.Seq[portset.Port], count int, segments []netip.Prefix, records []nft.Element) []nft.Element {
	now := e.now()
	es := make([]nft.Element, 0, count+len(segments)+len(records))
	for p := range ports {
		es = append(es, schema.PortElement(p, now))
	}
	for _, p := range segments {
		es = append(es, schema.SegmentElement(p))
	}
	return inSets(append(es, records...))
}

// inSets puts the elements of one set together.
func inSets(es []nft.Element) []nft.Element {
	if !slices.IsSortedFunc(es, bySet) { // many are often all of one
		slices.SortStableFunc(es, bySet)
	}
	return es
}

func bySet(a, b nft.Element) int {
	switch {
	case a.Set < b.Set:
		return -1
	case a.Set > b.Set:
		return 1
	}
	return 0
}

// note makes the change in what the engine knows.
func (e *Engine) note(c change, segments segment.Counts) {
	for _, p := range c.Removed {
		e.removePort(p)
	}
	for p := range c.After {
		e.put(p)
	}
	e.backends.AddAll(c.countsBefore, -1)
	e.backends.AddAll(c.countsAfter, 1)
	e.segments = segments
	e.ipam = e.ipamAfter(c)
	for _, l := range c.ipamDiff.RemovedLeases {
		delete(e.handles, l.Name)
	}
	e.hairpins.Commit(c.hairpins)
}
