// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// ErrNotRepairable means that a table has to be recreated to become what it should be, as
// Replace and Restore do; nothing was done.
var ErrNotRepairable = errors.New("it has to be recreated")

// Repair makes the table that has the handle what t says, in one transaction, and leaves
// what is right as it is: the sets and maps with their elements but for the change, and
// the chains. It makes all rules anew, adds missing sets, maps and chains, deletes foreign
// ones, and wakes a dormant table.
//
// Packets meet the rules of before or those of t, and never neither: unlike a set that
// comes with the table, one that stays is never found empty (see Replace).
//
// The error is ErrStale if the table has another handle or is not there, or if a ruleset
// of the namespace has changed since the generation of the change, or while Repair read
// the table. It is ErrNotRepairable if the table has other flags or another comment, is
// dormant and owned, has a map or set of another type, or holds an object or a flow table.
func (c *Conn) Repair(t Table, ch Change, handle uint64) error {
	if err := t.validateWith(ch); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	generation, err := c.generation()
	if err != nil {
		return err
	}
	if ch.Generation != 0 && ch.Generation != generation {
		return ErrStale
	}
	// What is read from here on is true if the kernel is at this generation in the end.
	ch.Generation = generation
	found, err := c.load(t)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, errChanged):
		return fmt.Errorf("%w: %w", ErrStale, err)
	case err != nil:
		return err
	case found.info.Handle != handle:
		return fmt.Errorf("%w: table %s is another by now", ErrStale, t.Name)
	case !found.repairable(t):
		return fmt.Errorf("repair table %s: %w", t.Name, ErrNotRepairable)
	}
	b := newBatch(c.seq+1, generation)
	if err := b.repair(t, found); err != nil {
		return err
	}
	b.deleteElements(t, ch.Delete)
	b.addElements(t, ch.Add)
	if err := b.addFurther(t, ch.Further); err != nil {
		return err
	}
	return c.commit(b, func() (bool, error) { return c.repaired(t, ch, handle) })
}

// repaired reports whether the table is as Repair would have left it.
func (c *Conn) repaired(t Table, ch Change, handle uint64) (bool, error) {
	info, err := c.table(t.Name)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil || info.Handle != handle {
		return false, err
	}
	drift, err := c.drift(t)
	if err != nil || len(drift) != 0 {
		return false, err
	}
	return c.shows(t, ch)
}

// loaded is what the kernel has of a table, compared with a Table, but for rules and
// elements.
type loaded struct {
	info   TableInfo
	use    uint32
	sets   []loadedSet
	chains []loadedChain
}

type loadedSet struct {
	name      string
	anonymous bool // it is part of a rule, and the table's use does not count it
	wanted    bool // the Table has a set or map of that name
	right     bool // and it is as that says
}

type loadedChain struct {
	name    string
	binding bool // it is part of the rule that jumps to it
	wanted  bool // the Table has a chain of that name
	hooked  bool // and it is hooked as that says
	right   bool // and has its policy, too
	comment string
}

// load reads the definitions of the table that t names.
func (c *Conn) load(t Table) (l loaded, err error) {
	if l.info, l.use, err = c.tableUse(t.Name); err != nil {
		return l, err
	}
	err = c.dump(unix.NFT_MSG_GETSET, "list sets of table inet "+t.Name, func(a nlwire.Attrs) error {
		flags, _ := nlwire.FindBE32(a.Data, unix.NFTA_SET_FLAGS)
		s := loadedSet{name: nlwire.FindString(a.Data, unix.NFTA_SET_NAME), anonymous: flags&unix.NFT_SET_ANONYMOUS != 0}
		want, ok := t.Set(s.name)
		s.wanted, s.right = ok, ok && want.matches(a)
		l.sets = append(l.sets, s)
		return nil
	}, t.Name)
	if err != nil {
		return l, err
	}
	// Before 6.12 the kernel knows no filter by table here.
	err = c.dump(unix.NFT_MSG_GETCHAIN, "list chains of table inet "+t.Name, func(a nlwire.Attrs) error {
		if nlwire.FindString(a.Data, unix.NFTA_CHAIN_TABLE) != t.Name {
			return nil
		}
		flags, _ := nlwire.FindBE32(a.Data, nftaChainFlags)
		ch := loadedChain{
			name: nlwire.FindString(a.Data, unix.NFTA_CHAIN_NAME), binding: flags&nftChainBinding != 0,
			comment: comment(nlwire.Find(a.Data, nftaChainUserdata)),
		}
		want, ok := t.Chain(ch.name)
		ch.wanted, ch.hooked, ch.right = ok, ok && want.hookMatches(a), ok && want.matches(a)
		l.chains = append(l.chains, ch)
		return nil
	}, t.Name)
	return l, err
}

// What x/sys does not name of enum nft_chain_attributes and enum nft_chain_flags.
const (
	nftaChainFlags  = 10
	nftChainBinding = 1 << 2
)

// repairable reports whether Repair can make the table t.
func (l loaded) repairable(t Table) bool {
	// The flags of an owned table are its owner's to change only while it becomes that
	// (nf_tables_updtable in net/netfilter/nf_tables_api.c).
	if l.info.Flags&^TableDormant != t.Flags || l.info.Comment != t.Comment ||
		l.info.Flags&TableDormant != 0 && t.Flags&TableOwner != 0 {
		return false
	}
	known := len(l.chains)
	for _, s := range l.sets {
		if s.wanted && !s.right {
			return false
		}
		if !s.anonymous {
			known++
		}
	}
	return l.use == uint32(known) // objects and flow tables count as well
}

// repair makes the loaded table t, but for its elements.
func (b *batch) repair(t Table, l loaded) error {
	if l.info.Flags&TableDormant != 0 {
		// Before chains are deleted, which the kernel unhooks of a table that is awake.
		b.setFlags("wake table", t.Name, t.Flags)
	}
	b.deleteRules(t.Name)
	sets, chains := map[string]bool{}, map[string]bool{}
	// Maps may lead to chains, and are deleted first.
	for _, s := range l.sets {
		sets[s.name] = true
		if !s.wanted && !s.anonymous {
			b.deleteSet(t.Name, s.name)
		}
	}
	for _, found := range l.chains {
		want, _ := t.Chain(found.name)
		switch {
		case found.hooked && found.comment == want.Comment:
			chains[found.name] = found.right // else adding it changes its policy
		case !found.binding:
			b.deleteChain(t.Name, found.name)
		}
	}
	for _, s := range t.Sets {
		if !sets[s.Name] {
			b.addSet(t.Name, s)
		}
	}
	// A chain that stays is hooked all the time. Of two on one hook, of which one comes
	// and one goes, a packet could meet the first before and the second after the change.
	for _, ch := range t.Chains {
		if !chains[ch.Name] {
			b.addChain(t.Name, ch)
		}
	}
	return b.addRules(t)
}
