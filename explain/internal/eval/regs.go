// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// nregs is how many bytes the registers have: NFT_REG32_15 is field 19.
const nregs = 80

// regs are the registers of a rule. Bits that are not in known may have any value; where part is
// set, the byte is one of a number that has a range.
type regs struct {
	val, known [nregs]byte
	part       [nregs]part
}

// span returns where n bytes of a register are. It is false if there are not so many.
func span(r rules.Register, n int) (at int, ok bool) {
	at = int(r) * 4
	return at, r > rules.Verdict && n >= 0 && n <= nregs && at <= nregs-n
}

// store loads known bytes, and pads the last field with zeros, as the kernel does.
func (r *regs) store(dreg rules.Register, b ...byte) {
	at, ok := span(dreg, len(b))
	if !ok {
		return
	}
	for i := range (len(b) + 3) &^ 3 {
		r.val[at+i], r.known[at+i], r.part[at+i] = 0, 0xff, 0
		if i < len(b) {
			r.val[at+i] = b[i]
		}
	}
}

// forget makes n bytes unknown, and pads as store does.
func (r *regs) forget(dreg rules.Register, n int) {
	at, ok := span(dreg, n)
	if !ok {
		return
	}
	for i := range (n + 3) &^ 3 {
		r.val[at+i], r.known[at+i], r.part[at+i] = 0, 0, 0
		if i >= n {
			r.known[at+i] = 0xff
		}
	}
}

func (r *regs) store32(dreg rules.Register, v uint32) {
	r.store(dreg, binary.NativeEndian.AppendUint32(nil, v)...)
}

// store32below loads a number of the host's byte order that is not known, and below a limit.
func (r *regs) store32below(dreg rules.Register, limit uint32) {
	at, ok := span(dreg, 4)
	if !ok {
		return
	}
	r.forget(dreg, 4)
	mask := uint32(1)
	for mask < limit && mask != 1<<31 {
		mask <<= 1
	}
	if mask >= limit {
		binary.NativeEndian.PutUint32(r.known[at:], ^(mask - 1))
	}
}

// storeNumber loads a number of two bytes.
func (r *regs) storeNumber(dreg rules.Register, n number) {
	r.forget(dreg, 2)
	if at, ok := span(dreg, 2); ok {
		r.part[at], r.part[at+1] = n.high(), n.low()
	}
}

// all reports whether all bits of some bytes are known.
func (r *regs) all(at, n int) bool {
	for _, k := range r.known[at : at+n] {
		if k != 0xff {
			return false
		}
	}
	return true
}

// get returns the bytes of a register if all are known.
func (r *regs) get(sreg rules.Register, n int) ([]byte, bool) {
	at, ok := span(sreg, n)
	if !ok || !r.all(at, n) {
		return nil, false
	}
	return r.val[at : at+n], true
}

// number says which number the bytes begin with, of which there are n, and how long it is. Zero: none.
func (r *regs) number(at, n int) (number, int) {
	p := r.part[at]
	switch {
	case p == 0:
	case n > 1 && p == p.number().high() && r.part[at+1] == p.number().low():
		return p.number(), 2
	case p == hops.low():
		return hops, 1
	}
	return noNumber, 0
}

// bounds returns the lowest and the highest value that some bytes may have.
func (r *regs) bounds(at, n int, s *state, low, high []byte) {
	for i := 0; i < n; i++ {
		if which, size := r.number(at+i, n-i); size > 0 {
			s.rangeOf(which).put(low[i:i+size], high[i:i+size])
			i += size - 1
			continue
		}
		low[i] = r.val[at+i] & r.known[at+i]
		high[i] = low[i] | ^r.known[at+i]
	}
}

// equal says whether some bytes are those of data.
func (r *regs) equal(at int, data []byte, s *state) Answer {
	answer := Yes
	for i := 0; i < len(data); i++ {
		if which, size := r.number(at+i, len(data)-i); size > 0 {
			in, v := s.rangeOf(which), uint16(0)
			for _, b := range data[i : i+size] {
				v = v<<8 | uint16(b)
			}
			switch {
			case v < in.First || v > in.Last:
				return No
			case in.First != in.Last:
				answer = Maybe
			}
			i += size - 1
			continue
		}
		if (r.val[at+i]^data[i])&r.known[at+i] != 0 {
			return No
		}
		if r.known[at+i] != 0xff {
			answer = Maybe
		}
	}
	return answer
}

// compare says whether a register compares so with data (NFT_CMP_*), as memcmp does.
func (r *regs) compare(at int, op uint32, data []byte, s *state) Answer {
	switch op {
	case unix.NFT_CMP_EQ:
		return r.equal(at, data, s)
	case unix.NFT_CMP_NEQ:
		return not(r.equal(at, data, s))
	}
	var low, high [nregs]byte
	n := len(data)
	r.bounds(at, n, s, low[:], high[:])
	l, h := bytes.Compare(low[:n], data), bytes.Compare(high[:n], data)
	switch op {
	case unix.NFT_CMP_LT:
		return sure(h < 0, l >= 0)
	case unix.NFT_CMP_LTE:
		return sure(h <= 0, l > 0)
	case unix.NFT_CMP_GT:
		return sure(l > 0, h <= 0)
	case unix.NFT_CMP_GTE:
		return sure(l >= 0, h < 0)
	}
	return Maybe
}

// between says whether a register is between two values.
func (r *regs) between(at int, from, to []byte, s *state) Answer {
	var low, high [nregs]byte
	n := len(from)
	r.bounds(at, n, s, low[:], high[:])
	return sure(bytes.Compare(low[:n], from) >= 0 && bytes.Compare(high[:n], to) <= 0,
		bytes.Compare(high[:n], from) < 0 || bytes.Compare(low[:n], to) > 0)
}

func sure(yes, no bool) Answer {
	switch {
	case yes:
		return Yes
	case no:
		return No
	}
	return Maybe
}

func not(a Answer) Answer {
	switch a {
	case Yes:
		return No
	case No:
		return Yes
	case Maybe:
	}
	return Maybe
}
