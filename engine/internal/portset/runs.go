// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"cmp"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// portRun is a run of consecutive ports that differ in nothing else.
type portRun struct {
	first *Port
	more  uint16 // after the first
}

func (r portRun) mapping() nat.Mapping {
	m := r.first.Mapping()
	m.More = r.more
	return m
}

// Collapse is [nat.Collapse] of ports.
func Collapse(ports []Port) []nat.Mapping {
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

// runsOf returns the runs of the ports, in the order of [nat.Compare]. It leaves the ports
// as they are.
func runsOf(ports []Port) (runs []portRun) {
	at := func(i int) *Port { return &ports[i] }
	if !slices.IsSortedFunc(ports, func(a, b Port) int { return comparePorts(&a, &b) }) {
		// A port has some 100 bytes: its index is sorted in its place.
		order := make([]int32, len(ports))
		for i := range order {
			order[i] = int32(i)
		}
		slices.SortFunc(order, func(a, b int32) int { return comparePorts(&ports[a], &ports[b]) })
		at = func(i int) *Port { return &ports[order[i]] }
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

// continues reports whether the port is the next after another, and differs in nothing
// else.
func (p *Port) continues(o *Port) bool {
	return p.follows(o.Frontend) &&
		int(p.Backend.Port()) == int(o.Backend.Port())+1 && p.Backend.Addr() == o.Backend.Addr() &&
		p.Name == o.Name && p.NoProxy == o.NoProxy && p.Expires == o.Expires
}

// comparePorts is [nat.Compare] of ports.
func comparePorts(a, b *Port) int {
	if c := cmp.Compare(a.Proto, b.Proto); c != 0 {
		return c
	}
	if c := a.AddrPort.Compare(b.AddrPort); c != 0 {
		return c
	}
	if c := a.Backend.Compare(b.Backend); c != 0 {
		return c
	}
	if c := strings.Compare(a.Name, b.Name); c != 0 {
		return c
	}
	switch {
	case a.NoProxy == b.NoProxy:
		return cmp.Compare(a.Expires, b.Expires)
	case b.NoProxy:
		return -1
	}
	return 1
}
