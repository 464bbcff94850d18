// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portholder

import (
	"iter"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/portset"
)

// widest is the number of ports up to which each port of a range is held by a socket. Those of
// wider ranges are not held.
const widest = 1024

// each yields the ports that are held by a socket each.
func each(ports iter.Seq[portset.Port]) iter.Seq[portset.Port] {
	return func(yield func(portset.Port) bool) {
		for p := range ports {
			switch {
			case p.More == 0:
				if !yield(p) {
					return
				}
			case p.Len() <= widest:
				for single := range p.Singles {
					if !yield(single) {
						return
					}
				}
			}
		}
	}
}

// eachOf returns the ports that are held by a socket each. chosen are the last so many of them.
func eachOf(ports []portset.Port, chosen int) (all []portset.Port, allChosen int) {
	isRange := func(p portset.Port) bool { return p.More != 0 }
	if !slices.ContainsFunc(ports, isRange) {
		return ports, chosen
	}
	first := len(ports) - chosen
	all = slices.Collect(each(slices.Values(ports[:first])))
	before := len(all)
	all = slices.AppendSeq(all, each(slices.Values(ports[first:])))
	return all, len(all) - before
}

// perPort returns the change of the ports that are held by a socket each. A port that is moved
// and was part of a wide range is added.
func (h *Holder) perPort(c Change) Change {
	isRange := func(m portset.Move) bool { return m.More != 0 }
	ch := *c.Change
	ch.Added, c.Chosen = eachOf(ch.Added, c.Chosen)
	ch.Removed, _ = eachOf(ch.Removed, 0)
	c.Released, _ = eachOf(c.Released, 0)
	if slices.ContainsFunc(ch.Moved, isRange) {
		ch.Moved = nil
		for _, m := range c.Moved {
			before, after := m.Before(), m.After()
			if m.More == 0 {
				ch.Moved = append(ch.Moved, m)
				continue
			}
			for p := range each(func(yield func(portset.Port) bool) { yield(before) }) {
				ch.Moved = append(ch.Moved, portset.Move{Frontend: p.Frontend, From: p.Target, To: after.Part(p.First(), p.First()).Target})
			}
		}
	}
	var unheld []portset.Port
	held := func(m portset.Move) bool {
		_, ok := h.ports[m.Frontend]
		_, waits := h.retry.ports[m.Frontend]
		return ok || waits
	}
	if h.Enabled() && slices.ContainsFunc(ch.Moved, func(m portset.Move) bool { return !held(m) }) {
		moved := ch.Moved
		ch.Moved = nil
		for _, m := range moved {
			if held(m) {
				ch.Moved = append(ch.Moved, m)
			} else {
				unheld = append(unheld, m.After())
			}
		}
		ch.Added = append(unheld, ch.Added...)
	}
	c.Change = &ch
	return c
}

// RetireAll gives the ports of a range back; see Retire.
func (h *Holder) RetireAll(p portset.Port) {
	if p.More == 0 {
		h.Retire(p.Frontend)
		return
	}
	if len(h.ports)+len(h.retry.ports) == 0 {
		return
	}
	for single := range p.Singles {
		h.Retire(single.Frontend)
	}
}
