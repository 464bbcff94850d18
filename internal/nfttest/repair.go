// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nfttest

import (
	"fmt"
	"slices"

	"github.com/nftnat/nftnat/nft"
)

// Repair is that of nft.Conn.
func (f *Fake) Repair(t nft.Table, ch nft.Change, handle uint64) error {
	if err := validate(t, ch); err != nil {
		return err
	}
	return f.run("Repair", func(k *Kernel) error {
		if k.stale(ch.Generation) {
			return nft.ErrStale
		}
		have, ok := k.tables[t.Name]
		switch {
		case !ok:
			return fmt.Errorf("%w: %w", nft.ErrStale, noTable(t.Name))
		case have.handle != handle:
			return fmt.Errorf("%w: table %s is another by now", nft.ErrStale, t.Name)
		case !have.repairable(t):
			return fmt.Errorf("repair table %s: %w", t.Name, nft.ErrNotRepairable)
		}
		if err := k.denied(f, "delete rules", t.Name); err != nil {
			return err
		}
		if len(ch.Add)+len(ch.Delete) == 0 && have.isAs(t) {
			return nil // an empty transaction is no generation
		}
		k.tables[t.Name] = have.repaired(t)
		tx := transaction{kernel: k, table: t, now: k.now()}
		if err := tx.change(f, ch); err != nil {
			tx.rollBack()
			k.tables[t.Name] = have
			return err
		}
		k.commit(f, t.Name)
		return nil
	})
}

// repairable reports whether the table can become the one wanted.
func (t *table) repairable(want nft.Table) bool {
	flags := t.flags()
	if flags&^nft.TableDormant != want.Flags || t.def.Comment != want.Comment ||
		flags&nft.TableDormant != 0 && want.Flags&nft.TableOwner != 0 {
		return false
	}
	for _, w := range want.Sets {
		if s, ok := t.sets[w.Name]; ok && !same(s.def, w) {
			return false
		}
	}
	return true
}

// isAs reports whether the table is the one wanted, and has no rules, which Repair always
// makes anew.
func (t *table) isAs(want nft.Table) bool {
	if t.flags()&nft.TableDormant != 0 || len(t.sets) != len(want.Sets) || len(t.def.Chains) != len(want.Chains) {
		return false
	}
	for _, w := range want.Sets {
		if _, ok := t.sets[w.Name]; !ok {
			return false
		}
	}
	for _, w := range want.Chains {
		same := func(c nft.Chain) bool {
			return c.Name == w.Name && c.Hook == w.Hook && c.Comment == w.Comment && len(c.Rules)+len(w.Rules) == 0
		}
		if !slices.ContainsFunc(t.def.Chains, same) {
			return false
		}
	}
	return true
}

// repaired is the same table as it is wanted, with the sets that it has.
func (t *table) repaired(want nft.Table) *table {
	want = clone(want)
	want.Tag = t.def.Tag
	made := newTable(want, t.handle)
	made.owner = t.owner
	for name := range made.sets {
		if s, ok := t.sets[name]; ok {
			made.sets[name] = s
		}
	}
	return made
}

// drift returns how the table differs from the one wanted, as nft.Conn does.
func drift(want, have nft.Table, flags nft.TableFlags) (lines []nft.Difference) {
	add := func(recreate bool, format string, args ...any) {
		lines = append(lines, nft.Difference{Text: fmt.Sprintf(format, args...), Recreate: recreate})
	}
	switch {
	case flags&nft.TableDormant != 0:
		add(false, "table %s is dormant", want.Name)
	case flags != want.Flags:
		add(true, "table %s has the flags %q, not %q", want.Name, flags, want.Flags)
	}
	for _, h := range have.Sets {
		w, ok := want.Set(h.Name)
		switch {
		case !ok:
			add(false, "map or set %s should not be there", h.Name)
		case !same(w, h):
			add(true, "%s %s is of another type", w.Kind(), w.Name)
		}
	}
	for _, w := range want.Sets {
		if _, ok := have.Set(w.Name); !ok {
			lines = append(lines, nft.Difference{Text: fmt.Sprintf("%s %s is missing", w.Kind(), w.Name), Empty: w.Interval})
		}
	}
	for _, h := range have.Chains {
		w, ok := want.Chain(h.Name)
		switch {
		case !ok:
			add(false, "chain %s should not be there", h.Name)
		case w.Hook != h.Hook:
			add(false, "chain %s is not: %s", w.Name, w.Hook)
		}
	}
	for _, w := range want.Chains {
		if _, ok := have.Chain(w.Name); !ok {
			add(false, "chain %s is missing", w.Name)
		}
	}
	for _, w := range want.Chains {
		h, _ := have.Chain(w.Name)
		for i, r := range w.Rules {
			if i >= len(h.Rules) || h.Rules[i].String() != r.String() {
				add(false, "chain %s: rule %d is not: %s", w.Name, i+1, r)
			}
		}
		for i := len(w.Rules); i < len(h.Rules); i++ {
			add(false, "chain %s: rule %d should not be there", w.Name, i+1)
		}
	}
	return lines
}
