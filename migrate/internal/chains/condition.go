// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package chains

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/migrate/internal/packets"
)

// maxBoxes bounds the boxes of a rule.
const maxBoxes = 1 << 12

// condition is which packets a rule is for, as far as its parts have been read.
type condition struct {
	boxes []packets.Box
	ifs   []string
}

func newCondition(c packets.Classes) *condition {
	return &condition{boxes: []packets.Box{packets.Of(c)}}
}

func (c *condition) clone() *condition {
	return &condition{append([]packets.Box{}, c.boxes...), append([]string{}, c.ifs...)}
}

// keep keeps the packets that one of some boxes has; not: that none has.
func (c *condition) keep(not bool, some ...packets.Box) {
	var kept []packets.Box
	if not {
		kept = c.boxes
		for i := 0; i < len(some) && len(kept) <= maxBoxes; i++ {
			kept = packets.MinusAll(kept, some[i:i+1])
		}
	} else {
		for _, b := range c.boxes {
			for _, s := range some {
				if both, ok := b.Intersect(s); ok {
					kept = append(kept, both)
				}
			}
			if len(kept) > maxBoxes {
				break
			}
		}
	}
	if len(kept) > maxBoxes {
		c.only("a list that is too long")
		return
	}
	c.boxes = kept
}

// only notes a condition that boxes do not have.
func (c *condition) only(text string) { c.ifs = append(c.ifs, text) }

// never notes that no packet matches that can be to a published port.
func (c *condition) never() { c.boxes = nil }

func (c *condition) classes() (all packets.Classes) {
	for _, b := range c.boxes {
		all |= b.Classes
	}
	return all
}

func (c *condition) proto(not bool, number uint8) {
	switch number {
	case unix.IPPROTO_TCP:
		c.keep(not, packets.Of(packets.TCP))
	case unix.IPPROTO_UDP:
		c.keep(not, packets.Of(packets.UDP))
	case 0:
		if not {
			c.never()
		}
	default:
		if !not { // of others it does not matter which
			c.keep(false, packets.Of(packets.Others))
		}
	}
}

// ports compares the destination port with ranges.
func (c *condition) ports(not bool, ranges ...[2]uint16) {
	boxes := make([]packets.Box, len(ranges))
	for i, r := range ranges {
		boxes[i] = packets.Ports(r[0], r[1])
	}
	c.keep(not, boxes...)
}

// sourcePorts compares the source port.
func (c *condition) sourcePorts(not bool, first, last uint16) {
	switch all := first == 0 && last == 1<<16-1; {
	case all && not:
		c.never()
	case !all:
		c.only(negated(not, "source port "+ports(first, last)))
	}
}

// addr compares an address with one of some.
func (c *condition) addr(source, not bool, spans ...packets.Span) {
	boxes := make([]packets.Box, len(spans))
	for i, s := range spans {
		if boxes[i] = packets.To(s); source {
			boxes[i] = packets.From(s)
		}
	}
	c.keep(not, boxes...)
}

// masked compares an address with one under a mask.
func (c *condition) masked(source, not bool, addr, mask netip.Addr) {
	if bits, ok := prefixBits(mask.AsSlice()); ok {
		if bits == 0 {
			if not {
				c.never()
			}
			return
		}
		c.addr(source, not, packets.SpanOf(netip.PrefixFrom(addr, bits)))
		return
	}
	c.only(negated(not, side(source)+" address "+addr.String()+" under the mask "+mask.String()))
}

func side(source bool) string {
	if source {
		return "source"
	}
	return "destination"
}

// prefixBits returns how many bits a mask begins with; false: it has others as well.
func prefixBits(mask []byte) (n int, ok bool) {
	for i := range len(mask) * 8 {
		if mask[i/8]&(0x80>>(i%8)) == 0 {
			continue
		}
		if n != i {
			return 0, false
		}
		n++
	}
	return n, true
}

// link compares the interface that a packet comes in by.
func (c *condition) link(not bool, name string) { c.keep(not, packets.By(name)) }

// local compares whether the destination is an address of this host, which those of published
// ports are.
func (c *condition) local(not bool) {
	if not {
		c.never()
	}
}

// state compares the state of the connection by bits of NF_CT_STATE_BIT: the rules of nat see
// packets that begin one, or a related one.
func (c *condition) state(not, begins bool) {
	if begins == not {
		c.never()
	}
}

const outgoingText = "outgoing interface "

func outgoing(link string) string { return outgoingText + link }

// LeavesElsewhere reports whether a claim is only of packets that leave by other interfaces than one.
func (c Claim) LeavesElsewhere(link string) bool {
	return slices.Contains(c.If, negated(true, outgoing(link)))
}

func negated(not bool, text string) string {
	if not {
		return "not " + text
	}
	return text
}
