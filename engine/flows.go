// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/flows"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// flowTable is the connection tracking table, a *conntrack.Conn outside of tests.
type flowTable interface {
	flows.Table
	Each(conntrack.Filter, func(conntrack.Flow) error) error
	Create([]conntrack.Connection) (int, error)
	Count() (entries, limit int, err error)
	Close() error
}

// deleteFlows deletes the flows of one protocol that contradict a change.
func (e *core) deleteFlows(proto nat.Proto, c portset.Change) error {
	if c.Empty() {
		return nil
	}
	if err := e.flowDeleter().Stale(proto, &c, &e.mappings); err != nil {
		return err
	}
	if networks, _ := e.ipam.Len(); networks == 0 {
		return nil
	}
	return e.endLeft(proto, e.exits.index.Check(&c, e.ipam.Masquerades, e.exits.places))
}

// deleteOpening deletes the flows over TCP that contradict a change and that nobody has
// answered.
func (e *core) deleteOpening(c *portset.Change) error {
	return e.flowDeleter().Opening(c, &e.mappings)
}

// endContradicting deletes the flows that end with a change whatever was asked for: those
// over UDP that contradict it, and those over TCP that nobody has answered.
func (e *core) endContradicting(c portset.Change) error {
	return errors.Join(e.deleteFlows(nat.UDP, c), e.deleteOpening(&c))
}

// deleteStale deletes the flows that contradict a change: all of them over UDP, and over TCP
// if they are to be killed; else those to endpoints that go, and those that nobody has
// answered.
func (e *core) deleteStale(p *plan) error {
	if err := e.deleteFlows(nat.UDP, p.Change); err != nil {
		return err
	}
	if p.killTCP {
		return e.deleteFlows(nat.TCP, p.Change)
	}
	if err := e.deleteFlows(nat.TCP, portset.Change{Removed: p.released}); err != nil {
		return err
	}
	c := p.Change
	c.Removed = append(slices.Clip(c.Removed), p.notes.Again...)
	return e.deleteOpening(&c)
}

// deleteOutageFlows deletes flows that networks began or accepted while the table was
// missing.
func (e *core) deleteOutageFlows() error {
	if networks, _ := e.ipam.Len(); networks == 0 {
		return nil
	}
	return e.flowDeleter().Outage(e.ipam.NetworkOf)
}

func (e *core) flowDeleter() flows.Deleter {
	return flows.Deleter{Table: e.flows, IsLocal: e.isLocal}
}

// removeNotes removes notes from the table after their flows were deleted. If that fails,
// the flows are deleted once more later.
func (e *core) removeNotes(notes []nft.Element) {
	if len(notes) == 0 {
		return
	}
	if err := e.table.UpdateFinally(nft.Change{Delete: notes}); err != nil {
		e.log.Warn("records of expired mappings could not be removed from the table", "table", e.opts.Table, "error", err)
	}
}

// followFlows ends the flows that backends have not answered since the routes to them have
// changed: what was decided for these, such as to masquerade them, may be wrong now.
func (e *core) followFlows(routes hostnet.RouteMap) error {
	changed := map[netip.Addr]bool{}
	for a, is := range routes.All {
		if was, known := e.ways.Get(a); known && !is.Equal(was) {
			changed[a] = true
		}
	}
	if len(changed) != 0 {
		if err := e.flowDeleter().Unanswered(changed); err != nil {
			return err
		}
	}
	e.ways = routes
	return nil
}

// addNotes adds the notes that published ports lack, such as those of other programs.
func (e *core) addNotes(notes []nft.Element) error {
	if len(notes) == 0 {
		return nil
	}
	return e.table.UpdateFinally(nft.Change{Add: notes})
}

// endFlows deletes the flows to ports that ended, and then their notes.
func (e *core) endFlows(ended []portset.Port) error {
	if len(ended) == 0 && len(e.over) == 0 {
		return nil
	}
	if err := e.endContradicting(e.endOf(append(slices.Clip(ended), e.over...))); err != nil {
		return err
	}
	e.over = nil
	e.opts.Trace("ended")
	if len(ended) == 0 {
		return nil
	}
	return e.table.UpdateFinally(nft.Change{Delete: schema.EndedElements(ended)})
}

// endOf returns the change that the end of ports is. Those that are published again have
// moved.
func (e *core) endOf(ended []portset.Port) (c portset.Change) {
	moved := func(was, is portset.Port) {
		c.Moved = append(c.Moved, portset.Move{Frontend: is.Frontend, From: was.Part(is.First(), is.Last()).Target, To: is.Target, More: is.More})
	}
	for _, p := range ended {
		for now := range e.mappings.In(p) {
			moved(p, now)
		}
		for gone := range e.mappings.Without(p) {
			if !p.AddrPort.Addr().IsUnspecified() {
				c.Removed = append(c.Removed, gone)
				continue
			}
			any := gone // a note does not tell it from any address
			any.AddrPort = netip.AddrPortFrom(netip.Addr{}, gone.First())
			for now := range e.mappings.In(any) {
				moved(any, now)
			}
			for left := range e.mappings.Without(any) {
				left.AddrPort = netip.AddrPortFrom(p.AddrPort.Addr(), left.First())
				c.Removed = append(c.Removed, left)
			}
		}
	}
	return c
}

// When the kernel has removed ports whose time was over, their flows end within a second.
const (
	// expiryGrace is how much later than by the engine's clock the kernel may remove a port:
	// a flow that ended before would begin again. The time of the slowest transaction so far
	// comes on top, up to longestGrace, because the kernel counts from its end on.
	expiryGrace  = 250 * time.Millisecond
	longestGrace = 600 * time.Millisecond
	// sweepPause is the shortest between two passes over the table of flows, so that
	// thousands of ports that end one after another cost a few.
	sweepPause = 250 * time.Millisecond
)

// endExpired ends the flows to ports that the kernel has removed, and returns when it is to
// be called again; zero: when the next port is over.
func (e *core) endExpired(now time.Time) (next time.Time) {
	if len(e.over) == 0 {
		return time.Time{}
	}
	grace := min(expiryGrace+e.slowest, longestGrace)
	due, later := []portset.Port(nil), []portset.Port(nil)
	for _, p := range e.over {
		if time.UnixMilli(p.Expires).Add(grace).After(now) {
			later = append(later, p)
		} else {
			due = append(due, p)
		}
	}
	if swept := e.swept.Add(sweepPause); len(due) != 0 && swept.After(now) {
		return swept
	}
	if len(due) != 0 {
		e.over, e.swept = later, now
		e.sweep(due)
	}
	if len(later) == 0 {
		return time.Time{}
	}
	first := slices.MinFunc(later, func(a, b portset.Port) int { return cmp.Compare(a.Expires, b.Expires) })
	return time.UnixMilli(first.Expires).Add(grace)
}

// redundant removes from what is published the holes that expired ranges have left, and returns
// their elements.
func (e *core) redundant() (es []nft.Element) {
	now := e.now()
	for _, r := range e.mappings.Redundant() {
		e.mappings.Unload(r)
		es = append(es, schema.EntryElement(r, now))
	}
	return es
}

// sweep ends the flows to expired ports, and removes the notes of those that are not
// published again with one. What fails is done when the table is looked at next.
func (e *core) sweep(due []portset.Port) {
	c := e.endOf(due)
	err := e.endContradicting(c)
	if err == nil {
		err = e.table.UpdateFinally(nft.Change{Delete: inSets(append(schema.StaleNotes(due, &e.mappings), e.redundant()...))})
	}
	if err == nil {
		return
	}
	e.warnOfFlows(err)
	e.table.MarkStale()
}
