// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import "math/bits"

// blockBits is how many bits a block has: 64 words of 64.
const blockBits = 64 * 64

// allOnes is a word without a clear bit.
const allOnes = ^uint64(0)

// A block is a bitmap of blockBits bits that stores only those of its words
// that are neither all zeroes nor all ones. The zero block is empty and ready
// to use, and a full one is as small. It must not be copied: it points to itself.
type block struct {
	full  uint64    // which words have no clear bit
	part  uint64    // which words have both
	words []uint64  // those of part, in order
	one   [1]uint64 // where words begins: most scattered blocks have one
}

// insertWord stores w as the r'th word.
func (b *block) insertWord(r int, w uint64) {
	if b.words == nil {
		b.words = b.one[:0]
	}
	b.words = insert(b.words, r, w)
}

// rank returns how many of the words (or kids) before the i'th are stored.
func (b *block) rank(i uint) int {
	return bits.OnesCount64(b.part & (1<<i - 1))
}

// word returns the i'th word.
func (b *block) word(i uint) uint64 {
	switch {
	case b.full>>i&1 != 0:
		return allOnes
	case b.part>>i&1 != 0:
		return b.words[b.rank(i)]
	}
	return 0
}

func (b *block) has(i uint) bool { return b.word(i>>6)>>(i&63)&1 != 0 }

// set sets the i'th bit and reports whether it was clear.
func (b *block) set(i uint) bool { return b.setIn(i>>6, 1<<(i&63)) == 0 }

// clear clears the i'th bit and reports whether it was set.
func (b *block) clear(i uint) bool { return b.clearIn(i>>6, 1<<(i&63)) != 0 }

// setIn sets bits, at least one, of the i'th word, and returns those of them that were set.
func (b *block) setIn(i uint, mask uint64) (had uint64) {
	in, r := uint64(1)<<i, b.rank(i)
	switch {
	case b.full&in != 0:
		return mask
	case b.part&in == 0 && mask == allOnes:
		b.full |= in
		return 0
	case b.part&in == 0:
		b.part |= in
		b.insertWord(r, mask)
		return 0
	}
	had = b.words[r] & mask
	b.words[r] |= mask
	if b.words[r] == allOnes {
		b.words = remove(b.words, r)
		b.part &^= in
		b.full |= in
	}
	return had
}

// clearIn clears bits, at least one, of the i'th word, and returns those of them that were set.
func (b *block) clearIn(i uint, mask uint64) (had uint64) {
	in, r := uint64(1)<<i, b.rank(i)
	switch {
	case b.full&in != 0 && mask == allOnes:
		b.full &^= in
		return mask
	case b.full&in != 0:
		b.full &^= in
		b.part |= in
		b.insertWord(r, ^mask)
		return mask
	case b.part&in == 0:
		return 0
	}
	had = b.words[r] & mask
	b.words[r] &^= mask
	if b.words[r] == 0 {
		b.words = remove(b.words, r)
		b.part &^= in
	}
	return had
}

// firstClear returns the first clear bit from i on.
func (b *block) firstClear(i uint) (uint, bool) { return b.first(i, allOnes) }

// firstSet returns the first set bit from i on.
func (b *block) firstSet(i uint) (uint, bool) { return b.first(i, 0) }

// first returns the first bit from i on that is set once each word is xored
// with flip, which is 0 or allOnes.
func (b *block) first(i uint, flip uint64) (uint, bool) {
	// The word of i may have such bits below i alone: it is searched apart.
	if w := (b.word(i>>6) ^ flip) >> (i & 63); w != 0 {
		return i + uint(bits.TrailingZeros64(w)), true
	}
	some := (b.full ^ flip | b.part) &^ (2<<(i>>6) - 1)
	if some == 0 {
		return 0, false
	}
	j := uint(bits.TrailingZeros64(some))
	return j<<6 + uint(bits.TrailingZeros64(b.word(j)^flip)), true
}

// insert puts v at s[i]. It is faster than slices.Insert, which takes many.
func insert[T any](s []T, i int, v T) []T {
	s = append(s, v)
	copy(s[i+1:], s[i:])
	s[i] = v
	return s
}

// keep is the capacity up to which remove does not make a slice smaller.
const keep = 8

// remove takes s[i] out. A slice that is three quarters empty is replaced by one
// of half the size, which is half empty: before the next copy there are at least
// as many operations as it has elements.
func remove[T any](s []T, i int) []T {
	copy(s[i:], s[i+1:])
	clear(s[len(s)-1:]) // no pointer left behind
	s = s[:len(s)-1]
	if cap(s) > keep && len(s) <= cap(s)/4 {
		return append(make([]T, 0, cap(s)/2), s...)
	}
	return s
}
