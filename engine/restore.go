// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// An engine that opens has up to two records: the kernel's table, and the stored state.
// They differ by the change during which a process was killed, by what other programs did
// to the table while no engine with the store was open, and if the table was lost.
//
//   - There is no table: the machine was rebooted, or the ruleset flushed. The stored
//     state is restored.
//   - The table is the one that was stored. What it lacks was removed from it, by a command
//     without the daemon or by hand, and is not restored.
//   - The table is another one: the stored one was lost, and mappings were published
//     since. What it lacks is restored. If it was loaded from a ruleset that nft(8) had saved,
//     what was removed or replaced since is taken out of it first; see removed.go.
//
// Where both have a frontend, an endpoint or a network, the kernel's counts.

// load loads the stored state, if there is a store.
func (e *core) load() error {
	e.stored.record = nil
	if e.opts.Store == nil {
		return nil
	}
	if e.stored.namespace == "" {
		var err error
		if e.stored.namespace, err = e.namespace.ID(); err != nil {
			return err
		}
	}
	r, found, err := e.opts.Store.Load()
	if err != nil || !found {
		return err
	}
	e.stored.record, e.stored.removed = &r, r.Removed
	return nil
}

// reconcile restores what the kernel has lost of the stored state, and stores the result.
func (e *core) reconcile(ctx context.Context) error {
	switch {
	case e.opts.Store == nil:
		return nil
	case e.stored.record == nil:
		// The store is new: an error is one of its configuration.
		e.stored.reconciled = true
		return e.save(e.state())
	}
	if err := e.retryOnConflict(ctx, func() error { return e.restore(ctx, *e.stored.record) }); err != nil {
		return fmt.Errorf("restore what was kept: %w", err)
	}
	e.noteAllPublished()
	e.stored.reconciled, e.stored.record = true, nil
	e.saveFound()
	return nil
}

// restore adds to the table what it has lost, and takes out of it what an older ruleset has
// brought back.
func (e *core) restore(ctx context.Context, kept nat.StoredState) error {
	is := e.table.Loaded()
	same := is != "" && (kept.Table == e.stored.markOf(is) || kept.Table == e.stored.anyMark())
	if !same && e.table.Copied() {
		if err := e.takeOut(ctx, kept); err != nil {
			return err
		}
	}
	u := e.merge(kept.State)
	e.reserved.Release(u.ports)
	gone, goneIPAM := portset.Change{Moved: u.replaced}, ipam.Diff{RemovedLeases: u.moved}
	if same {
		gone.Removed, goneIPAM.RemovedNetworks = u.ports, u.networks
		goneIPAM.RemovedLeases = append(u.leases, u.moved...)
		u.skipMissing("it was taken out of the table meanwhile")
	}
	e.noteRemoved(&gone, &goneIPAM)
	logLost(e.log, u.skipped)
	if same {
		return nil
	}
	if len(u.expired) != 0 { // their notes were lost with the table
		e.warnOfFlows(e.endContradicting(e.endOf(u.expired)))
	}
	c := change{Change: portset.Change{Added: u.ports}}
	e.changeIPAM(&c, u.ipam)
	if c.Empty() && c.ipamDiff.Empty() {
		return nil
	}
	if err := e.lookUpReachable(&c); err != nil {
		return err
	}
	p, err := e.planRestored(&c, u)
	if err != nil {
		return err
	}
	e.findPlaces(p.exits.Hosts())
	var undo undoList
	if err := e.forward(p, &undo); err != nil {
		return undo.after(err)
	}
	if err := e.commitTable(p, &undo); err != nil {
		return undo.after(err)
	}
	// As if it had been in the table: a port that another process holds prevents a proxy,
	// not the mapping.
	if err := e.adopt(ctx); err != nil {
		return err
	}
	e.hairpins.Apply(e.hairpins.Plan(ctx, p.countsAfter.Map, p.countsBefore.Map, c.routes))
	e.log.Info("restored the stored state", "networks", len(c.newNetworks), "endpoints", len(u.leases), "ports", len(u.ports))
	return nil
}

// planRestored plans what is restored, without ranges for which there is no room.
func (e *core) planRestored(c *change, u *merged) (*plan, error) {
	for {
		p, err := e.plan(*c)
		var many *nat.RangesError
		if !errors.As(err, &many) {
			return p, err
		}
		want := portset.Whole(&many.Want)
		i := slices.IndexFunc(c.Added, func(p portset.Port) bool { return p.Contains(want.Frontend) })
		if i < 0 { // what was there would have to be cut
			i = len(c.Added) - 1
		}
		if i < 0 {
			return nil, err
		}
		u.skipped = append(u.skipped, skippedLine{c.Added[i].Mapping().String(), err.Error()})
		e.log.Warn("part of the stored state is not restored", "kept", c.Added[i].Mapping().String(), "reason", err)
		e.reserved.Release(c.Added[i : i+1])
		c.Added = slices.Delete(c.Added, i, i+1)
	}
}

// lookUpReachable looks up the routes to the backends of what is restored. One that cannot
// be looked up has no segment until the host is followed.
func (e *core) lookUpReachable(c *change) error {
	routes := hostnet.NewRouteCache(e.host.Lookup, hostnet.RouteMap{})
	backends := portset.Count(c.After)
	// What cannot be looked up with all the others is tried alone.
	_ = routes.Fetch(backends.Keys, e.host.LookupAll)
	for a := range backends.Keys {
		if _, err := routes.Lookup(a); err != nil {
			e.log.Warn("route to a backend could not be looked up", "backend", a, "error", err)
		}
	}
	e.warnUnreachable(routes)
	c.routes = routes.Routes
	return e.lookUpLinks(c)
}

// merged is the kernel's state together with the stored one.
type merged struct {
	ipam *ipam.State
	// networks, leases and ports are those that the kernel lacks. The ports are
	// reserved.
	networks []nat.Network
	leases   []*ipam.Lease
	ports    []portset.Port
	// expired are ports that would not be restored because their time is over.
	expired []portset.Port
	// replaced are ports to which the kernel gives another target than the store, and moved
	// are leases of the store that have another address in the kernel.
	replaced []portset.Move
	moved    []*ipam.Lease
	// skipped describes what is not restored.
	skipped []skippedLine
	// absent names networks and endpoints that are missing in the kernel.
	absent []string
	// without are the addresses of skipped endpoints, by name. Mappings to them are not
	// restored either, because the addresses may be in use by others.
	without map[string]netip.Addr
}

// skippedLine is something in the store that is not restored.
type skippedLine struct{ what, reason string }

// merge finds what the kernel lacks of the stored state, and reserves it.
func (e *core) merge(kept nat.State) *merged {
	u := &merged{ipam: e.ipam.Clone(), without: map[string]netip.Addr{}}
	for _, n := range kept.Networks {
		u.addNetwork(n)
	}
	for _, a := range kept.Endpoints {
		u.addEndpoint(a)
	}
	for _, n := range u.networks { // last, because SetNext skips addresses in use
		if n.Next.IsValid() {
			_ = u.ipam.SetNext(n.Name, n.Next) // AddNetwork has set the same
		}
	}
	now := e.now()
	for _, a := range kept.Endpoints {
		u.addPorts(e, a.Mappings(a.Address), now)
	}
	u.addPorts(e, kept.Mappings, now)
	u.skipDisagreeing(e)
	return u
}

func (u *merged) addNetwork(want nat.Network) {
	want = want.WithDefaults()
	what, reason := ipam.DescribeNetwork(want), ""
	var taken *nat.TakenError
	if have, ok := u.ipam.Network(want.Name); ok {
		if is := ipam.DescribeNetwork(have); is != what {
			u.skipped = append(u.skipped, skippedLine{what, "it is " + is})
		}
		return
	}
	switch err := u.ipam.AddNetwork(want); {
	case errors.As(err, &taken):
		reason = "it overlaps " + taken.Holder
	case err != nil:
		reason = err.Error()
	default:
		u.networks = append(u.networks, want)
		u.absent = append(u.absent, what)
		return
	}
	u.skipped = append(u.skipped, skippedLine{what, reason})
}

func (u *merged) addEndpoint(a nat.EndpointSpec) {
	what := fmt.Sprintf("endpoint %s %s", a.Name, a.Address)
	have := u.ipam.Lease(a.Name)
	if have != nil && have.Addr == a.Address {
		return
	}
	reason := ""
	if have != nil {
		reason = fmt.Sprintf("its address is %s", have.Addr)
		u.moved = append(u.moved, &ipam.Lease{Name: a.Name, Network: a.Network, Addr: a.Address})
	} else if err := addEndpoint(u.ipam, a); err != nil {
		reason = err.Error()
	}
	if reason != "" {
		u.skipped = append(u.skipped, skippedLine{what, reason})
		u.without[a.Name] = a.Address
		return
	}
	u.leases = append(u.leases, u.ipam.Lease(a.Name))
	u.absent = append(u.absent, what)
}

// addPorts adds the mappings that have not expired and whose ports are free.
func (u *merged) addPorts(e *core, ms []nat.Mapping, now time.Time) {
	for _, m := range ms {
		if over(&m, now) {
			u.expired = slices.AppendSeq(u.expired, portset.Expand(&m))
			continue
		}
		if u.without[m.Name] == m.Backend.Addr() {
			continue
		}
		for whole := range portset.Expand(&m) {
			for p, have := range e.mappings.Split(whole) {
				switch {
				case have == nil:
					u.addFree(e, p)
				case !have.SameAs(p.Target):
					u.replaced = append(u.replaced, portset.Move{Frontend: p.Frontend, From: p.Target, To: *have, More: p.More})
					is := portset.Port{Frontend: p.Frontend, Target: *have, More: p.More}
					u.skipped = append(u.skipped, skippedLine{p.Mapping().String(), "it is " + is.Mapping().String()})
				}
			}
		}
	}
}

// addFree adds a port, or of a range the ports that are free.
func (u *merged) addFree(e *core, p portset.Port) {
	err := e.reserved.ReservePort(&p)
	switch {
	case err == nil:
		u.ports = append(u.ports, p)
	case p.More == 0:
		u.skipped = append(u.skipped, skippedLine{p.Mapping().String(), e.conflict(p, err).Error()})
	default:
		middle := p.First() + p.More/2
		u.addFree(e, p.Part(p.First(), middle))
		u.addFree(e, p.Part(middle+1, p.Last()))
	}
}

// skipDisagreeing skips ports that would disagree with others about masquerade.
func (u *merged) skipDisagreeing(e *core) {
	if e.checkMasquerade(&portset.Change{Added: u.ports}) == nil {
		return
	}
	kept, ranged := map[portset.Called][]portset.Port{}, (&portset.Change{Added: u.ports}).HasRange()
	u.ports = slices.DeleteFunc(u.ports, func(p portset.Port) bool {
		of := backendOf(p)
		if ranged {
			of.Backend = netip.AddrPortFrom(of.Backend.Addr(), 0)
		}
		err := e.checkMasquerade(&portset.Change{Added: append(slices.Clip(kept[of]), p)})
		if err == nil {
			kept[of] = append(kept[of], p)
			return false
		}
		u.skipped = append(u.skipped, skippedLine{p.Mapping().String(), err.Error()})
		e.reserved.Release([]portset.Port{p})
		return true
	})
}

// skipMissing skips all that the kernel lacks.
func (u *merged) skipMissing(reason string) {
	for _, what := range u.absent {
		u.skipped = append(u.skipped, skippedLine{what, reason})
	}
	for _, m := range portset.Collapse(u.ports) {
		u.skipped = append(u.skipped, skippedLine{m.String(), reason})
	}
}

// maxLostLines bounds how many lines the log has of what is not restored.
const maxLostLines = 32

// logLost logs what is not restored.
func logLost(log *slog.Logger, skipped []skippedLine) {
	for i, line := range skipped {
		if i == maxLostLines {
			log.Warn("more of the stored state is not restored", "count", len(skipped)-i)
			return
		}
		log.Warn("part of the stored state is not restored", "kept", line.what, "reason", line.reason)
	}
}
