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

// Options counts published ports that are masqueraded, and those that are for some clients
// only.
type Options struct {
	Masqueraded map[Called]int
	// Backends counts the masqueraded ports by backend alone: Addr is zero.
	Backends map[Called]int
	Limited  int
}

// NewOptions returns empty counts.
func NewOptions() Options {
	return Options{Masqueraded: map[Called]int{}, Backends: map[Called]int{}}
}

// Any reports whether any port is counted.
func (o *Options) Any() bool { return o.Limited != 0 || len(o.Masqueraded) != 0 }

// Count adds a port, or subtracts it: by is 1 or -1.
func (o *Options) Count(p *Port, by int) {
	if !p.From.IsZero() {
		o.Limited += by
	}
	if p.Masquerade {
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
