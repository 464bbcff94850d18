// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package chains

import (
	"bytes"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/migrate/internal/packets"
)

// interval is the keys of an element, ends included.
type interval struct {
	rules.Element
	low, high []byte
}

var errLongSet = errors.New("the set has too many elements")

// intervals returns the elements of a set. That for all other keys is the last one, with no keys.
func (c *compiler) intervals(set *rules.Set) ([]interval, error) {
	elements, more, err := c.Elements(set, maxElements)
	if err != nil {
		return nil, err
	}
	if more {
		return nil, errLongSet
	}
	var list, rest []interval
	var ends [][]byte
	for _, e := range elements {
		switch {
		case e.CatchAll:
			rest = append(rest, interval{Element: e})
		case e.IntervalEnd:
			ends = append(ends, e.Key)
		case e.End != nil:
			list = append(list, interval{e, e.Key, e.End})
		default:
			list = append(list, interval{e, e.Key, e.Key})
		}
	}
	if set.Flags&unix.NFT_SET_INTERVAL != 0 && len(set.FieldLens) < 2 {
		closeIntervals(list, ends)
	}
	return append(list, rest...), nil
}

// closeIntervals gives each interval its last key: the one before its end, which may be where
// the next one begins.
func closeIntervals(list []interval, ends [][]byte) {
	for _, e := range list {
		if e.End == nil {
			ends = append(ends, e.low)
		}
	}
	slices.SortFunc(ends, bytes.Compare)
	for i := range list {
		e := &list[i]
		if e.End != nil {
			continue
		}
		n, found := slices.BinarySearchFunc(ends, e.low, bytes.Compare)
		for found && n < len(ends) && bytes.Equal(ends[n], e.low) {
			n++
		}
		if n == len(ends) {
			e.high = bytes.Repeat([]byte{0xff}, len(e.low))
			continue
		}
		e.high = bytes.Clone(ends[n])
		for j := len(e.high) - 1; j >= 0; j-- {
			e.high[j]--
			if e.high[j] != 0xff {
				break
			}
		}
	}
}

// lookup reads a look-up in a set or a map. If the rest of the rule is read for each element of
// a map, it is done.
func (c *compiler) lookup(s *state, e rules.Lookup, rest []rules.Expr) (done bool, err error) {
	set := c.rule.Chain.Table.Sets[e.Set]
	unread := func(why string) (bool, error) {
		s.only(why)
		if e.Map && e.Dreg == rules.Verdict {
			c.emit(s, Unknown, nil)
			return true, nil
		}
		if e.Map {
			s.load(e.Dreg, slot{len: 4, text: why})
		}
		return false, nil
	}
	if set == nil {
		return unread("a set that is not there")
	}
	named := "a set"
	if !set.Anonymous() {
		named = "the set " + set.Name
	}
	fields, ok := s.keyFields(e.Sreg, int(set.KeyLen))
	if !ok {
		return unread(named)
	}
	list, err := c.intervals(set)
	if errors.Is(err, errLongSet) {
		return unread(named + ", which has too many elements")
	}
	if err != nil {
		return false, err
	}
	var all []packets.Box
	each := make([][]packets.Box, len(list))
	texts := make([][]string, len(list))
	for i, x := range list {
		if x.CatchAll {
			each[i] = packets.MinusAll([]packets.Box{packets.Whole()}, all)
			continue
		}
		if x.Conditional {
			texts[i] = append(texts[i], "what an element of "+named+" asks")
		}
		boxes, ifs, ok := c.keyBoxes(s, fields, x)
		if !ok {
			return unread(named)
		}
		each[i], texts[i] = boxes, append(texts[i], ifs...)
		all = append(all, boxes...)
	}
	if !e.Map {
		if slices.ContainsFunc(texts, func(t []string) bool { return len(t) != 0 }) || len(all) > maxBoxes {
			return unread(named)
		}
		if s.keep(e.Not, all...); len(list) == 0 && !e.Not {
			s.never()
		}
		return false, nil
	}
	for i, x := range list {
		part := &state{condition: s.clone(), slots: s.slots, mapName: set.Name, mapNamed: !set.Anonymous(), key: x.Key, end: x.End, endIn: x.End != nil, left: x.Expires}
		if !bytes.Equal(x.low, x.high) && x.End == nil || set.Flags&unix.NFT_SET_INTERVAL != 0 && x.End == nil {
			part.end = x.high
		}
		part.keep(false, each[i]...)
		for _, text := range texts[i] {
			part.only(text)
		}
		if len(part.boxes) == 0 {
			continue
		}
		if e.Dreg == rules.Verdict {
			if x.Decision == nil {
				c.emit(part, Unknown, nil)
				continue
			}
			c.decide(part, x.Decision)
			continue
		}
		part.load(e.Dreg, slot{field: constant, len: max(len(x.Data), 1), data: x.Data})
		if err := c.exprs(part, rest); err != nil {
			return true, err
		}
	}
	return true, nil
}

// keyFields returns the fields of a key of so many bytes, from a register on.
func (s *state) keyFields(from rules.Register, keyLen int) (fields []slot, ok bool) {
	for n := 0; n < keyLen; {
		v := s.at(from)
		if v.field == continued || v.len <= 0 {
			return nil, false
		}
		fields = append(fields, v)
		words := (v.len + 3) / 4
		n += 4 * words
		from += rules.Register(words)
	}
	return fields, true
}

// keyBoxes returns the packets that have a key of an interval.
func (c *compiler) keyBoxes(s *state, fields []slot, x interval) (boxes []packets.Box, ifs []string, ok bool) {
	boxes = []packets.Box{packets.Whole()}
	at := 0
	for _, f := range fields {
		n := (f.len + 3) &^ 3
		if len(fields) == 1 {
			n = f.len
		}
		if at+f.len > len(x.low) || at+f.len > len(x.high) {
			return nil, nil, false
		}
		some, more, ok := s.boxesOf(c, f, x.low[at:at+f.len], x.high[at:at+f.len])
		if !ok {
			return nil, nil, false
		}
		ifs = append(ifs, more...)
		if len(some) != 0 {
			var both []packets.Box
			for _, b := range boxes {
				for _, o := range some {
					if p, ok := b.Intersect(o); ok {
						both = append(both, p)
					}
				}
			}
			boxes = both
		}
		at += n
	}
	return boxes, ifs, true
}
