// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/nat"
)

// place is where in a state something stands: the item of a section, and of an
// endpoint's ports which, -1 for none.
type place struct {
	section section
	item    int
	port    int
}

// flaw is why a state is none that an engine can have had, and where.
type flaw struct {
	at    place
	first *place // the other one, if there are two that cannot be together
	err   error
}

// validate finds out whether the state can be that of some engine, as far as it alone
// tells, and what comes first in its way.
func validate(s nat.State) *flaw {
	if f := validateNetworks(s.Networks); f != nil {
		return f
	}
	if f := validateEndpoints(s); f != nil {
		return f
	}
	for i := range s.Mappings {
		if m := &s.Mappings[i]; m.Frontend.Port() == 0 {
			return &flaw{at: place{mappings, i, -1}, err: &nat.InvalidError{What: "mapping", Input: m.String(), Reason: noFrontend}}
		}
	}
	ms, places := all(s)
	err := nat.ValidateAll(ms...)
	var overlap *nat.OverlapError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &overlap):
		first := places(overlap.I)
		return &flaw{at: places(overlap.J), first: &first, err: err}
	}
	for i := range ms {
		if err := ms[i].Validate(); err != nil {
			return &flaw{at: places(i), err: err}
		}
	}
	return &flaw{at: places(0), err: err}
}

// all are all mappings of a state, those of the endpoints' ports first, and where each
// of them stands.
func all(s nat.State) (ms []nat.Mapping, places func(int) place) {
	if len(s.Endpoints) == 0 { // which there may be very many of
		return s.Mappings, func(i int) place { return place{mappings, i, -1} }
	}
	var ports []place
	for i, a := range s.Endpoints {
		for j, m := range a.Mappings(a.Address) {
			ms, ports = append(ms, m), append(ports, place{endpoints, i, j})
		}
	}
	return append(ms, s.Mappings...), func(i int) place {
		if i < len(ports) {
			return ports[i]
		}
		return place{mappings, i - len(ports), -1}
	}
}

func validateNetworks(ns []nat.Network) *flaw {
	bad := func(i int, reason string, first int) *flaw {
		f := &flaw{at: place{networks, i, -1}, err: &nat.InvalidError{What: "network", Input: ns[i].String(), Reason: reason}}
		if first >= 0 {
			f.first = &place{networks, first, -1}
		}
		return f
	}
	names := make(map[string]int, len(ns))
	for i, n := range ns {
		if err := n.Validate(); err != nil {
			return &flaw{at: place{networks, i, -1}, err: err}
		}
		if first, twice := names[n.Name]; twice {
			return bad(i, "there are two of that name", first)
		}
		names[n.Name] = i
	}
	// Sorted, of any that overlap there are two next to each other.
	order := byPrefix(ns)
	for k := 1; k < len(order); k++ {
		first, second := min(order[k-1], order[k]), max(order[k-1], order[k])
		if ns[first].Prefix.Overlaps(ns[second].Prefix) {
			return bad(second, "it overlaps network "+ns[first].String(), first)
		}
	}
	return nil
}

// byPrefix are the positions of networks in the order of their addresses.
func byPrefix(ns []nat.Network) []int {
	order := make([]int, len(ns))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		p, q := ns[a].Prefix, ns[b].Prefix
		if c := p.Addr().Compare(q.Addr()); c != 0 {
			return c
		}
		return p.Bits() - q.Bits()
	})
	return order
}

func validateEndpoints(s nat.State) *flaw {
	order := byPrefix(s.Networks)
	names, addresses := make(map[string]int, len(s.Endpoints)), make(map[netip.Addr]int, len(s.Endpoints))
	for i, a := range s.Endpoints {
		bad := func(reason string) *flaw {
			return &flaw{at: place{endpoints, i, -1}, err: &nat.InvalidError{What: "endpoint", Input: a.Name, Reason: reason}}
		}
		if err := a.Validate(); err != nil {
			return &flaw{at: place{endpoints, i, -1}, err: err}
		}
		if !a.Address.IsValid() {
			return bad("it has no address, and a file says which")
		}
		if first, twice := names[a.Name]; twice {
			f := bad("there are two of that name")
			f.first = &place{endpoints, first, -1}
			return f
		}
		if first, twice := addresses[a.Address]; twice {
			f := bad(fmt.Sprintf("address %s is that of endpoint %s", a.Address, s.Endpoints[first].Name))
			f.first = &place{endpoints, first, -1}
			return f
		}
		names[a.Name], addresses[a.Address] = i, i
		if reason := misplaced(a, s.Networks, order); reason != "" {
			return bad(reason)
		}
		for j, spec := range a.Ports {
			if spec.Frontend.Port() == 0 {
				return &flaw{at: place{endpoints, i, j}, err: &nat.InvalidError{What: "port", Input: spec.String(), Reason: noFrontend}}
			}
		}
	}
	return nil
}

// misplaced says why an endpoint cannot have its address, or is empty. The networks do
// not overlap; order is that of byPrefix.
func misplaced(a nat.EndpointSpec, ns []nat.Network, order []int) string {
	after, found := slices.BinarySearchFunc(order, a.Address, func(i int, at netip.Addr) int {
		return ns[i].Prefix.Addr().Compare(at)
	})
	if found {
		after++
	}
	if after == 0 || !ns[order[after-1]].Prefix.Contains(a.Address) {
		return fmt.Sprintf("address %s is in no network of the file", a.Address)
	}
	n := ns[order[after-1]].WithDefaults()
	first := n.Prefix.Addr()
	// Of two addresses there is none of the network's own (RFC 3021, RFC 6164).
	two := first.BitLen()-n.Prefix.Bits() == 1
	switch {
	case a.Network != "" && a.Network != n.Name:
		return fmt.Sprintf("address %s is in network %s, and not in %s", a.Address, n, a.Network)
	case a.Address == n.Gateway:
		return fmt.Sprintf("address %s is the gateway of network %s", a.Address, n)
	case !two && a.Address == first:
		return fmt.Sprintf("address %s is the first of network %s, which no host has", a.Address, n)
	case !two && first.Is4() && !n.Prefix.Contains(a.Address.Next()):
		return fmt.Sprintf("address %s is the broadcast address of network %s", a.Address, n)
	}
	return ""
}
