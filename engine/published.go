// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"slices"

	"github.com/nftnat/nftnat/engine/internal/answers"
	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/segment"
	"github.com/nftnat/nftnat/engine/internal/wayout"
	"github.com/nftnat/nftnat/nat"
)

// published is what an engine has published, as the table holds it.
type published struct {
	// mappings has a port for each. What the kernel ends by itself, the next call ends
	// here.
	mappings portset.Set
	expiries portset.Expiries // of the mappings that end by themselves
	reserved *portset.Reservations
	segments *segment.State
	backends portset.Counts
	ipam     *ipam.State // networks and leases
	// over are ports that have expired and whose flows have not ended yet. The table has
	// their notes.
	over    []portset.Port
	answers answers.State
	exits   exits
	options portset.Options
}

func newPublished(reserved *portset.Reservations) published {
	return published{
		mappings: portset.NewSet(), reserved: reserved,
		segments: segment.New(nil, 0), ipam: ipam.New(),
		answers: answers.NewState(),
		exits:   exits{index: wayout.New()},
		options: portset.NewOptions(),
	}
}

// Published returns those of the mappings that are published as they are, whenever they expire. What it
// takes does not grow with what else is published.
func (e *Engine) Published(ctx context.Context, ms ...nat.Mapping) ([]nat.Mapping, error) {
	return view(ctx, e, func(c *core) ([]nat.Mapping, error) {
		return slices.DeleteFunc(slices.Clone(ms), func(m nat.Mapping) bool { return !c.has(&m) }), nil
	})
}

// has reports whether all ports of a mapping are published as it says, whenever they expire.
func (l *published) has(m *nat.Mapping) bool {
	for whole := range portset.Expand(m) {
		for p, have := range l.mappings.Split(whole) {
			if have == nil || !have.SameButEnd(p.Target) {
				return false
			}
		}
	}
	return true
}

// countPort counts a port or a range in or out: by is 1 or -1.
func (l *published) countPort(p portset.Port, by int) {
	if p.ProxiedOnly() {
		return
	}
	a := p.Backend.Addr()
	l.backends.Add(a, by*p.Len())
	if l.backends.Of(a) == 0 {
		l.segments.Expire(a)
	}
}
