// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"net/netip"

	"github.com/nftnat/nftnat/engine/internal/addrmap"
)

// RouteMap has routes that were looked up, by their addresses. Many addresses share a route.
// The zero value is empty.
type RouteMap struct{ addrmap.Map[*Route] }

// Get returns the route to an address; ok is false if it was not looked up.
func (m RouteMap) Get(a netip.Addr) (r Route, ok bool) {
	found := m.Map.Of(a)
	if found == nil {
		return Route{}, false
	}
	return *found, true
}

// Of returns the route to an address, or the zero Route.
func (m RouteMap) Of(a netip.Addr) Route {
	r, _ := m.Get(a)
	return r
}
