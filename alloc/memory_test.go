// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"math/rand/v2"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

const kib = 1 << 10

// heap returns by how many bytes the heap grows for each of n calls of build, garbage
// not counted. The runtime itself varies by some kilobytes: n must be large where the
// result is small.
func heap[T any](tb testing.TB, n int, build func() T) int {
	tb.Helper()
	var before, after runtime.MemStats
	kept := make([]T, 0, n)
	runtime.GC()
	runtime.GC() // what the first one found to be finalized
	runtime.ReadMemStats(&before)
	for range n {
		kept = append(kept, build())
	}
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(kept)
	bytes := (int(after.HeapAlloc) - int(before.HeapAlloc)) / n
	tb.Logf("%d bytes", bytes)
	return bytes
}

// requireGivenBack checks that release frees nine tenths of the bytes at least.
func requireGivenBack[T any](t *testing.T, bytes int, release func() T) {
	t.Helper()
	require.Greater(t, -heap(t, 1, release), bytes-bytes/10, "given back")
}

// fullSlash8 is 10.0.0.0/8 with all but its last address leased, as if by Next
// 16,777,213 times; TestAddrsFillSlash8 has the witness that it is the same.
func fullSlash8(tb testing.TB) *Addrs {
	tb.Helper()
	a := newAddrs(tb, "10.0.0.0/8")
	a.used.root = a.used.node(a.first, 3)
	a.used.root.full = allOnes
	a.used.root.raise()
	for _, k := range []key{a.first.prev(), a.last, a.last.next()} {
		require.True(tb, a.used.clear(k))
	}
	a.leases = 1<<24 - 3
	a.seek(a.first)
	return a
}

// raceDetector reports whether the tests were built with it.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// random10 is an address of 10.0.0.0/8, but for the first and the last ones.
func random10(r *rand.Rand) netip.Addr {
	return key{lo: 10<<24 | uint64(1+r.Uint32N(1<<24-3))}.addr4()
}

func TestAddrsFillSlash8(t *testing.T) {
	if raceDetector() {
		t.Skip("leases 16 million addresses, in one goroutine: half a minute with the race detector, and nothing to detect")
	}
	want := fullSlash8(t)
	a := newAddrs(t, "10.0.0.0/8")
	bytes := heap(t, 1, func() *Addrs {
		for k := a.first; k != a.last; k = k.next() {
			if ip, err := a.Next(); err != nil || ip != k.addr4() {
				require.NoError(t, err)
				require.Equal(t, k.addr4(), ip)
			}
		}
		return a
	})
	require.Less(t, bytes, 16*kib, "a run of leases costs next to nothing")
	requireSameShape(t, want.used.root, a.used.root)
	require.Equal(t, want.leases, a.leases)
	require.Equal(t, want.cursor, a.cursor)
	require.Equal(t, []string{"10.255.255.254"}, lease(t, a, 1))
	requireExhausted(t, a)
}

// The only free address of a /8 is found by looking at one node a level.
func TestAddrsAllButOneOfSlash8(t *testing.T) {
	r := newRand(t)
	a := fullSlash8(t)
	lease(t, a, 1)
	for range 10_000 {
		ip := random10(r)
		require.True(t, a.Release(ip))
		require.LessOrEqual(t, height(a.used.root), 3)
		require.LessOrEqual(t, nodes(a.used.root), 7, "the root, and two to each of hole, network and broadcast address")
		got, err := a.Next()
		require.NoError(t, err)
		require.Equal(t, ip, got)
		_, err = a.Next()
		require.ErrorIs(t, err, ErrExhausted)
	}
	// Holes in any number come back in order, from the first released on.
	holes := map[netip.Addr]bool{}
	first := random10(r)
	require.True(t, a.Release(first))
	for range 1000 {
		if ip := random10(r); a.Release(ip) {
			holes[ip] = true
		}
	}
	require.Equal(t, first, a.Cursor())
	last, err := a.Next()
	require.NoError(t, err)
	wrapped := 0
	for range len(holes) {
		ip, err := a.Next()
		require.NoError(t, err)
		require.True(t, holes[ip])
		delete(holes, ip)
		if !last.Less(ip) {
			wrapped++
		}
		last = ip
	}
	require.LessOrEqual(t, wrapped, 1)
	requireExhausted(t, a)
}

func TestAddrsMemory(t *testing.T) {
	for _, p := range []string{"10.0.0.0/8", "10.0.0.0/24", "2001:db8::/64", "0.0.0.0/0", "::/0"} {
		t.Run("empty "+p, func(t *testing.T) {
			second := prefix(p).Addr().Next()
			require.Less(t, heap(t, 100, func() *Addrs {
				a, err := NewAddrs(prefix(p), second)
				require.NoError(t, err)
				return a
			}), kib)
		})
	}
	t.Run("full /8", func(t *testing.T) {
		require.Less(t, heap(t, 100, func() *Addrs { return fullSlash8(t) }), 2*kib)
	})
	// The worst case for a bitmap: no word is full or empty. That a /8 stays below
	// 4 MiB while it fills is measured on a sixteenth.
	t.Run("every other of a /12, in any order", func(t *testing.T) {
		r := newRand(t)
		a := newAddrs(t, "10.16.0.0/12")
		order := r.Perm(1 << 19)
		bytes := heap(t, 1, func() *Addrs {
			for _, i := range order {
				if i > 0 {
					require.NoError(t, a.Reserve(key{lo: 10<<24 | 16<<16 | uint64(i)*2}.addr4()))
				}
			}
			return a
		})
		require.Less(t, bytes, 4*kib*kib/16)
		requireGivenBack(t, bytes, func() *Addrs {
			for _, i := range order {
				a.Release(key{lo: 10<<24 | 16<<16 | uint64(i)*2}.addr4())
			}
			return a
		})
		runtime.KeepAlive(order)
	})
	t.Run("anywhere in a /64", func(t *testing.T) {
		r := newRand(t)
		const n = 20_000
		a := newAddrs(t, "2001:db8::/64")
		var ips []netip.Addr
		for range n {
			ips = append(ips, key{0x20010db8 << 32, r.Uint64() | 1}.addr6())
		}
		bytes := heap(t, 1, func() *Addrs {
			for _, ip := range ips {
				require.NoError(t, a.Reserve(ip))
			}
			return a
		})
		require.Less(t, bytes, n*200)
		requireGivenBack(t, bytes, func() *Addrs {
			for _, ip := range ips {
				require.True(t, a.Release(ip))
			}
			return a
		})
		require.Nil(t, a.used.root)
		runtime.KeepAlive(ips)
	})
}

// The cost of a lease depends on the leases and not on the prefix.
func TestAddrsWidthIsFree(t *testing.T) {
	for _, n := range []int{1, 200, 5000, 300_000} {
		four, six := newAddrs(t, "10.0.0.0/8"), newAddrs(t, "::/0")
		for range n {
			_, err := four.Next()
			require.NoError(t, err)
			_, err = six.Next()
			require.NoError(t, err)
		}
		require.Equal(t, nodes(four.used.root), nodes(six.used.root))
		require.Equal(t, height(four.used.root), height(six.used.root))
	}
}

func TestAddrsAllocateNothing(t *testing.T) {
	r := newRand(t)
	for name, free := range map[string]int{"all but one": 1, "all but a hundred": 100, "99%": 1 << 24 / 100} {
		t.Run(name, func(t *testing.T) {
			a := fullSlash8(t)
			lease(t, a, 1)
			for n := a.Len() - free; a.Len() > n; {
				a.Release(random10(r))
			}
			ip, err := a.Next()
			require.NoError(t, err)
			step := func() {
				if free == 1 || a.Len()&1 == 0 {
					a.Release(ip)
					ip, err = a.Next()
				}
				next := random10(r)
				if a.Release(next) {
					err = a.Reserve(next)
				}
			}
			for range 10_000 {
				step() // as many nodes as there will be
			}
			require.Zero(t, testing.AllocsPerRun(10_000, step))
			require.NoError(t, err)
		})
	}
	t.Run("one lease", func(t *testing.T) {
		a := newAddrs(t, "2001:db8::/64")
		require.Zero(t, testing.AllocsPerRun(1000, func() {
			ip, err := a.Next()
			if err != nil || !a.Release(ip) {
				t.Error(ip, err)
			}
		}))
	})
}

func TestPortsMemory(t *testing.T) {
	t.Run("empty", func(t *testing.T) {
		require.Less(t, heap(t, 100, func() *Ports { return newPorts(t, dynamicFirst, dynamicLast) }), 2*kib)
	})
	for _, host := range []netip.Addr{anyIPv4(), anyBoth(), IPv6Only(), addr("192.0.2.1")} {
		t.Run("every port of "+host.String(), func(t *testing.T) {
			require.Less(t, heap(t, 10, func() *Ports {
				p := newPorts(t, dynamicFirst, dynamicLast)
				for port := range 65535 {
					if err := p.Reserve(netip.AddrPortFrom(host, uint16(port+1))); err != nil {
						require.NoError(t, err)
					}
				}
				return p
			}), 8*kib)
		})
		t.Run("a run of "+host.String(), func(t *testing.T) {
			require.Less(t, heap(t, 100, func() *Ports {
				p := newPorts(t, dynamicFirst, dynamicLast)
				require.NoError(t, p.ReserveRun(netip.AddrPortFrom(host, 10_000), 50_001))
				return p
			}), 5*kib)
		})
		t.Run("every other port of "+host.String(), func(t *testing.T) {
			require.Less(t, heap(t, 10, func() *Ports {
				p := newPorts(t, dynamicFirst, dynamicLast)
				for port := 1; port <= 65535; port += 2 {
					if err := p.Reserve(netip.AddrPortFrom(host, uint16(port))); err != nil {
						require.NoError(t, err)
					}
				}
				return p
			}), 24*kib, "one bitmap, or two")
		})
	}
	t.Run("a run of many addresses", func(t *testing.T) {
		p := newPorts(t, dynamicFirst, dynamicLast)
		require.Less(t, heap(t, 1, func() *Ports {
			for i := range 100 {
				host := key{0x20010db8 << 32, uint64(i)}.addr6()
				require.NoError(t, p.ReserveRun(netip.AddrPortFrom(host, 10_000), 50_001))
			}
			return p
		}), 100*3*kib)
	})
	t.Run("one port of many addresses", func(t *testing.T) {
		const n = 60_000
		ap := func(i int) netip.AddrPort {
			return netip.AddrPortFrom(key{0x20010db8 << 32, uint64(i)}.addr6(), uint16(i%7+50000))
		}
		p := newPorts(t, dynamicFirst, dynamicLast)
		bytes := heap(t, 1, func() *Ports {
			for i := range n {
				require.NoError(t, p.Reserve(ap(i)))
			}
			return p
		})
		require.Less(t, bytes, n*400)
		requireGivenBack(t, bytes, func() *Ports {
			for i := range n {
				require.True(t, p.Release(ap(i)))
			}
			return p
		})
	})
}

func TestPortsAllocateNothing(t *testing.T) {
	for _, host := range []netip.Addr{anyIPv4(), anyBoth(), IPv6Only(), addr("192.0.2.1"), addr("2001:db8::1")} {
		for _, free := range []int{1, 100, 1 << 13, dynamicLast - dynamicFirst + 1} {
			r := newRand(t)
			p := newPorts(t, dynamicFirst, dynamicLast)
			_, err := p.NextRun(host, dynamicLast-dynamicFirst+1)
			require.NoError(t, err)
			for _, i := range r.Perm(dynamicLast - dynamicFirst + 1)[:free] {
				require.True(t, p.Release(netip.AddrPortFrom(host, uint16(dynamicFirst+i))))
			}
			step := func() {
				port, err := p.Next(host)
				if err != nil || !p.Release(netip.AddrPortFrom(host, port)) {
					t.Error(port, err)
				}
				if err := p.Reserve(netip.AddrPortFrom(host, 80)); err != nil {
					t.Error(err)
				}
				p.Release(netip.AddrPortFrom(host, 80))
			}
			for range 1 << 14 {
				step()
			}
			require.Zero(t, testing.AllocsPerRun(10_000, step), "%v, %d free", host, free)
		}
	}
}
