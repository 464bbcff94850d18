// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// No address is ever held by two of 64 goroutines.
func TestAddrsConcurrent(t *testing.T) {
	const goroutines, rounds = 64, 300
	a := newAddrs(t, "10.0.0.0/25", "10.0.0.1") // 125 to lease: exhausted at times
	var (
		mu    sync.Mutex
		held  = map[netip.Addr]int{}
		twice []netip.Addr
		wg    sync.WaitGroup
	)
	for g := range goroutines {
		wg.Go(func() {
			var mine []netip.Addr
			for i := range rounds {
				ip := netip.AddrFrom4([4]byte{10, 0, 0, byte(2 + (i+g)%125)})
				var err error
				if i%7 == g%7 {
					err = a.Reserve(ip)
				} else {
					ip, err = a.Next()
				}
				if err == nil {
					mu.Lock()
					if held[ip]++; held[ip] > 1 {
						twice = append(twice, ip)
					}
					mu.Unlock()
					mine = append(mine, ip)
				}
				if len(mine) > i%4 {
					mu.Lock()
					held[mine[0]]--
					mu.Unlock()
					if !a.Release(mine[0]) {
						t.Errorf("%v was not leased", mine[0])
					}
					mine = mine[1:]
				}
				if i%50 == 0 {
					for ip := range a.Leases() {
						if !a.Prefix().Contains(ip) {
							t.Errorf("%v leased", ip)
						}
					}
					if err := a.SetCursor(a.Cursor()); err != nil || a.Len() > 125 {
						t.Error(err, a.Len())
					}
				}
			}
			for _, ip := range mine {
				mu.Lock()
				held[ip]--
				mu.Unlock()
				a.Release(ip)
			}
		})
	}
	wg.Wait()
	require.Empty(t, twice)
	require.Zero(t, a.Len())
	require.Empty(t, leases(a))
}

// No two of 64 goroutines ever hold ports that conflict.
func TestPortsConcurrent(t *testing.T) {
	const goroutines, rounds = 64, 300
	p := newPorts(t, 60001, 60100) // fewer than are wanted: exhausted at times
	hosts := []netip.Addr{anyIPv4(), anyBoth(), IPv6Only(), addr("192.0.2.1"), addr("192.0.2.2"), addr("2001:db8::1")}
	var (
		mu   sync.Mutex
		held = map[uint16][]netip.Addr{}
		wg   sync.WaitGroup
	)
	take := func(ap netip.AddrPort) error {
		mu.Lock()
		defer mu.Unlock()
		for _, other := range held[ap.Port()] {
			if naiveOverlap(ap.Addr(), other) {
				return fmt.Errorf("%v was granted while %v had it", ap, other)
			}
		}
		held[ap.Port()] = append(held[ap.Port()], ap.Addr())
		return nil
	}
	giveBack := func(ap netip.AddrPort) error {
		mu.Lock()
		for i, other := range held[ap.Port()] {
			if other == ap.Addr() {
				held[ap.Port()] = append(held[ap.Port()][:i], held[ap.Port()][i+1:]...)
				break
			}
		}
		mu.Unlock()
		if !p.Release(ap) {
			return fmt.Errorf("%v was not reserved", ap)
		}
		return nil
	}
	for g := range goroutines {
		wg.Go(func() {
			var mine []netip.AddrPort
			for i := range rounds {
				host, n := hosts[(i+g)%len(hosts)], 1+i%3
				var port uint16
				var err error
				if i%5 == g%5 {
					port = uint16(60001 + (i*7+g)%90)
					err = p.ReserveRun(netip.AddrPortFrom(host, port), n)
				} else {
					port, err = p.NextRun(host, n)
				}
				switch {
				case err == nil:
					for j := range uint16(n) {
						ap := netip.AddrPortFrom(host, port+j)
						if err := take(ap); err != nil {
							t.Error(err)
						}
						mine = append(mine, ap)
					}
				case !errors.Is(err, ErrInUse) && !errors.Is(err, ErrExhausted):
					t.Error(err)
				}
				for len(mine) > i%4 {
					if err := giveBack(mine[0]); err != nil {
						t.Error(err)
					}
					mine = mine[1:]
				}
			}
			for _, ap := range mine {
				if err := giveBack(ap); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, union{}, usedUnion(p))
	require.NoError(t, p.ReserveRun(hostPort("::", 1), 65535))
}
