// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// A key is an address as a number: IPv4 addresses are 0 to 2^32-1, IPv6
// addresses 0 to 2^128-1. Ordering and arithmetic are those of unsigned
// integers; none of it can fail.
type key struct{ hi, lo uint64 }

// keyOf returns the number of a valid address without zone. Addresses are
// big-endian whatever the host is (RFC 791 appendix B).
func keyOf(a netip.Addr) key {
	if a.Is4() {
		b := a.As4()
		return key{lo: uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return key{hi: binary.BigEndian.Uint64(b[:8]), lo: binary.BigEndian.Uint64(b[8:])}
}

// addr4 is the reverse of keyOf for IPv4; k is below 2^32.
func (k key) addr4() netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(k.lo))
	return netip.AddrFrom4(b)
}

// addr6 is the reverse of keyOf for IPv6.
func (k key) addr6() netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], k.hi)
	binary.BigEndian.PutUint64(b[8:], k.lo)
	return netip.AddrFrom16(b)
}

func (k key) less(l key) bool {
	return k.hi < l.hi || k.hi == l.hi && k.lo < l.lo
}

// next returns k+1, and 0 after the last.
func (k key) next() key {
	lo, carry := bits.Add64(k.lo, 1, 0)
	return key{k.hi + carry, lo}
}

// prev returns k-1, and the last before 0.
func (k key) prev() key {
	lo, borrow := bits.Sub64(k.lo, 1, 0)
	return key{k.hi - borrow, lo}
}

// last returns k with its n lowest bits set, n from 0 to 128: the last key of
// the prefix that begins with k.
func (k key) last(n uint) key {
	// Shifting by the width of an integer or more gives 0 in Go.
	if n < 64 {
		return key{k.hi, k.lo | (1<<n - 1)}
	}
	return key{k.hi | (1<<(n-64) - 1), ^uint64(0)}
}

// first returns k with its n lowest bits clear, n of any size.
func (k key) first(n uint) key {
	if n < 64 {
		return key{k.hi, k.lo >> n << n}
	}
	return key{k.hi >> (n - 64) << (n - 64), 0}
}

// digit returns the digit of k that counts 2^shift, base 64.
func (k key) digit(shift uint) uint {
	if shift < 64 {
		return uint(k.lo>>shift|k.hi<<(64-shift)) & 63
	}
	return uint(k.hi>>(shift-64)) & 63
}

// plus returns k with the digit d added at 2^shift, where k has 0. What does
// not fit into 128 bits is cut off.
func (k key) plus(d, shift uint) key {
	if shift < 64 {
		return key{k.hi | uint64(d)>>(64-shift), k.lo | uint64(d)<<shift}
	}
	return key{k.hi | uint64(d)<<(shift-64), k.lo}
}

// differ returns the number of low bits in which k and l differ: 0 when they
// are equal, 128 when their first bits are not the same.
func (k key) differ(l key) uint {
	if x := k.hi ^ l.hi; x != 0 {
		return 64 + uint(bits.Len64(x))
	}
	return uint(bits.Len64(k.lo ^ l.lo))
}
