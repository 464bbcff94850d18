// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import "math/bits"

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

// add adds p and reports whether it was missing.
func (s *portSet) add(p int) bool {
	b := &s[p/blockBits]
	if *b == nil {
		*b = new(block)
	}
	return (*b).set(uint(p) % blockBits)
}

// remove removes p and reports whether it was there. An empty block stays: there
// are 16 at most, and a set of one port often loses and regains it.
func (s *portSet) remove(p int) bool {
	b := s[p/blockBits]
	return b != nil && b.clear(uint(p)%blockBits)
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
}

// slice returns the slice that p is in.
func (u *union) slice(p int) (s slice) {
	for _, set := range u.sets[:u.n] {
		if b := set[p/blockBits]; b != nil {
			s.blocks[s.n] = b
			s.n++
			s.full |= b.full
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
func (s *slice) fullUntil(p int) int {
	start := p / blockBits * blockBits
	open := ^s.full &^ (2<<(uint(p)%blockBits/64) - 1)
	if open == 0 {
		return start + blockBits
	}
	return start + 64*bits.TrailingZeros64(open)
}

// firstTaken returns the first port from first to last that is in the union.
func (u *union) firstTaken(first, last int) (int, bool) {
	s := u.slice(first)
	for p := first; p <= last; p = p/64*64 + 64 {
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
		if free == allOnes {
			run += 64
		} else {
			run = bits.LeadingZeros64(^free)
		}
		p = base + 64
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
