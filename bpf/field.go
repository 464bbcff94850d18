// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
)

// kernelTypes has the kernel's types: a header, types one after the other, and their names (Documentation/bpf/btf.rst).
const kernelTypes = "/sys/kernel/btf/vmlinux"

// Kinds of types that are looked at, and those with something behind them.
const (
	kindInt      = 1
	kindArray    = 3
	kindStruct   = 4
	kindUnion    = 5
	kindEnum     = 6
	kindTypedef  = 8
	kindVolatile = 9
	kindConst    = 10
	kindRestrict = 11
	kindFuncArgs = 13
	kindVar      = 14
	kindSection  = 15
	kindTag      = 17
	kindTypeTag  = 18
	kindEnum64   = 19

	typeLen   = 12
	memberLen = 12
)

var errTypes = errors.New("the kernel's types cannot be read")

// typesHeader is the header of types.
type typesHeader struct {
	Magic                              uint16
	Version, Flags                     uint8
	Length                             uint32
	Types, TypesLen, Names, NamesTotal uint32
}

// typesMagic is also wrong in another byte order.
const typesMagic = 0xeb9f

// findField finds a field by its name, in whichever structure of the kernel has it first. It reads the types as they come: to have them all as values,
// as package btf does, takes tens of milliseconds and some MiB.
func findField(r io.ReaderAt, name string) (uint32, error) {
	var header typesHeader
	const most = 1 << 30 // of the kernel's file: all there is
	if err := binary.Read(io.NewSectionReader(r, 0, most), binary.NativeEndian, &header); err != nil {
		return 0, err
	}
	if header.Magic != typesMagic {
		return 0, errTypes
	}
	section := func(offset, length uint32) *bufio.Reader {
		return bufio.NewReaderSize(io.NewSectionReader(r, int64(header.Length)+int64(offset), int64(length)), 1<<16)
	}
	offset, err := findName(section(header.Names, header.NamesTotal), name)
	if err != nil {
		return 0, err
	}
	types := section(header.Types, header.TypesLen)
	for {
		t, err := types.Peek(typeLen)
		if err != nil {
			return 0, err
		}
		info := binary.NativeEndian.Uint32(t[4:])
		if _, err := types.Discard(typeLen); err != nil {
			return 0, err
		}
		n := int(info & 0xffff)
		kind := info >> 24 & 0x1f
		if kind == kindStruct || kind == kindUnion {
			for range n {
				m, err := types.Peek(memberLen)
				if err != nil {
					return 0, err
				}
				if binary.NativeEndian.Uint32(m) == offset {
					at := binary.NativeEndian.Uint32(m[8:])
					if info>>31 == 1 {
						at &= 1<<24 - 1 // the size of a bit field is before
					}
					return at, nil
				}
				if _, err := types.Discard(memberLen); err != nil {
					return 0, err
				}
			}
			continue
		}
		if _, err := types.Discard(behind(kind, n)); err != nil {
			return 0, err
		}
	}
}

// behind is how many bytes are behind a type.
func behind(kind uint32, n int) int {
	switch kind {
	case kindInt, kindVar, kindTag:
		return 4
	case kindArray:
		return 12
	case kindEnum, kindFuncArgs:
		return 8 * n
	case kindStruct, kindUnion, kindSection, kindEnum64:
		return 12 * n
	}
	return 0
}

// findName is the offset of a name.
func findName(names *bufio.Reader, name string) (uint32, error) {
	offset := 0
	for {
		s, err := names.ReadSlice(0)
		if err != nil {
			return 0, err // EOF: there is none
		}
		if bytes.Equal(s[:len(s)-1], []byte(name)) {
			return uint32(offset), nil
		}
		offset += len(s)
	}
}

// findV6Only finds sk_ipv6only of struct sock.
func findV6Only() bitAt { return findSocketFields().v6only }

// socketFields are fields of struct sock, which begins with struct sock_common. Those that are not found, or further behind than is read, are zero.
type socketFields struct {
	v6only bitAt // whether it is for IPv6 alone
	cookie int16 // its offset
}

func findSocketFields() (fields socketFields) {
	f, err := os.Open(kernelTypes)
	if err != nil {
		return fields
	}
	defer func() { _ = f.Close() }() // nothing was written
	if offset, err := findField(f, "skc_ipv6only"); err == nil && offset/8 < sockRead {
		fields.v6only = bitAt{int16(offset / 8), bitMask(offset)}
	}
	if offset, err := findField(f, "skc_cookie"); err == nil && offset/8+8 <= socketHead && offset%64 == 0 {
		fields.cookie = int16(offset / 8)
	}
	return fields
}
