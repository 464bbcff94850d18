// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Elements returns the elements of the named maps and sets of the table, in no order, and
// the generation at which they held these. The result is never a part, or a mixture of two
// states: if the table may have changed meanwhile, Elements reads again.
//
// The error is fs.ErrNotExist if the table or one of the sets is not there, and
// ErrInterrupted if the table kept changing.
func (c *Conn) Elements(t Table, sets ...string) ([]Element, uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.elements(t, sets)
}

func (c *Conn) elements(t Table, sets []string) ([]Element, uint32, error) {
	var es []Element
	generation, err := c.readConsistent("list elements of table inet "+t.Name, t.Name, func() error {
		es = es[:0]
		counts := c.counts(t.Name, sets)
		for _, name := range sets {
			set, ok := t.Set(name)
			if !ok {
				return fmt.Errorf("list elements: table %s has no map or set %s", t.Name, name)
			}
			if n, counted := counts[name]; counted && n == 0 && !set.isTree() {
				continue // the kernel's count of a tree with one range up to the last port is zero
			}
			var err error
			if es, err = c.appendElements(es, t.Name, set, counts); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return es, generation, nil
}

// appendElements reads the elements of one set, all of them or none.
//
// A dump comes in parts of 32 KiB. The kernel begins each by walking the set anew
// and skipping as many elements as it has sent (nft_rhash_walk in
// net/netfilter/nft_set_hash.c). It skips others than those if the order of the walk has
// changed: because the hash table grows or shrinks, which goes on after a commit, or because
// expired elements were collected, which is no change of the ruleset. So a dump in parts has
// to be proven complete.
func (c *Conn) appendElements(es []Element, table string, set Set, counts map[string]uint32) ([]Element, error) {
	count, counted := counts[set.Name]
	var err error
	if counts == nil {
		if count, counted, err = c.count(table, set); err != nil {
			return nil, err
		}
	}
	from := len(es)
	es = slices.Grow(es, int(min(count, maxGrow)))
	var first keySet
	parts, err := c.dumpElements(table, set, func(e *Element) error {
		es = append(es, *e)
		return changedUnless(e.Foreign != "" || first.add(e.Key))
	})
	if err != nil {
		return nil, err
	}
	switch n := len(es) - from; {
	case parts <= 1:
	case !set.Timeout:
		// Nothing expires. Another order of the same elements shows some of them twice.
	case counted && n == int(count) && !set.isTree():
		// As many as before the dump, expired ones included. Of trees the kernel counts half
		// (nft_rbtree_usize in net/netfilter/nft_set_rbtree.c).
	default:
		// Some expired, or the kernel does not count. A second dump, which would skip
		// other elements, must not show more than the first.
		var second keySet
		_, err = c.dumpElements(table, set, func(e *Element) error {
			return changedUnless(e.Foreign != "" || second.add(e.Key) && !first.add(e.Key))
		})
		if err != nil {
			return nil, err
		}
	}
	if set.isTree() {
		es = append(es[:from], set.pair(es[from:])...)
	}
	return es, nil
}

// fewSets is up to how many sets are counted one by one.
const fewSets = 8

// counts returns what count does, of all sets of the table that the kernel counts, with one dump
// in place of a request for each. Nil: they have to be asked for.
func (c *Conn) counts(table string, sets []string) map[string]uint32 {
	if len(sets) <= fewSets {
		return nil
	}
	counts := make(map[string]uint32, len(sets))
	err := c.dump(unix.NFT_MSG_GETSET, "count elements of table inet "+table, func(a nlwire.Attrs) error {
		if n, ok := nlwire.FindBE32(a.Data, nftaSetCount); ok {
			counts[nlwire.FindString(a.Data, unix.NFTA_SET_NAME)] = n
		}
		return nil
	}, table)
	if err != nil {
		return nil // such a dump is interrupted by changes of other tables
	}
	return counts
}

// Filled returns the maps and sets of a table that may have elements, by the kernel's count of them.
// Nil: it did not tell, and any of them may.
func (c *Conn) Filled(t Table) map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.uncounted {
		return nil
	}
	filled := map[string]bool{}
	err := c.dump(unix.NFT_MSG_GETSET, "count elements of table inet "+t.Name, func(a nlwire.Attrs) error {
		n, counted := nlwire.FindBE32(a.Data, nftaSetCount)
		if !counted {
			c.uncounted = true
		}
		if n != 0 {
			filled[nlwire.FindString(a.Data, unix.NFTA_SET_NAME)] = true
		}
		return nil
	}, t.Name)
	if err != nil || c.uncounted {
		return nil
	}
	for i := range t.Sets {
		if t.Sets[i].isTree() { // a tree with one range up to the last port counts as empty
			filled[t.Sets[i].Name] = true
		}
	}
	return filled
}

// maxGrow bounds how many elements the kernel's count makes room for.
const maxGrow = 1 << 17

// changedUnless is errChanged unless an element can be there.
func changedUnless(can bool) error {
	if can {
		return nil
	}
	return errChanged
}

// dumpElements calls f with each element of the set, until it returns an error, and returns in
// how many parts they came.
func (c *Conn) dumpElements(table string, set Set, f func(*Element) error) (parts int, err error) {
	var e Element
	err = c.dump(unix.NFT_MSG_GETSETELEM, "list elements of "+set.Kind()+" "+set.Name, func(a nlwire.Attrs) error {
		for a.Next() {
			if a.Type != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			parts++
			list := nlwire.Attrs{Data: a.Payload}
			for list.Next() {
				switch err := set.decodeElement(&e, list.Payload); {
				case errors.Is(err, nlwire.ErrMalformed):
					return err
				case err != nil:
					e = Element{Set: set.Name, Foreign: err.Error()}
				}
				if err := f(&e); err != nil {
					return err
				}
			}
			if list.Err != nil {
				return list.Err
			}
		}
		return a.Err
	}, table, set.Name)
	return parts, err
}

// count returns how many elements the kernel counts in the set, with expired ones that are
// not freed yet, and whether it does (NFTA_SET_COUNT; Linux 6.18 does, 6.12 does not).
func (c *Conn) count(table string, set Set) (count uint32, ok bool, err error) {
	err = c.request(unix.NFT_MSG_GETSET, "list elements of "+set.Kind()+" "+set.Name, func(a nlwire.Attrs) error {
		count, ok = nlwire.FindBE32(a.Data, nftaSetCount)
		return nil
	}, table, set.Name)
	return count, ok, err
}

// CountsElements reports whether the kernel counts the elements of a map. If not, Elements
// reads large maps with time-outs twice. The error is fs.ErrNotExist if the table is not
// there.
func (c *Conn) CountsElements(t Table) (bool, error) {
	sets := t.Sets
	if len(sets) == 0 {
		return false, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, counted, err := c.count(t.Name, sets[0])
	return counted, err
}

// keySet is a set of keys: ports, of which a map may have all, as bits. The zero value is
// empty.
type keySet struct {
	ports  []uint64
	others map[Key]struct{}
}

// add reports whether the key was not there yet.
func (s *keySet) add(k Key) bool {
	if k.kind != portKey {
		if s.others == nil {
			s.others = map[Key]struct{}{}
		}
		before := len(s.others)
		s.others[k] = struct{}{}
		return len(s.others) != before
	}
	if s.ports == nil {
		s.ports = make([]uint64, 1<<16/64)
	}
	bit := uint64(1) << (k.port % 64)
	if s.ports[k.port/64]&bit != 0 {
		return false
	}
	s.ports[k.port/64] |= bit
	return true
}
