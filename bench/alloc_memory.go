// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"runtime"
)

// benchAllocMemory measures what leases of a /8 take.
func benchAllocMemory(rep *report) error {
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		name  string
		count int
		order func(i int) uint32
	}{
		{"1,000 leases at random places", 1000, func(int) uint32 { return r.Uint32N(slash8Size) }},
		{"60,000 leases in a row", 60_000, func(i int) uint32 { return uint32(i) }},
		{"60,000 leases at random places", 60_000, func(int) uint32 { return r.Uint32N(slash8Size) }},
		{"a /8, half leased at random places", slash8Size / 2, func(int) uint32 { return r.Uint32N(slash8Size) }},
		{"a /8, all but one leased", slash8Size - 1, func(i int) uint32 { return uint32(i) }},
	} {
		all := rep.table("Memory of "+c.name, "KiB")
		each := rep.table("Memory of each of them", "bytes")
		for _, kind := range poolKinds() {
			before := heapInUse()
			p, err := kind.make()
			if err != nil {
				return fmt.Errorf("%s: %w", kind.name, err)
			}
			for i, leased := 0, 0; leased < c.count; i++ {
				if p.reserve(address(c.order(i))) {
					leased++
				}
			}
			grown := heapInUse() - before
			runtime.KeepAlive(p)
			all.add(kind.name, grown/1024)
			each.add(kind.name, grown/float64(c.count))
		}
	}
	return nil
}

// heapInUse is what is on the heap and no garbage, in bytes.
func heapInUse() float64 {
	runtime.GC()
	runtime.GC() // what the first one found to be finalized
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
