// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"slices"
	"time"

	"github.com/nftnat/nftnat/engine/internal/portset"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/nft"
)

// optionSteps is what the steps of a change of ranges do to the elements of options. Those of a
// range are never later in the table than the range, and never go before it: its clients would be
// anyone for a moment.
type optionSteps struct {
	prepared         []nft.Element // added before the change
	gone, come       []nft.Element // in the change
	replaced, placed []nft.Element // deleted and added after it, before ranges settle
	cleaned          []nft.Element // deleted with the ranges of the second maps
	late             []nft.Element // deleted once proxies are closed
	// waits is whether packets must know of what is prepared when the change is made.
	waits bool
}

// optionsOf returns the steps for a plan that leads from one set to another. removed is what is not
// published after it, and early what is added before the change.
func optionsOf(before, after *portset.Set, layout *portset.Plan, removed []portset.Port, early map[nft.ElementKey]bool, now time.Time) (s optionSteps) {
	had, has := schema.SetOptions(before, now), schema.SetOptions(after, now)
	if len(had)+len(has) == 0 {
		return s
	}
	for _, e := range slices.Concat(layout.Prepared, layout.Between) {
		next := schema.RangeOptions(e, true, now)
		s.prepared, s.cleaned = append(s.prepared, next...), append(s.cleaned, next...)
	}
	first := map[nft.ElementKey]bool{} // of new ranges
	for e := range layout.Added {
		if e.Kind == portset.EntryRange {
			for _, el := range schema.RangeOptions(e, false, now) {
				first[el.ElementKey()] = true
			}
		}
	}
	isLate := map[nft.ElementKey]bool{}
	only := portset.NewSet()
	for _, p := range removed {
		only.Add(p)
	}
	for _, el := range schema.SetOptions(&only, now) {
		isLate[el.ElementKey()] = schema.LimitsPort(el) && !schema.IsRangeOption(el.Set)
	}
	are := make(map[nft.ElementKey]nft.Element, len(has))
	for _, el := range has {
		are[el.ElementKey()] = el
	}
	were := make(map[nft.ElementKey]bool, len(had))
	for _, el := range had {
		at := el.ElementKey()
		now, stays := are[at]
		if stays && (now.Timeout-el.Timeout).Abs() <= portset.ExpiryTolerance && (now.Timeout == 0) == (el.Timeout == 0) {
			were[at] = true
			continue
		}
		switch {
		case schema.IsRangeOption(el.Set):
			s.replaced = append(s.replaced, el)
		case !stays && isLate[at]:
			s.late = append(s.late, el)
		default:
			s.gone = append(s.gone, el)
		}
	}
	for _, el := range has {
		switch at := el.ElementKey(); {
		case were[at]:
		case first[at] || early[at]:
			s.prepared = append(s.prepared, el)
			s.waits = true
		case schema.IsRangeOption(el.Set):
			s.placed = append(s.placed, el)
		default:
			s.come = append(s.come, el)
		}
	}
	return s
}
