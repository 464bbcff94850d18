// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
	"iter"
	"os"
)

// types are the types of the kernel.
type types struct {
	names []byte
	// all are the types in the order of their numbers, from 1 on: each begins in what follows.
	all [][]byte
}

// kernelType is a type, and what is behind it.
type kernelType []byte

func (t kernelType) name() uint32 { return binary.NativeEndian.Uint32(t) }
func (t kernelType) kind() uint32 { return binary.NativeEndian.Uint32(t[4:]) >> 24 & 0x1f }
func (t kernelType) count() int   { return int(binary.NativeEndian.Uint32(t[4:]) & 0xffff) }

// to is the number of the type that one refers to, or its size.
func (t kernelType) to() uint32 { return binary.NativeEndian.Uint32(t[8:]) }

func readTypes() (*types, error) {
	b, err := os.ReadFile(kernelTypes)
	if err != nil {
		return nil, err
	}
	return parseTypes(b)
}

func parseTypes(b []byte) (*types, error) {
	var header typesHeader
	if _, err := binary.Decode(b, binary.NativeEndian, &header); err != nil || header.Magic != typesMagic {
		return nil, errTypes
	}
	section := func(offset, length uint32) ([]byte, bool) {
		from := uint64(header.Length) + uint64(offset)
		to := from + uint64(length)
		if to > uint64(len(b)) {
			return nil, false
		}
		return b[from:to], true
	}
	rest, ok := section(header.Types, header.TypesLen)
	names, namesOK := section(header.Names, header.NamesTotal)
	if !ok || !namesOK {
		return nil, errTypes
	}
	t := &types{names: names, all: make([][]byte, 0, len(rest)/20)}
	for len(rest) > 0 {
		if len(rest) < typeLen {
			return nil, errTypes
		}
		one := kernelType(rest)
		n := typeLen + behind(one.kind(), one.count())
		if n > len(rest) {
			return nil, errTypes
		}
		t.all = append(t.all, rest[:n:n])
		rest = rest[n:]
	}
	return t, nil
}

// name is a name by its offset.
func (t *types) name(offset uint32) []byte {
	if uint64(offset) >= uint64(len(t.names)) {
		return nil
	}
	name, _, _ := bytes.Cut(t.names[offset:], []byte{0})
	return name
}

// find finds a type by its kind and name.
func (t *types) find(kind uint32, name string) (kernelType, bool) {
	for _, b := range t.all {
		if one := kernelType(b); one.kind() == kind && string(t.name(one.name())) == name {
			return one, true
		}
	}
	return nil, false
}

// size is the size of a struct.
func (t *types) size(of kernelType) uint32 { return of.to() }

// plain is the type of a number, without names for it and qualifiers; nil: none.
func (t *types) plain(number uint32) kernelType {
	for range 32 { // more than there are around one
		if number == 0 || uint64(number) > uint64(len(t.all)) {
			return nil
		}
		one := kernelType(t.all[number-1])
		switch one.kind() {
		case kindTypedef, kindVolatile, kindConst, kindRestrict, kindTypeTag:
			number = one.to()
		default:
			return one
		}
	}
	return nil
}

// member finds a field of a struct or union, also in those without a name in it: where it begins, in bits, and its
// type.
func (t *types) member(of kernelType, name string) (bits uint32, typ kernelType, ok bool) {
	return t.memberWithin(of, name, 0)
}

func (t *types) memberWithin(of kernelType, name string, depth int) (bits uint32, typ kernelType, ok bool) {
	const most = 16 // which no kernel has
	if of == nil || of.kind() != kindStruct && of.kind() != kindUnion || depth == most {
		return 0, nil, false
	}
	for i := range of.count() {
		m := of[typeLen+memberLen*i:]
		at, typ := binary.NativeEndian.Uint32(m[8:]), t.plain(binary.NativeEndian.Uint32(m[4:]))
		if binary.NativeEndian.Uint32(of[4:])>>31 == 1 {
			at &= 1<<24 - 1 // the size of a bit field is before
		}
		switch its := t.name(binary.NativeEndian.Uint32(m)); {
		case string(its) == name:
			return at, typ, true
		case len(its) == 0:
			if within, typ, ok := t.memberWithin(typ, name, depth+1); ok {
				return at + within, typ, true
			}
		}
	}
	return 0, nil, false
}

// values yields the names and values of an enum.
func (t *types) values(of kernelType) iter.Seq2[string, uint32] {
	return func(yield func(string, uint32) bool) {
		for i := range of.count() {
			v := of[typeLen+8*i:]
			if !yield(string(t.name(binary.NativeEndian.Uint32(v))), binary.NativeEndian.Uint32(v[4:])) {
				return
			}
		}
	}
}
