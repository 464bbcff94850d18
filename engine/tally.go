// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"iter"
	"net/netip"
)

// tally is how many ports netfilter leads to each backend. There are far fewer backends
// than ports: what depends on the backend alone is asked once for each of them. What
// proxies alone serve is not counted.
type tally map[netip.Addr]int

// counter makes a tally of ports, one after the other; of none it is nil.
type counter struct {
	tally tally
	last  netip.Addr // many ports in a row are often those of one backend
	n     int        // of that one, not in the tally yet
}

func (c *counter) add(p *port) {
	if p.proxiedOnly() {
		return
	}
	if a := p.backend.Addr(); a != c.last {
		c.note()
		c.last = a
	}
	c.n++
}

func (c *counter) note() {
	if c.n == 0 {
		return
	}
	if c.tally == nil {
		c.tally = tally{}
	}
	c.tally[c.last] += c.n
	c.n = 0
}

func (c *counter) done() tally {
	c.note()
	return c.tally
}

func tallyOf(ports iter.Seq[port]) tally {
	var c counter
	for p := range ports {
		c.add(&p)
	}
	return c.done()
}

// count counts what the change is about.
func (c *change) count() {
	var left, led counter
	for i := range c.removed {
		left.add(&c.removed[i])
	}
	for i := range c.moved {
		before, after := c.moved[i].before(), c.moved[i].after()
		left.add(&before)
		led.add(&after)
	}
	for i := range c.added {
		led.add(&c.added[i])
	}
	c.left, c.led = left.done(), led.done()
}
