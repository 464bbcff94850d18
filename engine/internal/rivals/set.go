// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rivals

import (
	"bytes"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/internal/rules"
)

// set is a set or map with its elements.
type set struct {
	keyLen   int
	elements []element
	bad      bool // it could not be read, or is too large
}

// element is one element, or an interval of keys.
type element struct {
	low, high []byte // keys; nil: all that no other element has
	// closed is whether the kernel has said which key is the highest, as for concatenations.
	closed  bool
	verdict *rules.Decision // nil: none
}

// setOf reads a set of a table. If that fails, it is bad.
func (r *reading) setOf(t *rules.Table, name string) *set {
	bad := &set{bad: true}
	if !r.listed {
		if err := r.ListSets(r.ruleset); err != nil {
			return bad
		}
		r.listed = true
	}
	listed := t.Sets[name]
	if listed == nil || listed.KeyLen == 0 {
		return bad
	}
	if s, ok := r.sets[listed]; ok {
		return s
	}
	r.sets[listed] = bad
	elements, more, err := r.Elements(listed, maxElements)
	if err != nil || more {
		return bad
	}
	s := &set{keyLen: int(listed.KeyLen)}
	var ends [][]byte // of intervals that are no concatenations
	for _, e := range elements {
		if !e.CatchAll && (len(e.Key) != s.keyLen || e.End != nil && len(e.End) != s.keyLen) {
			return bad
		}
		if e.IntervalEnd {
			ends = append(ends, e.Key)
			continue
		}
		x := element{low: e.Key, high: e.End, closed: e.End != nil, verdict: e.Decision}
		if !x.closed {
			x.high = e.Key
		}
		s.elements = append(s.elements, x)
	}
	if listed.Flags&unix.NFT_SET_INTERVAL != 0 {
		s.closeIntervals(ends)
	}
	r.sets[listed] = s
	return s
}

// closeIntervals gives each element that begins an interval the key before its end, which may
// be where the next one begins.
func (s *set) closeIntervals(ends [][]byte) {
	for _, e := range s.elements {
		if e.low != nil && !e.closed {
			ends = append(ends, e.low)
		}
	}
	order.Sort(ends, bytes.Compare)
	for i := range s.elements {
		e := &s.elements[i]
		if e.low == nil || e.closed {
			continue
		}
		n, _ := slices.BinarySearchFunc(ends, e.low, func(end, low []byte) int {
			if bytes.Compare(end, low) <= 0 {
				return -1
			}
			return 1
		})
		if n == len(ends) {
			e.high = bytes.Repeat([]byte{0xff}, len(e.low)) // up to the last key
			continue
		}
		e.high = before(ends[n])
	}
}

// before returns the key before a key, or the last one.
func before(key []byte) []byte {
	key = bytes.Clone(key)
	for i := len(key) - 1; i >= 0; i-- {
		key[i]--
		if key[i] != 0xff {
			break
		}
	}
	return key
}

// after returns the key after a key, or the first one.
func after(key []byte) []byte {
	key = bytes.Clone(key)
	for i := len(key) - 1; i >= 0; i-- {
		key[i]++
		if key[i] != 0 {
			break
		}
	}
	return key
}
