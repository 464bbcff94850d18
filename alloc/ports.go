// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"fmt"
	"net/netip"
	"sync"
)

// Ports reserves the ports of one protocol, each to one holder at a time for
// the same address. Make one with [NewPorts]; it must not be copied. All methods
// may be called concurrently.
//
// A reservation is for a host, which is what a server would bind its socket to:
//
//	192.0.2.1, 2001:db8::1   that address
//	0.0.0.0                  every IPv4 address
//	::                       every address of both families
//	IPv6Only()               every IPv6 address
//
// Two reservations of a port conflict if both include the same address. So two
// different addresses never conflict, nor do 0.0.0.0 and [IPv6Only]. IPv4-mapped
// addresses are IPv4 ones: ::ffff:0.0.0.0 is 0.0.0.0.
//
// Next and NextRun choose from the dynamic range only, NextIn from a range that it is
// given, Reserve and ReserveRun take any port from 1 to 65535.
//
// The state is bitmaps, of which only words with both free and reserved ports
// are stored, and a map of the specific addresses in use. A search looks at 64
// ports a step, and passes over words that are full or empty: a run costs about as
// much as a port.
type Ports struct {
	first, last int // the dynamic range

	mu     sync.Mutex
	cursor int // where Next begins to look: after what was handed out last
	avoid  portSet

	// Each reservation is in the set of its class, which is compared with
	// wildcards. One for a specific address is also in the set of that address,
	// which is compared with reservations for the same address.
	class [classes]portSet
	hosts shrinkingMap[netip.Addr, *hostPorts]
	// more counts for how many addresses of a class each port is reserved besides the first.
	more  [classes]portCounts
	spare *hostPorts // saves allocations where an address often loses its only port
}

// hostPorts is the ports reserved for one specific address, at least one.
type hostPorts struct {
	ports portSet
	n     int
}

// NewPorts returns the ports of one protocol, all free, with the dynamic range
// from first to last, both included. RFC 6335 section 6 has 49152 to 65535 for
// it. The error is an [ErrRange]: first is 0 or after last.
func NewPorts(first, last uint16) (*Ports, error) {
	if first == 0 || first > last {
		return nil, fmt.Errorf("choose ports from %d-%d: %w", first, last, ErrRange)
	}
	return &Ports{first: int(first), last: int(last), cursor: int(first)}, nil
}

// Avoid makes Next and NextRun never choose the ports from first to last, both
// included, as the kernel does with those in ip_local_reserved_ports
// (Documentation/networking/ip-sysctl.rst). Reserve and ReserveRun still take
// them, and reservations stay. There is no way to undo it. Ports outside of the
// dynamic range, and 0, make no difference. The error is an [ErrRange]: first is
// after last.
func (p *Ports) Avoid(first, last uint16) error {
	if first > last {
		return fmt.Errorf("avoid ports %d-%d: %w", first, last, ErrRange)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	from := max(int(first), p.first)
	for at := range pieces(from, min(int(last), p.last)-from+1) {
		p.avoid.add(at, func(piece) {})
	}
	return nil
}

// Next reserves a port of the dynamic range for the host: the first one without
// a conflict after the last that Next or NextRun handed out to any host, wrapping
// round. So a port that was released is handed out again only after all others.
//
// The error is [ErrExhausted] if there is none, and [ErrRange] if the host is not
// valid or has a zone.
func (p *Ports) Next(host netip.Addr) (uint16, error) { return p.NextRun(host, 1) }

// NextRun reserves n ports in a row and returns the first. It chooses like Next;
// the run may begin before what was handed out last and end after it, but does
// not go on at the start of the dynamic range when it reaches the end. ReleaseRun
// gives it back.
//
// The error is [ErrExhausted] if there is no such run, and [ErrRange] if n is
// less than 1 or more than the dynamic range has, or the host is not valid or has
// a zone.
func (p *Ports) NextRun(host netip.Addr, n int) (uint16, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	port, err := p.next(host, p.first, p.last, n)
	if err != nil {
		return 0, err
	}
	if p.cursor = port + n; p.cursor > p.last {
		p.cursor = p.first
	}
	return uint16(port), nil
}

// NextIn is Next with the ports from first to last, both included, in the place of the dynamic
// range. It begins after what Next, NextRun or NextIn handed out last if that is among them.
//
// The error is [ErrRange] also if first is 0 or after last.
func (p *Ports) NextIn(host netip.Addr, first, last uint16) (uint16, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	port, err := p.next(host, int(first), int(last), 1)
	if err != nil {
		return 0, err
	}
	if p.cursor = port + 1; p.cursor > maxPort {
		p.cursor = p.first
	}
	return uint16(port), nil
}

// next reserves n ports in a row from first to last.
func (p *Ports) next(host netip.Addr, first, last, n int) (int, error) {
	c, host, ok := classify(host)
	if !ok || first < 1 || n < 1 || n > last-first+1 {
		return 0, &portError{host, first, last, n, ErrRange}
	}
	h := p.host(c, host)
	u := p.taken(c, h)
	u.add(&p.avoid)
	ok = false
	var port int
	if first <= p.cursor && p.cursor <= last {
		port, ok = u.firstFree(p.cursor, last, n)
	}
	if !ok {
		port, ok = u.firstFree(first, last, n) // begins before the cursor, may end after it
	}
	if !ok {
		return 0, &portError{host, first, last, n, ErrExhausted}
	}
	p.add(c, host, h, port, n)
	return port, nil
}

// Reserve reserves a port of 1 to 65535 for a host. What Next hands out is not
// affected but for this port.
//
// The error is an [*InUseError], which is an [ErrInUse], if there is a conflict,
// and [ErrRange] if the port is 0, or the host is not valid or has a zone.
func (p *Ports) Reserve(ap netip.AddrPort) error { return p.ReserveRun(ap, 1) }

// ReserveRun reserves n ports in a row from that of ap on, or none. The errors
// are those of Reserve; [ErrRange] also if n is less than 1 or the run goes
// beyond 65535.
func (p *Ports) ReserveRun(ap netip.AddrPort, n int) error {
	first := int(ap.Port())
	c, host, ok := classify(ap.Addr())
	if !ok || first == 0 || n < 1 || n > maxPort-first+1 {
		return &portError{host: ap.Addr(), first: first, n: n, err: ErrRange}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.host(c, host)
	u := p.taken(c, h)
	if taken, ok := u.firstTaken(first, first+n-1); ok {
		return &portError{host: ap.Addr(), first: first, n: n, err: &InUseError{p.conflict(c, host, taken)}}
	}
	p.add(c, host, h, first, n)
	return nil
}

// Release ends the reservation of exactly this host and port and reports whether
// there was one. An address of a wildcard's reservation cannot be released alone.
func (p *Ports) Release(ap netip.AddrPort) bool {
	c, host, ok := classify(ap.Addr())
	if !ok {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.remove(c, host, int(ap.Port()), 1) == 1
}

// ReleaseRun ends the reservations of n ports in a row from that of ap on, as
// Release does, and returns how many there were.
func (p *Ports) ReleaseRun(ap netip.AddrPort, n int) int {
	c, host, ok := classify(ap.Addr())
	if n = min(n, maxPort-int(ap.Port())+1); !ok || n < 1 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.remove(c, host, int(ap.Port()), n)
}

// host returns the ports of a specific address, nil if it has none or the class
// is a wildcard.
func (p *Ports) host(c class, host netip.Addr) *hostPorts {
	if !c.specific() {
		return nil
	}
	h, _ := p.hosts.get(host)
	return h
}

// taken returns the ports that conflict with a host of the class with the ports h.
func (p *Ports) taken(c class, h *hostPorts) (u union) {
	for _, other := range conflicting[c] {
		u.add(&p.class[other])
	}
	if h != nil {
		u.add(&h.ports)
	}
	return u
}

// conflict returns the reservation of the port that conflicts with the host.
func (p *Ports) conflict(c class, host netip.Addr, port int) netip.AddrPort {
	for _, other := range conflicting[c] {
		if !p.class[other].has(port) {
			continue
		}
		if other.specific() {
			return netip.AddrPortFrom(p.lowest(other, port), uint16(port))
		}
		return netip.AddrPortFrom(other.wildcard(), uint16(port))
	}
	return netip.AddrPortFrom(host, uint16(port))
}

// lowest returns the lowest address of the class that the port is reserved for.
// It looks at every address in use, but only after a conflict.
func (p *Ports) lowest(c class, port int) (low netip.Addr) {
	for a, h := range p.hosts.m {
		if a.Is4() == (c == one4) && h.ports.has(port) && (!low.IsValid() || a.Less(low)) {
			low = a
		}
	}
	return low
}

// add reserves n ports that are not taken for the host, which has the ports h.
func (p *Ports) add(c class, host netip.Addr, h *hostPorts, first, n int) {
	if h == nil && c.specific() {
		if h, p.spare = p.spare, nil; h == nil {
			h = new(hostPorts)
		}
		p.hosts.put(host, h)
	}
	for at := range pieces(first, n) {
		p.class[c].add(at, p.more[c].add)
		if h != nil {
			h.ports.add(at, nil)
		}
	}
	if h != nil {
		h.n += n
	}
}

// remove undoes add for those of n ports that are reserved, and returns how many.
func (p *Ports) remove(c class, host netip.Addr, first, n int) (removed int) {
	from, h := &p.class[c], p.host(c, host)
	if c.specific() {
		if h == nil {
			return 0
		}
		from = &h.ports
	}
	for at := range pieces(first, n) {
		from.remove(at, func(at piece) {
			removed += at.len()
			if h != nil {
				p.more[c].remove(at, func(last piece) { p.class[c].remove(last, func(piece) {}) })
			}
		})
	}
	if h == nil {
		return removed
	}
	if h.n -= removed; h.n == 0 {
		p.hosts.drop(host)
		p.spare = h
	}
	return removed
}
