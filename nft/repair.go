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
// the chains. All rules are made anew, sets and maps that are missing are added, and those
// and the chains that should not be there are deleted. A dormant table is woken.
//
// Packets meet the rules of before or those of t, and never neither: unlike a set that
// comes with the table, one that stays is never found empty (see Replace).
//
// The error is ErrStale if the table has another handle or is not there, or if a ruleset
// of the namespace has changed since the generation of the change, or while Repair looked at
// the table. It is ErrNotRepairable if the table has other flags or another comment, is
// dormant and owned, has a map or set of another type, or something that this package does
// not know.
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
	found, err := c.findTable(t, handle)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, errChanged):
		return fmt.Errorf("%w: %w", ErrStale, err)
	case err != nil:
		return err
	}
	b := newBatch(c.seq+1, generation)
	if err := b.repair(t, found); err != nil {
		return err
	}
	b.deleteElements(t, ch.Delete)
	b.addElements(t, ch.Add)
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

// foundTable is what Repair finds of a table.
type foundTable struct {
	dormant bool
	// sets and chains are those that can stay, by name.
	sets, chains map[string]struct{}
	// foreignSets and foreignChains are to be deleted.
	foreignSets, foreignChains []string
	// count is of what the table is in use by: all sets with a name, and chains.
	count int
}

func (c *Conn) findTable(t Table, handle uint64) (foundTable, error) {
	found := foundTable{sets: map[string]struct{}{}, chains: map[string]struct{}{}}
	info, err := c.table(t.Name)
	if err != nil {
		return found, err
	}
	if info.Handle != handle {
		return found, fmt.Errorf("%w: table %s is another by now", ErrStale, t.Name)
	}
	notRepairable := fmt.Errorf("repair table %s: %w", t.Name, ErrNotRepairable)
	found.dormant = info.Flags&TableDormant != 0
	// The flags of an owned table are its owner's to change only while it becomes that
	// (nf_tables_updtable in net/netfilter/nf_tables_api.c).
	if info.Flags&^TableDormant != t.Flags || info.Comment != t.Comment || found.dormant && t.Flags&TableOwner != 0 {
		return found, notRepairable
	}
	right, err := c.findSets(t, &found)
	if err == nil {
		err = c.findChains(t, &found)
	}
	if err != nil {
		return found, err
	}
	use, err := c.tableUse(t.Name)
	if err == nil && (!right || use != uint32(found.count)) {
		err = notRepairable // objects and flow tables count as well
	}
	return found, err
}

// findSets reports whether all that are to stay can.
func (c *Conn) findSets(t Table, found *foundTable) (right bool, err error) {
	right = true
	err = c.dump(unix.NFT_MSG_GETSET, "list sets of table inet "+t.Name,
		func(b []byte) []byte { return nlwire.AppendString(b, unix.NFTA_SET_TABLE, t.Name) },
		func(a nlwire.Attrs) error {
			flags := nlwire.Attrs{Payload: nlwire.Find(a.Rest, unix.NFTA_SET_FLAGS)}
			if flags.BE32()&unix.NFT_SET_ANONYMOUS != 0 {
				return nil // it goes with its rule, and the table's use does not count it
			}
			found.count++
			name := unix.ByteSliceToString(nlwire.Find(a.Rest, unix.NFTA_SET_NAME))
			if want, ok := t.Set(name); ok {
				found.sets[name] = struct{}{}
				right = right && want.matches(a)
			} else {
				found.foreignSets = append(found.foreignSets, name)
			}
			return nil
		})
	return right, err
}

func (c *Conn) findChains(t Table, found *foundTable) error {
	chains := make(map[string]Chain, len(t.Chains))
	for _, ch := range t.Chains {
		chains[ch.Name] = ch
	}
	return c.dump(unix.NFT_MSG_GETCHAIN, "list chains of table inet "+t.Name,
		func(b []byte) []byte { return nlwire.AppendString(b, unix.NFTA_CHAIN_TABLE, t.Name) },
		func(a nlwire.Attrs) error {
			if unix.ByteSliceToString(nlwire.Find(a.Rest, unix.NFTA_CHAIN_TABLE)) != t.Name {
				return nil
			}
			found.count++
			name := unix.ByteSliceToString(nlwire.Find(a.Rest, unix.NFTA_CHAIN_NAME))
			want, ok := chains[name]
			flags := nlwire.Attrs{Payload: nlwire.Find(a.Rest, nftaChainFlags)}
			switch {
			case ok && want.hookMatches(a) && comment(nlwire.Find(a.Rest, nftaChainUserdata)) == want.Comment:
				if want.matches(a) {
					found.chains[name] = struct{}{}
				} // else it stays, and adding it changes its policy
			case flags.BE32()&nftChainBinding == 0:
				found.foreignChains = append(found.foreignChains, name)
			}
			return nil
		})
}

// What x/sys does not name of enum nft_chain_attributes and enum nft_chain_flags: a chain
// that is part of the rule which jumps to it.
const (
	nftaChainFlags  = 10
	nftChainBinding = 1 << 2
)

// tableUse is how many sets with a name, chains, objects and flow tables the table has.
func (c *Conn) tableUse(name string) (use uint32, err error) {
	err = c.request(unix.NFT_MSG_GETTABLE, "list table inet "+name,
		func(b []byte) []byte { return nlwire.AppendString(b, unix.NFTA_TABLE_NAME, name) },
		func(a nlwire.Attrs) error {
			for a.Next() {
				if a.Type == unix.NFTA_TABLE_USE {
					use = a.BE32()
				}
			}
			return a.Err
		})
	return use, err
}

// repair makes the table t, of which that is found, but for its elements.
func (b *batch) repair(t Table, found foundTable) error {
	if found.dormant {
		// Before chains go, which the kernel unhooks of a table that is awake.
		b.claimTable(t.Name, t.Flags)
		b.ops[len(b.ops)-1].verb = "wake table"
	}
	b.deleteRules(t.Name)
	// Maps may lead to chains.
	for _, name := range found.foreignSets {
		b.deleteSet(t.Name, name)
	}
	for _, name := range found.foreignChains {
		b.deleteChain(t.Name, name)
	}
	for _, s := range t.Sets {
		if _, ok := found.sets[s.Name]; !ok {
			b.addCollection(t.Name, s)
		}
	}
	// A chain that stays is hooked all the time. Of two on one hook, of which one comes
	// and one goes, a packet could meet the first before and the second after the change.
	for _, ch := range t.Chains {
		if _, ok := found.chains[ch.Name]; !ok {
			b.addChain(t.Name, ch)
		}
	}
	return b.addRules(t)
}

// deleteRules deletes the rules of all chains.
func (b *batch) deleteRules(table string) {
	b.open(unix.NFT_MSG_DELRULE, 0, op{verb: "delete rules", object: "inet " + table})
	b.buf = nlwire.AppendString(b.buf, unix.NFTA_RULE_TABLE, table)
	b.done()
}

func (b *batch) deleteSet(table, name string) {
	b.open(unix.NFT_MSG_DELSET, 0, op{verb: "delete set", object: shown(name)})
	b.buf = nlwire.AppendString(b.buf, unix.NFTA_SET_TABLE, table)
	b.buf = nlwire.AppendString(b.buf, unix.NFTA_SET_NAME, name)
	b.done()
}

func (b *batch) deleteChain(table, name string) {
	b.open(unix.NFT_MSG_DELCHAIN, 0, op{verb: "delete chain", object: shown(name)})
	b.buf = nlwire.AppendString(b.buf, unix.NFTA_CHAIN_TABLE, table)
	b.buf = nlwire.AppendString(b.buf, unix.NFTA_CHAIN_NAME, name)
	b.done()
}
