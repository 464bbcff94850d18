// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// ledger is what was acknowledged, as plainly as can be: lists that are searched from
// end to end. Its mappings are those of endpoints as well, a port each.
type ledger struct {
	networks  []nat.Network
	endpoints []nat.EndpointSpec // without their ports
	mappings  []nat.Mapping
}

// flat are all mappings of a state, those of endpoints with them, a port each.
func flat(s nat.State) []nat.Mapping {
	var all []nat.Mapping
	for _, m := range s.Mappings {
		all = slices.AppendSeq(all, nat.Expand(m))
	}
	for _, a := range s.Endpoints {
		for _, spec := range a.Ports {
			all = slices.AppendSeq(all, nat.Expand(specMapping(a.Name, a.Address, spec)))
		}
	}
	slices.SortFunc(all, nat.Compare)
	return all
}

func specMapping(name string, addr netip.Addr, s nat.PortSpec) nat.Mapping {
	return nat.Mapping{Proto: s.Proto, Frontend: s.Frontend, Backend: netip.AddrPortFrom(addr, s.Backend), More: s.More, Name: name}
}

func ledgerOf(s nat.State) ledger {
	l := ledger{networks: slices.Clone(s.Networks), mappings: flat(s)}
	for _, a := range s.Endpoints {
		a.Ports = nil
		l.endpoints = append(l.endpoints, a)
	}
	return l
}

// state is what an engine can be given to know the same.
func (l ledger) state() nat.State {
	return nat.State{Networks: l.networks, Endpoints: l.endpoints, Mappings: l.mappings}
}

func (l ledger) clone() ledger {
	return ledger{slices.Clone(l.networks), slices.Clone(l.endpoints), slices.Clone(l.mappings)}
}

// lines are all that is in it, in order. When a mapping ends is not: the kernel tells
// only how long it is until then.
func (l ledger) lines() []string {
	lines := []string{}
	for _, n := range l.networks {
		lines = append(lines, fmt.Sprintf("network %s gateway %s next %s guard %t masquerade %t", n, n.Gateway, n.Next, !n.NoGuard, !n.NoMasquerade))
	}
	for _, a := range l.endpoints {
		lines = append(lines, fmt.Sprintf("endpoint %s of %s at %s", a.Name, a.Network, a.Address))
	}
	for _, m := range l.mappings {
		lines = append(lines, fmt.Sprintf("mapping %s of %q proxy %t ends %t", m, m.Name, !m.NoProxy, !m.Expires.IsZero()))
	}
	slices.Sort(lines)
	return lines
}

func (l ledger) equal(o ledger) bool { return slices.Equal(l.lines(), o.lines()) }

func (l ledger) network(name string) *nat.Network {
	i := slices.IndexFunc(l.networks, func(n nat.Network) bool { return n.Name == name })
	if i < 0 {
		return nil
	}
	return &l.networks[i]
}

func (l ledger) at(m nat.Mapping) int {
	return slices.IndexFunc(l.mappings, func(have nat.Mapping) bool {
		return have.Proto == m.Proto && have.Frontend == m.Frontend
	})
}

// errUnlike means that what was found is not what a deed makes.
var errUnlike = errors.New("it is not what the deed makes")

// after is the ledger when the deed is done. What is chosen in it is as it was found:
// which port, and nothing else.
func (l ledger) after(d deed, found ledger) (ledger, error) {
	l = l.clone()
	switch d.Verb {
	case verbPublish, verbRetarget:
		for _, m := range d.Mappings {
			if err := l.put(m, found); err != nil {
				return l, err
			}
		}
	case verbUnpublish, verbKill:
		for _, m := range d.Mappings {
			if err := l.take(m); err != nil {
				return l, err
			}
		}
	case verbAttach:
		return l, l.attach(*d.Attach, found)
	case verbDetach, verbRelease:
		return l, l.detach(d.Name)
	case verbCreate:
		l.networks = append(l.networks, created(*d.Network))
	case verbRemove:
		before := len(l.networks)
		l.networks = slices.DeleteFunc(l.networks, func(n nat.Network) bool { return n.Name == d.Name })
		if len(l.networks) == before {
			return l, fmt.Errorf("%w: there was no network %s", errUnlike, d.Name)
		}
	case verbApply:
		l = ledgerOf(*d.State)
		for i := range l.networks { // one that was full may have room
			l.seek(&l.networks[i])
		}
	}
	return l, nil
}

// seek puts the next address to be leased on the first free one from there on, if there
// is one.
func (l ledger) seek(n *nat.Network) {
	hosts := hostsOf(*n)
	start := slices.Index(hosts, n.Next)
	for i := range hosts {
		if next := hosts[(start+i)%len(hosts)]; !l.leased(next) {
			n.Next = next
			return
		}
	}
}

// put publishes a mapping, in the place of what its ports had before.
func (l *ledger) put(m nat.Mapping, found ledger) error {
	if m.Frontend.Port() == 0 {
		chosen, err := found.chosenFor(m, l.mappings)
		if err != nil {
			return err
		}
		m = chosen
	}
	for one := range nat.Expand(m) {
		if i := l.at(one); i >= 0 {
			l.mappings[i] = one
		} else {
			l.mappings = append(l.mappings, one)
		}
	}
	return nil
}

// chosenFor finds which ports a mapping was given: consecutive ones of the dynamic
// range, which nobody had before.
func (l ledger) chosenFor(m nat.Mapping, before []nat.Mapping) (nat.Mapping, error) {
	for _, have := range l.mappings {
		if have.Name != m.Name || have.Proto != m.Proto || have.Backend != m.Backend || have.Frontend.Port() < 49153 {
			continue
		}
		m.Frontend = netip.AddrPortFrom(m.Frontend.Addr(), have.Frontend.Port())
		if !slices.ContainsFunc(before, func(b nat.Mapping) bool { return b.Proto == m.Proto && b.Frontend == m.Frontend }) {
			return m, nil
		}
	}
	return m, fmt.Errorf("%w: no port was chosen for %s of %s", errUnlike, m, m.Name)
}

func (l *ledger) take(m nat.Mapping) error {
	i := l.at(m)
	if i < 0 {
		return fmt.Errorf("%w: %s was not there", errUnlike, m)
	}
	l.mappings = slices.Delete(l.mappings, i, i+1)
	return nil
}

func (l *ledger) attach(a nat.EndpointSpec, found ledger) error {
	n := l.network(a.Network)
	if n == nil || l.leased(n.Next) {
		return fmt.Errorf("%w: network %s has no room", errUnlike, a.Network)
	}
	a.Address = n.Next // the next one is what is leased, whatever has happened since
	for _, spec := range a.Ports {
		if err := l.put(specMapping(a.Name, a.Address, spec), found); err != nil {
			return err
		}
	}
	a.Ports = nil
	l.endpoints = append(l.endpoints, a)
	l.seek(n)
	return nil
}

func (l ledger) leased(a netip.Addr) bool {
	return slices.ContainsFunc(l.endpoints, func(ep nat.EndpointSpec) bool { return ep.Address == a })
}

func (l *ledger) detach(name string) error {
	i := slices.IndexFunc(l.endpoints, func(a nat.EndpointSpec) bool { return a.Name == name })
	if i < 0 {
		return fmt.Errorf("%w: there was no endpoint %s", errUnlike, name)
	}
	a := l.endpoints[i]
	if n := l.network(a.Network); l.leased(n.Next) { // it was full
		n.Next = a.Address
	}
	l.endpoints = slices.Delete(l.endpoints, i, i+1)
	l.mappings = slices.DeleteFunc(l.mappings, func(m nat.Mapping) bool {
		return m.Name == name && m.Backend.Addr() == a.Address
	})
	return nil
}

// created is a network when it has just been made: its gateway is the first address,
// and the next is leased.
func created(n nat.Network) nat.Network {
	n.Gateway = n.Prefix.Addr().Next()
	n.Next = n.Gateway.Next()
	return n
}

// mostHosts is as many addresses of a network as the tests come to know.
const mostHosts = 300

// hostsOf are the addresses that a network leases, in order.
func hostsOf(n nat.Network) (hosts []netip.Addr) {
	for a := n.Gateway.Next(); n.Prefix.Contains(a) && len(hosts) < mostHosts; a = a.Next() {
		if a.Is6() || n.Prefix.Contains(a.Next()) {
			hosts = append(hosts, a)
		}
	}
	return hosts
}

// difference shows two ledgers where they differ.
func (l ledger) difference(o ledger) string {
	var b strings.Builder
	a, c := l.lines(), o.lines()
	for _, line := range a {
		if !slices.Contains(c, line) {
			b.WriteString("- " + line + "\n")
		}
	}
	for _, line := range c {
		if !slices.Contains(a, line) {
			b.WriteString("+ " + line + "\n")
		}
	}
	return b.String()
}
