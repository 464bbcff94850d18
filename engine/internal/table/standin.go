// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package table

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nftnat/nftnat/nft"
)

// Packets find the rules of a new table before the elements of its interval sets, which the kernel
// shows when the transaction ends. So while a table is replaced, a stand-in serves: a second table with
// the same rules and elements, which is made before and deleted after. It is asked first, because what
// it lets pass finds the new table open in part. It is not asked before it is whole: its base chains
// come in a transaction of their own. It belongs to a socket of its own and goes with that, so that
// none is left when the process is killed.

const (
	// standInSuffix is what the name of a stand-in has behind that of the table.
	standInSuffix = "-stand-in"
	// standInRepairs bounds how often the chains of a stand-in are added, because other programs
	// change their tables meanwhile.
	standInRepairs = 5
	// standInAttempts is how many replacements in a row are made with a stand-in and find that the
	// ruleset was changed meanwhile. Those that follow take less time, and have none.
	standInAttempts = 2
)

func standInComment(name string) string { return "serves while table " + name + " is replaced" }

// standIn is a table that serves in the place of another.
type standIn struct {
	kernel Kernel
	name   string
	// commits is how many transactions it took.
	commits uint32
}

// behindStandIn calls replace, which replaces the table or adds interval sets to it, while a stand-in
// with the elements serves. The argument is by how many commits the generation has grown. If there is
// no table, none serves until there is one, and a stand-in would take as long to make.
func (t *Table) behindStandIn(exists bool, es []nft.Element, replace func(commits uint32) error) error {
	if !exists || t.staleStandIns >= standInAttempts {
		return replace(0)
	}
	s, err := t.makeStandIn(es)
	if err != nil {
		t.Log.Warn("table is replaced while none stands in for it; some packets may meet only a part of the new one",
			"table", t.Rules.Name, "error", err)
		return replace(0)
	}
	t.changed = time.Now()
	t.Grace() // a packet that came before the stand-in must not meet the new table
	err = replace(s.commits)
	if errors.Is(err, nft.ErrStale) {
		t.staleStandIns++
	}
	return errors.Join(err, s.end())
}

// makeStandIn makes a stand-in with the elements.
func (t *Table) makeStandIn(es []nft.Element) (s *standIn, err error) {
	k, err := t.Dial()
	if err != nil {
		return nil, err
	}
	whole := t.Rules
	whole.Name, whole.Comment, whole.Tag, whole.Flags = t.Rules.Name+standInSuffix, standInComment(t.Rules.Name), "", nft.TableOwner
	whole.Chains = slices.Clone(whole.Chains)
	hidden := whole
	hidden.Chains = nil
	for i, c := range whole.Chains {
		if c.Hook == (nft.Hook{}) {
			hidden.Chains = append(hidden.Chains, c)
			continue
		}
		whole.Chains[i].Hook.Priority--
	}
	s = &standIn{kernel: k, name: whole.Name}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.Close())
		}
	}()
	left, foreign, err := t.leftStandIn(k)
	if err != nil {
		return nil, err
	}
	if foreign {
		return nil, fmt.Errorf("there is a table %s already", s.name)
	}
	if err := k.Restore(hidden, es, left); err != nil {
		return nil, err
	}
	info, err := k.Table(s.name)
	if err != nil {
		return nil, err
	}
	for range standInRepairs {
		if err = k.Repair(whole, nft.Change{}, info.Handle); !errors.Is(err, nft.ErrStale) {
			break
		}
	}
	s.commits = 2
	return s, err
}

// leftStandIn returns the handle of a stand-in that was left; zero: there is none. It can be in a
// ruleset that was saved while it served. A foreign table may have the name.
func (t *Table) leftStandIn(k Kernel) (handle uint64, foreign bool, err error) {
	info, err := k.Table(t.Rules.Name + standInSuffix)
	switch {
	case isNotExist(err):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	case info.Comment != standInComment(t.Rules.Name) || info.Flags&nft.TableOwner != 0:
		return 0, true, nil
	}
	return info.Handle, false, nil
}

// DeleteStandIn deletes a stand-in that was left.
func (t *Table) DeleteStandIn() error {
	if t.ReadOnly {
		return nil
	}
	left, _, err := t.leftStandIn(t.kernel)
	if err != nil || left == 0 {
		return err
	}
	t.Log.Warn("a table that served while another was replaced was left, and is deleted", "table", t.Rules.Name+standInSuffix)
	if err := t.kernel.DeleteTable(t.Rules.Name + standInSuffix); !isNotExist(err) {
		return err
	}
	return nil
}

// end deletes the stand-in. It goes with its socket if it cannot be deleted.
func (s *standIn) end() error {
	_ = s.kernel.DeleteTable(s.name)
	return s.kernel.Close()
}
