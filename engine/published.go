// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"github.com/nftnat/nftnat/engine/internal/answers"
	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/segment"
	"github.com/nftnat/nftnat/engine/internal/wayout"
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
