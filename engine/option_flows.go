// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"net/netip"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// deleteOptionFlows deletes the flows that contradict the options of what a change adds or
// moves. Over TCP, unless they are killed, only those that nobody has answered.
func (e *core) deleteOptionFlows(c *portset.Change, killTCP bool) error {
	return errors.Join(
		e.flowDeleter().Options(nat.UDP, c, &e.mappings, false),
		e.flowDeleter().Options(nat.TCP, c, &e.mappings, !killTCP))
}

// withOptions returns a change that adds the published ports that have options.
func (e *core) withOptions() (c portset.Change) {
	if !e.options.Any() {
		return c
	}
	for p := range e.mappings.All {
		if !p.From.IsZero() || p.Masquerade {
			c.Added = append(c.Added, p)
		}
	}
	return c
}

// endDenied ends what clients began, while the table was missing, on ports that they may not
// reach: their flows and what proxies have of them.
func (e *core) endDenied() error {
	c := e.withOptions()
	if c.Empty() {
		return nil
	}
	err := e.deleteOptionFlows(&c, true)
	for _, p := range c.Added {
		e.holder.ResetClientsOf(p, e.denied(p.From))
	}
	return err
}

// denied returns a condition on clients that may not reach a port; nil: there are none.
func (e *core) denied(from nat.Sources) func(netip.Addr) bool {
	if from.IsZero() {
		return nil
	}
	known := map[netip.Addr]bool{}
	return func(a netip.Addr) bool {
		if from.Allow(a) || a.IsLoopback() {
			return false
		}
		local, ok := known[a]
		if !ok {
			local, _ = e.isLocal(a)
			known[a] = local
		}
		return !local
	}
}
