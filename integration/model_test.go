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

// model is the state that was acknowledged, in its simplest form: lists that are searched
// from end to end. Its mappings include those of endpoints, and have one port each.
//
// The model in the tests of package engine predicts more, such as what an engine does when
// it finds elements that others wrote. It needs the engine's clock and a fake kernel, and
// so shares no code with this one.
type model struct {
	networks  []nat.Network
	endpoints []nat.EndpointSpec // without their ports
	mappings  []nat.Mapping
}

// flat returns all mappings of a state, those of endpoints included, as single ports.
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

func modelOf(s nat.State) model {
	l := model{networks: slices.Clone(s.Networks), mappings: flat(s)}
	for _, a := range s.Endpoints {
		a.Ports = nil
		l.endpoints = append(l.endpoints, a)
	}
	return l
}

// state returns the model as an engine's state.
func (l model) state() nat.State {
	return nat.State{Networks: l.networks, Endpoints: l.endpoints, Mappings: nat.Collapse(l.mappings)}
}

func (l model) clone() model {
	return model{slices.Clone(l.networks), slices.Clone(l.endpoints), slices.Clone(l.mappings)}
}

// lines returns all that the model holds as sorted text. The ends of mappings are left
// out: the kernel only reports how long it is until then.
func (l model) lines() []string {
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

func (l model) equal(o model) bool { return slices.Equal(l.lines(), o.lines()) }

func (l model) network(name string) *nat.Network {
	i := slices.IndexFunc(l.networks, func(n nat.Network) bool { return n.Name == name })
	if i < 0 {
		return nil
	}
	return &l.networks[i]
}

func (l model) at(m nat.Mapping) int {
	return slices.IndexFunc(l.mappings, func(have nat.Mapping) bool {
		return have.Proto == m.Proto && have.Frontend == m.Frontend
	})
}

// errUnlike means that the state that was found is not what an operation makes.
var errUnlike = errors.New("not what the operation makes")

// after returns the model after the operation. Ports that the engine chose are taken from
// what was found; nothing else is.
func (l model) after(d operation, found model) (model, error) {
	l = l.clone()
	switch d.Verb {
	case verbPublish, verbReplace:
		for _, m := range d.Mappings {
			if err := l.put(m, found); err != nil {
				return l, err
			}
		}
	case verbUnpublish, verbKill:
		for _, m := range d.Mappings {
			for one := range nat.Expand(m) {
				if err := l.remove(one); err != nil {
					return l, err
				}
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
		l = modelOf(*d.State)
		for i := range l.networks { // a full one may have a free address now
			l.seek(&l.networks[i])
		}
	}
	return l, nil
}

// seek moves the network's next address to the first free one from there on, if any.
func (l model) seek(n *nat.Network) {
	hosts := hostsOf(*n)
	start := slices.Index(hosts, n.Next)
	for i := range hosts {
		if next := hosts[(start+i)%len(hosts)]; !l.leased(next) {
			n.Next = next
			return
		}
	}
}

// put publishes a mapping, and replaces what its ports had before.
func (l *model) put(m nat.Mapping, found model) error {
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

// chosenFor finds the ports that were chosen for a mapping: consecutive ones of the
// dynamic range that were free before.
func (l model) chosenFor(m nat.Mapping, before []nat.Mapping) (nat.Mapping, error) {
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

func (l *model) remove(m nat.Mapping) error {
	i := l.at(m)
	if i < 0 {
		return fmt.Errorf("%w: %s was not there", errUnlike, m)
	}
	l.mappings = slices.Delete(l.mappings, i, i+1)
	return nil
}

func (l *model) attach(a nat.EndpointSpec, found model) error {
	n := l.network(a.Network)
	if n == nil || l.leased(n.Next) {
		return fmt.Errorf("%w: network %s has no room", errUnlike, a.Network)
	}
	a.Address = n.Next
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

func (l model) leased(a netip.Addr) bool {
	return slices.ContainsFunc(l.endpoints, func(ep nat.EndpointSpec) bool { return ep.Address == a })
}

func (l *model) detach(name string) error {
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

// created returns a network as it is when it has just been made: its gateway is its first
// address, and the following one is leased next.
func created(n nat.Network) nat.Network {
	n.Gateway = n.Prefix.Addr().Next()
	n.Next = n.Gateway.Next()
	return n
}

// mostHosts bounds the addresses of a network that the tests list.
const mostHosts = 300

// hostsOf returns the addresses that a network leases, in order.
func hostsOf(n nat.Network) (hosts []netip.Addr) {
	for a := n.Gateway.Next(); n.Prefix.Contains(a) && len(hosts) < mostHosts; a = a.Next() {
		if a.Is6() || n.Prefix.Contains(a.Next()) {
			hosts = append(hosts, a)
		}
	}
	return hosts
}

// difference lists what two models do not have in common.
func (l model) difference(o model) string {
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
