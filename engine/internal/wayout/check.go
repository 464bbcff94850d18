// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package wayout

import (
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// Check tells which flows contradict a change: they would go on by a frontend that their
// source does not leave by any more.
type Check struct {
	sources map[Source]checked
	places  Places
}

// checked has the exits of a source after the change, and the frontends that it lost.
type checked struct {
	exits []Exit
	gone  []candidate
}

// Check returns the check of a change that the draft makes.
func (d *Draft) Check(places Places) *Check {
	c := &Check{make(map[Source]checked, len(d.after)), places}
	for s, frontends := range d.after {
		c.add(s, frontends, d.before[s])
	}
	return c
}

// Check returns the check of a change that is made in the index already, if it needed it.
func (x *Index) Check(ch *portset.Change, masqueraded func(netip.Addr) bool, places Places) *Check {
	c, cache := &Check{map[Source]checked{}, places}, cached(masqueraded)
	before := map[Source][]candidate{}
	for p := range ch.Before {
		if s, ok := source(p, cache); ok {
			before[s] = append(before[s], candidateOf(p))
		}
	}
	for p := range ch.After {
		if s, ok := source(p, cache); ok {
			if _, ok := before[s]; !ok {
				before[s] = nil
			}
		}
	}
	for s, frontends := range before {
		c.add(s, x.frontends[s], frontends)
	}
	return c
}

// CheckMoved returns the check of exits that went and came with the places.
func (x *Index) CheckMoved(removed, added []Exit, after Places) *Check {
	c := &Check{map[Source]checked{}, after}
	for _, e := range slices.Concat(removed, added) {
		c.sources[e.Source] = checked{exits: exits(nil, e.Source, x.frontends[e.Source], after)}
	}
	for _, e := range removed {
		k := c.sources[e.Source]
		if !slices.ContainsFunc(k.exits, func(o Exit) bool { return o.Frontend == e.Frontend }) {
			k.gone = append(k.gone, candidate{e.Frontend, e.Expires})
			c.sources[e.Source] = k
		}
	}
	return c
}

func (c *Check) add(s Source, after, before []candidate) {
	k := checked{exits: exits(nil, s, after, c.places)}
	for _, f := range before {
		if _, kept := slices.BinarySearchFunc(after, f, candidate.before); !kept {
			k.gone = append(k.gone, f)
		}
	}
	c.sources[s] = k
}

// Backends returns what the sources of a protocol send from.
func (c *Check) Backends(proto nat.Proto) []netip.AddrPort {
	var all []netip.AddrPort
	for s := range c.sources {
		if s.Proto == proto {
			all = append(all, s.Backend)
		}
	}
	return all
}

// Contradicts reports whether a flow of a backend, which left by an address and a port of the
// host, must end. Those of TCP end only if they left by a frontend that is gone.
func (c *Check) Contradicts(s Source, left netip.AddrPort) bool {
	k := c.sources[s]
	for _, f := range k.gone {
		if f.at.Port() == left.Port() && (f.at == left || !f.at.Addr().IsValid()) {
			return true
		}
	}
	if s.Proto == nat.TCP {
		return false
	}
	for _, e := range k.exits {
		switch {
		case !e.Frontend.Addr().IsValid():
			return e.Frontend.Port() != left.Port()
		case e.Frontend == left:
			return false
		}
	}
	// The flow left by a port of its own. It may, where no exit is.
	links := c.places[left.Addr()]
	return slices.ContainsFunc(k.exits, func(e Exit) bool { return e.Link == AnyLink || slices.Contains(links, e.Link) })
}
