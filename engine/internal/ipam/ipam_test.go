// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/alloc"
	"github.com/nftnat/nftnat/nat"
)

func noLocal(netip.Addr) (bool, error) { return false, nil }

func declare(name, prefix string) nat.Network {
	return nat.Network{Name: name, Prefix: netip.MustParsePrefix(prefix)}
}

// plain is a naive state: the addresses of each name.
type plain struct {
	networks map[string]nat.Network
	leases   map[string]netip.Addr
}

func plainOf(s *State) plain {
	p := plain{map[string]nat.Network{}, map[string]netip.Addr{}}
	for _, n := range s.Networks() {
		p.networks[n.Name] = n
	}
	for _, l := range s.Leases() {
		p.leases[l.Name] = l.Addr
	}
	return p
}

// apply makes a difference in a naive state.
func (p plain) apply(d Diff) plain {
	q := plain{maps.Clone(p.networks), maps.Clone(p.leases)}
	for _, n := range d.RemovedNetworks {
		delete(q.networks, n.Name)
	}
	for _, n := range d.AddedNetworks {
		q.networks[n.Name] = n
	}
	for _, l := range d.RemovedLeases {
		delete(q.leases, l.Name)
	}
	for _, l := range d.AddedLeases {
		q.leases[l.Name] = l.Addr
	}
	return q
}

// A clone changes without the other, and what differs leads from the one to the other.
func TestCloneAndCompare(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 4))
		s := New()
		for range 40 {
			before, next := plainOf(s), s.Clone()
			require.Equal(t, before, plainOf(next))
			for range r.IntN(4) {
				step(t, r, next)
			}
			require.Equal(t, before, plainOf(s), "the clone is another")
			d := Compare(s, next)
			require.Equal(t, plainOf(next), before.apply(d))
			require.Equal(t, d.Empty(), len(d.RemovedNetworks)+len(d.AddedNetworks)+len(d.RemovedLeases)+len(d.AddedLeases) == 0)
			same := Compare(next, next.Clone())
			require.True(t, same.Empty())
			if r.IntN(3) != 0 {
				s = next
			}
		}
	}
}

// An edit has the difference that it makes, and reverting it makes the state what it was,
// the next address included. One that fails changes nothing.
func TestEditReverts(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 5))
		s := New()
		for range 30 {
			step(t, r, s)
		}
		for range 30 {
			before, was := plainOf(s), s.Clone()
			var e *Edit
			if all := s.Leases(); len(all) != 0 && r.IntN(2) == 0 {
				e = s.Release(all[r.IntN(len(all))].Name)
			} else {
				a := nat.EndpointSpec{Name: fmt.Sprint("f", r.IntN(1000)), Network: fmt.Sprint("n", r.IntN(3))}
				if s.Lease(a.Name) != nil {
					continue
				}
				var err error
				if _, e, err = s.Attach(a, func(netip.Addr) (bool, error) { return r.IntN(4) == 0, nil }); err != nil {
					require.Equal(t, before, plainOf(s), "%v", err)
					continue
				}
			}
			require.Equal(t, plainOf(s), before.apply(e.Diff))
			compared := Compare(was, s)
			require.ElementsMatch(t, compared.AddedLeases, e.Diff.AddedLeases)
			require.ElementsMatch(t, compared.RemovedLeases, e.Diff.RemovedLeases)
			if r.IntN(2) == 0 {
				e.Revert()
				e.Revert()
				require.Equal(t, before, plainOf(s))
			}
		}
	}
	(*Edit)(nil).Revert()
}

// step changes a state, or fails.
func step(t *testing.T, r *rand.Rand, s *State) {
	t.Helper()
	name := fmt.Sprint("n", r.IntN(3))
	switch r.IntN(6) {
	case 0:
		n := declare(name, fmt.Sprintf("10.0.%d.0/%d", r.IntN(3), 23+r.IntN(7)))
		n.NoGuard = r.IntN(2) == 0
		if err := s.AddNetwork(n); err != nil {
			require.ErrorIs(t, err, nat.ErrConflict)
		}
	case 1:
		if _, ok := s.Network(name); ok && !slices.ContainsFunc(s.Leases(), func(l *Lease) bool { return l.Network == name }) {
			s.RemoveNetwork(name)
		}
	case 2:
		if all := s.Leases(); len(all) != 0 {
			s.Release(all[r.IntN(len(all))].Name)
		}
	default:
		a := nat.EndpointSpec{Name: fmt.Sprint("e", r.IntN(9)), Network: name}
		if s.Lease(a.Name) != nil {
			return
		}
		if r.IntN(3) == 0 {
			a.Address = netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(3)), byte(r.IntN(8))})
		}
		taken := slices.Collect(maps.Values(plainOf(s).leases))
		l, _, err := s.Attach(a, noLocal)
		if err != nil {
			known := errors.Is(err, ErrNoNetwork) || errors.Is(err, nat.ErrInvalid) || errors.Is(err, nat.ErrConflict) || errors.Is(err, alloc.ErrExhausted)
			require.True(t, known, "%v", err)
			return
		}
		require.NotContains(t, taken, l.Addr)
		require.True(t, l.Prefix.Contains(l.Addr) && l.Addr != l.Gateway)
		n, _ := s.NetworkOf(l.Addr)
		require.Equal(t, name, n.Name)
		require.Same(t, l, s.Clone().Lease(a.Name))
	}
}

func TestAttachErrors(t *testing.T) {
	s := New()
	_, _, err := s.Attach(nat.EndpointSpec{Name: "a"}, noLocal)
	require.ErrorIs(t, err, ErrNoNetwork)
	require.NoError(t, s.AddNetwork(declare("one", "10.0.0.0/29")))
	require.NoError(t, s.Add(nat.EndpointSpec{Name: "held", Address: netip.MustParseAddr("10.0.0.3")}))
	for addr, text := range map[string]string{
		"10.0.0.0": "it is the first address of network one 10.0.0.0/29, which no host has",
		"10.0.0.1": "it is the gateway of network one 10.0.0.0/29",
		"10.0.0.7": "it is the broadcast address of network one 10.0.0.0/29",
		"10.0.0.3": "endpoint held",
		"10.0.1.1": "it is in none of the networks",
		"10.0.0.4": "this host itself",
	} {
		own := func(a netip.Addr) (bool, error) { return a == netip.MustParseAddr("10.0.0.4"), nil }
		_, _, err := s.Clone().Attach(nat.EndpointSpec{Name: "a", Address: netip.MustParseAddr(addr)}, own)
		require.ErrorContains(t, err, text, addr)
	}
	all := func(netip.Addr) (bool, error) { return true, nil }
	_, _, err = s.Clone().Attach(nat.EndpointSpec{Name: "a"}, all)
	require.ErrorIs(t, err, alloc.ErrExhausted)
	require.NoError(t, s.AddNetwork(declare("two", "10.0.1.0/29")))
	_, _, err = s.Attach(nat.EndpointSpec{Name: "a"}, noLocal)
	require.ErrorContains(t, err, "say which network it is in: one, two")
}

func TestCheckApart(t *testing.T) {
	require.NoError(t, CheckApart([]nat.Network{declare("a", "10.0.1.0/24"), declare("b", "10.0.0.0/24")}))
	err := CheckApart([]nat.Network{declare("a", "10.0.1.0/24"), declare("c", "fd00::/64"), declare("b", "10.0.0.0/16")})
	require.ErrorIs(t, err, nat.ErrInvalid)
}

func TestLines(t *testing.T) {
	before, after := New(), New()
	require.NoError(t, before.AddNetwork(declare("b", "10.0.0.0/24")))
	changed := declare("b", "10.0.0.0/24")
	changed.NoGuard = true
	require.NoError(t, after.AddNetwork(changed))
	require.NoError(t, after.AddNetwork(declare("a", "10.0.1.0/24")))
	require.NoError(t, before.Add(nat.EndpointSpec{Name: "x", Address: netip.MustParseAddr("10.0.0.9")}))
	d := Compare(before, after)
	var lines []string
	for _, c := range d.Lines() {
		lines = append(lines, c.String())
	}
	require.Equal(t, []string{
		"+ network a 10.0.1.0/24 gateway 10.0.1.1",
		"~ network b 10.0.0.0/24 gateway 10.0.0.1 => network b 10.0.0.0/24 gateway 10.0.0.1 no-guard",
		"- endpoint x 10.0.0.9",
	}, lines)
}
