// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/flows"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
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
	return e.flowDeleter().Stale(proto, &c, &e.mappings)
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
