// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nftnat/nftnat/engine/internal/sleep"
	"github.com/nftnat/nftnat/nft"
)

// loadAttempts bounds how often the table is loaded because other programs keep changing
// it. Each pause is longer by Pause than the one before.
const loadAttempts = 5

// Pause is the unit of the waits between attempts.
const Pause = time.Millisecond

// Contents is a table as it was loaded.
type Contents struct {
	// Exists is whether there is a table.
	Exists bool
	Handle uint64
	// Damage is what differs from the rules as they should be.
	Damage Damage
	// Elements are those of all sets of the table. They are not read if the table is
	// damaged and the caller knows what it must hold.
	Elements   []nft.Element
	Generation uint32
}

// Damage is what is wrong with a table.
type Damage struct {
	// Lines describe it, for the log.
	Lines []string
	// Recreate is whether the table cannot be repaired in place.
	Recreate bool
	// Empty is whether an interval set is missing, which the repair adds.
	Empty bool
}

// Add adds a line.
func (d *Damage) Add(format string, args ...any) {
	d.Lines = append(d.Lines, fmt.Sprintf(format, args...))
}

// Retry calls f, which loads the table and takes it over. It calls f again if the table
// changed meanwhile or the netlink socket failed, until the context is done.
func (t *Table) Retry(ctx context.Context, f func() error) error {
	var err error
	t.staleStandIns = 0
	for attempt := range loadAttempts {
		if sleepErr := sleep.For(ctx, time.Duration(attempt)*Pause); sleepErr != nil {
			err = sleepErr
			break
		}
		if err = t.reconnect(); err != nil {
			continue
		}
		if err = f(); !errors.Is(err, nft.ErrStale) && !t.socketFailed(err) {
			return err
		}
	}
	return fmt.Errorf("read table %s: %w", t.Rules.Name, err)
}

// Load reads the table, and claims it if it should have an owner and has none. The error
// matches nft.ErrStale if the table changed meanwhile; it is a *nat.OwnedError if another
// process owns the table.
func (t *Table) Load() (c Contents, err error) {
	t.generation = 0
	before, generationErr := t.kernel.Generation()
	info, err := t.kernel.Table(t.Rules.Name)
	if !t.present {
		t.loaded = identity(info)
		t.Rules.Tag = t.loaded
	}
	if isNotExist(err) {
		if t.Known() {
			c.Damage = Damage{Lines: []string{"it was deleted by somebody else"}, Recreate: true}
		} else if t.AsFound && !t.present {
			t.Rules.Flags = 0
		}
		return c, nil
	}
	if err = cmp.Or(err, generationErr); err != nil { // the first names the table
		return c, err
	}
	if err := t.CheckComment(info.Comment); err != nil {
		return c, err
	}
	if info, err = t.claim(info); err != nil {
		return c, err
	}
	c.Exists, c.Handle = true, info.Handle
	if c.Damage, err = t.damage(info); err != nil {
		return c, err
	}
	if t.Known() && len(c.Damage.Lines) != 0 {
		return c, nil
	}
	c.Elements, c.Generation, err = t.readElements()
	if err == nil && c.Generation == before {
		t.generation = before
	}
	return c, err
}

// damage returns what differs from the table as it should be, elements apart.
func (t *Table) damage(info nft.TableInfo) (d Damage, err error) {
	rules := t.Rules
	rules.Flags = info.Flags &^ nft.TableDormant // the flags are compared below
	drift, err := t.kernel.Drift(rules)
	if err != nil {
		return d, staleIfGone(err)
	}
	if info.Comment != t.Rules.Comment {
		d.Add("it is of an earlier version: its comment is %q", info.Comment)
		d.Recreate = true // the kernel reads the comment with a new table only
	}
	for _, difference := range drift {
		d.Lines = append(d.Lines, difference.String())
		d.Recreate = d.Recreate || difference.Recreate
		d.Empty = d.Empty || difference.Empty
	}
	if info.Flags&^nft.TableDormant != t.Rules.Flags {
		d.Recreate = true
	}
	// A table that an engine has recreated, while this one was suspended, is the same.
	if t.Known() && t.handle != 0 && info.Handle != t.handle && identity(info) != t.Rules.Tag {
		d.Add("it was deleted by somebody else, and another made")
		d.Recreate = true
	}
	return d, nil
}

// readElements reads the elements of all sets and maps. A set that is missing from a
// damaged table has none.
func (t *Table) readElements() ([]nft.Element, uint32, error) {
	names := make([]string, 0, len(t.Rules.Sets))
	for _, s := range t.Rules.Sets {
		names = append(names, s.Name)
	}
	all, generation, err := t.kernel.Elements(t.Rules, names...)
	if isNotExist(err) {
		return t.readPresentSets(names)
	}
	return all, generation, err
}

// readPresentSets reads one set after the other, of those that are there. The error
// matches nft.ErrStale if the ruleset changed meanwhile.
func (t *Table) readPresentSets(names []string) (all []nft.Element, generation uint32, err error) {
	if generation, err = t.kernel.Generation(); err != nil {
		return nil, 0, err
	}
	for _, name := range names {
		some, _, err := t.kernel.Elements(t.Rules, name)
		if err != nil && !isNotExist(err) {
			return nil, 0, err
		}
		all = append(all, some...)
	}
	// Sets are also missing if the table was deleted meanwhile.
	if _, err := t.kernel.Table(t.Rules.Name); err != nil {
		return nil, 0, staleIfGone(err)
	}
	now, err := t.kernel.Generation()
	if err == nil && now != generation {
		err = nft.ErrStale
	}
	return all, generation, err
}
