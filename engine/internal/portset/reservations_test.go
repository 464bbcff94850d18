// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/nattest"
	"github.com/nftnat/nftnat/nat"
)

// conflict reports whether two frontends cannot both be published.
func conflict(f, o Frontend) bool {
	a, b := f.AddrPort.Addr(), o.AddrPort.Addr()
	switch {
	case f.Proto != o.Proto || f.AddrPort.Port() != o.AddrPort.Port():
		return false
	case !a.IsValid(), !b.IsValid(), a == b:
		return true
	}
	return a.Is4() == b.Is4() && (a.IsUnspecified() || b.IsUnspecified())
}

// Whatever is found published, a frontend is reserved or overlapped, the reserved ones do
// not conflict, and an overlapped one conflicts with one that is at least as wide.
func TestReservations(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 7))
		res, err := NewReservations(49153, 65535)
		require.NoError(t, err)
		s := NewSet()
		for range r.IntN(50) {
			s.Put(somePort(r))
		}
		overlapped := 0
		res.Add(s.All, func(p Port, err error) {
			overlapped++
			have, ok := Holder(p.Proto, err)
			require.True(t, ok)
			require.True(t, conflict(p.Frontend, have))
			_, known := s.Get(have)
			require.True(t, known)
		})
		requireReserved(t, res, &s)
		for p := range s.All {
			s.Delete(p.Frontend)
			res.Remove(p)
			requireReserved(t, res, &s)
		}
		require.Empty(t, res.overlapped)
		for p := range s.All {
			require.NoError(t, res.Reserve(p.Frontend), "all is released")
		}
	}
}

func requireReserved(t *testing.T, res *Reservations, s *Set) {
	t.Helper()
	for p := range s.All {
		require.Error(t, res.Reserve(p.Frontend))
		wider := false
		for o := range s.All {
			if o.Frontend != p.Frontend && !res.IsOverlapped(o.Frontend) && conflict(p.Frontend, o.Frontend) {
				require.True(t, res.IsOverlapped(p.Frontend), "%v and %v", p, o)
				wider = wider || o.width() <= p.width()
			}
		}
		require.Equal(t, res.IsOverlapped(p.Frontend), wider, "%v", p)
	}
}

func TestReserveAll(t *testing.T) {
	res, err := NewReservations(49153, 65535)
	require.NoError(t, err)
	m := nattest.Mapping(t, "80-89->10.0.0.1:90-99")
	var ports []Port
	for p := range Expand(&m) {
		ports = append(ports, p)
	}
	require.NoError(t, res.Reserve(ports[7].Frontend))
	n, err := res.ReserveAll(ports)
	require.Equal(t, 7, n)
	have, ok := Holder(nat.TCP, err)
	require.True(t, ok)
	require.Equal(t, ports[7].Frontend, have)
	res.Release(ports[:n])
	res.Release(ports[7:8])
	n, err = res.ReserveAll(ports)
	require.NoError(t, err)
	require.Len(t, ports, n)
	require.Len(t, res.Restore(ports), len(ports))
	require.NoError(t, res.Avoid(49153, 49160))
	first, err := res.Choose(Frontend{nat.TCP, netip.AddrPort{}}, 2)
	require.NoError(t, err)
	require.Equal(t, uint16(49161), first)
}

func popAll(x *Expiries, now time.Time, s *Set) (all []Port) {
	for {
		_, over, ok := x.Pop(now, s)
		if !ok {
			return all
		}
		all = append(all, over...)
	}
}

// Ports end in order; those that changed meanwhile do not; leases that are renewed over
// and over do not pile up.
func TestExpiries(t *testing.T) {
	s, x := NewSet(), Expiries{}
	at := func(port uint16, ms int64) Port {
		return Port{Frontend: Frontend{nat.TCP, netip.AddrPortFrom(netip.Addr{}, port)}, Target: Target{Backend: netip.MustParseAddrPort("10.0.0.1:1"), Expires: ms}}
	}
	add := func(p Port) bool { s.Put(p); return x.Add(p, &s) }
	require.True(t, add(at(1, 500)))
	require.False(t, add(at(2, 600)))
	require.True(t, add(at(3, 400)))
	require.False(t, add(at(4, 0)))
	add(at(3, 700)) // it is renewed
	first, ok := x.Next()
	require.True(t, ok)
	require.Equal(t, time.UnixMilli(400), first)
	for _, want := range []uint16{1, 2} {
		ps := popAll(&x, time.UnixMilli(400+int64(want)*100), &s)
		require.Len(t, ps, 1)
		require.Equal(t, want, ps[0].First())
	}
	require.Empty(t, popAll(&x, time.UnixMilli(650), &s))
	for i := range int64(5000) {
		add(at(3, 1000+i))
	}
	require.LessOrEqual(t, len(x.heap), minExpiries)
	ps := popAll(&x, time.UnixMilli(6000), &s)
	require.Len(t, ps, 1)
	require.Equal(t, int64(5999), ps[0].Expires)
}
