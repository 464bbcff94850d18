// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/engine/internal/table"
	"github.com/nftnat/nftnat/engine/internal/wayout"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// What a backend of a masqueraded network sends from a published port leaves by its frontend:
// an exit. Exits follow from the published ports, the networks, and the interfaces that have
// the addresses of frontends.

// exits are those of what is published.
type exits struct {
	index *wayout.Index
	// places are those by which the exits in the table were made. They have all addresses of
	// frontends that are for one.
	places wayout.Places
	// due is whether another frontend takes the place of one that expired, and is not in the
	// table yet.
	due bool
	// unended are checks of exits that have moved whose flows have not been ended yet.
	unended []*wayout.Check
}

// planExits returns the change of the exits that a change makes.
func (l *published) planExits(p *plan) *wayout.Draft {
	if changesMasquerade(p.ipamDiff) {
		after := p.mappingsAfter()
		return l.exits.index.Replace(wayout.Of(after.All, p.ipamAfter.Masquerades))
	}
	if n, _ := p.ipamAfter.Len(); n == 0 {
		return l.exits.index.Unchanged()
	}
	if !l.mappings.HasRanges() && !p.HasRange() {
		return l.exits.index.Draft(&p.Change, nil, p.ipamAfter.Masquerades)
	}
	return l.exits.index.Draft(&p.Change, func() iter.Seq[portset.Port] {
		after := p.mappingsAfter()
		return after.All
	}, p.ipamAfter.Masquerades)
}

// changesMasquerade reports whether other addresses are masqueraded than before.
func changesMasquerade(d ipam.Diff) bool {
	masqueraded := func(ns []nat.Network) map[netip.Prefix]bool {
		ps := map[netip.Prefix]bool{}
		for _, n := range ns {
			if !n.NoMasquerade {
				ps[n.Prefix] = true
			}
		}
		return ps
	}
	before, after := masqueraded(d.RemovedNetworks), masqueraded(d.AddedNetworks)
	for p := range after {
		if !before[p] {
			return true
		}
	}
	return len(before) != len(after)
}

// indexExits makes the index of the exits of what is published.
func (l *published) indexExits() {
	l.exits.index = wayout.New()
	if n, _ := l.ipam.Len(); n != 0 {
		l.exits.index = wayout.Of(l.mappings.All, l.ipam.Masquerades)
	}
	l.exits.due = false
}

// outElements returns the elements of all exits.
func (l *published) outElements(now time.Time) []nft.Element {
	return schema.OutElements(l.exits.index.Exits(l.exits.places), now)
}

// findPlaces looks up the places of addresses that are not known yet. If that fails they are
// taken to be absent until the host is followed.
func (e *core) findPlaces(hosts map[netip.Addr]bool) {
	places := e.exits.places
	unknown := slices.DeleteFunc(slices.Collect(maps.Keys(hosts)), func(a netip.Addr) bool {
		_, known := places[a]
		return known
	})
	if len(unknown) == 0 {
		return
	}
	found, err := e.lookUpPlaces(hosts)
	if err != nil {
		e.log.Warn("the interfaces of frontends could not be looked up", "error", err)
	}
	if places == nil {
		places = found
	}
	for _, a := range unknown {
		places[a] = found[a]
	}
	e.exits.places = places
}

// lookUpPlaces returns by which interfaces packets from the host's addresses may leave: by
// those that have the address. One that is on no interface but loopback and dummies, or that
// only a route makes local, is there for all of them.
func (e *core) lookUpPlaces(hosts map[netip.Addr]bool) (wayout.Places, error) {
	places := wayout.Places{}
	interfaces, err := e.host.Interfaces()
	if err != nil {
		return places, err
	}
	for _, i := range interfaces {
		link := i.Name
		if i.Loopback || i.Dummy {
			link = wayout.AnyLink
		} else if nft.InterfaceKey(link) == (nft.Key{}) {
			continue // nft(8) could not read it
		}
		for _, a := range i.Addrs {
			if !slices.Contains(places[a], link) {
				places[a] = append(places[a], link)
			}
		}
	}
	for a := range hosts {
		if _, found := places[a]; found {
			continue
		}
		r, err := e.host.Lookup(a)
		if err != nil {
			return places, err
		}
		places[a] = nil
		if r.Kind == hostnet.Local {
			places[a] = []string{wayout.AnyLink}
		}
	}
	return places, nil
}

// followExits makes the exits follow the addresses of frontends from one interface to another.
// Where an address has left the host, packets leave as if the port were not published.
func (e *core) followExits() error {
	hosts := e.exits.index.Hosts()
	if len(hosts) == 0 {
		e.exits.unended = nil
		return nil
	}
	places, err := e.lookUpPlaces(hosts)
	if err != nil {
		return err
	}
	removed, added := e.exits.index.Moved(e.exits.places, places)
	if len(removed)+len(added) == 0 {
		e.exits.places = places
		return e.endMoved()
	}
	now := e.now()
	if e.table.Present() {
		err := e.table.UpdateFinally(nft.Change{Delete: inSets(schema.OutElements(removed, now)), Add: inSets(schema.OutElements(added, now))})
		if err != nil {
			return err // the table is loaded before the next attempt
		}
	}
	e.exits.places = places
	e.exits.unended = append(e.exits.unended, e.exits.index.CheckMoved(removed, added, places))
	return e.endMoved()
}

// endMoved ends the flows of exits that have moved. What fails is left for the next call.
func (e *core) endMoved() error {
	for len(e.exits.unended) != 0 {
		if err := e.endLeft(nat.UDP, e.exits.unended[0]); err != nil {
			return err
		}
		e.exits.unended = e.exits.unended[1:]
	}
	return nil
}

// outMaps are the names of the maps of exits.
func (e *core) outMaps() (names []string) {
	for _, s := range e.table.Rules.Sets {
		if schema.IsOut(s.Name) {
			names = append(names, s.Name)
		}
	}
	return names
}

// adoptExits makes the maps of exits hold what they should, if they do not. known is whether
// this engine has made them: then another program has changed them.
func (e *core) adoptExits(found []nft.Element, known bool) error {
	if e.opts.ReadOnly {
		return nil
	}
	e.findPlaces(e.exits.index.Hosts())
	ch, later := schema.OutDifference(found, e.outElements(e.now()))
	e.exits.due = later
	if len(ch.Delete)+len(ch.Add) == 0 {
		return nil
	}
	if known {
		var d table.Damage
		for _, el := range ch.Delete {
			d.Add("an engine makes no such element: %s", el)
		}
		for _, el := range ch.Add {
			d.Add("an element is missing: %s", el)
		}
		e.table.LogDamage(d)
	}
	ch.Delete, ch.Add = inSets(ch.Delete), inSets(ch.Add)
	err := e.table.Update(ch)
	if errors.Is(err, table.ErrConflict) {
		return fmt.Errorf("%w: %w", nft.ErrStale, err)
	}
	if err == nil && known {
		e.table.NoteRepair()
		e.send(nat.EventRepaired)
	}
	return err
}

// dueExitsPause is how long Run waits for the kernel to end what has expired.
const dueExitsPause = 100 * time.Millisecond

// addDueExits adds the exits that take the place of expired ones. If the kernel has not ended
// those yet, due stays set. After an error the table is loaded with the next call, which adds
// them.
func (e *core) addDueExits() {
	if !e.exits.due || e.opts.ReadOnly || !e.table.Present() {
		e.exits.due = false
		return
	}
	found, _, err := e.table.Kernel().Elements(e.table.Rules, e.outMaps()...)
	if err == nil {
		err = e.adoptExits(found, false)
	}
	if err != nil {
		e.table.MarkStale()
		e.log.Warn("what backends send does not leave by another frontend yet", "error", err)
	}
}

// endLeft deletes the flows that backends began and that contradict a change.
func (e *core) endLeft(proto nat.Proto, c *wayout.Check) error {
	return e.flowDeleter().Left(proto, c.Backends(proto), func(backend, left netip.AddrPort) bool {
		return c.Contradicts(wayout.Source{Proto: proto, Backend: backend}, left)
	})
}
