// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// portRun is a run of consecutive ports that differ in nothing else.
type portRun struct {
	first *port
	more  uint16 // after the first
}

func (r portRun) mapping() nat.Mapping {
	m := r.first.mapping()
	m.More = r.more
	return m
}

// collapsed is Collapse of ports.
func collapsed(ports []port) []nat.Mapping {
	runs := runsOf(ports)
	if len(runs) == 0 {
		return nil
	}
	ms := make([]nat.Mapping, len(runs))
	for i, r := range runs {
		ms[i] = r.mapping()
	}
	return ms
}

// runsOf are the runs of the ports, in the order of Compare. The ports stay as they are.
func runsOf(ports []port) (runs []portRun) {
	at := func(i int) *port { return &ports[i] }
	if !slices.IsSortedFunc(ports, func(a, b port) int { return comparePorts(&a, &b) }) {
		// A port has some 100 bytes: its index is sorted in its place.
		order := make([]int32, len(ports))
		for i := range order {
			order[i] = int32(i)
		}
		slices.SortFunc(order, func(a, b int32) int { return comparePorts(&ports[a], &ports[b]) })
		at = func(i int) *port { return &ports[order[i]] }
	}
	for i := range ports {
		p := at(i)
		if i > 0 && p.continues(at(i-1)) {
			runs[len(runs)-1].more++
		} else {
			runs = append(runs, portRun{first: p})
		}
	}
	return runs
}

// continues reports whether the port goes on where the other ends, and differs in
// nothing else.
func (p *port) continues(o *port) bool {
	return p.follows(o.frontend) &&
		int(p.backend.Port()) == int(o.backend.Port())+1 && p.backend.Addr() == o.backend.Addr() &&
		p.name == o.name && p.noProxy == o.noProxy && p.expires == o.expires
}

// comparePorts is Compare of ports.
func comparePorts(a, b *port) int {
	if c := cmp.Compare(a.proto, b.proto); c != 0 {
		return c
	}
	if c := a.ap.Compare(b.ap); c != 0 {
		return c
	}
	if c := a.backend.Compare(b.backend); c != 0 {
		return c
	}
	if c := strings.Compare(a.name, b.name); c != 0 {
		return c
	}
	switch {
	case a.noProxy == b.noProxy:
		return cmp.Compare(a.expires, b.expires)
	case b.noProxy:
		return -1
	}
	return 1
}
