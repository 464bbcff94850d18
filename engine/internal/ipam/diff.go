// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"strings"

	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/nat"
)

// Diff is what differs between two states. A network or a lease that is changed is removed
// and added. A lease is changed if its address is.
type Diff struct {
	RemovedNetworks, AddedNetworks []nat.Network
	RemovedLeases, AddedLeases     []*Lease
}

// Compare returns what differs between two states.
func Compare(before, after *State) (d Diff) {
	d.RemovedNetworks, d.RemovedLeases = before.without(after)
	d.AddedNetworks, d.AddedLeases = after.without(before)
	return d
}

// without returns what the other state does not have.
func (s *State) without(other *State) (networks []nat.Network, leases []*Lease) {
	for name, n := range s.networks {
		if o := other.networks[name]; o == nil || o.now() != n.now() {
			networks = append(networks, n.now())
		}
	}
	for name, l := range s.leases {
		if o := other.leases[name]; o != l && (o == nil || o.Addr != l.Addr) {
			leases = append(leases, l)
		}
	}
	return networks, leases
}

// Empty reports whether nothing differs.
func (d *Diff) Empty() bool {
	return len(d.RemovedNetworks)+len(d.AddedNetworks)+len(d.RemovedLeases)+len(d.AddedLeases) == 0
}

// Lines returns the differences as users see them: networks, then leases, by name. The
// next address of a network is not shown.
func (d *Diff) Lines() []nat.Change {
	networks, leases := map[string]nat.Change{}, map[string]nat.Change{}
	for _, n := range d.RemovedNetworks {
		networks[n.Name] = nat.Change{Before: DescribeNetwork(n)}
	}
	for _, n := range d.AddedNetworks {
		networks[n.Name] = nat.Change{Before: networks[n.Name].Before, After: DescribeNetwork(n)}
	}
	for _, l := range d.RemovedLeases {
		leases[l.Name] = nat.Change{Before: l.String()}
	}
	for _, l := range d.AddedLeases {
		leases[l.Name] = nat.Change{Before: leases[l.Name].Before, After: l.String()}
	}
	return append(sorted(networks), sorted(leases)...)
}

func sorted(changes map[string]nat.Change) (lines []nat.Change) {
	for _, c := range changes {
		if c.Before != c.After {
			lines = append(lines, c)
		}
	}
	order.Sort(lines, func(a, b nat.Change) int { return strings.Compare(a.Before+a.After, b.Before+b.After) })
	return lines
}

// String describes the lease in one line.
func (l *Lease) String() string { return fmt.Sprintf("endpoint %s %s", l.Name, l.Addr) }

// DescribeNetwork returns all of a network but its next address as one line.
func DescribeNetwork(n nat.Network) string {
	s := fmt.Sprintf("network %s gateway %s", n, n.Gateway)
	if n.NoMasquerade {
		s += " no-masquerade"
	}
	if n.NoGuard {
		s += " no-guard"
	}
	return s
}
