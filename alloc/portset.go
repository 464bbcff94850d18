// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"iter"
	"math/bits"
)

// maxPort is the highest port: the field has 16 bits (RFC 768, RFC 9293
// section 3.1).
const maxPort = 1<<16 - 1

// A portSet is a set of ports. The zero set is empty and ready to use; a full
// one takes little more than an empty one.
type portSet [(maxPort + 1) / blockBits]*block

func (s *portSet) has(p int) bool {
	b := s[p/blockBits]
	return b != nil && b.has(uint(p)%blockBits)
}

// block returns the i'th block, and makes it if it is missing. An empty block stays: there
// are 16 at most, and a set of one port often loses and regains it.
func (s *portSet) block(i int) *block {
	if s[i] == nil {
		s[i] = new(block)
	}
	return s[i]
}

// A piece is a part of a run of ports: some bits of a word of a block, or, if bits is zero,
// all bits of some words.
type piece struct {
	block int
	word  uint
	bits  uint64
	words uint64
}

// pieces yields those of n ports, at most three a block.
func pieces(first, n int) iter.Seq[piece] {
	return func(yield func(piece) bool) {
		for p, end := first, first+n; p < end; {
			at := piece{block: p / blockBits, word: uint(p) % blockBits / 64}
			next := min(p/64*64+64, end)
			if p%64 == 0 && next-p == 64 {
				next = min(p/blockBits*blockBits+blockBits, end/64*64)
				at.words = allOnes >> (64 - (next-p)/64) << at.word
			} else {
				at.bits = allOnes >> (64 - (next - p)) << (p % 64)
			}
			if !yield(at) {
				return
			}
			p = next
		}
	}
}

// each calls f with the piece, or if it has words with each of those of them that are in
// apart. It returns the others.
func (at piece) each(apart uint64, f func(word uint, bits uint64)) (others uint64) {
	if at.bits != 0 {
		f(at.word, at.bits)
		return 0
	}
	for w := at.words & apart; w != 0; w &= w - 1 {
		f(uint(bits.TrailingZeros64(w)), allOnes)
	}
	return at.words &^ apart
}

// add adds a piece. It calls again for the ports that were there.
func (s *portSet) add(at piece, again func(piece)) {
	b := s.block(at.block)
	b.full |= at.each(b.full|b.part, func(word uint, bits uint64) {
		if had := b.setIn(word, bits); had != 0 {
			again(piece{block: at.block, word: word, bits: had})
		}
	})
}

// remove removes a piece. It calls removed for the ports that were there.
func (s *portSet) remove(at piece, removed func(piece)) {
	b := s[at.block]
	if b == nil {
		return
	}
	at.each(b.part, func(word uint, bits uint64) {
		if had := b.clearIn(word, bits); had != 0 {
			removed(piece{block: at.block, word: word, bits: had})
		}
	})
	if full := at.words & b.full; full != 0 {
		b.full &^= full
		removed(piece{block: at.block, words: full})
	}
}

// len returns how many ports a piece has.
func (at piece) len() int { return bits.OnesCount64(at.bits) + 64*bits.OnesCount64(at.words) }

// A portCounts counts how often it has each port. The i'th set has the ports whose count has
// the i'th bit, so that runs cost no more than in one set.
type portCounts []portSet

// add adds 1 to the counts of ports of a word.
func (c *portCounts) add(at piece) {
	carry := at.bits
	for i := 0; carry != 0; i++ {
		if i == len(*c) {
			*c = append(*c, portSet{})
		}
		b := (*c)[i].block(at.block)
		both := b.word(at.word) & carry
		if sum := carry &^ both; sum != 0 {
			b.setIn(at.word, sum)
		}
		if both != 0 {
			b.clearIn(at.word, both)
		}
		carry = both
	}
}

// remove subtracts 1 from the counts of those ports of a piece that have one, and calls none
// for the others.
func (c portCounts) remove(at piece, none func(piece)) {
	var some uint64 // words with counts
	for i := range c {
		if b := c[i][at.block]; b != nil {
			some |= b.full | b.part
		}
	}
	others := at.each(some, func(word uint, bits uint64) {
		if rest := bits &^ c.subtract(at.block, word, bits); rest != 0 {
			none(piece{block: at.block, word: word, bits: rest})
		}
	})
	if others != 0 {
		none(piece{block: at.block, words: others})
	}
}

// subtract subtracts 1 from the counts of those ports of a word that have one, and returns
// them.
func (c portCounts) subtract(block int, word uint, of uint64) (had uint64) {
	for i := range c {
		if b := c[i][block]; b != nil {
			had |= b.word(word) & of
		}
	}
	borrow := had
	for i := 0; borrow != 0; i++ {
		b := c[i].block(block)
		is := b.word(word) & borrow
		if is != 0 {
			b.clearIn(word, is)
		}
		if borrow &^= is; borrow != 0 {
			b.setIn(word, borrow)
		}
	}
	return had
}

// A union is the ports of any of some sets: those that conflict with one host.
// Its searches look at 64 ports a step.
type union struct {
	sets [maxUnion]*portSet
	n    int
}

// maxUnion is the most sets of a union: one of each class for "::", and the
// ports to avoid.
const maxUnion = int(classes) + 1

func (u *union) add(s *portSet) {
	u.sets[u.n] = s
	u.n++
}

// A slice of a union is one block of each of its sets.
type slice struct {
	blocks [maxUnion]*block // without those that are missing
	n      int
	full   uint64 // words that are full in one of the blocks
	some   uint64 // words of which one of the blocks has ports
}

// slice returns the slice that p is in.
func (u *union) slice(p int) (s slice) {
	for _, set := range u.sets[:u.n] {
		if b := set[p/blockBits]; b != nil {
			s.blocks[s.n] = b
			s.n++
			s.full |= b.full
			s.some |= b.full | b.part
		}
	}
	return s
}

// word returns the 64 ports that p is one of, p's bit being p%64.
func (s *slice) word(p int) (w uint64) {
	for _, b := range s.blocks[:s.n] {
		w |= b.word(uint(p) % blockBits / 64)
	}
	return w
}

// fullUntil returns the first port of the first word after p's that no set has
// filled, or of the next slice: no port before it is free.
func (s *slice) fullUntil(p int) int { return after(^s.full, p) }

// emptyUntil returns the first port of the first word after p's of which a set has ports, or
// of the next slice: no port between is taken.
func (s *slice) emptyUntil(p int) int { return after(s.some, p) }

// after returns the first port of the first of the words after p's, or of the next slice.
func after(words uint64, p int) int {
	words &^= 2<<(uint(p)%blockBits/64) - 1
	if words == 0 {
		return p/blockBits*blockBits + blockBits
	}
	return p/blockBits*blockBits + 64*bits.TrailingZeros64(words)
}

// firstTaken returns the first port from first to last that is in the union.
func (u *union) firstTaken(first, last int) (int, bool) {
	s := u.slice(first)
	for p := first; p <= last; p = s.emptyUntil(p) {
		if p%blockBits == 0 {
			s = u.slice(p)
		}
		if w := s.word(p) >> (p % 64); w != 0 {
			p += bits.TrailingZeros64(w)
			return p, p <= last
		}
	}
	return 0, false
}

// firstFree returns the first of n ports in a row from first to last none of
// which is in the union.
func (u *union) firstFree(first, last, n int) (int, bool) {
	run := 0 // how many ports just before p are free
	s := u.slice(first)
	for p := first; p <= last; {
		if p%blockBits == 0 {
			s = u.slice(p)
		}
		base := p / 64 * 64
		free := ^s.word(p) >> (p % 64) << (p % 64)
		if last < base+63 {
			free &= 2<<(last-base) - 1
		}
		if free == 0 {
			run = 0
			p = s.fullUntil(p)
			continue
		}
		// The run that began earlier, then those within the word, then one that
		// begins in the word and may go on in the next.
		if head := bits.TrailingZeros64(^free >> (p % 64)); run+min(head, base+64-p) >= n {
			return p - run, true
		} else if r := runs(free, n); r != 0 {
			return base + bits.TrailingZeros64(r), true
		}
		if free != allOnes {
			run = bits.LeadingZeros64(^free)
			p = base + 64
			continue
		}
		p = min(s.emptyUntil(base), (last+1)/64*64) // the words between are free as well
		run += p - base
		if run >= n {
			return p - run, true
		}
	}
	return 0, false
}

// runs returns the bits at which n set bits in a row begin in w. It takes
// log2(n) steps: each doubles the length that is known.
func runs(w uint64, n int) uint64 {
	for have := 1; have < n && w != 0; {
		step := min(have, n-have)
		w &= w >> step
		have += step
	}
	return w
}
