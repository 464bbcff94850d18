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

// Attach leases an address to an endpoint that has none: the one that it asks for, or the
// next of its network. IsLocal reports whether an address is this host's own.
//
// The error is [ErrNoNetwork], a *[nat.InvalidError] or *[nat.TakenError],
// [nat.ErrExhausted] if the network is full, or one of isLocal. The state may have
// changed then.
func (s *State) Attach(a nat.EndpointSpec, isLocal func(netip.Addr) (bool, error)) (*Lease, error) {
	n, err := s.networkFor(a)
	if err != nil {
		return nil, err
	}
	addr := a.Address
	if addr.IsValid() {
		err = s.reserve(n, addr, isLocal)
	} else {
		addr, err = n.next(isLocal)
	}
	if err != nil {
		return nil, err
	}
	return s.lease(n, a.Name, addr), nil
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
		if local, err := isLocal(a); err != nil || !local {
			return a, err
		}
		own = append(own, a)
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
func (s *State) Release(name string) {
	l := s.leases[name]
	s.networks[l.Network].addrs.Release(l.Addr)
	delete(s.leases, name)
}
