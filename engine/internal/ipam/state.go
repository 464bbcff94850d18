// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/alloc"
	"github.com/nftnat/nftnat/engine/internal/segment"
	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/nat"
)

// State is networks and leases. Networks do not overlap.
type State struct {
	networks map[string]*network
	byPrefix map[netip.Prefix]*network
	leases   map[string]*Lease
}

// network is a network with its addresses.
type network struct {
	nat.Network
	addrs *alloc.Addrs
}

// Lease is an address that an endpoint has. It is never changed.
type Lease struct {
	Name, Network string
	Prefix        netip.Prefix // of the network
	Gateway       netip.Addr
	Addr          netip.Addr
}

// New returns a state without networks.
func New() *State {
	return &State{map[string]*network{}, map[netip.Prefix]*network{}, map[string]*Lease{}}
}

// Clone returns a copy of the state, with the same leases.
func (s *State) Clone() *State {
	c := New()
	c.leases = maps.Clone(s.leases)
	for _, n := range s.networks {
		c.put(&network{n.Network, n.addrs.Clone()})
	}
	return c
}

func (s *State) put(n *network) { s.networks[n.Name], s.byPrefix[n.Prefix] = n, n }

// Len returns the numbers of networks and of leases.
func (s *State) Len() (networks, leases int) { return len(s.networks), len(s.leases) }

// now returns the network with the address that is leased next.
func (n *network) now() nat.Network {
	now := n.Network
	now.Next = n.addrs.Cursor()
	return now
}

// Network returns the network of a name.
func (s *State) Network(name string) (nat.Network, bool) { return found(s.networks[name]) }

// NetworkOf returns the network that an address is in.
func (s *State) NetworkOf(a netip.Addr) (nat.Network, bool) { return found(s.around(a)) }

// Masquerades reports whether an address is in a network whose way out is masqueraded.
func (s *State) Masquerades(a netip.Addr) bool {
	n := s.around(a)
	return n != nil && !n.NoMasquerade
}

func found(n *network) (nat.Network, bool) {
	if n == nil {
		return nat.Network{}, false
	}
	return n.now(), true
}

func (s *State) around(a netip.Addr) *network {
	p, _ := segment.Around(s.byPrefix, a)
	return s.byPrefix[p]
}

// Networks returns all networks, by name.
func (s *State) Networks() []nat.Network {
	all := make([]nat.Network, 0, len(s.networks))
	for _, n := range s.networks {
		all = append(all, n.now())
	}
	order.Sort(all, func(a, b nat.Network) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Prefixes returns the prefixes of the networks, in no order.
func (s *State) Prefixes() []netip.Prefix { return slices.Collect(maps.Keys(s.byPrefix)) }

// Contains reports whether an address is of a network.
func (s *State) Contains(a netip.Addr) bool {
	for p := range s.byPrefix {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// Lease returns the lease of a name, or nil.
func (s *State) Lease(name string) *Lease { return s.leases[name] }

// Leases returns all leases, by name.
func (s *State) Leases() []*Lease {
	return slices.SortedFunc(maps.Values(s.leases), func(a, b *Lease) int { return strings.Compare(a.Name, b.Name) })
}

// AddNetwork adds a valid network. The error is a *[nat.TakenError] if its name or a part
// of its prefix is taken.
func (s *State) AddNetwork(n nat.Network) error {
	if have := s.networks[n.Name]; have != nil {
		return &nat.TakenError{What: "network " + have.String()}
	}
	made, err := newNetwork(n)
	if err != nil {
		return err
	}
	for _, have := range s.networks {
		if have.Prefix.Overlaps(n.Prefix) {
			return &nat.TakenError{What: "prefix " + n.Prefix.String(), Holder: "network " + have.String()}
		}
	}
	s.put(made)
	return nil
}

func newNetwork(n nat.Network) (*network, error) {
	n = n.WithDefaults()
	addrs, err := alloc.NewAddrs(n.Prefix, n.Gateway)
	if err != nil {
		return nil, err
	}
	if n.Next.IsValid() {
		if err := addrs.SetCursor(n.Next); err != nil {
			return nil, err
		}
	}
	return &network{n, addrs}, nil
}

// RemoveNetwork removes a network that has no leases.
func (s *State) RemoveNetwork(name string) {
	delete(s.byPrefix, s.networks[name].Prefix)
	delete(s.networks, name)
}

// Has reports whether the network is there. If its next address is not given, any will
// do.
func (s *State) Has(n nat.Network) bool {
	have := s.networks[n.Name]
	made, err := newNetwork(n)
	if have == nil || err != nil {
		return false
	}
	now, want := have.now(), made.now()
	if !n.Next.IsValid() {
		want.Next = now.Next
	}
	return now == want
}

// SetNext makes the first free address from a on the next one of a network.
func (s *State) SetNext(network string, a netip.Addr) error {
	return s.networks[network].addrs.SetCursor(a)
}

// CheckApart returns an error if two networks overlap.
func CheckApart(ns []nat.Network) error {
	// Of two prefixes that overlap one lies within the other, and comes right after it or
	// after others that do.
	ns = order.Sorted(slices.Values(ns), func(a, b nat.Network) int { return segment.Compare(a.Prefix.Masked(), b.Prefix.Masked()) })
	for i := 1; i < len(ns); i++ {
		if ns[i-1].Prefix.Overlaps(ns[i].Prefix) {
			return &nat.InvalidError{What: nat.WhatNetwork, Input: ns[i].String(), Reason: "it overlaps network " + ns[i-1].String()}
		}
	}
	return nil
}
