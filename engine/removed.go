// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// A ruleset that nft(8) saved is often loaded at boot, before the engine opens, with our table
// in it, as it was then. The store knows what was removed and replaced since, and that is
// taken out again. What else the table has and the store has not was published since, by a
// command without the daemon, and stays.
//
// A table that an engine has made, without the store, is no copy: what it has was published
// after the table was lost, also if it had been removed before ([table.Table.Copied]).

// noteRemoved records what a change removes and replaces, and forgets of that what it
// publishes again.
func (e *core) noteRemoved(c *portset.Change, d *ipam.Diff) {
	if e.opts.Store == nil {
		return
	}
	r := &e.stored.removed
	if !c.Empty() {
		r.Mappings = portset.Removed(r.Mappings).After(c)
	}
	if d.Empty() {
		return
	}
	networks, endpoints := slices.Clone(r.Networks), slices.Clone(r.Endpoints)
	for _, n := range d.RemovedNetworks {
		networks = append(networks, removedNetwork(n))
	}
	for _, l := range d.RemovedLeases {
		endpoints = append(endpoints, removedEndpoint(l))
	}
	for _, n := range d.AddedNetworks {
		networks = without(networks, removedNetwork(n))
	}
	for _, l := range d.AddedLeases {
		endpoints = slices.DeleteFunc(endpoints, func(a nat.EndpointSpec) bool { return isLease(a, l) })
	}
	r.Networks = networks[max(len(networks)-portset.MostRemoved, 0):]
	r.Endpoints = endpoints[max(len(endpoints)-portset.MostRemoved, 0):]
}

// noteAllPublished forgets of what was removed all that is published.
func (e *core) noteAllPublished() {
	r := &e.stored.removed
	r.Mappings = portset.Removed(r.Mappings).Without(e.mappings.All)
	r.Networks, r.Endpoints = slices.Clone(r.Networks), slices.Clone(r.Endpoints)
	r.Networks = slices.DeleteFunc(r.Networks, func(n nat.Network) bool {
		have, ok := e.ipam.Network(n.Name)
		return ok && removedNetwork(have) == n
	})
	r.Endpoints = slices.DeleteFunc(r.Endpoints, func(a nat.EndpointSpec) bool { return isLease(a, e.ipam.Lease(a.Name)) })
}

// removedNetwork is a network as it is recorded: its next address does not count.
func removedNetwork(n nat.Network) nat.Network {
	n.Next = nat.Network{}.Next
	return n.WithDefaults()
}

func removedEndpoint(l *ipam.Lease) nat.EndpointSpec {
	return nat.EndpointSpec{Name: l.Name, Network: l.Network, Address: l.Addr}
}

func isLease(a nat.EndpointSpec, l *ipam.Lease) bool {
	return l != nil && a.Name == l.Name && a.Network == l.Network && a.Address == l.Addr
}

func without[T comparable](all []T, one T) []T {
	return slices.DeleteFunc(all, func(a T) bool { return a == one })
}

// takeOut takes out of a table that nft(8) has loaded what was removed or replaced after it
// was saved. What was replaced is restored afterwards with all else that the table lacks.
func (e *core) takeOut(ctx context.Context, kept nat.StoredState) error {
	c, lines := e.outdated(kept)
	if c.Empty() && c.ipamDiff.Empty() {
		return nil
	}
	p, err := e.plan(c)
	if err != nil {
		return err
	}
	var undo undoList
	if p.hairpins = e.hairpins.Plan(ctx, p.countsAfter.Map, p.countsBefore.Map, c.routes); p.hairpins != nil {
		undo.add(p.hairpins.PutBack())
	}
	if err := e.commitTable(p, &undo); err != nil {
		return undo.after(err)
	}
	e.note(p)
	e.warnOfFlows(e.deleteStale(p))
	e.removeNotes(p.notes.Ended)
	e.events.counts.Unpublished += portset.Len(c.Removed)
	for _, event := range eventsOf(&c.Change, e.now()) {
		e.events.SendFirst(event)
	}
	for _, m := range portset.Collapse(c.Removed) {
		lines = append(lines, m.String())
	}
	for i, line := range lines {
		if i == maxLostLines {
			e.log.Warn("more of a ruleset that was loaded is taken out", "count", len(lines)-i)
			break
		}
		e.log.Warn("part of a ruleset that was loaded is taken out, because it had been removed or replaced", "was", line)
	}
	message := fmt.Sprintf("a ruleset that was loaded had %d ports, endpoints and networks that had been removed or replaced, and they were taken out",
		len(c.Removed)+len(c.ipamDiff.RemovedLeases)+len(c.ipamDiff.RemovedNetworks))
	e.events.SendFirst(nat.Event{Kind: nat.EventHost, Time: e.now(), Message: message})
	return nil
}

// outdated returns the change that takes out of the table what was removed or replaced, and
// the endpoints and networks among that for the log.
func (e *core) outdated(kept nat.StoredState) (c change, lines []string) {
	after, lines := e.outdatedIPAM(kept)
	e.changeIPAM(&c, after)
	gone := map[string]*ipam.Lease{}
	for _, l := range c.ipamDiff.RemovedLeases {
		gone[l.Name] = l
	}
	ports := portset.NewSet()
	for _, m := range allMappings(kept.State) {
		for p := range portset.Expand(&m) {
			ports.Put(p)
		}
	}
	removed := portset.Removed(kept.Removed.Mappings).Finder()
	for have := range e.mappings.All {
		l := gone[have.Name]
		ofLease := l != nil && l.Addr == have.Backend.Addr()
		for p, want := range ports.Split(have) {
			parts := removed(p)
			switch {
			case want != nil && want.SameAs(p.Target):
				continue
			case want != nil && want.SameButEnd(p.Target), ofLease:
				parts = slices.Values([]portset.Port{p})
			}
			for part := range parts {
				c.Removed = append(c.Removed, part)
				if ofLease {
					c.released = append(c.released, part)
				}
			}
		}
	}
	return c, lines
}

// outdatedIPAM returns networks and leases without those that were removed, and with the
// stored form of networks that were changed.
func (e *core) outdatedIPAM(kept nat.StoredState) (after *ipam.State, lines []string) {
	stored, has := map[string]nat.Network{}, map[string]bool{}
	for _, n := range kept.Networks {
		stored[n.Name] = n.WithDefaults()
	}
	endpoints := map[string]nat.EndpointSpec{}
	for _, a := range kept.Endpoints {
		endpoints[a.Name] = a
	}
	var leases []nat.EndpointSpec
	for _, l := range e.ipam.Leases() {
		a := removedEndpoint(l)
		removed := slices.ContainsFunc(kept.Removed.Endpoints, func(r nat.EndpointSpec) bool { return isLease(r, l) })
		if removed && endpoints[l.Name].Address != l.Addr {
			lines = append(lines, l.String())
			continue
		}
		leases = append(leases, a)
		has[l.Network] = true
	}
	after = ipam.New()
	for _, n := range e.ipam.Networks() {
		s, known := stored[n.Name]
		known = known && s.Prefix == n.Prefix
		removed := slices.Contains(kept.Removed.Networks, removedNetwork(n))
		switch {
		case known && (removed || removedNetwork(s) == removedNetwork(n)):
			n = s // with its next address
		case removed && !has[n.Name]:
			lines = append(lines, ipam.DescribeNetwork(n))
			continue
		}
		if err := after.AddNetwork(n); err != nil { // as it was added before
			return e.ipam, nil
		}
	}
	for _, a := range leases {
		if err := after.Add(a); err != nil { // the gateway of the stored network, perhaps
			lines = append(lines, fmt.Sprintf("endpoint %s %s: %v", a.Name, a.Address, err))
		}
	}
	for _, n := range after.Networks() {
		if s := stored[n.Name]; s.Prefix == n.Prefix && s.Next.IsValid() {
			_ = after.SetNext(n.Name, s.Next) // AddNetwork has set the same
		}
	}
	return after, lines
}
