// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"iter"
	"log/slog"
	"net/netip"

	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// host is the routing table, a *hostnet.Routes outside of tests.
type host interface {
	Lookup(netip.Addr) (hostnet.Route, error)
	Overlap(nat.Network) (string, error)
	Close()
}

// lookUpBackends looks up the routes to the backends of all ports that netfilter
// translates.
func lookUpBackends(routes *hostnet.RouteCache, ports iter.Seq[portset.Port]) error {
	for p := range ports {
		if p.ProxiedOnly() {
			continue
		}
		if _, err := routes.Lookup(p.Backend.Addr()); err != nil {
			return err
		}
	}
	return nil
}

// warnUnreachable logs backends without a route.
func warnUnreachable(log *slog.Logger, routes *hostnet.RouteCache) {
	for a, r := range routes.Routes {
		if r.Kind == hostnet.Unreachable {
			log.Warn("there is no route to the backend yet", "backend", a)
		}
	}
}
