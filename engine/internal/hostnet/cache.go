// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/nat"
)

// RouteCache looks up the route to each address once.
type RouteCache struct {
	lookup func(netip.Addr) (Route, error)
	// Routes are all that were looked up.
	Routes RouteMap
	// InNetwork reports whether an address is of a declared network, to which a route may be
	// added later that is more specific than one that forbids it. Nil: none is.
	InNetwork func(netip.Addr) bool
	// Absent are the frontends' addresses that Check has found not to be this host's.
	Absent map[netip.Addr]bool
	// last is the address of the last look-up, and found its route: many mappings in a
	// row often have one backend.
	last  netip.Addr
	found Route
}

// NewRouteCache makes a cache with the routes.
func NewRouteCache(lookup func(netip.Addr) (Route, error), routes RouteMap) *RouteCache {
	return &RouteCache{lookup: lookup, Routes: routes, Absent: map[netip.Addr]bool{}}
}

// Lookup returns the route to an address.
func (c *RouteCache) Lookup(a netip.Addr) (r Route, err error) {
	if a == c.last {
		return c.found, nil
	}
	r, ok := c.Routes.Get(a)
	if !ok {
		if r, err = c.lookup(a); err != nil {
			return Route{}, err
		}
		kept := r // r itself would be allocated at each call
		c.Routes.Set(a, &kept)
	}
	c.last, c.found = a, r
	return r, nil
}

// Fetch looks up at once the routes that Lookup would look up one by one.
func (c *RouteCache) Fetch(backends iter.Seq[netip.Addr], lookUp func([]netip.Addr) (RouteMap, error)) error {
	n := 0
	for range c.missing(backends) {
		n++
	}
	if n == 0 {
		return nil
	}
	found, err := lookUp(slices.AppendSeq(make([]netip.Addr, 0, n), c.missing(backends)))
	switch {
	case err != nil:
		return err
	case c.Routes.Len() == 0:
		c.Routes = found
	default:
		for a, r := range found.All {
			c.Routes.Set(a, r)
		}
	}
	return nil
}

// missing yields addresses whose routes are not there, some of them several times.
func (c *RouteCache) missing(backends iter.Seq[netip.Addr]) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		var recent [256]netip.Addr // by the last byte: many mappings often have a few backends by turns
		for a := range backends {
			last := &recent[a.As16()[15]]
			if a == *last {
				continue
			}
			*last = a
			if _, ok := c.Routes.Get(a); !ok && !yield(a) {
				return
			}
		}
	}
}

// CheckAll is Check of several mappings. It returns the first error.
func (c *RouteCache) CheckAll(ms []*nat.Mapping, lookUp func([]netip.Addr) (RouteMap, error)) error {
	err := c.Fetch(func(yield func(netip.Addr) bool) {
		for _, m := range ms {
			if !yield(m.Backend.Addr()) {
				return
			}
		}
	}, lookUp)
	for i := 0; i < len(ms) && err == nil; i++ {
		err = c.Check(ms[i])
	}
	return err
}

// Check refuses a mapping that this host cannot publish. The address of a frontend may come
// to the host later.
func (c *RouteCache) Check(m *nat.Mapping) error {
	reason, err := c.Fault(m.Frontend.Addr(), m.Backend.Addr())
	if reason != "" {
		return &nat.InvalidError{What: nat.WhatMapping, Input: m.String(), Reason: reason}
	}
	return err
}

// Fault returns why this host cannot publish a mapping with these addresses, or "".
func (c *RouteCache) Fault(front, back netip.Addr) (reason string, err error) {
	if front.IsValid() && !front.IsUnspecified() && !front.IsLoopback() {
		r, err := c.Lookup(front)
		if err != nil {
			return "", err
		}
		switch {
		case r.Kind == Local:
		case r.Kind == Broadcast:
			return fmt.Sprintf("the frontend %s is a broadcast address", front), nil
		case front == back:
			return fmt.Sprintf("frontend and backend have one address, %s", front), nil
		default:
			c.Absent[front] = true
		}
	}
	r, err := c.Lookup(back)
	if err != nil {
		return "", err
	}
	switch r.Kind {
	case Local:
		reason = fmt.Sprintf("the backend %s is this host itself", back)
	case Broadcast:
		reason = fmt.Sprintf("the backend %s is a broadcast address", back)
	case Other:
		if c.InNetwork == nil || !c.InNetwork(back) {
			reason = fmt.Sprintf("the routing table forbids the backend %s", back)
		}
	case Unreachable, Unicast: // a route may be added later
	}
	return reason, nil
}
