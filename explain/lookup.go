// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
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
