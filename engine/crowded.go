// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"net/netip"
	"slices"
)

// Nobody who goes by the engine publishes what conflicts with a mapping. Others can:
// write an element for any address and one for a single address of the same port. The
// widest has the port reserved then, and with it what the narrower ones need; they
// are crowded, and are reserved when it goes.

// reserveFound reserves the frontends of what was found published.
func (e *Engine) reserveFound() {
	var narrow, run []port
	for p := range e.mappings.all {
		switch {
		case p.width() != 0:
			narrow = append(narrow, p)
			continue
		case len(run) == longestRun || len(run) > 0 && !p.nextTo(run[len(run)-1].frontend):
			e.reserveRun(run)
			run = run[:0]
		}
		run = append(run, p)
	}
	e.reserveRun(run)
	slices.SortFunc(narrow, widestFirst)
	for _, p := range narrow {
		e.reserveOrCrowd(p)
	}
}

// longestRun is how many consecutive ports are reserved at once, at most.
const longestRun = 256

// reserveRun reserves consecutive ports, or as many of them as can be.
func (e *Engine) reserveRun(run []port) {
	if n, err := e.reserveAll(run); err != nil {
		for _, p := range run[n:] {
			e.reserveOrCrowd(p)
		}
	}
}

func (e *Engine) reserveOrCrowd(p port) {
	if err := e.ports[p.proto].Reserve(reservation(p.ap)); err != nil {
		e.crowded[p.frontend] = struct{}{}
		e.log.Warn("mapping in the table conflicts with another", "table", e.opts.Table,
			"mapping", p.mapping().String(), "conflict", err)
	}
}

// makeRoom reserves what a frontend that was released kept others from.
func (e *Engine) makeRoom(released frontend) {
	if len(e.crowded) == 0 {
		return
	}
	var waiting []port
	for f := range e.crowded {
		if f.proto == released.proto && f.ap.Port() == released.ap.Port() {
			waiting = append(waiting, port{frontend: f})
		}
	}
	slices.SortFunc(waiting, widestFirst)
	for _, p := range waiting {
		if e.ports[p.proto].Reserve(reservation(p.ap)) == nil {
			delete(e.crowded, p.frontend)
		}
	}
}

// inThePlaceOf finds the other port that has the element which a port needs when it
// moves to a backend of the other family: one of the two is crowded.
func (e *Engine) inThePlaceOf(p port, have target) (port, bool) {
	place := elementKey(p)
	if place == elementKey(port{p.frontend, have}) {
		return port{}, false
	}
	any := frontend{p.proto, netip.AddrPortFrom(netip.Addr{}, p.ap.Port())}
	for _, f := range []frontend{any, any.ofFamily(p.backend.Addr())} {
		t, ok := e.mappings.get(f)
		if other := (port{f, t}); ok && f != p.frontend && elementKey(other) == place {
			return other, true
		}
	}
	return port{}, false
}

// widestFirst orders ports so that what the frontend of a later one excludes, is not
// more than what that of an earlier one in its way does.
func widestFirst(a, b port) int {
	return cmp.Or(cmp.Compare(a.width(), b.width()), cmp.Compare(a.proto, b.proto), a.ap.Compare(b.ap))
}

// width is 0 for frontends of any address, 1 for those of any address of a family, 2
// for those of one address.
func (f frontend) width() int {
	switch a := f.ap.Addr(); {
	case !a.IsValid():
		return 0
	case a.IsUnspecified():
		return 1
	}
	return 2
}
