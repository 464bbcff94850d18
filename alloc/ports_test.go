// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"math"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

const dynamicFirst, dynamicLast = 49153, 65535

func anyIPv4() netip.Addr { return netip.IPv4Unspecified() }
func anyBoth() netip.Addr { return netip.IPv6Unspecified() }

func newPorts(tb testing.TB, first, last uint16) *Ports {
	tb.Helper()
	p, err := NewPorts(first, last)
	require.NoError(tb, err)
	return p
}

// hostPort is an address and port; a host of "v6" is IPv6Only.
func hostPort(host string, port int) netip.AddrPort {
	if host == "v6" {
		return netip.AddrPortFrom(IPv6Only(), uint16(port))
	}
	return netip.AddrPortFrom(addr(host), uint16(port))
}

// nextPorts calls Next n times.
func nextPorts(tb testing.TB, p *Ports, host netip.Addr, n int) []uint16 {
	tb.Helper()
	var got []uint16
	for range n {
		port, err := p.Next(host)
		require.NoError(tb, err)
		got = append(got, port)
	}
	return got
}

// The first specification of port allocation.
func TestPortsSequenceOf2013(t *testing.T) {
	p := newPorts(t, dynamicFirst, dynamicLast)
	require.NoError(t, p.Reserve(hostPort("0.0.0.0", 80)))
	first := nextPorts(t, p, anyIPv4(), 1)[0]
	require.NotZero(t, first)
	require.ErrorIs(t, p.Reserve(netip.AddrPortFrom(anyIPv4(), first)), ErrInUse)
	require.NotEqual(t, first, nextPorts(t, p, anyIPv4(), 1)[0])
	require.ErrorIs(t, p.Reserve(hostPort("0.0.0.0", 80)), ErrInUse)
	require.True(t, p.Release(hostPort("0.0.0.0", 80)))
	require.NoError(t, p.Reserve(hostPort("0.0.0.0", 80)))

	p = newPorts(t, dynamicFirst, dynamicLast)
	require.NoError(t, p.Reserve(hostPort("0.0.0.0", 49153)))
	require.Equal(t, []uint16{49154, 49155}, nextPorts(t, p, anyIPv4(), 2))
	require.True(t, p.Release(hostPort("0.0.0.0", 49154)))
	require.Equal(t, []uint16{49156}, nextPorts(t, p, anyIPv4(), 1))
}

// Next returns all of the dynamic range, its last port included, and then an error, for
// any kind of host; a released port comes last.
func TestPortsExhausted(t *testing.T) {
	for _, host := range []netip.Addr{anyIPv4(), anyBoth(), IPv6Only(), addr("192.0.2.1"), addr("2001:db8::1")} {
		t.Run(host.String(), func(t *testing.T) {
			p := newPorts(t, dynamicFirst, dynamicLast)
			for want := dynamicFirst; want <= dynamicLast; want++ {
				if got, err := p.Next(host); err != nil || int(got) != want {
					require.NoError(t, err)
					require.EqualValues(t, want, got)
				}
			}
			for range 3 {
				port, err := p.Next(host)
				require.ErrorIs(t, err, ErrExhausted)
				require.Zero(t, port)
			}
			_, err := p.NextRun(host, 2)
			require.ErrorIs(t, err, ErrExhausted)

			require.True(t, p.Release(netip.AddrPortFrom(host, 60000)))
			require.Equal(t, []uint16{60000}, nextPorts(t, p, host, 1))
			require.True(t, p.Release(netip.AddrPortFrom(host, 59999)))
			require.True(t, p.Release(netip.AddrPortFrom(host, 60001)))
			require.True(t, p.Release(netip.AddrPortFrom(host, 65535)))
			require.Equal(t, []uint16{60001, 65535, 59999}, nextPorts(t, p, host, 3))
			_, err = p.Next(host)
			require.ErrorIs(t, err, ErrExhausted)
			require.NoError(t, p.Reserve(netip.AddrPortFrom(host, 49152)), "outside of the dynamic range")
		})
	}
}

func TestPortsConflicts(t *testing.T) {
	hosts := []string{"0.0.0.0", "::", "v6", "192.0.2.1", "192.0.2.2", "127.0.0.1", "2001:db8::1", "2001:db8::2", "::1"}
	// Written by hand: a host, and the others that it conflicts with.
	excludes := map[string][]string{
		"0.0.0.0":     {"::", "192.0.2.1", "192.0.2.2", "127.0.0.1"},
		"::":          {"0.0.0.0", "v6", "192.0.2.1", "192.0.2.2", "127.0.0.1", "2001:db8::1", "2001:db8::2", "::1"},
		"v6":          {"::", "2001:db8::1", "2001:db8::2", "::1"},
		"192.0.2.1":   {"0.0.0.0", "::"},
		"192.0.2.2":   {"0.0.0.0", "::"},
		"127.0.0.1":   {"0.0.0.0", "::"},
		"2001:db8::1": {"v6", "::"},
		"2001:db8::2": {"v6", "::"},
		"::1":         {"v6", "::"},
	}
	for _, have := range hosts {
		for _, want := range hosts {
			t.Run(have+" and "+want, func(t *testing.T) {
				excluded := have == want
				for _, other := range excludes[have] {
					excluded = excluded || other == want
				}
				p := newPorts(t, 80, 81)
				held := hostPort(have, 80)
				require.NoError(t, p.Reserve(held))
				require.NoError(t, p.Reserve(hostPort(want, 443)), "another port")

				err := p.Reserve(hostPort(want, 80))
				if !excluded {
					require.NoError(t, err)
					require.True(t, p.Release(hostPort(want, 80)))
				} else {
					requireHeldBy(t, held, err)
					require.Equal(t, have == want, p.Release(hostPort(want, 80)))
					if have == want {
						require.NoError(t, p.Reserve(held))
					}
				}

				// Next goes by the same rule.
				got, err := p.Next(hostPort(want, 0).Addr())
				require.NoError(t, err)
				require.Equal(t, excluded, got == 81)

				require.True(t, p.Release(held))
				p.Release(hostPort(want, int(got)))
				require.NoError(t, p.Reserve(hostPort(want, 80)))
			})
		}
	}
}

func requireHeldBy(tb testing.TB, have netip.AddrPort, err error) {
	tb.Helper()
	require.ErrorIs(tb, err, ErrInUse)
	var held *InUseError
	require.ErrorAs(tb, err, &held)
	require.Equal(tb, have, held.Have)
	require.ErrorContains(tb, err, "in use by "+have.String())
}

// Of several conflicts the lowest port, then a wildcard, then the lowest address.
func TestInUseErrorIsDeterministic(t *testing.T) {
	p := newPorts(t, 1, 65535)
	for _, ap := range []netip.AddrPort{
		hostPort("192.0.2.9", 85), hostPort("192.0.2.2", 85), hostPort("192.0.2.77", 85),
		hostPort("2001:db8::1", 85), hostPort("0.0.0.0", 86), hostPort("v6", 86),
	} {
		require.NoError(t, p.Reserve(ap))
	}
	requireHeldBy(t, hostPort("192.0.2.2", 85), p.ReserveRun(hostPort("::", 80), 10))
	require.True(t, p.Release(hostPort("192.0.2.2", 85)))
	requireHeldBy(t, hostPort("192.0.2.9", 85), p.ReserveRun(hostPort("::", 80), 10))
	requireHeldBy(t, hostPort("2001:db8::1", 85), p.ReserveRun(hostPort("v6", 80), 10))
	requireHeldBy(t, hostPort("0.0.0.0", 86), p.ReserveRun(hostPort("::", 86), 1))
	require.NoError(t, p.ReserveRun(hostPort("::", 80), 5))
	requireHeldBy(t, hostPort("::", 84), p.Reserve(hostPort("192.0.2.2", 84)))
}

// Each of many specific addresses conflicts with a wildcard.
func TestPortsWildcardWaitsForAll(t *testing.T) {
	p := newPorts(t, 1, 65535)
	const n = 300
	host := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	for i := range n {
		require.NoError(t, p.Reserve(netip.AddrPortFrom(host(i), 53)))
	}
	for i := range n {
		requireHeldBy(t, netip.AddrPortFrom(host(i), 53), p.Reserve(hostPort("0.0.0.0", 53)))
		require.NoError(t, p.Reserve(hostPort("v6", 53)))
		require.True(t, p.Release(hostPort("v6", 53)))
		require.True(t, p.Release(netip.AddrPortFrom(host(i), 53)))
		require.False(t, p.Release(netip.AddrPortFrom(host(i), 53)))
	}
	require.NoError(t, p.Reserve(hostPort("::", 53)))
	require.Empty(t, p.hosts.m)
	require.Empty(t, usedCounts(p))
}

func TestPortsErrors(t *testing.T) {
	p := newPorts(t, 100, 199)
	zoned := addr("fe80::1%eth0")
	for _, ap := range []netip.AddrPort{
		{},
		netip.AddrPortFrom(netip.Addr{}, 80),
		netip.AddrPortFrom(anyIPv4(), 0),
		netip.AddrPortFrom(anyBoth(), 0),
		netip.AddrPortFrom(zoned, 80),
		netip.AddrPortFrom(addr("::%eth0"), 80),
		netip.AddrPortFrom(zoned.WithZone(IPv6Only().Zone()), 80),
	} {
		require.ErrorIs(t, p.Reserve(ap), ErrRange, ap)
		require.False(t, p.Release(ap), ap)
	}
	for _, tt := range []struct{ port, n int }{{80, 0}, {80, -1}, {65535, 2}, {1, 65536}, {0, 1}, {2, math.MaxInt}} {
		require.ErrorIs(t, p.ReserveRun(hostPort("::", tt.port), tt.n), ErrRange, tt)
	}
	for _, host := range []netip.Addr{{}, zoned, addr("::%eth0")} {
		_, err := p.Next(host)
		require.ErrorIs(t, err, ErrRange, host)
		_, err = p.NextRun(host, 2)
		require.ErrorIs(t, err, ErrRange, host)
	}
	for _, n := range []int{0, -1, 101, math.MaxInt} {
		_, err := p.NextRun(anyIPv4(), n)
		require.ErrorIs(t, err, ErrRange, n)
	}
	require.ErrorIs(t, p.Avoid(2, 1), ErrRange)
	require.Equal(t, union{}, usedUnion(p), "nothing changed")

	require.NoError(t, p.ReserveRun(hostPort("::", 1), 65535))
	require.False(t, p.Release(hostPort("0.0.0.0", 80)), "part of a wildcard")
	require.False(t, p.Release(hostPort("192.0.2.1", 80)))
	require.True(t, p.Release(hostPort("::", 65535)))
	require.True(t, p.Release(hostPort("::", 1)))

	for _, tt := range []struct{ first, last uint16 }{{0, 0}, {0, 1}, {2, 1}, {65535, 1}} {
		_, err := NewPorts(tt.first, tt.last)
		require.ErrorIs(t, err, ErrRange, tt)
	}
}

// usedUnion has the sets of p that are not empty.
func usedUnion(p *Ports) (u union) {
	for i := range p.class {
		if _, ok := (&union{sets: [maxUnion]*portSet{&p.class[i]}, n: 1}).firstTaken(0, maxPort); ok {
			u.add(&p.class[i])
		}
	}
	return u
}

// usedCounts returns how many ports have a count of reservations besides the first.
func usedCounts(p *Ports) (n int) {
	for _, counts := range p.more {
		for i := range counts {
			for _, b := range counts[i] {
				if b != nil {
					n += piece{words: b.full | b.part}.len()
				}
			}
		}
	}
	return n
}

// Runs of some addresses overlap in every way, and are released in parts.
func TestPortsRunsAgainstModel(t *testing.T) {
	r := newRand(t)
	hosts := []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"}
	p := newPorts(t, 1, 65535)
	reserved := map[netip.AddrPort]bool{}
	for range 300 {
		first, host := 1+r.IntN(10_000), hosts[r.IntN(len(hosts))]
		n := 1 + r.IntN(1<<r.IntN(14))
		if r.IntN(2) == 0 {
			first, n = first/64*64+64, (n+63)/64*64
		}
		var had []netip.AddrPort
		for port := range n {
			if at := hostPort(host, first+port); reserved[at] {
				had = append(had, at)
			}
		}
		if r.IntN(2) == 0 {
			require.Equal(t, len(had), p.ReleaseRun(hostPort(host, first), n))
			for _, at := range had {
				delete(reserved, at)
			}
		} else {
			require.Equal(t, len(had) == 0, p.ReserveRun(hostPort(host, first), n) == nil)
			for port := range n {
				if len(had) == 0 {
					reserved[hostPort(host, first+port)] = true
				}
			}
		}
		at := hostPort("0.0.0.0", first+r.IntN(n))
		used := 0
		for _, host := range hosts {
			if reserved[netip.AddrPortFrom(addr(host), at.Port())] {
				used++
			}
		}
		require.Equal(t, used == 0, p.Reserve(at) == nil, "%v", at)
		require.Equal(t, used == 0, p.Release(at))
	}
	for _, host := range hosts {
		p.ReleaseRun(hostPort(host, 1), 1<<20)
	}
	require.Equal(t, union{}, usedUnion(p))
	require.Zero(t, usedCounts(p))
	require.Empty(t, p.hosts.m)
	require.Zero(t, p.ReleaseRun(hostPort("192.0.2.1", 1), 0))
	require.Zero(t, p.ReleaseRun(netip.AddrPort{}, 1))
}

func TestPortsUnmap(t *testing.T) {
	p := newPorts(t, 1, 65535)
	require.NoError(t, p.Reserve(netip.AddrPortFrom(addr("::ffff:192.0.2.1"), 80)))
	requireHeldBy(t, hostPort("192.0.2.1", 80), p.Reserve(hostPort("192.0.2.1", 80)))
	requireHeldBy(t, hostPort("192.0.2.1", 80), p.Reserve(hostPort("::ffff:0.0.0.0", 80)))
	require.NoError(t, p.Reserve(hostPort("v6", 80)))
	require.True(t, p.Release(hostPort("192.0.2.1", 80)))
	require.NoError(t, p.Reserve(hostPort("::ffff:0.0.0.0", 80)))
	requireHeldBy(t, hostPort("0.0.0.0", 80), p.Reserve(hostPort("192.0.2.1", 80)))
}

func TestIPv6Only(t *testing.T) {
	require.Equal(t, IPv6Only(), addr(IPv6Only().String()), "written and read")
	require.NotEqual(t, anyBoth(), IPv6Only())
}

func TestNextRun(t *testing.T) {
	next := func(t *testing.T, p *Ports, host netip.Addr, n, want int) {
		t.Helper()
		got, err := p.NextRun(host, n)
		require.NoError(t, err)
		require.EqualValues(t, want, got)
	}
	t.Run("cyclic", func(t *testing.T) {
		p := newPorts(t, 100, 109)
		next(t, p, anyIPv4(), 4, 100)
		next(t, p, anyIPv4(), 4, 104)
		_, err := p.NextRun(anyIPv4(), 4)
		require.ErrorIs(t, err, ErrExhausted, "two at the end and none at the start")
		for port := 100; port < 103; port++ {
			require.True(t, p.Release(hostPort("0.0.0.0", port)))
		}
		_, err = p.NextRun(anyIPv4(), 4)
		require.ErrorIs(t, err, ErrExhausted, "does not go round the end")
		next(t, p, anyIPv4(), 3, 100)
		next(t, p, anyIPv4(), 2, 108)
	})
	t.Run("over the cursor", func(t *testing.T) {
		p := newPorts(t, 100, 109)
		next(t, p, anyIPv4(), 5, 100)
		for port := 102; port < 105; port++ {
			require.True(t, p.Release(hostPort("0.0.0.0", port)))
		}
		next(t, p, anyIPv4(), 8, 102)
		require.True(t, p.Release(hostPort("0.0.0.0", 109)))
		next(t, p, anyIPv4(), 1, 109)
	})
	t.Run("the whole range", func(t *testing.T) {
		p := newPorts(t, dynamicFirst, dynamicLast)
		next(t, p, anyBoth(), dynamicLast-dynamicFirst+1, dynamicFirst)
		_, err := p.Next(addr("192.0.2.1"))
		require.ErrorIs(t, err, ErrExhausted)
		for port := dynamicFirst; port <= dynamicLast; port++ {
			require.True(t, p.Release(hostPort("::", port)))
		}
		require.Equal(t, union{}, usedUnion(p))
		next(t, newPorts(t, 1, 65535), anyBoth(), 65535, 1)
	})
	t.Run("among specific addresses", func(t *testing.T) {
		p := newPorts(t, 100, 109)
		require.NoError(t, p.Reserve(hostPort("192.0.2.1", 103)))
		require.NoError(t, p.Reserve(hostPort("2001:db8::1", 106)))
		next(t, p, addr("192.0.2.2"), 10, 100)
		p = newPorts(t, 100, 109)
		require.NoError(t, p.Reserve(hostPort("192.0.2.1", 103)))
		require.NoError(t, p.Reserve(hostPort("2001:db8::1", 106)))
		next(t, p, addr("192.0.2.1"), 6, 104)
		next(t, p, IPv6Only(), 6, 100)
		_, err := p.NextRun(anyBoth(), 1)
		require.ErrorIs(t, err, ErrExhausted)
	})
}

func TestReserveRunIsAllOrNothing(t *testing.T) {
	p := newPorts(t, 1, 65535)
	require.NoError(t, p.Reserve(hostPort("192.0.2.1", 8009)))
	requireHeldBy(t, hostPort("192.0.2.1", 8009), p.ReserveRun(hostPort("0.0.0.0", 8000), 10))
	require.NoError(t, p.ReserveRun(hostPort("0.0.0.0", 8000), 9))
	requireHeldBy(t, hostPort("0.0.0.0", 8000), p.ReserveRun(hostPort("192.0.2.1", 7990), 30))
	require.NoError(t, p.ReserveRun(hostPort("192.0.2.1", 7990), 10))
	require.NoError(t, p.ReserveRun(hostPort("192.0.2.1", 65535), 1))
}

func TestAvoid(t *testing.T) {
	p := newPorts(t, 100, 109)
	require.NoError(t, p.Avoid(0, 101))
	require.NoError(t, p.Avoid(104, 104))
	require.NoError(t, p.Avoid(107, 65535))
	require.Equal(t, []uint16{102, 103, 105, 106}, nextPorts(t, p, anyIPv4(), 4))
	_, err := p.Next(anyIPv4())
	require.ErrorIs(t, err, ErrExhausted)
	require.NoError(t, p.Reserve(hostPort("0.0.0.0", 104)))
	require.True(t, p.Release(hostPort("0.0.0.0", 104)))
	_, err = p.Next(anyIPv4())
	require.ErrorIs(t, err, ErrExhausted, "still avoided")
	require.NoError(t, p.Reserve(hostPort("0.0.0.0", 65535)))

	run, err := p.NextRun(addr("2001:db8::1"), 2)
	require.NoError(t, err)
	require.EqualValues(t, 102, run)
	run, err = p.NextRun(addr("2001:db8::1"), 2)
	require.NoError(t, err)
	require.EqualValues(t, 105, run)
	_, err = p.NextRun(addr("2001:db8::2"), 3)
	require.ErrorIs(t, err, ErrExhausted)
}

func TestNextIn(t *testing.T) {
	p, err := NewPorts(50000, 50009)
	require.NoError(t, err)
	any4 := netip.IPv4Unspecified()
	next := func(first, last uint16) uint16 {
		t.Helper()
		port, err := p.NextIn(any4, first, last)
		require.NoError(t, err)
		return port
	}
	require.EqualValues(t, 2000, next(2000, 2002))
	require.EqualValues(t, 2001, next(2000, 2002))
	require.EqualValues(t, 50000, next(50000, 50009))
	require.EqualValues(t, 2002, next(2000, 2002))
	_, err = p.NextIn(any4, 2000, 2002)
	require.ErrorIs(t, err, ErrExhausted)
	require.True(t, p.Release(netip.AddrPortFrom(any4, 2001)))
	require.EqualValues(t, 2001, next(2000, 2002))
	port, err := p.Next(any4)
	require.NoError(t, err)
	require.EqualValues(t, 50001, port, "the cursor is elsewhere")
	require.EqualValues(t, 65535, next(65535, 65535))
	require.EqualValues(t, 50002, next(50000, 50009))
	for _, bad := range [][2]uint16{{0, 5}, {6, 5}} {
		_, err = p.NextIn(any4, bad[0], bad[1])
		require.ErrorIs(t, err, ErrRange)
	}
	_, err = p.NextIn(netip.Addr{}, 1, 2)
	require.ErrorIs(t, err, ErrRange)
}
