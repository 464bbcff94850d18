// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"github.com/nftnat/nftnat/alloc"
	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/nat"
)

// Reservations keep frontends that conflict from being published together.
//
// An engine never publishes conflicting mappings. Others can write them into the table: an
// element for any address and one for a single address of the same port. The widest
// frontend then has the reservation. The narrower ones are overlapped: they are reserved
// when it is released.
type Reservations struct {
	ports      map[nat.Proto]*alloc.Ports
	overlapped map[Frontend]struct{}
}

// NewReservations reserves nothing. Ports are chosen from first to last.
func NewReservations(first, last uint16) (*Reservations, error) {
	r := &Reservations{ports: map[nat.Proto]*alloc.Ports{}, overlapped: map[Frontend]struct{}{}}
	for _, proto := range []nat.Proto{nat.TCP, nat.UDP} {
		p, err := alloc.NewPorts(first, last)
		if err != nil {
			return nil, fmt.Errorf("choose ports %d to %d: %w", first, last, err)
		}
		r.ports[proto] = p
	}
	return r, nil
}

// Avoid keeps the ports from first to last from being chosen.
func (r *Reservations) Avoid(first, last uint16) error {
	for _, p := range r.ports {
		if err := p.Avoid(first, last); err != nil {
			return fmt.Errorf("avoid ports %d to %d: %w", first, last, err)
		}
	}
	return nil
}

// Choose reserves the first n consecutive free ports of an address, and returns the first
// of them.
func (r *Reservations) Choose(f Frontend, n int) (first uint16, err error) {
	return r.ports[f.Proto].NextRun(reservation(f.AddrPort).Addr(), n)
}

// Reserve reserves a frontend. [Holder] returns the conflicting frontend of its error.
func (r *Reservations) Reserve(f Frontend) error {
	return r.ports[f.Proto].Reserve(reservation(f.AddrPort))
}

// ReserveAll reserves ports in order, and returns how many: all, or those before the
// first that cannot be. Consecutive ones are reserved at once.
func (r *Reservations) ReserveAll(ports []Port) (n int, err error) {
	for rest := ports; len(rest) > 0; rest = ports[n:] {
		run, wide := 1, rest[0].Len()
		for run < len(rest) && rest[run].follows(&rest[run-1]) {
			wide += rest[run].Len()
			run++
		}
		p := &rest[0]
		if r.ports[p.Proto].ReserveRun(reservation(p.AddrPort), wide) == nil {
			n += run
			continue
		}
		for i := range rest[:run] { // one of them cannot be
			if err := r.ReservePort(&rest[i]); err != nil {
				return n + i, err
			}
		}
		n += run
	}
	return n, nil
}

// ReservePort reserves the frontend of a port, or all of a range or none.
func (r *Reservations) ReservePort(p *Port) error {
	return r.ports[p.Proto].ReserveRun(reservation(p.AddrPort), p.Len())
}

// Restore reserves released ports again, except overlapped ones.
func (r *Reservations) Restore(ports []Port) (errs []error) {
	for i := range ports {
		for p := range r.apart(&ports[i]) {
			if r.IsOverlapped(p.Frontend) {
				continue
			}
			if err := r.ReservePort(&p); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errs
}

// Release releases ports. Overlapped ones stay overlapped.
func (r *Reservations) Release(ports []Port) {
	for i := range ports {
		r.release(&ports[i])
	}
}

func (r *Reservations) release(p *Port) {
	r.ports[p.Proto].ReleaseRun(reservation(p.AddrPort), p.Len())
}

// apart yields a port or a range: as it is, or one by one if some frontends are overlapped.
func (r *Reservations) apart(p *Port) iter.Seq[Port] {
	if p.More != 0 && r.AnyOverlapped() {
		return p.Singles
	}
	return func(yield func(Port) bool) { yield(*p) }
}

// Remove releases the frontends of a port or a range that is not published any more, and
// reserves the frontends that it overlapped.
func (r *Reservations) Remove(p Port) {
	if len(r.overlapped) == 0 {
		r.release(&p)
		return
	}
	for single := range p.Singles {
		r.remove(single.Frontend)
	}
}

func (r *Reservations) remove(f Frontend) {
	if r.IsOverlapped(f) {
		delete(r.overlapped, f)
		return
	}
	r.ports[f.Proto].Release(reservation(f.AddrPort))
	if len(r.overlapped) == 0 {
		return
	}
	var waiting []Frontend
	for o := range r.overlapped {
		if o.Proto == f.Proto && o.AddrPort.Port() == f.AddrPort.Port() {
			waiting = append(waiting, o)
		}
	}
	order.Sort(waiting, widestFirst)
	for _, o := range waiting {
		if r.Reserve(o) == nil {
			delete(r.overlapped, o)
		}
	}
}

// RemoveAll releases all that is published.
func (r *Reservations) RemoveAll(all iter.Seq[Port]) {
	for p := range all {
		for q := range r.apart(&p) {
			if !r.IsOverlapped(q.Frontend) {
				r.release(&q)
			}
		}
	}
	clear(r.overlapped)
}

// IsOverlapped reports whether the frontend is published and reserved for another.
func (r *Reservations) IsOverlapped(f Frontend) bool {
	_, ok := r.overlapped[f]
	return ok
}

// AnyOverlapped reports whether any published frontend is reserved for another.
func (r *Reservations) AnyOverlapped() bool { return len(r.overlapped) != 0 }

// longestRun is how many consecutive ports Add reserves at once, at most.
const longestRun = 256

// Add reserves the frontends of ports that were found in the table. It calls conflict for
// each overlapped one.
func (r *Reservations) Add(all iter.Seq[Port], conflict func(Port, error)) {
	var narrow, run []Port
	one := func(p Port) {
		if r.ReservePort(&p) == nil {
			return
		}
		for single := range p.Singles {
			if err := r.Reserve(single.Frontend); err != nil {
				r.overlapped[single.Frontend] = struct{}{}
				conflict(single, err)
			}
		}
	}
	flush := func() {
		if n, err := r.ReserveAll(run); err != nil {
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
		if len(run) == longestRun || len(run) > 0 && !p.follows(&run[len(run)-1]) {
			flush()
		}
		run = append(run, p)
	}
	flush()
	order.Sort(narrow, func(a, b Port) int { return widestFirst(a.Frontend, b.Frontend) })
	for _, p := range narrow {
		one(p)
	}
}

// AnyOverlappedIn reports whether any frontend of a port or a range is overlapped.
func (r *Reservations) AnyOverlappedIn(p *Port) bool {
	for f := range r.overlapped {
		if p.Contains(f) {
			return true
		}
	}
	return false
}

// Holder returns the reserved frontend for which a reservation was refused.
func Holder(proto nat.Proto, err error) (f Frontend, ok bool) {
	var inUse *alloc.InUseError
	if !errors.As(err, &inUse) {
		return Frontend{}, false
	}
	host := inUse.Have.Addr()
	switch host {
	case netip.IPv6Unspecified():
		host = netip.Addr{}
	case alloc.IPv6Only():
		host = netip.IPv6Unspecified()
	}
	return Frontend{proto, netip.AddrPortFrom(host, inUse.Have.Port())}, true
}

// reservation returns the frontend for the port allocators. A mapping for any address is
// served over both families, one by a proxy, and so takes both.
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
func widestFirst(a, b Frontend) int {
	return cmp.Or(cmp.Compare(a.width(), b.width()), cmp.Compare(a.Proto, b.Proto), a.AddrPort.Compare(b.AddrPort))
}

// width is 0 for frontends of any address, 1 for those of any address of a family, 2
// for those of one address.
func (f Frontend) width() int {
	switch a := f.AddrPort.Addr(); {
	case !a.IsValid():
		return 0
	case a.IsUnspecified():
		return 1
	}
	return 2
}
