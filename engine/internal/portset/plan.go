// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package portset

import (
	"cmp"
	"iter"
)

// A packet asks the single ports of the kernel's table, then its holes, then its ranges, then
// the second map of ranges; each may be newer than the one before. And a transaction is not one
// moment: single ports and holes change first, ranges later. So that a packet never goes to a
// wrong place, and never to none while its port is published:
//
//   - An element of a map of ranges is never changed: ranges are added and deleted whole.
//   - What replaces ranges is added to the second map before (prepare); the change deletes the
//     old ranges; then the new ones are added to the first map (settle), and once no packet is
//     under way any more that has missed them there, they are deleted from the second (clean).
//   - Holes of a range that goes are deleted after it. Single ports that go with it become holes
//     first. Ports that a new range takes over are single ports with its target until it is
//     there.
//   - A hole stays beneath a single port, and is added beneath one that is replaced: some kernels
//     miss it for a moment.
//   - A single port that ends by itself has a hole beneath, or the range would serve the port
//     then. It is added once all packets know the single port.
//   - Where a single port takes over from a range that goes, what the range served is in the
//     second map for that time: a packet that was too early for the one may be too late for the
//     other.
//   - A range of one address that takes the place of several, and of what lies between them, is
//     added to the second map in pieces: those between with the change.
//
// Ranges that no rule looks up are changed at once. Between adding a single port and deleting
// the range beneath it in another call, the caller waits until no packet is under way.

// Plan is how the elements of the table change with the published ports.
type Plan struct {
	// Prepared are added to the second maps of ranges before the change, without any effect.
	Prepared []Entry
	// Settled are the ranges of Prepared that are added to the first maps after the change. Then
	// Prepared are deleted from the second maps, once no packet is under way that began before,
	// Cleaned are deleted, and Beneath are added.
	Settled, Cleaned, Beneath []Entry
	// Between are added to the second maps with the change: what ranges of Settled have that no
	// range had before. They are deleted with Prepared.
	Between []Entry
	// Waits is whether packets must know what was added before, by another change, when this
	// change is made.
	Waits bool
	// plain is a change of single ports alone. Nil: deleted and added are the change.
	plain          *Change
	deleted, added []Entry
}

// Inverse returns the plan of the change back, for a set that the plan has been done in. c is
// the change that was planned.
func (p *Plan) Inverse(after *Set, c *Change) *Plan {
	back := c.Inverse()
	if p.plain != nil && len(after.lines) == 0 {
		return &Plan{plain: &back}
	}
	return after.planUnbound(&back)
}

// Deleted yields the entries that the change deletes.
func (p *Plan) Deleted(yield func(Entry) bool) { p.each(p.deleted, (*Change).Before, yield) }

// Added yields the entries that the change adds, in the same transaction.
func (p *Plan) Added(yield func(Entry) bool) { p.each(p.added, (*Change).After, yield) }

func (p *Plan) each(es []Entry, plain func(*Change, func(Port) bool), yield func(Entry) bool) {
	if p.plain != nil {
		plain(p.plain, func(port Port) bool { return yield(Entry{EntrySingle, port}) })
		return
	}
	for _, e := range es {
		if !yield(e) {
			return
		}
	}
}

// IsPlain reports whether the change is of single ports alone, in a set without ranges.
func (p *Plan) IsPlain() bool { return p.plain != nil }

// Count returns how many entries the change deletes, and how many it adds.
func (p *Plan) Count() (deleted, added int) {
	if p.plain != nil {
		return p.plain.LenBefore(), p.plain.LenAfter()
	}
	return len(p.deleted), len(p.added)
}

// limits are those of ranges.
type limits struct {
	// cut is how many ports of a range a change makes holes of. Of more, the range is replaced
	// by those that are left.
	cut int
	// holes is from how many holes of a range on it is replaced, if most of them are in runs
	// longer than cut.
	holes int
	// ranges is how many ranges of one address each there are at most, of a protocol and family:
	// the kernel takes longer for each change of the map by their number. Ranges of up to singles
	// ports are stored as single ports where there is no room.
	ranges, singles int
}

// MostOfOneAddress is how many ranges of one address each there are at most, of a protocol and
// family. Those of up to 1,024 ports are single ports where there is no room for them.
const MostOfOneAddress = 128

func defaultLimits() limits {
	return limits{cut: 256, holes: 1024, ranges: MostOfOneAddress, singles: 1024}
}

// Plan plans a change. It changes nothing. The error is a [*nat.RangesError] if there would be
// too many ranges of one address.
func (s *Set) Plan(c *Change) (*Plan, error) { return s.plan(c, defaultLimits()) }

// planUnbound plans a change whatever the number of ranges.
func (s *Set) planUnbound(c *Change) *Plan {
	most := defaultLimits()
	most.ranges = 1 << 17
	p, _ := s.plan(c, most) // there is no other error
	return p
}

func (s *Set) plan(c *Change, most limits) (*Plan, error) {
	if len(s.lines) == 0 && !c.HasRange() {
		return &Plan{plain: c}, nil
	}
	var less spare
	for {
		d := draft{set: s, most: most, spare: less, lines: map[line][]assignment{}}
		d.plan(c)
		enough, err := d.spareMore(&less)
		if err != nil {
			return nil, err
		}
		if enough {
			return &d.Plan, nil
		}
	}
}

func mapKeys(m map[line][]assignment) iter.Seq[line] {
	return func(yield func(line) bool) {
		for l := range m {
			if !yield(l) {
				return
			}
		}
	}
}

func compareLines(a, b line) int {
	return cmp.Or(cmp.Compare(a.proto, b.proto), cmp.Compare(a.way, b.way), a.host.Compare(b.host), compareBool(a.is4, b.is4))
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

// HasRange reports whether a range changes.
func (c *Change) HasRange() bool {
	for p := range c.Before {
		if p.More != 0 {
			return true
		}
	}
	for p := range c.After {
		if p.More != 0 {
			return true
		}
	}
	return false
}
