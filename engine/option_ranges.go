// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/nat"
)

// checkMasqueradedRanges is checkMasquerade where there are ranges.
func (l *published) checkMasqueradedRanges(c *portset.Change) error {
	layout, err := l.mappings.Plan(c)
	if err != nil {
		return nil // whoever makes the change fails with it
	}
	after := l.mappings.Clone()
	after.Do(layout)
	backends := leadingTo(c, &after)
	for p := range c.After {
		if p.ProxiedOnly() {
			continue
		}
		if have, ok := backends[masked{p.Proto, p.Backend.Addr(), !p.Masquerade}].meeting(&p); ok {
			return &nat.ConflictError{Want: p.Mapping(), Have: have.Mapping()}
		}
	}
	return nil
}

// apart returns ports that masqueraded ranges do not serve after a change, and others lead to
// unmasqueraded, one of each run. The elements of a range have its bounds, and packets to the backend
// do not show which port was called: such a range has to be cut there.
func (l *published) apart(c *portset.Change, made func() portset.Set) (ports []portset.Port) {
	ranges := l.options.Ranges != 0
	for p := range c.After {
		ranges = ranges || p.Masquerade && p.More != 0
	}
	if !ranges {
		return nil
	}
	after := made()
	backends := leadingTo(c, &after)
	for of, b := range backends {
		if !of.is {
			continue
		}
		others := backends[masked{of.proto, of.addr, false}]
		for _, e := range b.ranges {
			for p := range after.Unserved(e) {
				if have, ok := others.meeting(&p); ok {
					at := max(p.First(), have.Backend.Port())
					ports = append(ports, p.Part(at, at))
				}
			}
		}
	}
	return ports
}

// separate cuts ranges, by which nothing that is published changes.
func (e *core) separate(ports []portset.Port) error {
	c := change{}
	for _, p := range ports {
		if have, ok := e.mappings.Get(p.Frontend); !ok || have != p.Target { // else the change takes it out
			c.Apart = append(c.Apart, p)
		}
	}
	if len(c.Apart) == 0 || !e.table.Present() {
		return nil
	}
	p, err := e.plan(c)
	if err != nil {
		return err
	}
	var undo undoList
	if err := e.commitTable(p, &undo); err != nil {
		return undo.after(err)
	}
	e.finishRanges(p.layout, p.optionSteps(e.now()))
	e.note(p)
	return nil
}

// leadingTo returns what leads, after a change, to the backends that the change leads to.
func leadingTo(c *portset.Change, after *portset.Set) map[masked]*backendPorts {
	backends := map[masked]*backendPorts{}
	for p := range c.After {
		if !p.ProxiedOnly() {
			for _, is := range []bool{false, true} {
				backends[masked{p.Proto, p.Backend.Addr(), is}] = &backendPorts{}
			}
		}
	}
	if len(backends) == 0 {
		return backends
	}
	for e := range after.Entries {
		if e.Kind == portset.EntryHole || e.ProxiedOnly() {
			continue
		}
		of := backends[masked{e.Proto, e.Backend.Addr(), e.Masquerade}]
		switch {
		case of == nil:
		case e.Kind == portset.EntrySingle:
			of.ports = append(of.ports, e.Port)
		default:
			of.ranges = append(of.ranges, e)
			of.ports = slices.AppendSeq(of.ports, after.Served(e))
		}
	}
	for _, of := range backends {
		of.index()
	}
	return backends
}

// masked is what leads to a backend, masqueraded or not.
type masked struct {
	proto nat.Proto
	addr  netip.Addr
	is    bool
}

// backendPorts finds what leads to ports of one backend.
type backendPorts struct {
	ports  []portset.Port  // by their first backend ports
	last   []uint16        // the highest last backend port so far
	ranges []portset.Entry // whole, whatever was taken out of them
}

func (b *backendPorts) index() {
	order.Sort(b.ports, func(x, y portset.Port) int { return cmp.Compare(x.Backend.Port(), y.Backend.Port()) })
	b.last = make([]uint16, len(b.ports))
	highest := uint16(0)
	for i := range b.ports {
		highest = max(highest, b.ports[i].Backend.Port()+b.ports[i].More)
		b.last[i] = highest
	}
}

// meeting returns a port or a range of whose flows some could be of another.
func (b *backendPorts) meeting(p *portset.Port) (have portset.Port, ok bool) {
	first, last := p.Backend.Port(), p.Backend.Port()+p.More
	i, _ := slices.BinarySearchFunc(b.ports, int(last)+1, func(x portset.Port, port int) int { return cmp.Compare(int(x.Backend.Port()), port) })
	for i--; i >= 0 && b.last[i] >= first; i-- {
		o := &b.ports[i]
		if o.Backend.Port()+o.More < first {
			continue
		}
		if a, b := p.Host(), o.Host(); a == b || !a.IsValid() || !b.IsValid() {
			return *o, true
		}
	}
	return portset.Port{}, false
}
