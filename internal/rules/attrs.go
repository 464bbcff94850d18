// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// attrs are the attributes of an expression, by their type.
type attrs struct {
	of  [24][]byte
	bad bool // one has a value that it cannot have
}

func parse(b []byte) (a attrs) {
	list := nlwire.Attrs{Data: b}
	for list.Next() {
		if int(list.Type) < len(a.of) && a.of[list.Type] == nil {
			a.of[list.Type] = list.Payload
		}
	}
	a.bad = list.Err != nil
	return a
}

func (a *attrs) has(typ int) bool { return a.of[typ] != nil }

// uint reads a number of so many bytes; zero if it is absent.
func (a *attrs) uint(typ, size int) (v uint64) {
	b := a.of[typ]
	if b == nil {
		return 0
	}
	if len(b) != size {
		a.bad = true
		return 0
	}
	for _, c := range b {
		v = v<<8 | uint64(c)
	}
	return v
}

func (a *attrs) u8(typ int) uint8   { return uint8(a.uint(typ, 1)) }
func (a *attrs) u16(typ int) uint16 { return uint16(a.uint(typ, 2)) }
func (a *attrs) u32(typ int) uint32 { return uint32(a.uint(typ, 4)) }
func (a *attrs) u64(typ int) uint64 { return a.uint(typ, 8) }

// host32 reads one of the numbers that are in host byte order.
func (a *attrs) host32(typ int) uint32 {
	if a.u32(typ); a.bad || !a.has(typ) {
		return 0
	}
	return binary.NativeEndian.Uint32(a.of[typ])
}

func (a *attrs) string(typ int) string { return unix.ByteSliceToString(a.of[typ]) }

// reg reads a register for data; zero if it is absent.
func (a *attrs) reg(typ int) Register {
	if !a.has(typ) {
		return 0
	}
	r, ok := registerOf(a.u32(typ))
	if !ok || r == Verdict {
		a.bad = true
	}
	return r
}

// needReg reads a register that has to be there.
func (a *attrs) needReg(typ int) Register {
	a.need(typ)
	return a.reg(typ)
}

func (a *attrs) need(types ...int) {
	for _, typ := range types {
		a.bad = a.bad || !a.has(typ)
	}
}

// maxValue is the longest data of a register, NFT_DATA_VALUE_MAXLEN.
const maxValue = 64

// data reads a value; nil if it is absent.
func (a *attrs) data(typ int) []byte {
	if !a.has(typ) {
		return nil
	}
	b := nlwire.Find(a.of[typ], unix.NFTA_DATA_VALUE)
	if len(b) == 0 || len(b) > maxValue {
		a.bad = true
		return nil
	}
	return bytes.Clone(b)
}

// decision reads a verdict.
func (a *attrs) decision(typ int) *Decision {
	b := nlwire.Find(a.of[typ], unix.NFTA_DATA_VERDICT)
	code, ok := nlwire.FindBE32(b, unix.NFTA_VERDICT_CODE)
	if !ok {
		return nil
	}
	d := Decision{Code: int32(code), Chain: nlwire.FindString(b, unix.NFTA_VERDICT_CHAIN)}
	if (d.Code == unix.NFT_JUMP || d.Code == unix.NFT_GOTO) && d.Chain == "" {
		a.bad = true
	}
	return &d
}

// registerOf returns the field of a register of the kernel's numbering (nft_parse_register).
func registerOf(n uint32) (Register, bool) {
	switch {
	case n <= unix.NFT_REG_4:
		return Register(4 * n), true
	case n >= unix.NFT_REG32_00 && n <= unix.NFT_REG32_15:
		return Register(n - unix.NFT_REG32_00 + 4), true
	}
	return 0, false
}

// length reads a length or offset within a packet or a register.
func (a *attrs) length(typ int) int {
	n := a.u32(typ)
	if n > 1<<16 {
		a.bad = true
		return 0
	}
	return int(n)
}

// loadsOrSets wants one of two registers.
func (a *attrs) loadsOrSets(dreg, sreg int) { a.bad = a.bad || a.has(dreg) == a.has(sreg) }
