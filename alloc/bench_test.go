// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// fills are the shares of a pool that are in use, and 1 for all but one.
var fills = []struct {
	name  string
	share float64
}{{"0%", 0}, {"50%", 0.5}, {"99%", 0.99}, {"all-but-one", 1}}

// batch is how many operations are timed before they are undone. A pool with fewer free
// or leased addresses is measured by the cycle only.
const batch = 64

// BenchmarkAddrs measures pools with holes at random places.
func BenchmarkAddrs(b *testing.B) {
	for _, bitlen := range []int{24, 16, 8} {
		for _, fill := range fills {
			p := netip.PrefixFrom(addr("10.0.0.0"), bitlen)
			a, free, used := randomlyFilled(b, p, fill.share)
			b.Run(fmt.Sprintf("slash%d/%s", bitlen, fill.name), func(b *testing.B) { benchmarkAddrs(b, a, free, used) })
		}
	}
	// Sparse: a lease in each of 100,000 places of a /64.
	b.Run("slash64/100000", func(b *testing.B) {
		r := rand.New(rand.NewPCG(1, 2))
		a := newAddrs(b, "2001:db8::/64")
		somewhere := func() netip.Addr { return key{0x20010db8 << 32, r.Uint64() | 1}.addr6() }
		for range 100_000 {
			require.NoError(b, a.Reserve(somewhere()))
		}
		var free, used []netip.Addr
		for range 4096 {
			free, used = append(free, somewhere()), append(used, somewhere())
			require.NoError(b, a.Reserve(used[len(used)-1]))
		}
		benchmarkAddrs(b, a, free, used)
	})
}

// randomlyFilled returns a pool, and in random order up to 4096 of its free
// addresses and as many of the leased ones.
func randomlyFilled(b *testing.B, p netip.Prefix, share float64) (a *Addrs, free, used []netip.Addr) {
	b.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	a, err := NewAddrs(p)
	require.NoError(b, err)
	size := int(a.last.lo-a.first.lo) + 1
	somewhere := func() netip.Addr { return key{lo: a.first.lo + r.Uint64N(uint64(size))}.addr4() }
	if share > 0 {
		for range size {
			if _, err := a.Next(); err != nil {
				b.Fatal(err)
			}
		}
		for target := min(int(share*float64(size)), size-1); a.leases > target; {
			a.Release(somewhere())
		}
	}
	seen := map[netip.Addr]bool{}
	for range 1 << 18 {
		ip := somewhere()
		switch k := keyOf(ip); {
		case seen[ip]:
		case a.used.has(k) && len(used) < 4096:
			used = append(used, ip)
		case !a.used.has(k) && len(free) < 4096:
			free = append(free, ip)
		}
		seen[ip] = true
	}
	return a, free, used
}

func benchmarkAddrs(b *testing.B, a *Addrs, free, used []netip.Addr) {
	b.Helper()
	b.Run("Release+Next", func(b *testing.B) {
		b.ReportAllocs()
		held := append([]netip.Addr{}, used...)
		if len(held) == 0 {
			ip, err := a.Next()
			require.NoError(b, err)
			held = append(held, ip)
		}
		i := 0
		for b.Loop() {
			a.Release(held[i])
			held[i], _ = a.Next()
			if i++; i == len(held) {
				i = 0
			}
		}
		// As it was found.
		for _, ip := range held {
			require.True(b, a.Release(ip))
		}
		for _, ip := range used {
			require.NoError(b, a.Reserve(ip))
		}
	})
	if len(free) >= batch {
		got := make([]netip.Addr, 0, len(free))
		b.Run("Next", func(b *testing.B) {
			b.ReportAllocs()
			putBack := func() {
				for _, ip := range got {
					a.Release(ip)
				}
				got = got[:0]
			}
			for b.Loop() {
				ip, _ := a.Next()
				if got = append(got, ip); len(got) == cap(got) {
					b.StopTimer()
					putBack()
					b.StartTimer()
				}
			}
			putBack()
		})
		b.Run("Reserve", func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if i == len(free) {
					b.StopTimer()
					for _, ip := range free {
						a.Release(ip)
					}
					i = 0
					b.StartTimer()
				}
				if err := a.Reserve(free[i]); err != nil {
					b.Fatal(err)
				}
				i++
			}
			for _, ip := range free[:i] {
				a.Release(ip)
			}
		})
	}
	if len(used) >= batch {
		b.Run("ErrInUse", func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if a.Reserve(used[i]) == nil {
					b.Fatal("granted twice")
				}
				if i++; i == len(used) {
					i = 0
				}
			}
		})
		b.Run("Release", func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			putBack := func() {
				for _, ip := range used[:i] {
					if err := a.Reserve(ip); err != nil {
						b.Fatal(err)
					}
				}
				i = 0
			}
			for b.Loop() {
				if i == len(used) {
					b.StopTimer()
					putBack()
					b.StartTimer()
				}
				a.Release(used[i])
				i++
			}
			putBack()
		})
	}
}

// BenchmarkPorts measures the dynamic range with holes at random places.
func BenchmarkPorts(b *testing.B) {
	for _, host := range []netip.Addr{anyIPv4(), anyBoth(), addr("192.0.2.1")} {
		for _, fill := range fills {
			const size = dynamicLast - dynamicFirst + 1
			r := rand.New(rand.NewPCG(1, 2))
			p := newPorts(b, dynamicFirst, dynamicLast)
			var used, free []netip.AddrPort
			for i, offset := range r.Perm(size) {
				ap := netip.AddrPortFrom(host, uint16(dynamicFirst+offset))
				if i < min(int(fill.share*size), size-1) {
					require.NoError(b, p.Reserve(ap))
					used = append(used, ap)
				} else {
					free = append(free, ap)
				}
			}
			b.Run(fmt.Sprintf("%v/%s", host, fill.name), func(b *testing.B) { benchmarkPorts(b, p, host, used, free) })
		}
	}
	// The worst case: of two sets, each has what the other one has free.
	b.Run("192.0.2.1/interleaved", func(b *testing.B) {
		p := newPorts(b, 1, maxPort)
		host := addr("192.0.2.1")
		for port := range maxPort - 1 {
			ap := netip.AddrPortFrom(host, uint16(port+1))
			if port%2 == 0 {
				ap = netip.AddrPortFrom(anyIPv4(), uint16(port+1))
			}
			require.NoError(b, p.Reserve(ap))
		}
		b.ReportAllocs()
		for b.Loop() {
			port, err := p.Next(host)
			if err != nil || port != maxPort {
				b.Fatal(port, err)
			}
			p.Release(netip.AddrPortFrom(host, port))
		}
	})
}

// BenchmarkPortsRun: a run of any width is reserved and released in about the time of a port.
func BenchmarkPortsRun(b *testing.B) {
	for _, host := range []netip.Addr{anyBoth(), addr("192.0.2.1")} {
		for _, n := range []int{1, 19_001, 50_001} {
			for _, shared := range []bool{false, true} {
				p := newPorts(b, dynamicFirst, dynamicLast)
				at := netip.AddrPortFrom(host, 10_000)
				if shared && host != anyBoth() {
					require.NoError(b, p.ReserveRun(netip.AddrPortFrom(addr("192.0.2.2"), 10_000), n))
				} else if shared {
					continue
				}
				b.Run(fmt.Sprintf("%v/%d/shared=%v", host, n, shared), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						if p.ReserveRun(at, n) != nil || p.ReleaseRun(at, n) != n {
							b.Fatal("not reserved or not released")
						}
					}
				})
			}
		}
	}
}

func benchmarkPorts(b *testing.B, p *Ports, host netip.Addr, used, free []netip.AddrPort) {
	b.Helper()
	b.Run("Release+Next", func(b *testing.B) {
		b.ReportAllocs()
		held := append([]netip.AddrPort{}, used...)
		if len(held) == 0 {
			held = append(held, free[0])
		}
		i := 0
		for b.Loop() {
			p.Release(held[i])
			port, _ := p.Next(host)
			held[i] = netip.AddrPortFrom(host, port)
			if i++; i == len(held) {
				i = 0
			}
		}
		for _, ap := range held {
			require.True(b, p.Release(ap))
		}
		for _, ap := range used {
			require.NoError(b, p.Reserve(ap))
		}
	})
	b.Run("Reserve+Release", func(b *testing.B) {
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			if err := p.Reserve(free[i]); err != nil {
				b.Fatal(err)
			}
			p.Release(free[i])
			if i++; i == len(free) {
				i = 0
			}
		}
	})
	b.Run("ErrInUse", func(b *testing.B) {
		if len(used) == 0 {
			b.Skip("nothing is in use")
		}
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			if p.Reserve(used[i]) == nil {
				b.Fatal("granted twice")
			}
			if i++; i == len(used) {
				i = 0
			}
		}
	})
	b.Run("NextRun10", func(b *testing.B) {
		if _, err := p.NextRun(host, 10); err != nil {
			b.Skip("there is no such run")
		}
		p.mu.Lock()
		last := p.cursor - 10
		if p.cursor == p.first {
			last = p.last - 9
		}
		p.mu.Unlock()
		for b.Loop() {
			for i := range 10 {
				p.Release(netip.AddrPortFrom(host, uint16(last+i)))
			}
			port, err := p.NextRun(host, 10)
			if err != nil {
				b.Fatal(err)
			}
			last = int(port)
		}
		for i := range 10 {
			p.Release(netip.AddrPortFrom(host, uint16(last+i)))
		}
	})
	b.Run("exhausted", func(b *testing.B) {
		if len(free) != 1 {
			b.Skip("more than one is free")
		}
		require.NoError(b, p.Reserve(free[0]))
		for b.Loop() {
			if _, err := p.Next(host); err == nil {
				b.Fatal("one is left")
			}
		}
		p.Release(free[0])
	})
}
