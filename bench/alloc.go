// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"

	"github.com/nftnat/nftnat/alloc"
)

// slash8 is the pool of these measurements.
func slash8() netip.Prefix { return netip.MustParsePrefix("10.0.0.0/8") }

// slash8Size is the number of its addresses that can be leased: all but the first and the last.
const slash8Size = 1<<24 - 2

// pool leases addresses of slash8 in order, and begins again after the last.
type pool interface {
	next() (netip.Addr, bool)
	reserve(netip.Addr) bool
	release(netip.Addr) bool
}

// poolKind makes empty pools.
type poolKind struct {
	name string
	make func() (pool, error)
}

func poolKinds() []poolKind {
	return []poolKind{
		{"alloc.Addrs", func() (pool, error) {
			a, err := alloc.NewAddrs(slash8())
			return addrsPool{a}, err
		}},
		{"bitmap and cursor", func() (pool, error) { return newBitmapPool(), nil }},
		{"Go map and cursor", func() (pool, error) { return newMapPool(), nil }},
	}
}

// addrsPool is alloc.Addrs.
type addrsPool struct{ a *alloc.Addrs }

func (p addrsPool) next() (netip.Addr, bool) {
	a, err := p.a.Next()
	return a, err == nil
}
func (p addrsPool) reserve(a netip.Addr) bool { return p.a.Reserve(a) == nil }
func (p addrsPool) release(a netip.Addr) bool { return p.a.Release(a) }

// address returns the i'th address of slash8 that can be leased.
func address(i uint32) netip.Addr {
	i += 10<<24 + 1
	return netip.AddrFrom4([4]byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)})
}

func anyAddress(r *rand.Rand) netip.Addr { return address(r.Uint32N(slash8Size)) }

// benchAlloc measures the allocator of addresses against the two obvious ones.
func benchAlloc(rep *report, s settings) error {
	for _, fill := range []struct {
		name   string
		leased int
	}{
		{"an empty /8", 0}, {"a /8, half leased", slash8Size / 2},
		{"a /8, 99 % leased", slash8Size / 100 * 99}, {"a /8, all but one leased", slash8Size - 1},
	} {
		cycle := rep.table("Release and Next, "+fill.name+": processor time of the two", "ns")
		change := rep.table("Reserve and Release, "+fill.name+": processor time of the two", "ns")
		var pools []pool
		for _, kind := range poolKinds() {
			p, err := kind.make()
			if err != nil {
				return err
			}
			if err := lease(p, fill.leased); err != nil {
				return fmt.Errorf("%s: %w", kind.name, err)
			}
			pools = append(pools, p)
		}
		for round := range s.rounds {
			for i, kind := range poolKinds() {
				r := rand.New(rand.NewPCG(uint64(round), 3)) // the same for each kind
				took, err := cycles(pools[i], r, fill.leased > 1)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", fill.name, kind.name, err)
				}
				cycle.add(kind.name, took)
				change.add(kind.name, changes(pools[i], r))
			}
		}
		runtime.KeepAlive(pools)
	}
	return benchAllocMemory(rep)
}

// lease leases count random addresses of an empty pool.
func lease(p pool, count int) error {
	if count == 0 {
		return nil
	}
	for range slash8Size {
		if _, ok := p.next(); !ok {
			return errors.New("fewer addresses than a /8 has")
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for leased := slash8Size; leased > count; {
		if p.release(anyAddress(r)) {
			leased--
		}
	}
	return nil
}

const (
	operations = 1 << 16 // timed in a row
	brief      = 0.05    // seconds after which it is enough
)

// cycles repeatedly releases a random address and leases the next one, and returns the
// time of one pair.
func cycles(p pool, r *rand.Rand, filled bool) (float64, error) {
	if !filled {
		a, ok := p.next()
		if !ok {
			return 0, errors.New("nothing is free")
		}
		took := pairs(func(int) {
			p.release(a)
			a, _ = p.next()
		})
		p.release(a)
		return took, nil
	}
	// The addresses are chosen before, so that the generator is not measured.
	var held []netip.Addr
	for len(held) < operations {
		if a := anyAddress(r); p.release(a) {
			p.reserve(a)
			held = append(held, a)
		}
	}
	return pairs(func(i int) {
		// An address that is chosen twice may be free the second time. Then it is not leased
		// twice, so the number of leases stays the same.
		if p.release(held[i]) {
			p.next()
		}
	}), nil
}

// changes releases random addresses and leases them again, or the reverse if they are free,
// and returns the time of one pair. A Reserve that fails is not counted, because it has to
// make an error.
func changes(p pool, r *rand.Rand) float64 {
	places, leased := make([]netip.Addr, operations), make([]bool, operations)
	for i := range places {
		places[i] = anyAddress(r)
		if leased[i] = p.release(places[i]); leased[i] {
			p.reserve(places[i])
		}
	}
	return pairs(func(i int) {
		if leased[i] {
			p.release(places[i])
		}
		p.reserve(places[i])
		if !leased[i] {
			p.release(places[i])
		}
	})
}

// pairs returns the processor time of a call of f in nanoseconds. f gets the numbers below
// operations in order.
func pairs(f func(i int)) float64 {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	done := 0
	begin := threadTime()
	for done < operations {
		// Reading the clock costs more than one call, unless the call is slow.
		for range 64 {
			f(done)
			done++
			if done&(done-1) == 0 && threadTime()-begin > brief {
				return (threadTime() - begin) * 1e9 / float64(done)
			}
		}
	}
	return (threadTime() - begin) * 1e9 / float64(done)
}
