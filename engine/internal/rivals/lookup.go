// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rivals

import "github.com/nftnat/nftnat/internal/rules"

// lookup keeps the packets that a set has, and follows the verdicts of a map.
func (s *state) lookup(e rules.Lookup) error {
	from := slotOf(e.Sreg)
	if from < 0 {
		return errUnreadable
	}
	first := s.slots[from]
	verdicts := e.Map && e.Dreg == rules.Verdict
	set := s.setOf(s.base.Table, e.Set)
	if set.bad {
		return errUnreadable
	}
	fields, err := s.fields(from, set.keyLen)
	if err != nil {
		return err
	}
	if e.Not {
		if len(fields) != 1 || first.field != port {
			s.restrict()
			return nil
		}
		for _, x := range set.elements {
			if err := s.unequal(first, x.low, x.high); err != nil {
				return err
			}
		}
		return nil
	}
	if e.Map && !verdicts {
		if err := s.load(e.Dreg, slot{len: 4}); err != nil {
			return err
		}
	}
	var after []box
	for _, x := range set.elements {
		var matched []box
		for _, packet := range s.packets {
			if packet, err = packet.withKey(fields, x); err != nil {
				return err
			}
			if !packet.isEmpty() {
				matched = append(matched, packet)
			}
		}
		if len(after)+len(matched) > maxBoxes {
			return errUnreadable
		}
		after = append(after, matched...)
		if verdicts && len(matched) != 0 {
			if err := s.decide(x.verdict, matched); err != nil {
				return err
			}
		}
	}
	s.packets, s.done = after, verdicts
	return nil
}

// fields are those that a key of so many bytes has, from a slot on.
func (s *state) fields(from, keyLen int) (fields []slot, err error) {
	for n := 0; n < keyLen; {
		if from >= len(s.slots) {
			return nil, errUnreadable
		}
		f := s.slots[from]
		if f.field == continued || f.field == unreadable {
			return nil, errUnreadable
		}
		slots := (f.len + 3) / 4
		if f.field == opaque { // of which the length may not be known
			for slots = 1; from+slots < len(s.slots) && s.slots[from+slots].field == continued && n+4*slots < keyLen; {
				slots++
			}
			f.len = min(4*slots, keyLen-n)
		}
		fields = append(fields, f)
		n += 4 * slots
		from += slots
	}
	return fields, nil
}

// withKey returns the packets of a box that an element of a set has.
func (b box) withKey(fields []slot, e element) (box, error) {
	if e.low == nil {
		b.some = true // those that no other element has
		return b, nil
	}
	at := 0
	for _, f := range fields {
		if at+f.len > len(e.low) {
			return box{}, errUnreadable
		}
		var err error
		if b, err = b.with(f, e.low[at:], e.high[at:]); err != nil {
			return box{}, err
		}
		at += (f.len + 3) &^ 3
	}
	return b, nil
}
