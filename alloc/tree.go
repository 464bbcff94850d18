// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import "math/bits"

// A tree is a set of keys: a bitmap of 2^128 bits, stored sparsely. The zero tree
// is empty and ready to use.
//
// Each node has 64 kids, six bits of the key a level, and each node of the lowest
// level a block of 4096 keys. Empty and full kids are not stored; a full one is
// one bit in its parent. So a search skips 16 million taken addresses in a few
// steps, and a full tree is as small as an empty one. Levels without a branch are
// left out, so that the height depends on the keys in the set and not on their
// width: ::/0 costs no more than 10.0.0.0/24.
//
// Between two calls no node is empty, none has only full kids, and a node above
// the lowest level has a full kid or at least two stored ones. So the shape of
// the tree follows from its keys, not from its history.
type tree struct {
	root *node // nil: empty

	// Freed nodes, up to a few: a key that is set and cleared again and again
	// may make and free nodes each time.
	spare [4]*node
}

// A node covers 2^(6*(level+1)) keys from base on, with 64 kids of equal size.
type node struct {
	base  key
	level uint // 1: the kids are the words of the block
	block
	kids []*node // above level 1: those of part, in order
}

// shift returns the width of a kid's keys in bits.
func (n *node) shift() uint { return 6 * n.level }

func (n *node) covers(k key) bool {
	s := n.shift() + 6
	if s < 64 {
		return k.hi == n.base.hi && (k.lo^n.base.lo)>>s == 0
	}
	return (k.hi^n.base.hi)>>(s-64) == 0
}

func (t *tree) clone() tree { return tree{root: t.root.clone()} }

func (n *node) clone() *node {
	if n == nil {
		return nil
	}
	c := &node{base: n.base, level: n.level, block: block{full: n.full, part: n.part}}
	c.words = append(c.one[:0], n.words...)
	for _, kid := range n.kids {
		c.kids = append(c.kids, kid.clone())
	}
	return c
}

// has reports whether k is in the set.
func (t *tree) has(k key) bool {
	for n := t.root; n != nil && n.covers(k); {
		if n.level == 1 {
			return n.has(uint(k.lo) % blockBits)
		}
		i := k.digit(n.shift())
		if n.full>>i&1 != 0 {
			return true
		}
		if n.part>>i&1 == 0 {
			return false
		}
		n = n.kids[n.rank(i)]
	}
	return false
}

// set puts k into the set and reports whether it was not in it.
func (t *tree) set(k key) bool {
	switch {
	case t.root == nil:
		t.root = t.node(k, 1)
	case !t.root.covers(k):
		t.root = t.join(t.root, k)
	}
	if !t.setIn(t.root, k) {
		return false
	}
	if t.root.full == allOnes {
		t.root.raise()
	}
	return true
}

// setIn is set for a key that n covers. It may leave n full.
func (t *tree) setIn(n *node, k key) bool {
	if n.level == 1 {
		return n.set(uint(k.lo) % blockBits)
	}
	i := k.digit(n.shift())
	if n.full>>i&1 != 0 {
		return false
	}
	r := n.rank(i)
	switch {
	case n.part>>i&1 == 0:
		n.part |= 1 << i
		n.kids = insert(n.kids, r, t.node(k, 1))
	case !n.kids[r].covers(k):
		n.kids[r] = t.join(n.kids[r], k)
	}
	kid := n.kids[r]
	if !t.setIn(kid, k) {
		return false
	}
	if kid.full == allOnes {
		if kid.level+1 < n.level {
			kid.raise()
			return true
		}
		n.full |= 1 << i
		n.dropKid(i, r)
		t.free(kid)
	}
	return true
}

// clear takes k out of the set and reports whether it was in it.
func (t *tree) clear(k key) bool {
	if t.root == nil || !t.root.covers(k) || !t.clearIn(t.root, k) {
		return false
	}
	t.root = t.tidy(t.root)
	return true
}

// clearIn is clear for a key that n covers. It may leave n empty or with a
// single kid.
func (t *tree) clearIn(n *node, k key) bool {
	if n.level == 1 {
		return n.clear(uint(k.lo) % blockBits)
	}
	i := k.digit(n.shift())
	r := n.rank(i)
	switch {
	case n.full>>i&1 != 0:
		kid := t.node(k, n.level-1)
		kid.full = allOnes
		n.full &^= 1 << i
		n.part |= 1 << i
		n.kids = insert(n.kids, r, kid)
	case n.part>>i&1 == 0 || !n.kids[r].covers(k):
		return false
	}
	if !t.clearIn(n.kids[r], k) {
		return false
	}
	if kid := t.tidy(n.kids[r]); kid != nil {
		n.kids[r] = kid
	} else {
		n.dropKid(i, r)
	}
	return true
}

// firstClear returns the first key from k on that is not in the set, or 0 if
// all up to the last key are.
func (t *tree) firstClear(k key) key {
	if t.root == nil || !t.root.covers(k) {
		return k
	}
	if c, ok := t.root.firstClear(k); ok {
		return c
	}
	return t.root.base.last(t.root.shift() + 6).next()
}

func (n *node) firstClear(k key) (key, bool) {
	if n.level == 1 {
		i, ok := n.block.firstClear(uint(k.lo) % blockBits)
		return n.base.plus(i, 0), ok
	}
	for i := k.digit(n.shift()); ; k = n.base.plus(i, n.shift()) {
		// Only the first kid can have none: the others are searched from their
		// start, and full ones are skipped.
		if n.full>>i&1 == 0 {
			if n.part>>i&1 == 0 {
				return k, true
			}
			kid := n.kids[n.rank(i)]
			if !kid.covers(k) {
				return k, true
			}
			if c, ok := kid.firstClear(k); ok {
				return c, true
			}
			// Where levels are left out, the kid covers only a part of the
			// i'th range, and the rest of the range is clear.
			if end := kid.base.last(kid.shift() + 6).next(); end.digit(n.shift()) == i {
				return end, true
			}
		}
		open := ^n.full &^ (2<<i - 1)
		if open == 0 {
			return key{}, false
		}
		i = uint(bits.TrailingZeros64(open))
	}
}

// firstSet returns the first key from k on that is in the set.
func (t *tree) firstSet(k key) (key, bool) {
	if t.root == nil {
		return key{}, false
	}
	return t.root.firstSet(k)
}

func (n *node) firstSet(k key) (key, bool) {
	if k.less(n.base) {
		k = n.base
	} else if !n.covers(k) {
		return key{}, false
	}
	if n.level == 1 {
		i, ok := n.block.firstSet(uint(k.lo) % blockBits)
		return n.base.plus(i, 0), ok
	}
	for i := k.digit(n.shift()); ; k = n.base.plus(i, n.shift()) {
		if n.full>>i&1 != 0 {
			return k, true
		}
		if n.part>>i&1 != 0 {
			if c, ok := n.kids[n.rank(i)].firstSet(k); ok {
				return c, true
			}
		}
		some := (n.full | n.part) &^ (2<<i - 1)
		if some == 0 {
			return key{}, false
		}
		i = uint(bits.TrailingZeros64(some))
	}
}

// join returns the lowest node that covers both n and k, with n in its place.
func (t *tree) join(n *node, k key) *node {
	p := t.node(k, (n.base.differ(k)-1)/6)
	p.part = 1 << n.base.digit(p.shift())
	p.kids = append(p.kids, n)
	return p
}

// raise turns a full node into its parent, with it as the only full kid.
func (n *node) raise() {
	n.level++
	n.full = 1 << n.base.digit(n.shift())
	n.base = n.base.first(n.shift() + 6)
}

// tidy returns what replaces n after a key of it was cleared: nil if n is empty,
// its kid if n has nothing else.
func (t *tree) tidy(n *node) *node {
	switch {
	case n.full|n.part == 0:
		t.free(n)
		return nil
	case n.level > 1 && n.full == 0 && len(n.kids) == 1:
		kid := n.kids[0]
		t.free(n)
		return kid
	}
	return n
}

// dropKid removes the r'th of the stored kids, which is the i'th of all.
func (n *node) dropKid(i uint, r int) {
	n.part &^= 1 << i
	n.kids = remove(n.kids, r)
}

// node returns an empty node of the level that covers k.
func (t *tree) node(k key, level uint) *node {
	n := t.takeSpare()
	n.level = level
	n.base = k.first(n.shift() + 6)
	return n
}

func (t *tree) takeSpare() *node {
	for i, n := range t.spare {
		if n != nil {
			t.spare[i] = nil
			return n
		}
	}
	return new(node)
}

// free makes n a spare if there is room, emptied, but with the capacity of its
// slices, which is keep at most by then.
func (t *tree) free(n *node) {
	for i := range t.spare {
		if t.spare[i] == nil {
			clear(n.kids) // no pointer left behind
			n.full, n.part, n.words, n.kids = 0, 0, n.words[:0], n.kids[:0]
			t.spare[i] = n
			return
		}
	}
}
