// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/nat"
)

// host is the routing table, a *hostnet.Routes outside of tests.
type host interface {
	Lookup(netip.Addr) (hostnet.Route, error)
	LookupAll([]netip.Addr) (map[netip.Addr]hostnet.Route, error)
	OnLink(links []string, is4 bool) (map[string][]netip.Prefix, error)
	Overlap(nat.Network) (string, error)
	Interfaces() ([]hostnet.Interface, error)
	Addresses(six bool) ([]netip.Addr, error)
	Close()
}

// warnUnreachable logs backends without a route, and frontends whose addresses this host does
// not have.
func (e *core) warnUnreachable(routes *hostnet.RouteCache) {
	for a := range routes.Absent {
		if e.local != nil {
			e.local[a] = false
		}
		e.log.Warn("the frontend is no address of this host yet: the mapping works once it is", "frontend", a)
	}
	for a, r := range routes.Routes {
		if r.Kind == hostnet.Unreachable && !routes.Absent[a] {
			e.log.Warn("there is no route to the backend yet", "backend", a)
		}
	}
}
