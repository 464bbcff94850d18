// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"iter"
	"slices"
	"time"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/engine/internal/segment"
	"github.com/nftnat/nftnat/internal/order"
	"github.com/nftnat/nftnat/nft"
)

// changeOf returns the change of the elements of ports, with others that go and come.
func changeOf(now time.Time, layout *portset.Plan, gone, come []nft.Element) nft.Change {
	deleted, added := layout.Count()
	ch := additions(now, layout.Added, added, append(come, seconds(now, layout.Between)...))
	ch.Delete = elementsOf(now, layout.Deleted, deleted, gone)
	return ch
}

// manyEntries is from how many entries on their elements are made one by one.
const manyEntries = 4096

// additions returns the change that adds the elements of entries and records. count is the number
// of entries.
func additions(now time.Time, entries iter.Seq[portset.Entry], count int, records []nft.Element) nft.Change {
	if count < manyEntries {
		return nft.Change{Add: elementsOf(now, entries, count, records)}
	}
	return nft.Change{Add: inSets(records), Further: nft.Elements{Len: count, All: func(yield func(nft.Element) bool) {
		eachOfSets(now, entries, yield)
	}}}
}

// eachOfSets yields the elements of entries, grouped by set.
func eachOfSets(now time.Time, entries iter.Seq[portset.Entry], yield func(nft.Element) bool) {
	var sets []string // few
	for e := range entries {
		if set := schema.SetOf(&e); !slices.Contains(sets, set) {
			sets = append(sets, set)
		}
	}
	slices.Sort(sets)
	for _, set := range sets {
		for e := range entries {
			if (len(sets) == 1 || schema.SetOf(&e) == set) && !yield(schema.EntryElement(e, now)) {
				return
			}
		}
	}
}

func segmentElements(segments []segment.Segment) []nft.Element {
	es := make([]nft.Element, len(segments))
	for i, s := range segments {
		es[i] = schema.SegmentElement(s)
	}
	return es
}

// elementsOf returns the elements of ports and records, grouped by set, because the elements of
// a set go in one message. count is the number of entries.
func elementsOf(now time.Time, entries iter.Seq[portset.Entry], count int, records []nft.Element) []nft.Element {
	es := make([]nft.Element, 0, count+len(records))
	for e := range entries {
		es = append(es, schema.EntryElement(e, now))
	}
	return inSets(append(es, records...))
}

// seconds returns the elements of entries in the second maps of ranges.
func seconds(now time.Time, entries []portset.Entry) []nft.Element {
	var es []nft.Element
	for _, e := range entries {
		if el, ok := schema.NextElement(e, now); ok {
			es = append(es, el)
		}
	}
	return es
}

// inSets groups elements by set.
func inSets(es []nft.Element) []nft.Element {
	if !slices.IsSortedFunc(es, bySet) { // many are often all of one
		order.Sort(es, bySet)
	}
	return es
}

func bySet(a, b nft.Element) int {
	switch {
	case a.Set < b.Set:
		return -1
	case a.Set > b.Set:
		return 1
	}
	return 0
}
