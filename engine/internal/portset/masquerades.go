// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"net/netip"

	"github.com/nftnat/nftnat/nat"
)

// Called is what netfilter knows of a translated flow: the backend, and the address that the
// client called. It does not know the port that the client called.
type Called struct {
	Proto   nat.Proto
	Backend netip.AddrPort
	// Addr is the one address that the frontend is for; zero: any of the backend's family.
	Addr netip.Addr
}

// Called returns what netfilter knows of the port's flows.
func (p Port) Called() Called { return Called{p.Proto, p.Backend, p.Host()} }

// Meets reports whether a flow can be of both.
func (c Called) Meets(o Called) bool {
	return c.Proto == o.Proto && c.Backend == o.Backend && (c.Addr == o.Addr || !c.Addr.IsValid() || !o.Addr.IsValid())
}

// Options counts what of the kernel's table is masqueraded, and what is for some clients only.
// A range is one, whatever ports were taken out of it.
type Options struct {
	// Masqueraded counts single ports.
	Masqueraded map[Called]int
	// Backends counts them by backend alone: Addr is zero.
	Backends map[Called]int
	// Ranges counts masqueraded ranges.
	Ranges, Limited int
}

// NewOptions returns empty counts.
func NewOptions() Options {
	return Options{Masqueraded: map[Called]int{}, Backends: map[Called]int{}}
}

// Any reports whether anything is counted.
func (o *Options) Any() bool { return o.Limited != 0 || len(o.Masqueraded) != 0 || o.Ranges != 0 }

// Do counts the change that a plan makes.
func (o *Options) Do(p *Plan) {
	for e := range p.Deleted {
		o.Count(&e, -1)
	}
	for e := range p.Added {
		o.Count(&e, 1)
	}
	for i := range p.Settled {
		o.Count(&p.Settled[i], 1)
	}
	for i := range p.Cleaned {
		o.Count(&p.Cleaned[i], -1)
	}
}

// Count adds an entry, or subtracts it: by is 1 or -1.
func (o *Options) Count(p *Entry, by int) {
	if !p.From.IsZero() {
		o.Limited += by
	}
	if p.Masquerade && p.Kind == EntryRange {
		o.Ranges += by
	} else if p.Masquerade {
		c := p.Called()
		count(o.Masqueraded, c, by)
		c.Addr = netip.Addr{}
		count(o.Backends, c, by)
	}
}

func count(in map[Called]int, c Called, by int) {
	if n := in[c] + by; n > 0 {
		in[c] = n
	} else {
		delete(in, c)
	}
}
