// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"iter"
	"net/netip"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/rivals"
	"github.com/nftnat/nftnat/nat"
)

// maxRivalLines bounds how many lines say that other tables translate published ports.
const maxRivalLines = 16

// noteRivals logs which ports that a change publishes are translated by other tables too.
func (e *core) noteRivals(c *portset.Change) {
	if c.LenAfter() == 0 {
		return
	}
	if e.rivals == nil {
		return
	}
	found, err := e.rivals.ReadAfter(e.table.Updates())
	if err != nil {
		return
	}
	for _, line := range e.rivalLines(found, c.After) {
		e.log.Warn(line)
	}
}

// olderChains are the base chains of others that were there when a table was created. They
// say which of two chains with the same priority was added last, which the kernel does not.
type olderChains struct {
	table  uint64 // the kernel's number of the table that was created; zero: none was
	chains map[rivals.Base]bool
}

// rememberRivals is for when the table has been created.
func (e *core) rememberRivals() {
	e.older = olderChains{}
	if e.rivals == nil {
		return
	}
	if found, err := e.rivals.Read(e.table.Updates()); err == nil { // else it is not known
		e.older = olderChains{found.Table, found.Bases}
	}
}

// orderOf is the order of a claim.
func (o olderChains) orderOf(c rivals.Claim, table uint64) rivals.Order {
	switch {
	case c.Order != rivals.Unsure, table == 0, o.table != table:
		return c.Order
	case o.chains[c.Base]:
		return rivals.After
	}
	return rivals.Before
}

// rivalWarnings says which published ports other tables translate too.
func (e *core) rivalWarnings() []string {
	if e.rivals == nil {
		return nil
	}
	found, err := e.rivals.Read(e.table.Updates())
	if err != nil {
		return nil // what cannot be read says nothing
	}
	return e.rivalLines(found, e.mappings.All)
}

// rivalLines says which ports other tables translate too, a line each.
func (e *core) rivalLines(found *rivals.Rivals, ports iter.Seq[portset.Port]) (lines []string) {
	if found.Empty() {
		return nil
	}
	interfaces, err := e.host.Interfaces()
	if err != nil {
		return nil
	}
	var local []netip.Addr
	for _, i := range interfaces {
		local = append(local, i.Addrs...)
	}
	more := 0
	for p := range ports {
		if p.ProxyOnly {
			continue // it is not translated by this table, and serves what others leave
		}
		for _, part := range found.In(p.Proto, p.AddrPort.Addr(), p.First(), p.Last(), local) {
			if len(lines) == maxRivalLines {
				more += int(part.Last-part.First) + 1
				continue
			}
			part.Order = e.older.orderOf(part.Claim, found.Table)
			lines = append(lines, rivalLine(part.Claim, p.Part(part.First, part.Last)))
		}
	}
	if more != 0 {
		lines = append(lines, fmt.Sprintf("other tables translate %d more published ports too", more))
	}
	return lines
}

// rivalLine says that another table translates a port too, and who gets its connections.
func rivalLine(c rivals.Claim, p portset.Port) string {
	some, hook, order := "", "", ", but nftnat gets it first"
	if c.Some {
		some = "some connections to "
	}
	if c.Hook == rivals.Output {
		hook = " for this host itself"
	}
	switch c.Order {
	case rivals.Before:
		order = ", and gets it first"
	case rivals.Unsure:
		order = "; of the two base chains the one that was added last gets it"
	case rivals.After:
	}
	return fmt.Sprintf("table %s %s also translates %s%s%s in chain %s%s",
		c.Family, c.Table, some, nat.DescribeFrontend(p.Mapping()), hook, c.Chain, order)
}
