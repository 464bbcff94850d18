// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/flows"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// flowTable is the connection tracking table, a *conntrack.Conn outside of tests.
type flowTable interface {
	flows.Table
	Each(conntrack.Filter, func(conntrack.Flow) error) error
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
	return e.deleteOpening(&p.Change)
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

// endFlows deletes the flows to UDP ports that ended, and then their notes.
func (e *core) endFlows(ended []portset.Port) error {
	if len(ended) == 0 {
		return nil
	}
	var c portset.Change
	for _, p := range ended {
		if _, again := e.mappings.Get(p.Frontend); !again {
			c.Removed = append(c.Removed, p)
		}
	}
	if err := e.endContradicting(c); err != nil {
		return err
	}
	e.opts.Trace("ended")
	return e.table.UpdateFinally(nft.Change{Delete: schema.EndedElements(ended)})
}
