// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"net/netip"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/nat"
)

// Connections counts the connections of each published port, in the order of Compare;
// ports without any are left out. The counts are of one moment only roughly: the kernel's
// table changes while it is read.
//
// It reads all TCP and UDP flows of the namespace's connection tracking table, which takes
// time in proportion to their number. Changes that have to end flows wait meanwhile.
func (e *Engine) Connections(ctx context.Context) ([]nat.Connections, error) {
	if err := e.mu.lockContext(ctx); err != nil {
		return nil, err
	}
	flows, closed := e.core.flows, e.core.closed
	e.mu.Unlock()
	if closed {
		return nil, nat.ErrClosed
	}
	counts, err := countFlows(ctx, flows)
	if lockErr := e.mu.lockContext(ctx); lockErr != nil {
		return nil, lockErr
	}
	defer e.mu.Unlock()
	if e.core.closed {
		return nil, nat.ErrClosed // which also closed the flow table
	}
	if err != nil {
		return nil, err
	}
	e.core.forget(e.core.now())
	return e.core.connections(counts), nil
}

// translation is what netfilter makes of a flow's destination.
type translation struct {
	portset.Frontend // its address is the one that the client sent to
	backend          netip.AddrPort
}

// countFlows counts the flows of each translation.
func countFlows(ctx context.Context, flows flowTable) (map[translation]int, error) {
	counts := map[translation]int{}
	// Of all protocols and both families, which is one walk through the kernel's table; that takes the longest.
	err := flows.Each(conntrack.Filter{Translated: true}, func(f conntrack.Flow) error {
		if p := nat.Proto(f.Proto); p == nat.TCP || p == nat.UDP {
			counts[translation{portset.Frontend{Proto: p, AddrPort: f.Dst}, f.ReplySrc}]++
		}
		return ctx.Err()
	})
	return counts, err
}

// connections sums the counts for each port.
func (e *core) connections(counts map[translation]int) []nat.Connections {
	all := map[portset.Frontend]*nat.Connections{}
	of := func(p portset.Port) *nat.Connections {
		c := all[p.Frontend]
		if c == nil {
			c = &nat.Connections{Mapping: p.Mapping()}
			all[p.Frontend] = c
		}
		return c
	}
	for t, n := range counts {
		if p, ok := e.translated(t); ok {
			of(p).Translated += n
		}
	}
	for f, px := range e.holder.All {
		target, ok := e.mappings.Get(f)
		if !ok || px == nil {
			continue
		}
		if stats := px.Stats(); stats.Total != 0 {
			c := of(portset.Port{Frontend: f, Target: target})
			c.Proxied, c.ProxiedEver = c.Proxied+stats.Live, c.ProxiedEver+stats.Total
		}
	}
	list := make([]nat.Connections, 0, len(all))
	for _, c := range all {
		list = append(list, *c)
	}
	order.Sort(list, func(a, b nat.Connections) int { return nat.Compare(a.Mapping, b.Mapping) })
	return list
}

// translated returns the port that a translation belongs to: one for its address, for any
// address of its family, or for any address, with the same backend. Flows to former
// backends and flows that another table has translated belong to none.
func (l *published) translated(t translation) (portset.Port, bool) {
	any := portset.Frontend{Proto: t.Proto, AddrPort: netip.AddrPortFrom(netip.Addr{}, t.AddrPort.Port())}
	for _, f := range []portset.Frontend{t.Frontend, any.OfFamily(t.AddrPort.Addr()), any} {
		if target, ok := l.mappings.Get(f); ok && target.Backend == t.backend {
			return portset.Port{Frontend: f, Target: target}, true
		}
	}
	return portset.Port{}, false
}
