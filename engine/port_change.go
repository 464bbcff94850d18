// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"slices"

	"github.com/nftnat/nftnat/nat"
)

// portChange is what one change makes of the published ports.
type portChange struct {
	removed, added []port
	moved          []move
}

// move gives a published frontend another target.
type move struct {
	frontend
	from, to target
}

func (m move) before() port { return port{m.frontend, m.from} }

func (m move) after() port { return port{m.frontend, m.to} }

// movedFrom are the ports that the change moves, as they were before.
func (c *portChange) movedFrom() []port {
	ports := make([]port, len(c.moved))
	for i, m := range c.moved {
		ports[i] = m.before()
	}
	return ports
}

func (c *portChange) empty() bool { return len(c.removed)+len(c.added)+len(c.moved) == 0 }

// before yields the ports that the change removes or moves, as they were.
func (c *portChange) before(yield func(port) bool) {
	for _, p := range c.removed {
		if !yield(p) {
			return
		}
	}
	for _, m := range c.moved {
		if !yield(m.before()) {
			return
		}
	}
}

// after yields the ports that the change adds or moves, as they will be.
func (c *portChange) after(yield func(port) bool) {
	for _, p := range c.added {
		if !yield(p) {
			return
		}
	}
	for _, m := range c.moved {
		if !yield(m.after()) {
			return
		}
	}
}

func (c *portChange) lenBefore() int { return len(c.removed) + len(c.moved) }

func (c *portChange) lenAfter() int { return len(c.added) + len(c.moved) }

// lines are the change as it is shown: ranges as one, in order.
func (c *portChange) lines() []nat.Change {
	gone, come := runsOf(c.removed), runsOf(c.added)
	lines := make([]nat.Change, 0, len(c.moved)+len(gone)+len(come))
	for _, m := range c.moved {
		lines = append(lines, nat.Change{Old: m.before().mapping(), New: m.after().mapping()})
	}
	slices.SortFunc(lines, func(a, b nat.Change) int { return nat.Compare(a.New, b.New) })
	for _, r := range gone {
		lines = append(lines, nat.Change{Old: r.mapping()})
	}
	for _, r := range come {
		lines = append(lines, nat.Change{New: r.mapping()})
	}
	return lines
}

// changeBetween is what makes some ports of others.
func changeBetween(before, after *registry) (c portChange) {
	for p := range before.all {
		now, ok := after.get(p.frontend)
		switch {
		case !ok:
			c.removed = append(c.removed, p)
		case !now.same(p.target):
			c.moved = append(c.moved, move{p.frontend, p.target, now})
		}
	}
	for p := range after.all {
		if _, ok := before.get(p.frontend); !ok {
			c.added = append(c.added, p)
		}
	}
	return c
}
