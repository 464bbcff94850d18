// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"golang.org/x/sys/unix"
)

// blob is a struct of the kernel. Reading beyond its end returns zero and sets short.
type blob struct {
	data  []byte
	short bool
}

// at returns n bytes at an offset, or nil.
func (b *blob) at(offset, n int) []byte {
	if offset < 0 || n < 0 || offset > len(b.data)-n {
		b.short = true
		return nil
	}
	return b.data[offset : offset+n]
}

func (b *blob) u8(offset int) uint8 {
	if d := b.at(offset, 1); d != nil {
		return d[0]
	}
	return 0
}

// bitfield is a byte of bit fields, of which the first one is the lowest bit, or the highest one on machines
// that begin with the highest byte.
func (b *blob) bitfield(offset int) uint8 {
	v := b.u8(offset)
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		return bits.Reverse8(v)
	}
	return v
}

func (b *blob) u16(offset int) uint16 {
	if d := b.at(offset, 2); d != nil {
		return binary.NativeEndian.Uint16(d)
	}
	return 0
}

func (b *blob) be16(offset int) uint16 {
	if d := b.at(offset, 2); d != nil {
		return binary.BigEndian.Uint16(d)
	}
	return 0
}

func (b *blob) u32(offset int) uint32 {
	if d := b.at(offset, 4); d != nil {
		return binary.NativeEndian.Uint32(d)
	}
	return 0
}

func (b *blob) u64(offset int) uint64 {
	if d := b.at(offset, 8); d != nil {
		return binary.NativeEndian.Uint64(d)
	}
	return 0
}

// flag is a bool of one byte.
func (b *blob) flag(offset int) bool { return b.u8(offset) != 0 }

// text is a string in n bytes, up to its NUL.
func (b *blob) text(offset, n int) string { return unix.ByteSliceToString(b.at(offset, n)) }

// addr is a union nf_inet_addr: 16 bytes, of which IPv4 uses 4.
func (b *blob) addr(offset int, ip6 bool) netip.Addr {
	if ip6 {
		return b.addr6(offset)
	}
	return b.addr4(offset)
}

func (b *blob) addr4(offset int) netip.Addr {
	a, _ := netip.AddrFromSlice(b.at(offset, 4))
	return a
}

func (b *blob) addr6(offset int) netip.Addr {
	a, _ := netip.AddrFromSlice(b.at(offset, 16))
	return a
}
