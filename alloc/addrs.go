// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"fmt"
	"iter"
	"net/netip"
	"sync"
)

// Addrs leases the addresses of one prefix, each to one holder at a time, in
// order, wrapping round. Make one with [NewAddrs]; it must not be copied. All
// methods may be called concurrently.
//
// Never leased are the addresses reserved at the beginning and
//
//   - of an IPv4 prefix, network and broadcast address (RFC 1122 section
//     3.2.1.3); a /31 has neither (RFC 3021), a /32 is its one address;
//   - of an IPv6 prefix, the first address, which is the anycast address of the
//     subnet's routers (RFC 4291 section 2.6.1); a /127 has none (RFC 6164), a
//     /128 is its one address.
//
// Every operation takes a few steps for each level of a tree whose height is
// the logarithm, base 64, of how far apart the leases lie, at most 21 levels: a
// /8 with one free address takes hardly longer than an empty one. Runs of leased
// addresses take almost no memory: a full pool is as small as an empty one. A
// lease far from all others takes some 150 bytes, a /8 less than 4 MiB in any
// state.
type Addrs struct {
	prefix      netip.Prefix // masked
	first, last key          // what may be leased, but for reserved

	mu       sync.Mutex
	used     tree // leased or reserved
	reserved tree // its keys are in used, too
	leases   int

	// cursor is the free address that Next returns, unless full. It moves on when
	// that address is taken and not when the next one is asked for: an address
	// released in between comes last.
	cursor key
	full   bool // no address is free
}

// NewAddrs returns a pool of the addresses of prefix, all free, the first one
// next. An address of the prefix may stand in the prefix's place, as in
// 192.0.2.7/24. The reserved addresses are never leased, say that of a gateway;
// naming one twice, or one that is never leased anyway, is not an error.
//
// The error is an [ErrRange]: prefix is not valid, prefix is written with an
// IPv4-mapped address and shorter than /96, or a reserved address is not in
// prefix.
func NewAddrs(prefix netip.Prefix, reserved ...netip.Addr) (*Addrs, error) {
	p := unmap(prefix).Masked()
	if !p.IsValid() {
		return nil, fmt.Errorf("make pool of %v: %w", prefix, ErrRange)
	}
	a := &Addrs{prefix: p}
	a.first, a.last = leasable(p)
	for _, r := range reserved {
		k, ok := a.key(r)
		if !ok {
			return nil, fmt.Errorf("reserve %v in %v: %w", r, p, ErrRange)
		}
		a.used.set(k)
		a.reserved.set(k)
	}
	a.seek(a.first)
	return a, nil
}

// Clone returns a pool of its own with the same leases and cursor.
func (a *Addrs) Clone() *Addrs {
	a.mu.Lock()
	defer a.mu.Unlock()
	return &Addrs{
		prefix: a.prefix, first: a.first, last: a.last,
		used: a.used.clone(), reserved: a.reserved.clone(), leases: a.leases,
		cursor: a.cursor, full: a.full,
	}
}

// unmap returns the IPv4 prefix that p means, if it is an IPv4-mapped one, and
// no prefix if it is one too short to mean any.
func unmap(p netip.Prefix) netip.Prefix {
	if !p.Addr().Is4In6() {
		return p
	}
	return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
}

// leasable returns the first and the last address of p that may be leased.
func leasable(p netip.Prefix) (first, last key) {
	first = keyOf(p.Addr())
	host := uint(p.Addr().BitLen() - p.Bits())
	last = first.last(host)
	if host > 1 {
		first = first.next()
		if p.Addr().Is4() {
			last = last.prev()
		}
	}
	return first, last
}

// leasable reports whether k, of the prefix, may be leased if not reserved.
func (a *Addrs) leasable(k key) bool {
	return !k.less(a.first) && !a.last.less(k)
}

// key returns the key of an address and whether the prefix has it.
func (a *Addrs) key(addr netip.Addr) (key, bool) {
	if addr.Zone() != "" {
		return key{}, false
	}
	addr = addr.Unmap()
	if !a.prefix.Contains(addr) {
		return key{}, false
	}
	return keyOf(addr), true
}

func (a *Addrs) addr(k key) netip.Addr {
	if a.prefix.Addr().Is4() {
		return k.addr4()
	}
	return k.addr6()
}

// seek puts the cursor on the first free address from k on, wrapping round.
func (a *Addrs) seek(k key) {
	a.cursor = k
	a.full = false
	for _, from := range [...]key{k, a.first} {
		if c := a.free(from); a.leasable(c) {
			a.cursor = c
			return
		}
	}
	a.full = true
}

// free returns the first key from k on that is not in use. It may be one that
// is not leasable: past the last, or the network address where k is.
func (a *Addrs) free(k key) key {
	c := a.used.firstClear(k)
	// An IPv6 prefix that contains ::ffff:0:0/96 must not lease those addresses:
	// they could not be told from IPv4 addresses.
	if c.hi == 0 && c.lo>>32 == 0xffff {
		return a.used.firstClear(key{lo: 0x1_0000_0000_0000})
	}
	return c
}

// Next leases the next free address: the first one from the cursor on. The
// error is an [ErrExhausted].
func (a *Addrs) Next() (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.full {
		return netip.Addr{}, &addrError{prefix: a.prefix, err: ErrExhausted}
	}
	k := a.cursor
	a.used.set(k)
	a.leases++
	a.seek(k)
	return a.addr(k), nil
}

// Reserve leases this very address. The cursor stays where it is, unless it is
// on this address, which Next can no longer give.
//
// The error is [ErrRange] if the address is not in the prefix or has a zone,
// [ErrReserved] if it is never leased, and [ErrInUse] if it is leased.
func (a *Addrs) Reserve(addr netip.Addr) error {
	k, ok := a.key(addr)
	if !ok {
		return &addrError{addr, a.prefix, ErrRange}
	}
	if !a.leasable(k) {
		return &addrError{addr, a.prefix, ErrReserved}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.used.set(k) {
		if a.reserved.has(k) {
			return &addrError{addr, a.prefix, ErrReserved}
		}
		return &addrError{addr, a.prefix, ErrInUse}
	}
	a.leases++
	if k == a.cursor {
		a.seek(k)
	}
	return nil
}

// Release ends a lease and reports whether there was one. An address that is
// free, reserved or not in the prefix is not leased, and releasing it changes
// nothing.
//
// The cursor stays where it is: the free addresses between the cursor and this
// one are leased before it. Only if no address was free the cursor moves here, so
// that addresses released first are leased first.
func (a *Addrs) Release(addr netip.Addr) bool {
	k, ok := a.key(addr)
	if !ok {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.reserved.has(k) || !a.used.clear(k) {
		return false
	}
	a.leases--
	if a.full {
		a.cursor, a.full = k, false
	}
	return true
}

// Leases returns the leased addresses in ascending order. Addresses leased or
// released during the walk may be missing or not; each was leased when it was
// yielded. The loop's body may call any method.
func (a *Addrs) Leases() iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for k := a.first; ; k = k.next() {
			var ok bool
			if k, ok = a.leaseFrom(k); !ok || !yield(a.addr(k)) || k == a.last {
				return
			}
		}
	}
}

// leaseFrom returns the first leased address from k on.
func (a *Addrs) leaseFrom(k key) (key, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	k, ok := a.used.firstSet(k)
	for ok && a.reserved.has(k) {
		if k == a.last {
			return k, false
		}
		k, ok = a.used.firstSet(k.next())
	}
	return k, ok
}

// Len returns how many addresses are leased.
func (a *Addrs) Len() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.leases
}

// Prefix returns the prefix that the addresses are of, masked and unmapped.
func (a *Addrs) Prefix() netip.Prefix { return a.prefix }

// Cursor returns the address that Next gives next. If none is free it is any
// address of the prefix, and the next one is the first to be released.
//
// A pool has no state but its leases and its cursor. Another pool with the same
// prefix and reserved addresses, whose leases are reserved in any order and whose
// cursor is then set, behaves exactly as this one.
func (a *Addrs) Cursor() netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.addr(a.cursor)
}

// SetCursor makes the first free address from addr on, wrapping round, the next
// one. Any address of the prefix will do, also one that is in use or never
// leased. The error is an [ErrRange]: the address is not in the prefix or has a
// zone.
func (a *Addrs) SetCursor(addr netip.Addr) error {
	k, ok := a.key(addr)
	if !ok {
		return fmt.Errorf("set cursor %v in %v: %w", addr, a.prefix, ErrRange)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seek(k)
	return nil
}
