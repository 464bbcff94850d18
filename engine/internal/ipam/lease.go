// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/alloc"
	"github.com/nftnat/nftnat/nat"
)

// ErrNoNetwork means that there is no network of the name that was given, or none at all.
var ErrNoNetwork = errors.New("no such network")

// leaseAttempts bounds how many addresses are passed over because they are this host's
// own.
const leaseAttempts = 64

// Edit is a change of one lease that was made in a state. Its cost does not grow with the
// number of leases.
type Edit struct {
	Diff   Diff
	revert func()
}

// Revert undoes the edit, which is the last one that was made. Again, or for no edit, it does
// nothing.
func (e *Edit) Revert() {
	if e != nil && e.revert != nil {
		e.revert()
		e.revert = nil
	}
}

// edit changes the leases of a network by f, and records what f does. undo is for f alone.
func (s *State) edit(n *network, f func(), undo func()) *Edit {
	before := n.now()
	f()
	e := &Edit{revert: func() {
		undo()
		_ = n.addrs.SetCursor(before.Next) // free again, and of the network
	}}
	if after := n.now(); after != before {
		e.Diff.RemovedNetworks, e.Diff.AddedNetworks = []nat.Network{before}, []nat.Network{after}
	}
	return e
}

// Attach leases an address to an endpoint that has none: the one that it asks for, or the
// next of its network. IsLocal reports whether an address is this host's own.
//
// The error is [ErrNoNetwork], a *[nat.InvalidError] or *[nat.TakenError],
// [nat.ErrExhausted] if the network is full, or one of isLocal. Then nothing has changed.
func (s *State) Attach(a nat.EndpointSpec, isLocal func(netip.Addr) (bool, error)) (l *Lease, e *Edit, err error) {
	n, err := s.networkFor(a)
	if err != nil {
		return nil, nil, err
	}
	addr := a.Address
	e = s.edit(n, func() {
		if addr.IsValid() {
			err = s.reserve(n, addr, isLocal)
		} else {
			addr, err = n.next(isLocal)
		}
		if err == nil {
			l = s.lease(n, a.Name, addr)
		}
	}, func() {
		if l != nil {
			n.addrs.Release(addr)
			delete(s.leases, a.Name)
		}
	})
	if err != nil {
		e.Revert()
		return nil, nil, err
	}
	e.Diff.AddedLeases = []*Lease{l}
	return l, e, nil
}

func (s *State) lease(n *network, name string, addr netip.Addr) *Lease {
	l := &Lease{Name: name, Network: n.Name, Prefix: n.Prefix, Gateway: n.Gateway, Addr: addr}
	s.leases[name] = l
	return l
}

// networkFor returns the network that an endpoint is to be in.
func (s *State) networkFor(a nat.EndpointSpec) (*network, error) {
	switch {
	case a.Network != "":
		if n := s.networks[a.Network]; n != nil {
			return n, nil
		}
		return nil, ErrNoNetwork
	case a.Address.IsValid():
		if n := s.around(a.Address); n != nil {
			return n, nil
		}
		return nil, &nat.InvalidError{What: "address", Input: a.Address.String(), Reason: "it is in none of the networks"}
	case len(s.networks) > 1:
		names := strings.Join(slices.Sorted(maps.Keys(s.networks)), ", ")
		return nil, &nat.InvalidError{What: nat.WhatEndpoint, Input: a.Name, Reason: "say which network it is in: " + names}
	}
	for _, n := range s.networks {
		return n, nil
	}
	return nil, ErrNoNetwork
}

// next reserves the next address that is not the host's own.
func (n *network) next(isLocal func(netip.Addr) (bool, error)) (netip.Addr, error) {
	var own []netip.Addr
	defer func() {
		for _, a := range own {
			n.addrs.Release(a)
		}
	}()
	for range leaseAttempts {
		a, err := n.addrs.Next()
		if err != nil {
			return netip.Addr{}, &nat.ExhaustedError{Err: fmt.Errorf("network %s is full: %w", n, err)}
		}
		local, err := isLocal(a)
		if err == nil && !local {
			return a, nil
		}
		own = append(own, a)
		if err != nil {
			return netip.Addr{}, err
		}
	}
	return netip.Addr{}, &nat.ExhaustedError{Err: fmt.Errorf("network %s: the next %d addresses are this host's own: %w",
		n, leaseAttempts, alloc.ErrExhausted)}
}

// reserve reserves the address that an endpoint asks for.
func (s *State) reserve(n *network, a netip.Addr, isLocal func(netip.Addr) (bool, error)) error {
	reason, what := "", "address "+a.String()
	switch err := n.addrs.Reserve(a); {
	case errors.Is(err, alloc.ErrRange):
		reason = fmt.Sprintf("it is not in network %s", n)
	case errors.Is(err, alloc.ErrReserved) && a == n.Gateway:
		reason = fmt.Sprintf("it is the gateway of network %s", n)
	case errors.Is(err, alloc.ErrReserved) && a == n.Prefix.Addr():
		reason = fmt.Sprintf("it is the first address of network %s, which no host has", n)
	case errors.Is(err, alloc.ErrReserved):
		reason = fmt.Sprintf("it is the broadcast address of network %s", n)
	case errors.Is(err, alloc.ErrInUse):
		return &nat.TakenError{What: what, Holder: s.holder(a)}
	case err != nil:
		return err
	}
	if reason != "" {
		return &nat.InvalidError{What: "address", Input: a.String(), Reason: reason}
	}
	local, err := isLocal(a)
	if err == nil && local {
		err = &nat.TakenError{What: what, Holder: "this host itself"}
	}
	if err != nil {
		n.addrs.Release(a)
	}
	return err
}

// holder names the endpoint that has an address.
func (s *State) holder(a netip.Addr) string {
	for _, l := range s.leases {
		if l.Addr == a {
			return "endpoint " + l.Name
		}
	}
	return "an endpoint"
}

// Add adds an endpoint of a stored or applied state. The error is a *[nat.InvalidError].
func (s *State) Add(a nat.EndpointSpec) error {
	if err := a.Validate(); err != nil {
		return err
	}
	n, reason := s.around(a.Address), ""
	switch {
	case s.leases[a.Name] != nil:
		reason = "there are two of that name"
	case !a.Address.IsValid():
		reason = "what is applied needs an address"
	case a.Network != "" && s.networks[a.Network] == nil:
		reason = "there is no network " + a.Network
	case n == nil || a.Network != "" && n.Name != a.Network:
		reason = fmt.Sprintf("its address %s is not in its network", a.Address)
	case n.addrs.Reserve(a.Address) != nil:
		reason = fmt.Sprintf("its address %s is another's, or none that network %s leases", a.Address, n)
	}
	if reason != "" {
		return &nat.InvalidError{What: nat.WhatEndpoint, Input: a.Name, Reason: reason}
	}
	s.lease(n, a.Name, a.Address)
	return nil
}

// Release ends the lease of a name.
func (s *State) Release(name string) *Edit {
	l := s.leases[name]
	n := s.networks[l.Network]
	e := s.edit(n, func() {
		n.addrs.Release(l.Addr)
		delete(s.leases, name)
	}, func() {
		_ = n.addrs.Reserve(l.Addr) // which was released
		s.leases[name] = l
	})
	e.Diff.RemovedLeases = []*Lease{l}
	return e
}
