// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"slices"
	"time"

	"github.com/nftnat/nftnat/engine/internal/answers"
	"github.com/nftnat/nftnat/engine/internal/hairpin"
	"github.com/nftnat/nftnat/engine/internal/ipam"
	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/segment"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// Contents is what the elements of a table say.
type Contents struct {
	Ports    portset.Set
	Next     []portset.Entry // ranges of the second maps
	IPAM     *ipam.State
	Segments []segment.Segment
	Hairpins []hairpin.Record
	Answers  answers.State
	Ended    []portset.Port // whose flows are to be deleted
	Unnoted  []nft.Element  // notes that published ports lack
	Shared   []nft.Element  // what leads to the proxies of shared ports of an engine
	Out      []nft.Element  // exits, which may be others than they should be; see [OutDifference]

	// Elements are those that an engine can have made. Foreign ones were added by other
	// programs: they are no mappings that could be listed, but would conflict with some.
	// Missing ones are needed by the networks.
	Elements, Foreign, Missing []nft.Element

	timed bool // some ports end by themselves
	// stale are segments that SetSegments has removed.
	stale []nft.Element
	// Orphans are left from ports that have expired.
	Orphans []nft.Element
}

// found is a range or a hole that was decoded, with its element.
type found struct {
	portset.Entry
	el   nft.Element
	next bool
	bad  bool // no engine makes it with its options
}

// Classify decodes the elements of a table. It reuses their memory.
func Classify(elements []nft.Element, now time.Time) *Contents {
	c := &Contents{
		Ports: portset.NewSet(), IPAM: ipam.New(), Answers: answers.NewState(),
		Elements: elements[:0],
	}
	kinds := mapKinds()
	var kind mapKind
	var set string
	isPort := false
	var apart []int // the elements of ports that are
	var ranges, holes []found
	var others []nft.Element
	for i := range elements {
		el := &elements[i]
		if el.Set != set { // those of one set are one after the other
			set = el.Set
			kind, isPort = kinds[set]
		}
		if !isPort {
			if !isHole(set) || el.Foreign != "" {
				others = append(others, *el)
				continue
			}
			if hole, ok := readHole(el); ok {
				holes = append(holes, found{Entry: hole, el: *el})
			} else {
				c.Foreign = append(c.Foreign, *el)
			}
			continue
		}
		p, ok := readPort(el, kind, now)
		c.timed = c.timed || p.Expires != 0
		switch {
		case !ok || el.Foreign != "":
			c.Foreign = append(c.Foreign, *el)
			continue
		case kind.ranged:
			ranges = append(ranges, found{Entry: portset.Entry{Kind: portset.EntryRange, Port: p}, el: *el, next: kind.next})
			continue
		case kind.apart:
			apart = append(apart, len(c.Elements))
		default:
			c.put(p)
		}
		if len(c.Elements) == i { // it stays where it is
			c.Elements = elements[:i+1]
		} else {
			c.Elements = append(c.Elements, *el)
		}
	}
	others, options := splitOptions(others)
	c.putRanges(ranges, holes, options, func(yield func(portset.Port) bool) {
		for _, i := range apart {
			el := &c.Elements[i]
			if p, _ := readPort(el, kinds[el.Set], now); !yield(p) {
				return
			}
		}
	})
	c.putApart(apart, kinds, now)
	c.readOthers(others, options, now)
	return c
}

// put adds a port that rules look up.
func (c *Contents) put(p portset.Port) {
	if have, twice := c.Ports.Get(p.Frontend); twice {
		// Others have written the port into the maps of both families. Neither is for any
		// address of both then.
		c.Ports.Delete(p.Frontend)
		c.Ports.Put(portset.Port{Frontend: p.OfFamily(have.Backend.Addr()), Target: have})
		p.Frontend = p.OfFamily(p.Backend.Addr())
	}
	c.Ports.Put(p)
}

// putApart adds the ports that no rule looks up, by the positions of their elements. One
// that a rule looks up shadows another of the same frontend: no engine makes both.
func (c *Contents) putApart(apart []int, kinds map[string]mapKind, now time.Time) {
	var shadowed []nft.Element
	for _, i := range slices.Backward(apart) {
		el := &c.Elements[i]
		p, _ := readPort(el, kinds[el.Set], now)
		if c.shadows(p) {
			shadowed = append(shadowed, *el)
			c.Elements = slices.Delete(c.Elements, i, i+1)
		} else {
			c.Ports.Load(portset.Entry{Port: p})
		}
	}
	c.Foreign = append(c.Foreign, shadowed...)
}

// shadows reports whether something else than a range of its own map has the frontend of a port.
func (c *Contents) shadows(p portset.Port) bool {
	have, ok := c.Ports.Get(p.Frontend)
	if _, single := c.Ports.Single(p.Frontend); single || !ok {
		return ok
	}
	return kindOfPort(portset.Port{Frontend: p.Frontend, Target: have}) != kindOfPort(p)
}

// splitOptions separates the elements of options.
func splitOptions(elements []nft.Element) (others, options []nft.Element) {
	others = elements[:0]
	for _, el := range elements {
		if isOption(el.Set) && el.Foreign == "" {
			options = append(options, el)
		} else {
			others = append(others, el)
		}
	}
	return others, options
}

// readOthers decodes the elements that are no ports.
func (c *Contents) readOthers(elements, options []nft.Element, now time.Time) {
	by := map[string][]nft.Element{}
	var shared []nft.Element
	for _, el := range elements {
		name := el.Set[:len(el.Set)-1]
		if isNote(el.Set) {
			name = endedSuffix
		}
		switch {
		case el.Foreign != "":
			c.Foreign = append(c.Foreign, el)
		case IsOut(el.Set):
			c.Out = append(c.Out, el)
		case IsShared(el.Set):
			shared = append(shared, el)
		default:
			by[name] = append(by[name], el)
		}
	}
	c.Elements = append(c.Elements, c.Out...)
	c.readOptions(options, now)
	c.readIPAM(by)
	c.readSegments(by[setSegments])
	c.readAnswers(by)
	c.readShared(shared)
	c.readNotes(by[endedSuffix])
	for _, el := range by[setHairpin] {
		backend, ok := el.Key.Addr()
		if c.keep(el, ok && hairpin.Recordable(el.Comment)) {
			c.Hairpins = append(c.Hairpins, hairpin.Record{Backend: backend, Port: el.Comment})
		}
	}
}

// keep adds an element to those of the engine or to the foreign ones.
func (c *Contents) keep(el nft.Element, ok bool) bool {
	if ok {
		c.Elements = append(c.Elements, el)
	} else {
		c.Foreign = append(c.Foreign, el)
	}
	return ok
}

// Correction returns the change that makes the table hold the elements without the foreign
// ones, and with those that are missing and with comments that nft(8) can load. The
// elements are so afterwards.
func (c *Contents) Correction() nft.Change {
	ch := nft.Change{Delete: slices.Concat(c.Foreign, c.stale, c.Orphans), Add: c.Missing}
	for i := range c.Elements {
		was := c.Elements[i]
		if set := was.Set[:len(was.Set)-1]; isRecord(set) || isOption(was.Set) || IsShared(was.Set) { // with another comment it is foreign
			continue
		}
		c.Elements[i].Comment = nat.CommentText(nat.ParseComment(was.Comment))
		if c.Elements[i].Comment != was.Comment {
			ch.Delete, ch.Add = append(ch.Delete, was), append(ch.Add, c.Elements[i])
		}
	}
	c.Elements = append(c.Elements, c.Missing...)
	return ch
}

// Missing returns which elements of networks, leases, segments, options and other records are
// not among those of a table.
func Missing(want, elements []nft.Element) (missing []nft.Element) {
	found := map[nft.ElementKey]nft.Element{}
	for _, el := range elements {
		if set := el.Set[:len(el.Set)-1]; isRecord(set) || isOption(el.Set) {
			found[el.ElementKey()] = el
		}
	}
	for _, el := range want {
		if have, ok := found[el.ElementKey()]; !ok || have != el && !isOption(el.Set) {
			missing = append(missing, el)
		}
	}
	return missing
}

// isRecord reports whether a set has records, by its name without the digit of the family.
func isRecord(set string) bool {
	switch set {
	case setNetworks, setMasqueraded, setGuarded, setInside, setCursors, setLeases, setSegments, setHairpin, setProxiedSources, setAnswers, setAnswerMarks:
		return true
	}
	return false
}
