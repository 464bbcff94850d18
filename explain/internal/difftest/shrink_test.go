// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package difftest

import (
	"slices"
	"time"
)

// shrinkTime bounds how long a scenario is made smaller.
const shrinkTime = 20 * time.Second

// shrink removes one thing after another from a scenario, as long as it still fails.
func (s *site) shrink(sc *scenario, fails func() error) {
	end := time.Now().Add(shrinkTime)
	for again := true; again && time.Now().Before(end); {
		again = false
		for i := 0; ; i++ {
			undo := sc.remove(i)
			if undo == nil {
				break
			}
			if s.load(sc, false) == nil && fails() != nil {
				again = true
				i--
				continue
			}
			undo()
		}
	}
	_ = s.load(sc, false)
}

// remove removes the i-th thing of a scenario, and returns what puts it back; nil: there are not so many.
func (sc *scenario) remove(i int) (undo func()) {
	// Clients, tables, whole programs, changes, then chains, rules and sets.
	if len(sc.clients) > 1 {
		if i < len(sc.clients) {
			old := sc.clients
			sc.clients = slices.Delete(slices.Clone(old), i, i+1)
			return func() { sc.clients = old }
		}
		i -= len(sc.clients)
	}
	if i < len(sc.tables) {
		old := sc.tables
		sc.tables = slices.Delete(slices.Clone(old), i, i+1)
		return func() { sc.tables = old }
	}
	i -= len(sc.tables)
	if i < len(sc.iptables) {
		old := sc.iptables
		sc.iptables = slices.Delete(slices.Clone(old), i, i+1)
		return func() { sc.iptables = old }
	}
	i -= len(sc.iptables)
	if i < len(sc.changes) {
		old := sc.changes
		sc.changes = slices.Delete(slices.Clone(old), i, i+1)
		return func() { sc.changes = old }
	}
	i -= len(sc.changes)
	for _, t := range sc.tables {
		if i < len(t.chains) {
			old := t.chains
			t.chains = slices.Delete(slices.Clone(old), i, i+1)
			return func() { t.chains = old }
		}
		i -= len(t.chains)
		for _, c := range t.chains {
			if i < len(c.rules) {
				old := c.rules
				c.rules = slices.Delete(slices.Clone(old), i, i+1)
				return func() { c.rules = old }
			}
			i -= len(c.rules)
		}
		if i < len(t.sets) {
			old := t.sets
			t.sets = slices.Delete(slices.Clone(old), i, i+1)
			return func() { t.sets = old }
		}
		i -= len(t.sets)
	}
	for _, x := range sc.iptables {
		if len(x.tables) > 1 {
			if i < len(x.tables) {
				old := x.tables
				x.tables = slices.Delete(slices.Clone(old), i, i+1)
				return func() { x.tables = old }
			}
			i -= len(x.tables)
		}
		for _, t := range x.tables {
			if i < len(t.rules) {
				old := t.rules
				t.rules = slices.Delete(slices.Clone(old), i, i+1)
				return func() { t.rules = old }
			}
			i -= len(t.rules)
		}
	}
	return nil
}
