// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/nat"
)

// checkMasquerade returns an error if ports of which netfilter cannot tell the flows apart
// would differ in whether they are masqueraded. The change may be any but of restored ports.
func (l *published) checkMasquerade(c *portset.Change) error {
	// By backend: the ports of the change that could disagree.
	var suspects map[portset.Called][]portset.Port
	masqueraded := len(l.options.Backends) != 0 || l.options.Ranges != 0
	for p := range c.After {
		masqueraded = masqueraded || p.Masquerade
	}
	if !masqueraded {
		return nil
	}
	if l.mappings.HasRanges() || c.HasRange() {
		return l.checkMasqueradedRanges(c)
	}
	for p := range c.After {
		if p.ProxiedOnly() {
			continue
		}
		if suspects == nil {
			suspects = map[portset.Called][]portset.Port{}
		}
		at := backendOf(p)
		for _, o := range suspects[at] {
			if disagree(p, o) {
				return &nat.ConflictError{Want: p.Mapping(), Have: o.Mapping()}
			}
		}
		suspects[at] = append(suspects[at], p)
	}
	// Only if others lead to the same address, or are masqueraded, are all looked at.
	look := false
	for at, ports := range suspects {
		look = look || l.options.Backends[at] != 0 || ports[0].Masquerade && l.backends.Of(at.Backend.Addr()) != 0
	}
	if !look {
		return nil
	}
	gone := make(map[portset.Frontend]bool, c.LenBefore())
	for p := range c.Before {
		gone[p.Frontend] = true
	}
	for have := range l.mappings.All {
		if have.ProxiedOnly() || gone[have.Frontend] {
			continue
		}
		for _, p := range suspects[backendOf(have)] {
			if disagree(p, have) {
				return &nat.ConflictError{Want: p.Mapping(), Have: have.Mapping()}
			}
		}
	}
	return nil
}

func backendOf(p portset.Port) portset.Called {
	at := p.Called()
	at.Addr = netip.Addr{}
	return at
}

// disagree reports whether a flow can be of both ports, and only one is masqueraded.
func disagree(a, b portset.Port) bool {
	return a.Masquerade != b.Masquerade && a.Called().Meets(b.Called())
}
