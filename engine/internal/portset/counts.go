// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"iter"
	"net/netip"
)

// Counts has the number of ports that netfilter translates to each backend. Ports that only
// proxies serve are not counted. Backends are far fewer than ports, so facts about a
// backend are looked up once for each.
type Counts map[netip.Addr]int

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
	if c.counts == nil {
		c.counts = Counts{}
	}
	c.counts[c.last] += c.n
	c.n = 0
}

func (c *counter) done() Counts {
	c.flush()
	return c.counts
}

// Count counts ports. It returns nil if there are none.
func Count(ports iter.Seq[Port]) Counts {
	var c counter
	for p := range ports {
		c.add(&p)
	}
	return c.done()
}

// Add adds n ports, or subtracts them.
func (c Counts) Add(backend netip.Addr, n int) {
	if n += c[backend]; n > 0 {
		c[backend] = n
	} else {
		delete(c, backend)
	}
}

// AddAll adds or subtracts counts: by is 1 or -1.
func (c Counts) AddAll(other Counts, by int) {
	for backend, n := range other {
		c.Add(backend, by*n)
	}
}

// In returns how many ports lead to backends in a prefix.
func (c Counts) In(p netip.Prefix) (sum int) {
	for backend, n := range c {
		if p.Contains(backend) {
			sum += n
		}
	}
	return sum
}
