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
			return nil // of a transaction without a part the kernel makes no generation
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

// isAs reports whether nothing is to be done that the table becomes the one wanted. Rules
// are made anew in any case.
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
	made := newTable(clone(want), t.handle)
	made.owner = t.owner
	for name := range made.sets {
		if s, ok := t.sets[name]; ok {
			made.sets[name] = s
		}
	}
	return made
}
