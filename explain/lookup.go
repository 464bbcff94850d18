// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/explain/internal/host"
)

// routed is the answer to a look-up of a route.
type routed struct {
	route *host.Route
	fault *host.RouteFault
	err   error
}

// lookup routes a packet, each once. Ports are left out unless a policy rule asks for them, so that
// mappings of one backend have one route.
func (s *Snapshot) lookup(q host.RouteQuery) (*host.Route, *host.RouteFault, error) {
	if !s.byPorts(q.Dst.Is4()) {
		q.Proto, q.SrcPort, q.DstPort = 0, 0, 0
	}
	if r, ok := s.routes[q]; ok {
		return r.route, r.fault, r.err
	}
	var r routed
	r.route, r.fault, r.err = s.facts.Lookup(q)
	s.routes[q] = r
	return r.route, r.fault, r.err
}

// byPorts reports whether policy rules of a family ask for the protocol or for ports.
func (s *Snapshot) byPorts(is4 bool) bool {
	if by, ok := s.portRules[is4]; ok {
		return by
	}
	rules, err := s.facts.PolicyRules(is4)
	by := err != nil || slices.ContainsFunc(rules, func(r *host.PolicyRule) bool {
		return r.Proto != 0 || r.SrcPorts != host.PortMatch{} || r.DstPorts != host.PortMatch{} || r.Unread
	})
	s.portRules[is4] = by
	return by
}

// byMark reports whether policy rules of a family ask for the mark of packets.
func (s *Snapshot) byMark(is4 bool) bool {
	rules, err := s.facts.PolicyRules(is4)
	return err != nil || slices.ContainsFunc(rules, func(r *host.PolicyRule) bool { return r.Mask != 0 || r.Unread })
}

// tracking is how full connection tracking is.
type tracking struct {
	*host.Conntrack
	err error
}

// conntrack reads how full connection tracking is, once.
func (s *Snapshot) conntrack() (*host.Conntrack, error) {
	if s.ct == nil {
		ct, err := s.facts.Conntrack()
		s.ct = &tracking{ct, err}
	}
	return s.ct.Conntrack, s.ct.err
}

// known returns what m knows of a key, or what find does.
func known[K comparable, V any](m map[K]V, key K, find func() V) V {
	v, ok := m[key]
	if !ok {
		v = find()
		m[key] = v
	}
	return v
}

// linkAddr is an address on an interface.
type linkAddr struct {
	index int
	addr  netip.Addr
}

// question is who asks for which address on an interface.
type question struct {
	index     int
	to, asker netip.Addr
}

// found is an entry of the table of neighbours.
type found struct {
	*host.Neighbour
	err error
}

// neighbour returns the entry of an address on an interface; nil: there is none.
func (s *Snapshot) neighbour(addr netip.Addr, index int) (*host.Neighbour, error) {
	f := known(s.neighbours, linkAddr{index, addr}, func() found {
		n, err := s.facts.Neighbour(addr, index)
		return found{n, err}
	})
	return f.Neighbour, f.err
}

// resolved forgets what was known of neighbours before some were asked.
func (s *Snapshot) resolved() {
	clear(s.neighbours)
	clear(s.stacks)
	clear(s.asked)
}

// homeward is the way from a backend to an address.
type homeward struct{ backend, to netip.Addr }

// homeRoute is how the backend routes its answers, if its namespace is known.
type homeRoute struct {
	known bool
	route *host.Route
	fault *host.RouteFault
}

// wrong is the route by which answers do not come back, if they do not; nil: there is none.
func (h homeRoute) wrong() *host.Route {
	if h.fault != nil {
		return h.fault.Route
	}
	return h.route
}

// homeRoute looks up how a backend routes its answers.
func (s *Snapshot) homeRoute(backend, to netip.Addr) homeRoute {
	return known(s.homes, homeward{backend, to}, func() (h homeRoute) {
		p, err := s.facts.Peer(backend)
		if err != nil || p == nil {
			return h
		}
		h.route, h.fault, err = p.Lookup(host.RouteQuery{Src: backend, Dst: to})
		h.known = errors.Join(err, p.Close()) == nil
		return h
	})
}
