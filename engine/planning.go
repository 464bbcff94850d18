// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/nftnat/nftnat/engine/internal/hairpin"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/engine/internal/segment"
	"github.com/nftnat/nftnat/engine/internal/wayout"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// change is a change of what is published, in one transaction.
type change struct {
	portset.Change
	// The engine chose the ports of the last so many of Added.
	chosen int
	// routes to the backends of what is added and moved.
	routes hostnet.RouteMap
	// killTCP ends the TCP flows that contradict the change as well as those of UDP,
	// and the connections that the proxies of what it removes carry.
	killTCP bool
	// released are the ports of removed endpoints, whose TCP flows end too. Each is also in
	// Removed; or in Moved, if another mapping gets the frontend; or in neither, if that
	// mapping is equal.
	released []portset.Port
	// ipam is the state of networks and leases after the change; nil: the present one.
	// ipamDiff is the difference.
	ipam     *ipam.State
	ipamDiff ipam.Diff
	// edit is the change of one lease, which is made in the present state. The caller reverts
	// it after an error; nil: there is none.
	edit *ipam.Edit
	// newNetworks need IP forwarding.
	newNetworks []nat.Network
	// onLink is what is on link by the interfaces that lead to the backends of what is added
	// and moved, if it is not known yet.
	onLink map[segment.Link][]netip.Prefix
}

// plan is a change with its consequences. Planning asks the kernel for nothing and changes
// nothing. (The exported [Plan] is another thing: the ruleset as text.)
type plan struct {
	change
	published *published // before the change
	layout    *portset.Plan
	// countsBefore are the ports that the change removes or moves, by their backends, and
	// countsAfter those that it adds or moves.
	countsBefore, countsAfter portset.Counts
	segments                  *segment.Plan
	ipamAfter                 *ipam.State // after the change
	notes                     schema.NoteChange
	// exits is what the change does to the exits.
	exits *wayout.Draft
	// hairpins is what the change does to bridge ports; nil: nothing.
	hairpins *hairpin.Draft
}

// plan plans a change of what is published. The error is a *nat.RangesError.
func (l *published) plan(c change) (*plan, error) {
	p := &plan{change: c, published: l, ipamAfter: c.ipam}
	var err error
	if p.layout, err = l.mappings.Plan(&p.Change); err != nil {
		return nil, err
	}
	if p.Apart == nil && !p.layout.IsPlain() {
		if p.Apart = l.apart(&p.Change, p.mappingsAfter); p.Apart != nil {
			if p.layout, err = l.mappings.Plan(&p.Change); err != nil {
				return nil, err
			}
		}
	}
	p.notes = schema.NotesOf(p.noted(), l.over)
	if p.ipamAfter == nil {
		p.ipamAfter = l.ipam
	}
	p.exits = l.planExits(p)
	p.countsBefore, p.countsAfter = c.Count()
	p.segments = l.segments.Plan(segment.Change{
		Touched: p.countsBefore.Addrs(),
		Left:    func(a netip.Addr) int { return l.backends.Of(a) - p.countsBefore.Of(a) + p.countsAfter.Of(a) },
		Facts:   segment.Facts{Links: linksTo(p.countsAfter, c.routes), OnLink: c.onLink},
	})
	return p, nil
}

// mappingsAfter returns all that is published after a change.
func (p *plan) mappingsAfter() portset.Set {
	after := p.published.mappings.Clone()
	after.Do(p.layout)
	return after
}

// noted returns the change as it is for notes. Those on what has a time-out are on entries of the
// table, thus on whole ranges. A port that is taken out of such a range, which stays, has one of its
// own until its flows have ended.
func (p *plan) noted() *portset.Change {
	c := &p.Change
	if p.layout.IsPlain() {
		return c
	}
	gone := slices.AppendSeq(slices.Clone(p.layout.Cleaned), p.layout.Deleted)
	come := slices.AppendSeq(slices.Clone(p.layout.Settled), p.layout.Added)
	var n portset.Change
	n.Removed, n.Added = portsWithout(leases(gone), leases(come)), portsWithout(leases(come), leases(gone))
	covered := func(port *portset.Port) bool {
		return slices.ContainsFunc(n.Removed, func(r portset.Port) bool {
			return r.Contains(port.Frontend) && !slices.ContainsFunc(n.Added, func(a portset.Port) bool { return a.First() == r.First() })
		})
	}
	var taken []portset.Port
	for _, port := range c.Removed {
		switch {
		case port.Expires == 0:
			taken = append(taken, port)
		case p.published.mappings.Ranged(&port) && !covered(&port):
			port.Expires = 0
			if port.More != 0 { // the note on the range may have the place
				taken = append(taken, port.Part(port.First(), port.First()))
				port = port.Part(port.First()+1, port.Last())
			}
			taken = append(taken, port)
		}
	}
	n.Removed = append(n.Removed, taken...)
	return &n
}

// leases returns the ports of entries that have a time-out.
func leases(es []portset.Entry) (ports []portset.Port) {
	for _, e := range es {
		if e.Kind != portset.EntryHole && e.Expires != 0 {
			ports = append(ports, e.Port)
		}
	}
	return ports
}

// portsWithout returns the ports that others are not.
func portsWithout(ports, others []portset.Port) (left []portset.Port) {
	n := make(map[portset.Port]int, len(others))
	for _, p := range others {
		n[p]++
	}
	for _, p := range ports {
		if n[p] > 0 {
			n[p]--
			continue
		}
		left = append(left, p)
	}
	return left
}

// transaction returns the change of the table's elements at that time, with records of
// bridge ports that go and come.
func (p *plan) transaction(now time.Time, goneRecords, comeRecords []nft.Element) nft.Change {
	gone, come := p.records(now)
	options := p.optionSteps(now)
	gone, come = append(gone, options.gone...), append(come, options.come...)
	return changeOf(now, p.layout, append(gone, goneRecords...), append(come, comeRecords...))
}

// optionSteps returns what a change of ranges does to the elements of options, and which of single
// ports are added before it.
func (p *plan) optionSteps(now time.Time) optionSteps {
	first := p.limitsFirst(now)
	if p.layout.IsPlain() {
		return optionSteps{prepared: first, waits: len(first) != 0}
	}
	after := p.mappingsAfter()
	return optionsOf(&p.published.mappings, &after, p.layout, p.Removed, keysOf(first), now)
}

// limitsFirst returns the limits of single ports that the change publishes. They are added before
// it: a packet asks for the limit before it asks for the port, and would find the port alone if both
// came in between. Where a port has gone from the same place, for which they would count until the
// change, they are left to it.
func (p *plan) limitsFirst(now time.Time) (es []nft.Element) {
	var limited map[nft.ElementKey]bool // before the change
	for i := range p.Added {
		if p.Added[i].From.IsZero() || p.Added[i].More != 0 {
			continue
		}
		if limited == nil {
			limited = map[nft.ElementKey]bool{}
			for port := range p.Before {
				for _, el := range schema.LimitElements(port, now) {
					limited[el.ElementKey()] = true
				}
			}
		}
		limits := schema.LimitElements(p.Added[i], now)
		if !slices.ContainsFunc(limits, func(el nft.Element) bool { return limited[el.ElementKey()] }) {
			es = append(es, limits...)
		}
	}
	return es
}

func keysOf(es []nft.Element) map[nft.ElementKey]bool {
	keys := make(map[nft.ElementKey]bool, len(es))
	for _, el := range es {
		keys[el.ElementKey()] = true
	}
	return keys
}

// withoutKeys returns the elements that do not have the keys.
func withoutKeys(es []nft.Element, keys map[nft.ElementKey]bool) []nft.Element {
	return slices.DeleteFunc(es, func(el nft.Element) bool { return keys[el.ElementKey()] })
}

// late returns the elements that are removed last.
func (p *plan) late(now time.Time) []nft.Element {
	if p.layout.IsPlain() {
		return p.limitsOfRemoved()
	}
	return p.optionSteps(now).late
}

// withoutLate returns elements without those that the change leaves until the end.
func (p *plan) withoutLate(es []nft.Element, now time.Time) []nft.Element {
	late := p.late(now)
	if len(late) == 0 || p.layout.IsPlain() {
		return es
	}
	return withoutKeys(es, keysOf(late))
}

// records returns the elements that go and come with those of ports.
func (p *plan) records(now time.Time) (gone, come []nft.Element) {
	gone, come = schema.IPAMDiff(p.ipamDiff)
	goneExits, comeExits := p.exits.Diff(p.published.exits.places)
	gone, come = append(gone, schema.OutElements(goneExits, now)...), append(come, schema.OutElements(comeExits, now)...)
	gone, come = append(gone, p.notes.Gone...), append(come, p.notes.Come...)
	if p.layout.IsPlain() {
		limitsGone, limitsCome := schema.LimitsDiff(&p.Change, now)
		if first := p.limitsFirst(now); len(first) != 0 {
			limitsCome = withoutKeys(limitsCome, keysOf(first))
		}
		masqueradesGone, masqueradesCome := schema.MasqueradesDiff(&p.Change, p.published.options.Masqueraded)
		gone, come = slices.Concat(gone, p.early(limitsGone), masqueradesGone), slices.Concat(come, limitsCome, masqueradesCome)
	}
	return append(segmentElements(p.segments.Removed), gone...), append(segmentElements(p.segments.Added), come...)
}

// limitsOfRemoved returns the limits of ports that the change removes, unless it adds them for
// others. They are removed last: until its proxy is closed, a port that nobody may reach has to
// be limited.
func (p *plan) limitsOfRemoved() (es []nft.Element) {
	added := map[nft.ElementKey]bool{}
	for _, port := range p.Removed {
		for _, el := range schema.LimitElements(port, time.Time{}) {
			if schema.LimitsPort(el) {
				es = append(es, el)
			}
		}
	}
	if len(es) == 0 {
		return nil
	}
	for _, port := range p.Added {
		for _, el := range schema.LimitElements(port, time.Time{}) {
			added[el.ElementKey()] = true
		}
	}
	es = slices.DeleteFunc(es, func(el nft.Element) bool { return added[el.ElementKey()] })
	return p.unshared(es)
}

// unshared returns the elements without those that ports need which do not change. Two ports
// have one element only if they overlap, as others can make them.
func (p *plan) unshared(gone []nft.Element) []nft.Element {
	if len(gone) == 0 || !p.published.reserved.AnyOverlapped() {
		return gone
	}
	stays := p.published.mappings.Clone()
	for port := range p.Before {
		stays.DeleteAll(port)
	}
	shared := map[nft.ElementKey]bool{}
	for _, el := range schema.OptionElements(stays.All, time.Time{}) {
		shared[el.ElementKey()] = true
	}
	return slices.DeleteFunc(gone, func(el nft.Element) bool { return shared[el.ElementKey()] })
}

// early returns the elements without those that are removed last.
func (p *plan) early(gone []nft.Element) []nft.Element {
	if len(gone) == 0 {
		return nil
	}
	late := map[nft.ElementKey]bool{}
	for _, el := range p.limitsOfRemoved() {
		late[el.ElementKey()] = true
	}
	return p.unshared(slices.DeleteFunc(gone, func(el nft.Element) bool { return late[el.ElementKey()] }))
}

// wholeTable returns the change that adds all elements after the change to a new table, at that
// time. bridges are the records of bridge ports.
func (p *plan) wholeTable(now time.Time, bridges []nft.Element) nft.Change {
	options := func() []nft.Element { return schema.OptionElements(p.After, now) }
	all, entries, count := iter.Seq[portset.Port](p.After), iter.Seq[portset.Entry](p.layout.Added), p.LenAfter()
	if p.published.mappings.LenEntries() != 0 || !p.layout.IsPlain() { // else nothing is published but what the change adds
		after := p.mappingsAfter()
		all, entries, count = after.Whole, after.Entries, after.LenEntries()
		options = func() []nft.Element { return schema.SetOptions(&after, now) }
	}
	records := append(schema.IPAMElements(p.ipamAfter.Networks(), p.ipamAfter.Leases()), p.notes.Ended...)
	records = append(records, schema.AllNotes(all, p.published.over)...)
	records = append(records, schema.OutElements(p.exits.Exits(p.published.exits.places), now)...)
	records = append(records, options()...)
	records = append(segmentElements(p.published.segments.After(p.segments)), records...)
	return additions(now, entries, count, append(records, bridges...))
}

// forwarding returns what the change needs IP forwarding for. Backends that only proxies
// serve need none.
func (p *plan) forwarding() hostnet.ForwardingNeeds {
	return forwardingNeeds(p.countsAfter, p.routes, p.newNetworks)
}

// forwardingNeeds returns what backends and networks need IP forwarding for.
func forwardingNeeds(backends portset.Counts, routes hostnet.RouteMap, networks []nat.Network) (n hostnet.ForwardingNeeds) {
	for backend := range backends.Keys {
		n.AddLink(routes.Of(backend).Link, backend.Is4())
	}
	for _, network := range networks {
		n.AddLink("", network.Gateway.Is4())
	}
	return n
}

// state returns the state after the change.
func (p *plan) state() nat.State { return stateOf(p.ipamAfter, p.storedPorts) }

// state returns the state that is stored for the next boot.
func (l *published) state() nat.State { return (&plan{published: l, ipamAfter: l.ipam}).state() }

// storedPorts yields the ports that are published after the change, except overlapped ones,
// which another program has added and a file cannot have.
func (p *plan) storedPorts(yield func(portset.Port) bool) {
	gone := portset.NewSet()
	for port := range p.Before {
		gone.Add(port)
	}
	some := p.LenBefore() != 0
	for have := range p.published.mappings.All {
		if !some {
			if !p.stored(have, yield) {
				return
			}
			continue
		}
		for port := range gone.Without(have) {
			if !p.stored(port, yield) {
				return
			}
		}
	}
	for port := range p.After {
		if !p.stored(port, yield) {
			return
		}
	}
}

// stored yields a port, or a range without overlapped ports.
func (p *plan) stored(port portset.Port, yield func(portset.Port) bool) bool {
	r := p.published.reserved
	if port.More == 0 || !r.AnyOverlappedIn(&port) {
		return r.IsOverlapped(port.Frontend) || yield(port)
	}
	for single := range port.Singles {
		if !r.IsOverlapped(single.Frontend) && !yield(single) {
			return false
		}
	}
	return true
}

// eventsOf returns the events of a change.
func eventsOf(c *portset.Change, now time.Time) (es []nat.Event) {
	if len(c.Removed) != 0 {
		es = append(es, nat.Event{Kind: nat.EventUnpublished, Time: now, Mappings: portset.Collapse(c.Removed)})
	}
	if added := slices.AppendSeq(make([]portset.Port, 0, c.LenAfter()), c.After); len(added) != 0 {
		es = append(es, nat.Event{Kind: nat.EventPublished, Time: now, Mappings: portset.Collapse(added)})
	}
	return es
}
