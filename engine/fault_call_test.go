// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/nat"
)

// The space in which random calls meet: few ports, whose sockets any machine has.
const (
	faultFirstPort, faultPorts = 18000, 12
	faultMappings              = 14 // how many ports are enough
)

func anyOf[T any](f *faulty, from []T) T { return from[f.IntN(len(from))] }

// call chooses a call, which can be made of any engine that has published this state.
// No ports are chosen in it: which those are depends on history.
func (f *faulty) call(s nat.State, tag string) (name string, call func(*Engine) error) {
	f.tag = tag
	published := singles(allMappings(s))
	few := func() (ms []nat.Mapping) {
		for range min(1+f.IntN(3), len(published)) {
			i := f.IntN(len(published))
			ms = append(ms, published[i])
			published = slices.Delete(published, i, i+1)
		}
		return ms
	}
	choice := f.IntN(10)
	if len(published) > faultMappings {
		choice = 3 + f.IntN(3)
	}
	switch choice {
	case 3:
		ms := few()
		return "unpublish " + describeAll(ms), func(e *Engine) error { _, err := e.Remove(context.Background(), nat.Removal{Mappings: ms}); return err }
	case 4:
		ms := few()
		return "kill " + describeAll(ms), func(e *Engine) error {
			_, err := e.Remove(context.Background(), nat.Removal{Mappings: ms, Kill: true})
			return err
		}
	case 5:
		next := f.applied(s)
		return "apply", func(e *Engine) error { _, err := e.ApplyState(context.Background(), next); return err }
	case 6:
		ms := few()
		for i := range ms {
			ms[i].Name, ms[i].Backend = tag, f.backend(ms[i].Backend.Addr().Is6())
		}
		return fmt.Sprint("replace ", ms), func(e *Engine) error {
			_, err := e.Publish(context.Background(), nat.PublishOptions{Replace: true}, ms...)
			return err
		}
	case 7:
		return f.network(s, tag)
	case 8, 9:
		return f.endpoint(s, tag)
	}
	ms := []nat.Mapping{f.mapping()}
	for range f.IntN(3) {
		ms = append(ms, f.mapping())
	}
	return fmt.Sprint("publish ", ms), func(e *Engine) error {
		_, err := e.Publish(context.Background(), nat.PublishOptions{}, ms...)
		return err
	}
}

func (f *faulty) mapping() nat.Mapping {
	m := nat.Mapping{Proto: anyOf(f, []nat.Proto{nat.TCP, nat.UDP}), Name: f.tag}
	host := anyOf(f, []string{"", "", "", "0.0.0.0", "127.0.0.1", "::", "::1"})
	six := f.IntN(3) == 0
	addr := netip.Addr{}
	if host != "" {
		addr = netip.MustParseAddr(host)
		six = addr.Is6() != (f.IntN(8) == 0)
	}
	m.Frontend = netip.AddrPortFrom(addr, uint16(faultFirstPort+f.IntN(faultPorts)))
	m.Backend = f.backend(six)
	m.NoProxy = f.IntN(4) == 0 && !addr.IsLoopback() && !crosses(m)
	m.More = uint16(f.IntN(5) / 3)
	return m
}

func (f *faulty) backend(six bool) netip.AddrPort {
	addr := anyOf(f, []string{"172.30.0.2", "172.30.0.3", "10.9.0.2", "203.0.113.7"})
	if six {
		addr = anyOf(f, []string{"fd00:30::2", "2001:db8:9::2"})
	}
	return netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(80+f.IntN(3)))
}

// applied is a state with something gone and something new.
func (f *faulty) applied(s nat.State) nat.State {
	s.Mappings = slices.Clone(s.Mappings)
	s.Endpoints = slices.Clone(s.Endpoints)
	s.Mappings = slices.DeleteFunc(s.Mappings, func(nat.Mapping) bool { return f.IntN(3) == 0 })
	if n := len(s.Endpoints); n != 0 && f.IntN(2) == 0 {
		s.Endpoints = slices.Delete(s.Endpoints, n-1, n)
	}
	for i := range s.Mappings {
		if f.IntN(4) == 0 {
			s.Mappings[i].Backend, s.Mappings[i].Name = f.backend(s.Mappings[i].Backend.Addr().Is6()), f.tag
		}
	}
	if f.IntN(2) == 0 {
		s.Mappings = append(s.Mappings, f.mapping())
	}
	return s
}

// network makes a network or takes one back.
func (f *faulty) network(s nat.State, tag string) (string, func(*Engine) error) {
	if len(s.Networks) > 1 && f.IntN(2) == 0 {
		name := anyOf(f, s.Networks).Name
		return "remove network " + name, func(e *Engine) error { return e.RemoveNetwork(context.Background(), name) }
	}
	prefix := netip.MustParsePrefix(anyOf(f, []string{inside4, "10.71.0.0/30", "10.72.0.0/29", inside6, "fd00:71::/126"}))
	n := nat.Network{Name: tag, Prefix: prefix, NoGuard: f.IntN(2) == 0, NoMasquerade: f.IntN(2) == 0}
	return "create network " + n.String(), func(e *Engine) error { _, err := e.CreateNetwork(context.Background(), n); return err }
}

// endpoint attaches one or detaches one.
func (f *faulty) endpoint(s nat.State, tag string) (string, func(*Engine) error) {
	if len(s.Endpoints) > 0 && f.IntN(3) == 0 {
		name := anyOf(f, s.Endpoints).Name
		return "detach " + name, func(e *Engine) error { _, err := e.Detach(context.Background(), name); return err }
	}
	if len(s.Networks) == 0 {
		return f.network(s, tag)
	}
	a := nat.EndpointSpec{Name: tag, Network: anyOf(f, s.Networks).Name}
	for range f.IntN(3) {
		a.Ports = append(a.Ports, nat.PortSpec{
			Proto: anyOf(f, []nat.Proto{nat.TCP, nat.UDP}), Backend: 80, More: uint16(f.IntN(2)),
			Frontend: netip.AddrPortFrom(netip.Addr{}, uint16(faultFirstPort+f.IntN(faultPorts))),
		})
	}
	return fmt.Sprintf("attach %+v", a), func(e *Engine) error { _, err := e.Attach(context.Background(), a); return err }
}
