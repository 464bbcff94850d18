// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// bitmapSize is what a shadow of a tree has: two levels above a block, so that
// blocks and the nodes above them fill up and dissolve.
const bitmapSize = 5 << 17

// shadow is a tree and a plain bitmap that is to have the same keys, from base
// on.
type shadow struct {
	tree
	base key
	bit  []bool
}

func (s *shadow) key(i int) key {
	lo, carry := bits.Add64(s.base.lo, uint64(i), 0)
	return key{s.base.hi + carry, lo}
}

func (s *shadow) setRun(t *testing.T, first, n int, to bool) {
	t.Helper()
	for i := first; i < min(first+n, len(s.bit)); i++ {
		changed := s.bit[i] != to
		s.bit[i] = to
		if got := s.op(i, to); got != changed {
			require.Equal(t, changed, got, "bit %d to %v", i, to)
		}
	}
}

func (s *shadow) op(i int, to bool) bool {
	if to {
		return s.set(s.key(i))
	}
	return s.clear(s.key(i))
}

func (s *shadow) checkSearch(t *testing.T, i int) {
	t.Helper()
	require.Equal(t, s.bit[i], s.has(s.key(i)), "has %d", i)

	j := i
	for j < len(s.bit) && s.bit[j] {
		j++
	}
	require.Equal(t, s.key(j), s.firstClear(s.key(i)), "first clear from %d", i)

	for j = i; j < len(s.bit) && !s.bit[j]; {
		j++
	}
	got, ok := s.firstSet(s.key(i))
	require.Equal(t, j < len(s.bit), ok, "first set from %d", i)
	if ok {
		require.Equal(t, s.key(j), got, "first set from %d", i)
	}
}

// checkShape compares the tree with one that got the same keys in ascending
// order and never lost one.
func (s *shadow) checkShape(t *testing.T) {
	t.Helper()
	var fresh tree
	for i, set := range s.bit {
		if set {
			fresh.set(s.key(i))
		}
	}
	checkNode(t, s.root)
	requireSameShape(t, fresh.root, s.root)
}

// checkNode checks what holds of every node.
func checkNode(tb testing.TB, n *node) {
	tb.Helper()
	require.NoError(tb, wrongIn(n))
}

// wrongIn says what is wrong with a node or one below it. Trees have thousands, and require has
// its price.
func wrongIn(n *node) error {
	if n == nil {
		return nil
	}
	wrong := func(what string) error {
		return fmt.Errorf("%s: level %d, base %x, full %x, part %x, %d kids, %d words", what, n.level, n.base, n.full, n.part, len(n.kids), len(n.words))
	}
	switch {
	case n.full == allOnes:
		return wrong("full node")
	case n.full&n.part != 0:
		return wrong("full and in part")
	case n.base != n.base.first(n.shift()+6):
		return wrong("another base")
	case strays(n) != "":
		return wrong(strays(n))
	}
	if n.level == 1 {
		switch {
		case n.full|n.part == 0:
			return wrong("empty node")
		case len(n.kids) != 0 || len(n.words) != bits.OnesCount64(n.part):
			return wrong("another number of words")
		case slices.Contains(n.words, 0) || slices.Contains(n.words, allOnes):
			return wrong("a word that is no part")
		}
		return nil
	}
	switch {
	case len(n.words) != 0 || len(n.kids) != bits.OnesCount64(n.part):
		return wrong("another number of kids")
	case n.full == 0 && len(n.kids) < 2:
		return wrong("a level that branches nowhere")
	}
	part := n.part
	for _, kid := range n.kids {
		if kid.level >= n.level || !n.covers(kid.base) || bits.TrailingZeros64(part) != int(kid.base.digit(n.shift())) {
			return wrong("a kid that is another's")
		}
		part &= part - 1
		if err := wrongIn(kid); err != nil {
			return err
		}
	}
	return nil
}

func requireSameShape(t *testing.T, want, got *node) {
	t.Helper()
	if want == nil {
		require.Nil(t, got)
		return
	}
	require.NotNil(t, got)
	require.Equal(t, want.base, got.base)
	require.Equal(t, want.level, got.level)
	require.Equal(t, want.full, got.full)
	require.Equal(t, want.part, got.part)
	if want.level == 1 {
		require.Equal(t, append([]uint64{}, want.words...), append([]uint64{}, got.words...))
		return
	}
	for i := range want.kids {
		requireSameShape(t, want.kids[i], got.kids[i])
	}
}

func TestTreeAgainstBitmap(t *testing.T) {
	for name, base := range map[string]key{
		"IPv4":                  {lo: 10 << 24},
		"across the low half":   {hi: 7, lo: allOnes - 1<<18},
		"across a high level":   {hi: 1<<32 - 1, lo: allOnes - 1<<18 - 77},
		"unaligned":             {hi: 0x20010db8 << 32, lo: 12345},
		"all bits of the first": {hi: allOnes, lo: allOnes - 2*bitmapSize},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRand(t)
			s := &shadow{base: base, bit: make([]bool, bitmapSize)}
			for i := range 80 {
				first, n := r.IntN(bitmapSize), 1
				switch r.IntN(8) {
				case 0:
					first, n = first>>12<<12, 1<<12
				case 1:
					first, n = first>>18<<18, 1<<18
				case 2, 3:
					n = 1 << r.IntN(18)
				case 4:
					n = r.IntN(100)
				}
				s.setRun(t, first, n, r.IntN(2) == 0)
				for range 4 {
					s.checkSearch(t, min(first+r.IntN(n+64), bitmapSize-1))
				}
				s.checkSearch(t, r.IntN(bitmapSize))
				if i%20 == 19 {
					s.checkShape(t)
				}
			}
			s.setRun(t, 0, bitmapSize, false)
			require.Nil(t, s.root)
		})
	}
}

// Keys anywhere in 128 bits, in clusters of every size.
func TestTreeAgainstMap(t *testing.T) {
	r := newRand(t)
	var tr tree
	in := map[key]bool{}
	var known []key
	randomKey := func() key {
		if len(known) == 0 || r.IntN(3) == 0 {
			return key{r.Uint64(), r.Uint64()}
		}
		k := known[r.IntN(len(known))]
		n := r.UintN(129)
		if n < 64 {
			return key{k.hi, k.lo ^ r.Uint64()&(1<<n-1)}
		}
		return key{k.hi ^ r.Uint64()&(1<<(n-64)-1), k.lo ^ r.Uint64()}
	}
	for i := range 30_000 {
		k := randomKey()
		if grow := i%10_000 < 6_000; (r.IntN(4) == 0) != grow {
			require.Equal(t, !in[k], tr.set(k))
			in[k] = true
			known = append(known, k)
		} else if len(known) > 0 {
			j := r.IntN(len(known))
			if r.IntN(4) > 0 {
				k = known[j]
				known[j] = known[len(known)-1]
				known = known[:len(known)-1]
			}
			require.Equal(t, in[k], tr.clear(k))
			delete(in, k)
		}
		require.Equal(t, in[k], tr.has(k))
		if i%1000 == 0 {
			checkNode(t, tr.root)
		}
	}
	var walked int
	for k, ok := tr.firstSet(key{}); ok; k, ok = tr.firstSet(k.next()) {
		require.True(t, in[k])
		walked++
		c := k
		for in[c] {
			c = c.next()
		}
		require.Equal(t, c, tr.firstClear(k))
		if k == (key{allOnes, allOnes}) {
			break
		}
	}
	require.Len(t, in, walked)
	for k := range in {
		require.True(t, tr.clear(k))
	}
	require.Nil(t, tr.root)
	for _, n := range tr.spare {
		require.NotNil(t, n)
		requireNoStrays(t, n)
	}
}

// requireNoStrays checks that a node keeps no memory alive but its own.
func requireNoStrays(tb testing.TB, n *node) {
	tb.Helper()
	require.Empty(tb, strays(n))
}

// strays says what a node has beyond its kids and words.
func strays(n *node) string {
	for _, kid := range n.kids[len(n.kids):cap(n.kids)] {
		if kid != nil {
			return "a kid beyond the last"
		}
	}
	if cap(n.kids) > max(keep, 4*len(n.kids)) || cap(n.words) > max(keep, 4*len(n.words)) {
		return "too much room"
	}
	return ""
}

func TestTreeEnds(t *testing.T) {
	first, last := key{}, key{allOnes, allOnes}
	var tr tree
	require.True(t, tr.set(last))
	require.Equal(t, first, tr.firstClear(last), "nothing is clear after the last")
	require.Equal(t, last.prev(), tr.firstClear(last.prev()))
	require.True(t, tr.set(first))
	require.Equal(t, first.next(), tr.firstClear(first))
	require.Equal(t, first, tr.firstClear(last))
	k, ok := tr.firstSet(first.next())
	require.True(t, ok)
	require.Equal(t, last, k)
	require.True(t, tr.clear(last))
	_, ok = tr.firstSet(first.next())
	require.False(t, ok)
}

// Of 2^30 keys and more, all set but one, that one is found and cleared in one step a
// level.
func TestTreeFullLevels(t *testing.T) {
	for level := uint(2); level <= 20; level++ {
		var tr tree
		base := key{hi: 0x20010db8 << 32}
		tr.root = tr.node(base, level)
		tr.root.full = allOnes
		tr.root.raise()

		hole := base.last(6*(level+1) - 1) // in the middle
		require.True(t, tr.clear(hole))
		checkNode(t, tr.root)
		require.Equal(t, hole, tr.firstClear(base))
		require.EqualValues(t, level, nodes(tr.root), "one node a level")

		require.True(t, tr.set(hole))
		require.Equal(t, 1, nodes(tr.root))
		require.Equal(t, base.last(6*(level+1)).next(), tr.firstClear(base))
	}
}

func nodes(n *node) int {
	if n == nil {
		return 0
	}
	sum := 1
	for _, kid := range n.kids {
		sum += nodes(kid)
	}
	return sum
}

// height returns the longest way down: no search visits more nodes than twice
// that.
func height(n *node) int {
	if n == nil {
		return 0
	}
	most := 0
	for _, kid := range n.kids {
		most = max(most, height(kid))
	}
	return 1 + most
}

func TestSliceShrinks(t *testing.T) {
	var s []int
	for i := range 64 {
		s = insert(s, rand.IntN(len(s)+1), i)
	}
	require.Len(t, s, 64)
	for len(s) > 0 {
		s = remove(s, rand.IntN(len(s)))
		require.LessOrEqual(t, cap(s), max(keep, 4*len(s)))
	}
}

func TestShrinkingMap(t *testing.T) {
	var s shrinkingMap[int, int]
	for i := range 10_000 {
		s.put(i, -i)
	}
	for i := range 9_990 {
		s.drop(i)
		s.drop(i)
		require.LessOrEqual(t, s.most, max(keepMap, 4*len(s.m)))
	}
	for i := 9_990; i < 10_000; i++ {
		v, ok := s.get(i)
		require.True(t, ok)
		require.Equal(t, -i, v)
	}
	_, ok := s.get(0)
	require.False(t, ok)
}
