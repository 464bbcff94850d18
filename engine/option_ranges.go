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

// checkMasqueradedRanges is checkMasquerade where there are ranges. A range is masqueraded at all
// ports of its backend, those that were taken out of it included.
func (l *published) checkMasqueradedRanges(c *portset.Change) error {
	layout, err := l.mappings.Plan(c)
	if err != nil {
		return nil // whoever makes the change fails with it
	}
	after := l.mappings.Clone()
	after.Do(layout)
	backends := map[masked]*backendPorts{}
	for p := range c.After {
		if !p.ProxiedOnly() {
			for _, is := range []bool{false, true} {
				backends[masked{p.Proto, p.Backend.Addr(), is}] = &backendPorts{}
			}
		}
	}
	if len(backends) == 0 {
		return nil
	}
	for e := range after.Entries {
		if e.Kind == portset.EntryHole || e.ProxiedOnly() {
			continue
		}
		if of := backends[masked{e.Proto, e.Backend.Addr(), e.Masquerade}]; of != nil {
			of.add(e.Port)
		}
	}
	for _, of := range backends {
		of.index()
	}
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

// masked is what leads to a backend, masqueraded or not.
type masked struct {
	proto nat.Proto
	addr  netip.Addr
	is    bool
}

// backendPorts finds what leads to ports of one backend.
type backendPorts struct {
	ports []portset.Port // by their first backend ports
	last  []uint16       // the highest last backend port so far
}

func (b *backendPorts) add(p portset.Port) { b.ports = append(b.ports, p) }

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
