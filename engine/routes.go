// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/nat"
)

// host is the routing table, a *hostnet.Routes outside of tests.
type host interface {
	Lookup(netip.Addr) (hostnet.Route, error)
	LookupAll([]netip.Addr) (hostnet.RouteMap, error)
	OnLink(links []string, is4 bool) (map[string][]netip.Prefix, error)
	Overlap(nat.Network) (string, error)
	Interfaces() ([]hostnet.Interface, error)
	Addresses(six bool) ([]netip.Addr, error)
	Close()
}

// maxUnreachable bounds how many backends without a route are logged one by one.
const maxUnreachable = 64

// warnUnreachable logs backends without a route, and frontends whose addresses this host does
// not have.
func (e *core) warnUnreachable(routes *hostnet.RouteCache) {
	var unreachable []netip.Addr
	for a := range routes.Absent {
		if e.local != nil {
			e.local[a] = false
		}
		e.log.Warn("the frontend is no address of this host yet: the mapping works once it is", "frontend", a)
	}
	for a, r := range routes.Routes.All {
		if r.Kind == hostnet.Unreachable && !routes.Absent[a] {
			unreachable = append(unreachable, a)
		}
	}
	slices.SortFunc(unreachable, netip.Addr.Compare)
	for _, a := range unreachable[:min(len(unreachable), maxUnreachable)] {
		e.log.Warn("there is no route to the backend yet", "backend", a)
	}
	if more := len(unreachable) - maxUnreachable; more > 0 {
		e.log.Warn("there is no route to more backends yet", "backends", more)
	}
}
