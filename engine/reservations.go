// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/alloc"
	"github.com/nftnat/nftnat/nat"
)

// reservations keep frontends that conflict from being published together.
//
// An engine never publishes conflicting mappings. Others can write them into the table: an
// element for any address and one for a single address of the same port. The widest
// frontend then has the reservation. The narrower ones are overlapped: they are reserved
// when it is released.
type reservations struct {
	ports      map[nat.Proto]*alloc.Ports
	overlapped map[frontend]struct{}
}

// newReservations reserves nothing. Ports are chosen from first to last.
func newReservations(first, last uint16) (*reservations, error) {
	r := &reservations{ports: map[nat.Proto]*alloc.Ports{}, overlapped: map[frontend]struct{}{}}
	for _, proto := range []nat.Proto{nat.TCP, nat.UDP} {
		p, err := alloc.NewPorts(first, last)
		if err != nil {
			return nil, fmt.Errorf("choose ports %d to %d: %w", first, last, err)
		}
		r.ports[proto] = p
	}
	return r, nil
}

// avoid keeps the ports from first to last from being chosen.
func (r *reservations) avoid(first, last uint16) error {
	for _, p := range r.ports {
		if err := p.Avoid(first, last); err != nil {
			return fmt.Errorf("avoid ports %d to %d: %w", first, last, err)
		}
	}
	return nil
}

// choose reserves the first n consecutive free ports of an address, and returns the first
// of them.
func (r *reservations) choose(f frontend, n int) (first uint16, err error) {
	return r.ports[f.proto].NextRun(reservation(f.ap).Addr(), n)
}

// reserve reserves a frontend. [reservedFor] tells from the error what is in its way.
func (r *reservations) reserve(f frontend) error { return r.ports[f.proto].Reserve(reservation(f.ap)) }

// reserveAll reserves ports in order, and returns how many: all, or those before the
// first that cannot be. Consecutive ones are reserved at once.
func (r *reservations) reserveAll(ports []port) (n int, err error) {
	for rest := ports; len(rest) > 0; rest = ports[n:] {
		run := 1
		for run < len(rest) && rest[run].follows(rest[run-1].frontend) {
			run++
		}
		p := rest[0]
		if r.ports[p.proto].ReserveRun(reservation(p.ap), run) == nil {
			n += run
			continue
		}
		for i, p := range rest[:run] { // one of them cannot be
			if err := r.reserve(p.frontend); err != nil {
				return n + i, err
			}
		}
		n += run
	}
	return n, nil
}

// restore reserves again what was released, but for what is overlapped.
func (r *reservations) restore(ports []port) (errs []error) {
	for _, p := range ports {
		if r.isOverlapped(p.frontend) {
			continue
		}
		if err := r.reserve(p.frontend); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// release releases ports. It leaves those that are overlapped so.
func (r *reservations) release(ports []port) {
	for _, p := range ports {
		r.ports[p.proto].Release(reservation(p.ap))
	}
}

// remove releases the frontend of a port that is no longer published, and reserves what it
// overlapped.
func (r *reservations) remove(f frontend) {
	if r.isOverlapped(f) {
		delete(r.overlapped, f)
		return
	}
	r.ports[f.proto].Release(reservation(f.ap))
	if len(r.overlapped) == 0 {
		return
	}
	var waiting []frontend
	for o := range r.overlapped {
		if o.proto == f.proto && o.ap.Port() == f.ap.Port() {
			waiting = append(waiting, o)
		}
	}
	slices.SortFunc(waiting, widestFirst)
	for _, o := range waiting {
		if r.reserve(o) == nil {
			delete(r.overlapped, o)
		}
	}
}

// removeAll releases all that is published.
func (r *reservations) removeAll(all iter.Seq[port]) {
	for p := range all {
		if !r.isOverlapped(p.frontend) {
			r.ports[p.proto].Release(reservation(p.ap))
		}
	}
	clear(r.overlapped)
}

// isOverlapped reports whether the frontend is published and reserved for another.
func (r *reservations) isOverlapped(f frontend) bool {
	_, ok := r.overlapped[f]
	return ok
}

// longestRun is how many consecutive ports add reserves at once, at most.
const longestRun = 256

// add reserves the frontends of what was found published. It calls conflict for each that
// is overlapped.
func (r *reservations) add(all iter.Seq[port], conflict func(port, error)) {
	var narrow, run []port
	one := func(p port) {
		if err := r.reserve(p.frontend); err != nil {
			r.overlapped[p.frontend] = struct{}{}
			conflict(p, err)
		}
	}
	flush := func() {
		if n, err := r.reserveAll(run); err != nil {
			for _, p := range run[n:] {
				one(p)
			}
		}
		run = run[:0]
	}
	for p := range all {
		if p.width() != 0 {
			narrow = append(narrow, p)
			continue
		}
		if len(run) == longestRun || len(run) > 0 && !p.follows(run[len(run)-1].frontend) {
			flush()
		}
		run = append(run, p)
	}
	flush()
	slices.SortFunc(narrow, func(a, b port) int { return widestFirst(a.frontend, b.frontend) })
	for _, p := range narrow {
		one(p)
	}
}

// reservedFor returns the reserved frontend for which a reservation was refused.
func reservedFor(proto nat.Proto, err error) (f frontend, ok bool) {
	var inUse *alloc.InUseError
	if !errors.As(err, &inUse) {
		return frontend{}, false
	}
	host := inUse.Have.Addr()
	switch host {
	case netip.IPv6Unspecified():
		host = netip.Addr{}
	case alloc.IPv6Only():
		host = netip.IPv6Unspecified()
	}
	return frontend{proto, netip.AddrPortFrom(host, inUse.Have.Port())}, true
}

// reservation is the frontend as the port allocators know it: a mapping for any
// address is served over both families, if need be by a proxy, and so takes both.
func reservation(ap netip.AddrPort) netip.AddrPort {
	switch a := ap.Addr(); {
	case !a.IsValid():
		return netip.AddrPortFrom(netip.IPv6Unspecified(), ap.Port())
	case a == netip.IPv6Unspecified():
		return netip.AddrPortFrom(alloc.IPv6Only(), ap.Port())
	}
	return ap
}

// widestFirst orders frontends by width: any address, any of one family, one address.
func widestFirst(a, b frontend) int {
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
