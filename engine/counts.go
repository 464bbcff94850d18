// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"iter"
	"net/netip"
)

// portCounts is how many ports netfilter translates to each backend. What proxies alone
// serve is not counted. There are far fewer backends than ports: what depends on the
// backend alone is looked up once for each.
type portCounts map[netip.Addr]int

// counter counts ports one after the other.
type counter struct {
	counts portCounts
	last   netip.Addr // consecutive ports often have the same backend
	n      int        // ports of last that are not in counts yet
}

func (c *counter) add(p *port) {
	if p.proxiedOnly() {
		return
	}
	if a := p.backend.Addr(); a != c.last {
		c.flush()
		c.last = a
	}
	c.n++
}

func (c *counter) flush() {
	if c.n == 0 {
		return
	}
	if c.counts == nil {
		c.counts = portCounts{}
	}
	c.counts[c.last] += c.n
	c.n = 0
}

func (c *counter) done() portCounts {
	c.flush()
	return c.counts
}

// countPorts returns nil for no ports.
func countPorts(ports iter.Seq[port]) portCounts {
	var c counter
	for p := range ports {
		c.add(&p)
	}
	return c.done()
}

// counts counts the ports as they were before the change, and as they are after it.
func (c *portChange) counts() (before, after portCounts) {
	return countPorts(c.before), countPorts(c.after)
}

// add counts n ports in or out.
func (c portCounts) add(backend netip.Addr, n int) {
	if n += c[backend]; n > 0 {
		c[backend] = n
	} else {
		delete(c, backend)
	}
}

// addAll counts ports in or out, as by says: 1 or -1.
func (c portCounts) addAll(other portCounts, by int) {
	for backend, n := range other {
		c.add(backend, by*n)
	}
}
