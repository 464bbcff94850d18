// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portholder

import (
	"errors"
	"iter"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/proxy"
)

// widest is the number of ports up to which each port of a range is held by a socket where there is no
// guard.
const widest = 1024

// each yields the ports that are held by a socket each.
func (h *Holder) each(ports iter.Seq[portset.Port]) iter.Seq[portset.Port] {
	return func(yield func(portset.Port) bool) {
		for p := range ports {
			switch {
			case p.More == 0:
				if !yield(p) {
					return
				}
			case !h.many.takes(&p):
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
func (h *Holder) eachOf(ports []portset.Port, chosen int) (all []portset.Port, allChosen int) {
	isRange := func(p portset.Port) bool { return p.More != 0 }
	if !slices.ContainsFunc(ports, isRange) {
		return ports, chosen
	}
	first := len(ports) - chosen
	all = slices.Collect(h.each(slices.Values(ports[:first])))
	before := len(all)
	all = slices.AppendSeq(all, h.each(slices.Values(ports[first:])))
	return all, len(all) - before
}

// perPort returns the change of the ports that are held by a socket each. A port that is moved
// and was part of a wide range is added.
func (h *Holder) perPort(c Change) Change {
	if len(c.Moved) == 0 && !c.HasRange() && !slices.ContainsFunc(c.Released, func(p portset.Port) bool { return p.More != 0 }) {
		return c
	}
	isRange := func(m portset.Move) bool { return m.More != 0 }
	ch := *c.Change
	ch.Added, c.Chosen = h.eachOf(ch.Added, c.Chosen)
	ch.Removed, _ = h.eachOf(ch.Removed, 0)
	c.Released, _ = h.eachOf(c.Released, 0)
	if slices.ContainsFunc(ch.Moved, isRange) {
		ch.Moved = nil
		for _, m := range c.Moved {
			before, after := m.Before(), m.After()
			if m.More == 0 {
				ch.Moved = append(ch.Moved, m)
				continue
			}
			for p := range h.each(func(yield func(portset.Port) bool) { yield(before) }) {
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

// RetireAll gives a port or the ports of a range back; see Retire.
func (h *Holder) RetireAll(p portset.Port) {
	if isShared(&p) {
		h.logEnd(p.Frontend, h.shared.release(p, proxy.Proxy.Retire))
		return
	}
	h.retireOwn(p)
}

// retireOwn is RetireAll for what is not shared.
func (h *Holder) retireOwn(p portset.Port) {
	h.logEnd(p.Frontend, h.many.release(p))
	if p.More == 0 {
		h.Retire(p.Frontend)
		return
	}
	for f := range h.retry.ports {
		if p.Contains(f) {
			delete(h.retry.ports, f)
		}
	}
	h.retireIn(p)
}

// retireIn gives up the sockets of single ports that are part of a range now.
func (h *Holder) retireIn(p portset.Port) {
	if len(h.ports) > p.Len() {
		for single := range p.Singles {
			h.Retire(single.Frontend)
		}
		return
	}
	for f := range h.ports {
		if p.Contains(f) {
			h.Retire(f)
		}
	}
}

// Rejoin gives up the sockets of changed ports that are a part of a wide range again, which holds and
// serves them without. A guard keeps others from a port before its socket is closed.
func (h *Holder) Rejoin(published *portset.Set, changed iter.Seq[portset.Port]) {
	if !h.Enabled() || len(h.many.spans) == 0 {
		return
	}
	for p := range changed {
		if h.many.takes(&p) || !published.Ranged(&p) {
			continue
		}
		if whole, ok := published.Around(p.Frontend); !ok || !h.many.takes(&whole) {
			continue
		}
		for one := range p.Singles {
			if _, ok := h.ports[one.Frontend]; !ok {
				continue
			}
			if err := h.many.restore(one); err != nil { // it keeps its socket
				h.opts.Log.Warn("port was not given back to its range", "mapping", one.Mapping().String(), "error", errors.Join(err, h.many.release(one)))
				continue
			}
			h.Retire(one.Frontend)
		}
	}
}

// NotServed returns the ranges that should be served and are not: those that are too wide for a socket a port, where that is all that
// there is.
func (h *Holder) NotServed(published *portset.Set) (ranges []portset.Port) {
	if !h.Enabled() || h.opts.Lookup != nil {
		return nil
	}
	for p := range unshared(published.All) {
		if !p.NoProxy && h.many.takes(&p) {
			ranges = append(ranges, p)
		}
	}
	return ranges
}

// NotLed returns the parts of ranges that are not served because the kernel chooses the ports of UDP clients of them.
func (h *Holder) NotLed(published *portset.Set) (ranges []portset.Port) {
	if !h.Enabled() || h.opts.Lookup == nil {
		return nil
	}
	clients, err := h.opts.Clients()
	if err != nil {
		return nil // then none is left out
	}
	for p := range unshared(published.All) {
		first, last := max(p.First(), clients.First), min(p.Last(), clients.Last)
		if p.Proto == nat.UDP && !p.NoProxy && first <= last && h.many.takes(&p) {
			ranges = append(ranges, p.Part(first, last))
		}
	}
	return ranges
}

// NotHeld returns the ranges whose ports other programs can bind: those that are too wide for a socket a port, if
// there is no guard.
func (h *Holder) NotHeld(published *portset.Set) (ranges []portset.Port) {
	if !h.Enabled() || h.opts.Guard != nil {
		return nil
	}
	for p := range unshared(published.All) {
		if h.many.takes(&p) {
			ranges = append(ranges, p)
		}
	}
	return ranges
}
