// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"cmp"
	"iter"
	"strings"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/nft"
)

// isHole reports whether a set has the holes of ranges.
func isHole(set string) bool { return strings.HasPrefix(set, setHoles) }

// putRanges adds ranges and holes to the ports, behind the single ports, which take their numbers
// out of ranges, and before those that only proxies serve. A range that overlaps another is
// foreign: no engine makes both. What is redundant, as a hole of a range that has expired, stays.
func (c *Contents) putRanges(ranges, holes []found, options []nft.Element, apart iter.Seq[portset.Port]) {
	isHole := map[portset.Frontend]bool{}
	for _, h := range holes {
		c.Ports.Load(h.Entry)
		isHole[h.Frontend] = true
	}
	if len(ranges) != 0 && len(options) != 0 {
		singles := map[portset.Frontend]bool{}
		for p := range apart {
			singles[p.Frontend] = true
		}
		readRangeOptions(ranges, options, func(p portset.Port) bool {
			if kindOfPort(p).apart {
				return singles[p.Frontend]
			}
			_, single := c.Ports.Single(p.Frontend)
			return single || isHole[p.OfFamily(p.Backend.Addr())]
		})
	}
	order.Sort(ranges, func(a, b found) int {
		return cmp.Or(compareBool(kindOfPort(a.Port).apart, kindOfPort(b.Port).apart), cmp.Compare(a.First(), b.First()))
	})
	for i := range ranges {
		r := &ranges[i]
		m := r.Mapping()
		switch {
		case !m.Valid() || r.bad:
			c.Foreign = append(c.Foreign, r.el)
		case r.next:
			c.Next = append(c.Next, r.Entry)
			c.Elements = append(c.Elements, r.el)
		case c.claimed(&r.Entry, isHole) || !c.Ports.Load(r.Entry):
			c.Foreign = append(c.Foreign, r.el)
		default:
			c.Elements = append(c.Elements, r.el)
		}
	}
	for _, h := range holes {
		c.Elements = append(c.Elements, h.el)
	}
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// claimed reports whether another map has a frontend of the range, which no engine does: a range of
// the other family, if both are for any address of both, or what a rule looks up, if only a proxy
// serves the range.
func (c *Contents) claimed(e *portset.Entry, isHole map[portset.Frontend]bool) bool {
	apart := kindOfPort(e.Port).apart
	if e.AddrPort.Addr().IsValid() && !apart {
		return false
	}
	for have := range c.Ports.In(e.Port) {
		if apart {
			return true
		}
		if have.Backend.Addr().Is4() == e.Backend.Addr().Is4() {
			continue // an override
		}
		for at := range have.Singles {
			if !isHole[at.OfFamily(e.Backend.Addr())] {
				return true
			}
		}
	}
	return false
}
