// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/nat"
)

// Change is a change of the published ports. A frontend is in one of the three.
type Change struct {
	Removed, Added []Port
	Moved          []Move
	// Apart are ports of ranges that do not serve them. After the change, no range reaches across
	// one of them.
	Apart []Port
}

// Move gives a published frontend another target, or those of a range.
type Move struct {
	Frontend
	From, To Target
	More     uint16 // as in Port, before and after
}

// Before returns the port as it was.
func (m Move) Before() Port { return Port{m.Frontend, m.From, m.More} }

// After returns the port as it will be.
func (m Move) After() Port { return Port{m.Frontend, m.To, m.More} }

// Inverse returns the change back.
func (c *Change) Inverse() (back Change) {
	back.Removed, back.Added = c.Added, c.Removed
	back.Moved = make([]Move, len(c.Moved))
	for i, m := range c.Moved {
		back.Moved[i] = Move{m.Frontend, m.To, m.From, m.More}
	}
	return back
}

// Empty reports whether nothing changes.
func (c *Change) Empty() bool { return len(c.Removed)+len(c.Added)+len(c.Moved) == 0 }

// Before yields the ports that the change removes or moves, as they were.
func (c *Change) Before(yield func(Port) bool) {
	for _, p := range c.Removed {
		if !yield(p) {
			return
		}
	}
	for _, m := range c.Moved {
		if !yield(m.Before()) {
			return
		}
	}
}

// After yields the ports that the change adds or moves, as they will be.
func (c *Change) After(yield func(Port) bool) {
	for _, p := range c.Added {
		if !yield(p) {
			return
		}
	}
	for _, m := range c.Moved {
		if !yield(m.After()) {
			return
		}
	}
}

// Ports returns how many ports the change removes or moves, and how many it adds or moves.
func (c *Change) Ports() (before, after int) {
	for i := range c.Removed {
		before += c.Removed[i].Len()
	}
	for i := range c.Added {
		after += c.Added[i].Len()
	}
	for i := range c.Moved {
		before, after = before+int(c.Moved[i].More)+1, after+int(c.Moved[i].More)+1
	}
	return before, after
}

// Len returns how many ports there are.
func Len(ports []Port) (n int) {
	for i := range ports {
		n += ports[i].Len()
	}
	return n
}

// LenBefore returns how many ports and ranges Before yields.
func (c *Change) LenBefore() int { return len(c.Removed) + len(c.Moved) }

// LenAfter returns how many ports and ranges After yields.
func (c *Change) LenAfter() int { return len(c.Added) + len(c.Moved) }

// Count counts the ports that Before yields, and those that After does.
func (c *Change) Count() (before, after Counts) {
	var b, a counter
	for i := range c.Removed { // by index: a port has some 100 bytes
		b.add(&c.Removed[i])
	}
	for i := range c.Added {
		a.add(&c.Added[i])
	}
	for i := range c.Moved {
		before, after := c.Moved[i].Before(), c.Moved[i].After()
		b.add(&before)
		a.add(&after)
	}
	return b.done(), a.done()
}

// Lines returns the change as users see it: with ranges, in order.
func (c *Change) Lines() []nat.Change {
	removed, added := Collapse(c.Removed), Collapse(c.Added)
	lines := make([]nat.Change, 0, len(c.Moved)+len(removed)+len(added))
	for _, m := range c.Moved {
		lines = append(lines, nat.Change{Old: m.Before().Mapping(), New: m.After().Mapping()})
	}
	order.Sort(lines, func(a, b nat.Change) int { return nat.Compare(a.New, b.New) })
	for _, m := range removed {
		lines = append(lines, nat.Change{Old: m})
	}
	for _, m := range added {
		lines = append(lines, nat.Change{New: m})
	}
	return lines
}

// EachLine yields what Lines returns.
func (c *Change) EachLine(yield func(nat.Change) bool) {
	moved := Change{Moved: c.Moved}
	for _, line := range moved.Lines() {
		if !yield(line) {
			return
		}
	}
	for m := range joined(c.Removed) {
		if !yield(nat.Change{Old: m}) {
			return
		}
	}
	for m := range joined(c.Added) {
		if !yield(nat.Change{New: m}) {
			return
		}
	}
}

// Diff returns the change from one set to another. Ranges stay ranges.
func Diff(before, after *Set) (c Change) {
	for p := range before.All {
		c.diff(p, after)
	}
	for p := range after.All {
		if p.More == 0 {
			if _, ok := before.Get(p.Frontend); !ok {
				c.Added = append(c.Added, p)
			}
			continue
		}
		for gap := range before.Without(p) {
			c.Added = append(c.Added, gap)
		}
	}
	return c
}

// diff adds to the change what becomes of a port or a range that was published.
func (c *Change) diff(p Port, after *Set) {
	if p.More == 0 {
		now, ok := after.Get(p.Frontend)
		switch {
		case !ok:
			c.Removed = append(c.Removed, p)
		case !now.SameAs(p.Target):
			c.Moved = append(c.Moved, Move{Frontend: p.Frontend, From: p.Target, To: now})
		}
		return
	}
	for was, now := range after.Split(p) {
		switch {
		case now == nil:
			c.Removed = append(c.Removed, was)
		case !now.SameAs(was.Target):
			c.Moved = append(c.Moved, Move{was.Frontend, was.Target, *now, was.More})
		}
	}
}
