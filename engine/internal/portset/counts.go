// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"iter"
	"net/netip"

	"github.com/nftnat/nftnat/engine/internal/addrmap"
)

// Counts has the number of ports that netfilter translates to each backend. Ports that only
// proxies serve are not counted. Backends are far fewer than ports, so facts about a
// backend are looked up once for each. The zero value is empty.
type Counts struct{ addrmap.Map[int32] }

// counter counts ports one after the other.
type counter struct {
	counts Counts
	last   netip.Addr // consecutive ports often have the same backend
	n      int        // ports of last that are not in counts yet
}

func (c *counter) add(p *Port) {
	if p.ProxiedOnly() {
		return
	}
	if a := p.Backend.Addr(); a != c.last {
		c.flush()
		c.last = a
	}
	c.n += p.Len()
}

func (c *counter) flush() {
	if c.n == 0 {
		return
	}
	c.counts.Add(c.last, c.n)
	c.n = 0
}

func (c *counter) done() Counts {
	c.flush()
	return c.counts
}

// Count counts ports.
func Count(ports iter.Seq[Port]) Counts {
	var c counter
	for p := range ports {
		c.add(&p)
	}
	return c.done()
}

// Add adds n ports, or subtracts them.
func (c *Counts) Add(backend netip.Addr, n int) {
	if n += c.Of(backend); n > 0 {
		c.Set(backend, int32(n))
	} else {
		c.Delete(backend)
	}
}

// Of returns the number of a backend.
func (c Counts) Of(backend netip.Addr) int { return int(c.Map.Of(backend)) }

// AddAll adds or subtracts counts: by is 1 or -1. The other counts are not to be used after it.
func (c *Counts) AddAll(other Counts, by int) {
	if by == 1 && c.Len() == 0 { // as at first, when there may be very many
		*c = other
		return
	}
	for backend, n := range other.All {
		c.Add(backend, by*int(n))
	}
}

// In returns how many ports lead to backends in a prefix.
func (c Counts) In(p netip.Prefix) (sum int) {
	for backend, n := range c.All {
		if p.Contains(backend) {
			sum += int(n)
		}
	}
	return sum
}
