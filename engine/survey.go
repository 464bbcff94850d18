// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"iter"
	"net/netip"

	"github.com/nftnat/nftnat/nat"
)

// survey asks the routing table about the addresses of mappings, each once.
type survey struct {
	host   host
	routes map[netip.Addr]route
	// last is what was asked about last, and found: many mappings in a row are often of
	// one backend.
	last  netip.Addr
	found route
}

func (e *Engine) newSurvey() *survey { return &survey{host: e.host, routes: map[netip.Addr]route{}} }

func (s *survey) look(a netip.Addr) (r route, err error) {
	if a == s.last {
		return s.found, nil
	}
	r, ok := s.routes[a]
	if !ok {
		if r, err = s.host.route(a); err != nil {
			return route{}, err
		}
		s.routes[a] = r
	}
	s.last, s.found = a, r
	return r, nil
}

// check refuses a mapping that this host cannot publish.
func (s *survey) check(m *nat.Mapping) error {
	if a := m.Frontend.Addr(); a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() {
		r, err := s.look(a)
		if err != nil {
			return err
		}
		if r.kind != localAddress {
			return notHere(m, "the frontend %s is not an address of this host", a)
		}
	}
	a := m.Backend.Addr()
	r, err := s.look(a)
	if err != nil {
		return err
	}
	switch r.kind {
	case localAddress:
		return notHere(m, "the backend %s is this host itself", a)
	case segmentBroadcast:
		return notHere(m, "the backend %s is a broadcast address", a)
	case otherRoute:
		return notHere(m, "the routing table forbids the backend %s", a)
	case unreachable, unicast: // what is not there yet may come
	}
	return nil
}

// backends asks about the backends of all ports that netfilter translates.
func (s *survey) backends(ports iter.Seq[port]) error {
	for p := range ports {
		if p.proxiedOnly() {
			continue
		}
		if _, err := s.look(p.backend.Addr()); err != nil {
			return err
		}
	}
	return nil
}

func notHere(m *nat.Mapping, format string, a netip.Addr) error {
	return &nat.InvalidError{What: nat.WhatMapping, Input: m.String(), Reason: fmt.Sprintf(format, a)}
}

// warn tells the log of backends that nothing leads to.
func (e *Engine) warn(s *survey) {
	for a, r := range s.routes {
		if r.kind == unreachable {
			e.log.Warn("there is no route to the backend yet", "backend", a)
		}
	}
}
