// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/nat"
)

// validate returns the first reason why no engine can have the state, as far as the state
// alone tells. Without lines of its own it is that of a state that is to be written.
func (d *document) validate() *LineError {
	if err := d.validateNetworks(); err != nil {
		return err
	}
	if err := d.validateEndpoints(); err != nil {
		return err
	}
	for i := range d.state.Mappings {
		if m := &d.state.Mappings[i]; m.Frontend.Port() == 0 {
			return fault(at(d.mappings, i), "mapping", m.String(), noFrontend)
		}
	}
	ms, lines := d.state.Mappings, d.mappings
	if len(d.state.Endpoints) > 0 { // with them, their mappings first
		ms, lines = nil, slices.Concat(append(slices.Clone(d.ports), lines)...)
		for _, a := range d.state.Endpoints {
			ms = append(ms, a.Mappings(a.Address)...)
		}
		ms = append(ms, d.state.Mappings...)
	}
	err := nat.ValidateAll(ms...)
	var overlap *nat.OverlapError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &overlap):
		return (&LineError{Line: at(lines, overlap.J), Err: err}).after(at(lines, overlap.I))
	}
	first := slices.IndexFunc(ms, func(m nat.Mapping) bool { return m.Validate() != nil })
	return &LineError{Line: at(lines, first), Err: ms[first].Validate()}
}

// validateRemoved checks what was removed: each item alone, since others may have had its
// port, its address or its name before.
func (d *document) validateRemoved() *LineError {
	for i, n := range d.state.Networks {
		if err := n.Validate(); err != nil {
			return &LineError{Line: at(d.networks, i), Err: err}
		}
	}
	for i, a := range d.state.Endpoints {
		if err := a.Validate(); err != nil {
			return &LineError{Line: at(d.endpoints, i), Err: err}
		}
		if !a.Address.IsValid() || len(a.Ports) != 0 {
			return fault(at(d.endpoints, i), nat.WhatEndpoint, a.Name, "what was removed has an address and no ports")
		}
	}
	for i := range d.state.Mappings {
		m := &d.state.Mappings[i]
		if m.Frontend.Port() == 0 {
			return fault(at(d.mappings, i), "mapping", m.String(), noFrontend)
		}
		if err := m.Validate(); err != nil {
			return &LineError{Line: at(d.mappings, i), Err: err}
		}
	}
	return nil
}

// at returns the line of an item, 0 if there are no lines.
func at(lines []int, i int) int {
	if len(lines) == 0 {
		return 0
	}
	return lines[i]
}

// after adds the line of the other item, if two cannot be together.
func (e *LineError) after(first int) *LineError {
	if first > 0 {
		e.Err = fmt.Errorf("%w (the first is in line %d)", e.Err, first)
	}
	return e
}

func (d *document) validateNetworks() *LineError {
	ns, lines := d.state.Networks, d.networks
	names := make(map[string]int, len(ns))
	for i, n := range ns {
		if err := n.Validate(); err != nil {
			return &LineError{Line: at(lines, i), Err: err}
		}
		if first, twice := names[n.Name]; twice {
			return fault(at(lines, i), nat.WhatNetwork, n.String(), "there are two of that name").after(at(lines, first))
		}
		names[n.Name] = i
	}
	// Sorted, of any that overlap two are next to each other.
	order := byPrefix(ns)
	for k := 1; k < len(order); k++ {
		first, second := min(order[k-1], order[k]), max(order[k-1], order[k])
		if ns[first].Prefix.Overlaps(ns[second].Prefix) {
			return fault(at(lines, second), nat.WhatNetwork, ns[second].String(), "it overlaps network "+ns[first].String()).after(at(lines, first))
		}
	}
	return nil
}

// byPrefix returns the indices of networks in the order of their addresses.
func byPrefix(ns []nat.Network) []int {
	order := make([]int, len(ns))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(ns[a].Prefix.Addr().Compare(ns[b].Prefix.Addr()), ns[a].Prefix.Bits()-ns[b].Prefix.Bits())
	})
	return order
}

func (d *document) validateEndpoints() *LineError {
	as, lines := d.state.Endpoints, d.endpoints
	order := byPrefix(d.state.Networks)
	names, addresses := make(map[string]int, len(as)), make(map[netip.Addr]int, len(as))
	for i, a := range as {
		bad := func(reason string) *LineError { return fault(at(lines, i), nat.WhatEndpoint, a.Name, reason) }
		if err := a.Validate(); err != nil {
			return &LineError{Line: at(lines, i), Err: err}
		}
		named, twice := names[a.Name]
		other, taken := addresses[a.Address]
		switch {
		case !a.Address.IsValid():
			return bad("it has no address, and a file says which")
		case twice:
			return bad("there are two of that name").after(at(lines, named))
		case taken:
			return bad(fmt.Sprintf("address %s is that of endpoint %s", a.Address, as[other].Name)).after(at(lines, other))
		}
		names[a.Name], addresses[a.Address] = i, i
		if reason := misplaced(a, d.state.Networks, order); reason != "" {
			return bad(reason)
		}
		for j, spec := range a.Ports {
			if spec.Frontend.Port() == 0 {
				line := 0
				if len(d.ports) > 0 {
					line = d.ports[i][j]
				}
				return fault(line, "port", spec.String(), noFrontend)
			}
		}
	}
	return nil
}

// misplaced returns why an endpoint cannot have its address, or "". The networks do
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
	// A network of two addresses has none of its own (RFC 3021, RFC 6164).
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
