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
	// touched are the ports that the sources send from.
	touched []touched
	// before and after return the frontends of a source.
	before, after func(Source) []candidate
	places        Places // after the change
	// moved is whether the frontends are the same and the places have changed: before returns
	// those whose exits went.
	moved bool
}

// touched are ports that a backend sends from over a protocol.
type touched struct {
	proto nat.Proto
	portset.Backends
}

func (c *Check) touch(s sender, first, last uint16) {
	t := touched{s.proto, portset.Backends{Addr: s.addr, First: first, Last: last}}
	if n := len(c.touched); n == 0 || c.touched[n-1] != t {
		c.touched = append(c.touched, t)
	}
}

func (c *Check) touchSource(s Source) { c.touch(s.sender(), s.Backend.Port(), s.Backend.Port()) }

// Check returns the check of a change that the draft makes.
func (d *Draft) Check(places Places) *Check {
	c := &Check{
		places: places,
		before: func(s Source) []candidate { return d.of(s, &d.before) },
		after:  func(s Source) []candidate { return d.of(s, &d.after) },
	}
	for s := range d.after.singles {
		c.touchSource(s)
	}
	for s, after := range d.after.ranges {
		before := d.before.ranges[s]
		for _, ps := range [][2][]piece{{before, after}, {after, before}} {
			for _, p := range ps[0] {
				if !slices.Contains(ps[1], p) {
					c.touch(s, p.at.Port(), p.last)
				}
			}
		}
	}
	return c
}

// Check returns the check of a change that is made in the index already, if it needed it.
func (x *Index) Check(ch *portset.Change, masqueraded func(netip.Addr) bool, places Places) *Check {
	before, cache := New(), cached(masqueraded)
	c := &Check{places: places, before: before.of, after: x.of}
	for p := range ch.Before {
		if s, ok := source(p, cache); ok {
			before.add(p, s)
			c.touch(s.sender(), s.Backend.Port(), s.Backend.Port()+p.More)
		}
	}
	for p := range ch.After {
		if s, ok := source(p, cache); ok {
			c.touch(s.sender(), s.Backend.Port(), s.Backend.Port()+p.More)
		}
	}
	return c
}

// CheckMoved returns the check of exits that went and came with the places.
func (x *Index) CheckMoved(removed, added []Exit, after Places) *Check {
	before := New()
	c := &Check{places: after, before: before.of, after: x.of, moved: true}
	for _, e := range removed {
		before.addExit(e)
	}
	for _, es := range [][]Exit{removed, added} {
		for _, e := range es {
			c.touch(e.sender(), e.Backend.Port(), e.Backend.Port()+e.More)
		}
	}
	return c
}

// addExit adds the frontends of an exit.
func (x *Index) addExit(e Exit) {
	f := candidate{e.Frontend, e.Expires, e.Ranged}
	if e.Ranged {
		x.ranges[e.sender()] = append(x.ranges[e.sender()], piece{f, e.Frontend.Port() + e.More})
	} else {
		x.frontends[e.Source] = with(x.frontends[e.Source], f)
	}
}

// Backends returns what the sources of a protocol send from.
func (c *Check) Backends(proto nat.Proto) []portset.Backends {
	var all []portset.Backends
	for i := range c.touched {
		if c.touched[i].proto == proto {
			all = append(all, c.touched[i].Backends)
		}
	}
	return all
}

// Contradicts reports whether a flow of a backend, which left by an address and a port of the
// host, must end. Those of TCP end only if they left by a frontend that is gone.
func (c *Check) Contradicts(s Source, left netip.AddrPort) bool {
	after := c.after(s)
	exits := exits(nil, s, after, c.places)
	for _, f := range c.before(s) {
		if !c.stays(f, after, exits) && f.at.Port() == left.Port() && (f.at == left || !f.at.Addr().IsValid()) {
			return true
		}
	}
	if s.Proto == nat.TCP {
		return false
	}
	for _, e := range exits {
		switch {
		case !e.Frontend.Addr().IsValid():
			return e.Frontend.Port() != left.Port()
		case e.Frontend == left:
			return false
		}
	}
	// The flow left by a port of its own. It may, where no exit is.
	links := c.places[left.Addr()]
	return slices.ContainsFunc(exits, func(e Exit) bool { return e.Link == AnyLink || slices.Contains(links, e.Link) })
}

// stays reports whether a frontend of before is there after the change, or, where places have
// changed, whether the source still leaves by it.
func (c *Check) stays(f candidate, after []candidate, exits []Exit) bool {
	if c.moved {
		return slices.ContainsFunc(exits, func(e Exit) bool { return e.Frontend == f.at })
	}
	_, kept := slices.BinarySearchFunc(after, f, candidate.before)
	return kept
}
