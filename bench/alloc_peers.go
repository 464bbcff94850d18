// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"sync"
)

// The two ways to write an allocator of addresses in an afternoon. Both have what
// alloc.Addrs has: a mutex, and addresses handed out in order, wrapping round.

// number is the reverse of address.
func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:]) - 10<<24 - 1
}

// after is the number after n, wrapping round.
func after(n uint32) uint32 {
	if n++; n == slash8Size {
		return 0
	}
	return n
}

// mapPool has a set of what is leased.
type mapPool struct {
	mu     sync.Mutex
	leased map[uint32]struct{}
	cursor uint32
}

func newMapPool() *mapPool { return &mapPool{leased: map[uint32]struct{}{}} }

func (p *mapPool) next() (netip.Addr, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range uint32(slash8Size) {
		n := p.cursor
		p.cursor = after(n)
		if _, taken := p.leased[n]; !taken {
			p.leased[n] = struct{}{}
			return address(n), true
		}
	}
	return netip.Addr{}, false
}

func (p *mapPool) reserve(a netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := number(a)
	if _, taken := p.leased[n]; taken {
		return false
	}
	p.leased[n] = struct{}{}
	return true
}

func (p *mapPool) release(a netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := number(a)
	_, taken := p.leased[n]
	delete(p.leased, n)
	return taken
}

// bitmapPool has a bit for each address.
type bitmapPool struct {
	mu     sync.Mutex
	words  []uint64
	cursor uint32
}

func newBitmapPool() *bitmapPool {
	p := &bitmapPool{words: make([]uint64, (slash8Size+63)/64)}
	for n := uint32(slash8Size); n%64 != 0; n++ { // there are no such addresses
		p.words[n/64] |= 1 << (n % 64)
	}
	return p
}

func (p *bitmapPool) next() (netip.Addr, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.cursor / 64
	free := ^p.words[i] >> (p.cursor % 64) << (p.cursor % 64)
	for range len(p.words) + 1 {
		if free != 0 {
			n := i*64 + uint32(bits.TrailingZeros64(free))
			p.words[i] |= 1 << (n % 64)
			p.cursor = after(n)
			return address(n), true
		}
		if i++; int(i) == len(p.words) {
			i = 0
		}
		free = ^p.words[i]
	}
	return netip.Addr{}, false
}

func (p *bitmapPool) reserve(a netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := number(a)
	taken := p.words[n/64]>>(n%64)&1 != 0
	p.words[n/64] |= 1 << (n % 64)
	return !taken
}

func (p *bitmapPool) release(a netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := number(a)
	taken := p.words[n/64]>>(n%64)&1 != 0
	p.words[n/64] &^= 1 << (n % 64)
	return taken
}
