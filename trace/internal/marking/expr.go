// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package marking

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// expr is an expression of a rule, as an attribute NFTA_LIST_ELEM.
type expr []byte

// register is the field of 4 bytes of that index, as an attribute has it.
func register(word int) uint32 { return unix.NFT_REG32_00 + uint32(word) }

func newExpr(name string, data []byte) expr {
	b, at := nlwire.OpenAttr(nil, unix.NFTA_LIST_ELEM|nlwire.Nested)
	b = nlwire.AppendString(b, unix.NFTA_EXPR_NAME, name)
	b = nlwire.AppendAttr(b, unix.NFTA_EXPR_DATA|nlwire.Nested, data...)
	return nlwire.CloseAttr(b, at)
}

func dataValue(data []byte) []byte { return nlwire.AppendAttr(nil, unix.NFTA_DATA_VALUE, data...) }

func meta(key uint32, word int) expr {
	b := nlwire.AppendBE32(nil, unix.NFTA_META_KEY, key)
	return newExpr("meta", nlwire.AppendBE32(b, unix.NFTA_META_DREG, register(word)))
}

func ct(key uint32, word int) expr {
	b := nlwire.AppendBE32(nil, unix.NFTA_CT_KEY, key)
	return newExpr("ct", nlwire.AppendBE32(b, unix.NFTA_CT_DREG, register(word)))
}

// ctOriginal loads a field of the direction of the first packet.
func ctOriginal(key uint32, word int) expr {
	b := nlwire.AppendBE32(nil, unix.NFTA_CT_KEY, key)
	b = nlwire.AppendBE32(b, unix.NFTA_CT_DREG, register(word))
	return newExpr("ct", nlwire.AppendAttr(b, unix.NFTA_CT_DIRECTION, 0)) // IP_CT_DIR_ORIGINAL
}

func payload(base uint32, offset, size uint32, word int) expr {
	b := nlwire.AppendBE32(nil, unix.NFTA_PAYLOAD_DREG, register(word))
	b = nlwire.AppendBE32(b, unix.NFTA_PAYLOAD_BASE, base)
	b = nlwire.AppendBE32(b, unix.NFTA_PAYLOAD_OFFSET, offset)
	return newExpr("payload", nlwire.AppendBE32(b, unix.NFTA_PAYLOAD_LEN, size))
}

func compare(op uint32, data ...byte) expr {
	b := nlwire.AppendBE32(nil, unix.NFTA_CMP_SREG, register(0))
	b = nlwire.AppendBE32(b, unix.NFTA_CMP_OP, op)
	return newExpr("cmp", nlwire.AppendAttr(b, unix.NFTA_CMP_DATA|nlwire.Nested, dataValue(data)...))
}

func equal(data ...byte) expr    { return compare(unix.NFT_CMP_EQ, data...) }
func notEqual(data ...byte) expr { return compare(unix.NFT_CMP_NEQ, data...) }

// and masks the first bytes of register 0.
func and(mask ...byte) expr {
	b := nlwire.AppendBE32(nil, unix.NFTA_BITWISE_SREG, register(0))
	b = nlwire.AppendBE32(b, unix.NFTA_BITWISE_DREG, register(0))
	b = nlwire.AppendBE32(b, unix.NFTA_BITWISE_LEN, uint32(len(mask)))
	b = nlwire.AppendAttr(b, unix.NFTA_BITWISE_MASK|nlwire.Nested, dataValue(mask)...)
	return newExpr("bitwise", nlwire.AppendAttr(b, unix.NFTA_BITWISE_XOR|nlwire.Nested, dataValue(make([]byte, len(mask)))...))
}

// in looks the key at register 0 up.
func in(set string) expr {
	b := nlwire.AppendString(nil, unix.NFTA_LOOKUP_SET, set)
	return newExpr("lookup", nlwire.AppendBE32(b, unix.NFTA_LOOKUP_SREG, register(0)))
}

// remember adds the key at register 0 to a set, or begins its time-out anew.
func remember(set string) expr {
	const update = 1 // NFT_DYNSET_OP_UPDATE
	b := nlwire.AppendString(nil, unix.NFTA_DYNSET_SET_NAME, set)
	b = nlwire.AppendBE32(b, unix.NFTA_DYNSET_OP, update)
	return newExpr("dynset", nlwire.AppendBE32(b, unix.NFTA_DYNSET_SREG_KEY, register(0)))
}

// above matches packets over so many a second.
func above(rate uint64, burst uint32) expr {
	b := nlwire.AppendBE64(nil, unix.NFTA_LIMIT_RATE, rate)
	b = nlwire.AppendBE64(b, unix.NFTA_LIMIT_UNIT, 1)
	b = nlwire.AppendBE32(b, unix.NFTA_LIMIT_BURST, burst)
	b = nlwire.AppendBE32(b, unix.NFTA_LIMIT_TYPE, 0) // NFT_LIMIT_PKTS
	return newExpr("limit", nlwire.AppendBE32(b, unix.NFTA_LIMIT_FLAGS, unix.NFT_LIMIT_F_INV))
}

// count counts in a counter object.
func count(object string) expr {
	b := nlwire.AppendBE32(nil, unix.NFTA_OBJREF_IMM_TYPE, unix.NFT_OBJECT_COUNTER)
	return newExpr("objref", nlwire.AppendString(b, unix.NFTA_OBJREF_IMM_NAME, object))
}

func verdict(code int32, chain string) expr {
	v := nlwire.AppendBE32(nil, unix.NFTA_VERDICT_CODE, uint32(code))
	if chain != "" {
		v = nlwire.AppendString(v, unix.NFTA_VERDICT_CHAIN, chain)
	}
	b := nlwire.AppendBE32(nil, unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
	data := nlwire.AppendAttr(nil, unix.NFTA_DATA_VERDICT|nlwire.Nested, v...)
	return newExpr("immediate", nlwire.AppendAttr(b, unix.NFTA_IMMEDIATE_DATA|nlwire.Nested, data...))
}

func jump(chain string) expr    { return verdict(unix.NFT_JUMP, chain) }
func goTo(chain string) expr    { return verdict(unix.NFT_GOTO, chain) }
func returnFromChain() expr     { return verdict(unix.NFT_RETURN, "") }
func hostOrder(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// trace marks the packet: "meta nftrace set 1".
func trace() []expr {
	b := nlwire.AppendBE32(nil, unix.NFTA_IMMEDIATE_DREG, register(0))
	b = nlwire.AppendAttr(b, unix.NFTA_IMMEDIATE_DATA|nlwire.Nested, dataValue([]byte{1})...)
	m := nlwire.AppendBE32(nil, unix.NFTA_META_KEY, unix.NFT_META_NFTRACE)
	return []expr{newExpr("immediate", b), newExpr("meta", nlwire.AppendBE32(m, unix.NFTA_META_SREG, register(0)))}
}
