// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// The encoding of expressions that expr.Marshal does, for those that rules here are made of:
// without an allocation for each attribute, and with the flags of a masquerade to ports.

// appendRule appends the list of a rule's expressions as the kernel takes them.
func appendRule(b []byte, r Rule) ([]byte, error) {
	for _, e := range assemble(r) {
		var at int
		b, at = nlwire.OpenAttr(b, nlwire.Nested|unix.NFTA_LIST_ELEM)
		var ok bool
		if b, ok = appendExpression(b, e); !ok {
			return nil, fmt.Errorf("encode rule %s: no encoding of %T", r, e)
		}
		b = nlwire.CloseAttr(b, at)
	}
	return b, nil
}

// appendExpression appends the name and the data of an expression; ok is false if it is of
// another kind than those that rules have.
func appendExpression(b []byte, e expr.Any) (_ []byte, ok bool) {
	name := expressionName(e)
	b = nlwire.AppendString(b, unix.NFTA_EXPR_NAME, name)
	b, at := nlwire.OpenAttr(b, nlwire.Nested|unix.NFTA_EXPR_DATA)
	switch e := e.(type) {
	case *expr.Meta:
		b = appendNumbers(b, unix.NFTA_META_KEY, uint32(e.Key), registerOf(e.SourceRegister, unix.NFTA_META_SREG, unix.NFTA_META_DREG), e.Register)
	case *expr.Ct:
		b = appendNumbers(b, unix.NFTA_CT_KEY, uint32(e.Key), registerOf(e.SourceRegister, unix.NFTA_CT_SREG, unix.NFTA_CT_DREG), e.Register)
		if e.Key == expr.CtKeyDSTIP || e.Key == expr.CtKeyDSTIP6 {
			b = nlwire.AppendAttr(b, unix.NFTA_CT_DIRECTION, byte(e.Direction))
		}
	case *expr.Payload:
		b = appendNumbers(b, unix.NFTA_PAYLOAD_DREG, e.DestRegister, unix.NFTA_PAYLOAD_BASE, uint32(e.Base),
			unix.NFTA_PAYLOAD_OFFSET, e.Offset, unix.NFTA_PAYLOAD_LEN, e.Len)
	case *expr.Fib:
		b = appendNumbers(b, unix.NFTA_FIB_DREG, e.Register, unix.NFTA_FIB_FLAGS, fibFlags(e), unix.NFTA_FIB_RESULT, fibResult(e))
	case *expr.Cmp:
		b = appendNumbers(b, unix.NFTA_CMP_SREG, e.Register, unix.NFTA_CMP_OP, uint32(e.Op))
		b = appendData(b, unix.NFTA_CMP_DATA, e.Data)
	case *expr.Bitwise:
		b = appendNumbers(b, unix.NFTA_BITWISE_SREG, e.SourceRegister, unix.NFTA_BITWISE_DREG, e.DestRegister, unix.NFTA_BITWISE_LEN, e.Len)
		b = appendData(appendData(b, unix.NFTA_BITWISE_MASK, e.Mask), unix.NFTA_BITWISE_XOR, e.Xor)
	case *expr.Lookup:
		b = appendLookup(b, e)
	case *expr.Immediate:
		b = appendData(nlwire.AppendBE32(b, unix.NFTA_IMMEDIATE_DREG, e.Register), unix.NFTA_IMMEDIATE_DATA, e.Data)
	case *expr.Verdict:
		b = appendVerdict(b, e)
	case *expr.NAT:
		b = appendNumbers(b, unix.NFTA_NAT_TYPE, uint32(e.Type), unix.NFTA_NAT_FAMILY, e.Family, unix.NFTA_NAT_REG_ADDR_MIN, e.RegAddrMin)
		if e.RegProtoMin != 0 {
			b = nlwire.AppendBE32(b, unix.NFTA_NAT_REG_PROTO_MIN, e.RegProtoMin)
		}
	case *expr.Masq:
		b = appendMasquerade(b, e)
	case *expr.Redir:
		b = appendNumbers(b, unix.NFTA_REDIR_REG_PROTO_MIN, e.RegisterProtoMin, unix.NFTA_REDIR_FLAGS, e.Flags)
	}
	return nlwire.CloseAttr(b, at), name != ""
}

// expressionName is the kernel's name of a kind of expressions; empty: rules here have none such.
func expressionName(e expr.Any) string {
	switch e.(type) {
	case *expr.Meta:
		return "meta"
	case *expr.Ct:
		return "ct"
	case *expr.Payload:
		return "payload"
	case *expr.Fib:
		return "fib"
	case *expr.Cmp:
		return "cmp"
	case *expr.Bitwise:
		return "bitwise"
	case *expr.Lookup:
		return "lookup"
	case *expr.Immediate, *expr.Verdict:
		return "immediate"
	case *expr.NAT:
		return "nat"
	case *expr.Masq:
		return "masq"
	case *expr.Redir:
		return "redir"
	}
	return ""
}

// appendNumbers appends attributes: types, each followed by its number.
func appendNumbers(b []byte, attrs ...uint32) []byte {
	for i := 0; i < len(attrs); i += 2 {
		b = nlwire.AppendBE32(b, uint16(attrs[i]), attrs[i+1])
	}
	return b
}

// registerOf is the attribute of the register that is read, or of the one that is written.
func registerOf(isSource bool, source, destination uint32) uint32 {
	if isSource {
		return source
	}
	return destination
}

// appendData appends an attribute with a value (enum nft_data_attributes).
func appendData(b []byte, typ uint16, value []byte) []byte {
	b, at := nlwire.OpenAttr(b, nlwire.Nested|typ)
	return nlwire.CloseAttr(nlwire.AppendAttr(b, unix.NFTA_DATA_VALUE, value...), at)
}

func fibFlags(e *expr.Fib) (flags uint32) {
	for _, f := range [...]struct {
		is  bool
		bit uint32
	}{
		{e.FlagSADDR, unix.NFTA_FIB_F_SADDR}, {e.FlagDADDR, unix.NFTA_FIB_F_DADDR}, {e.FlagIIF, unix.NFTA_FIB_F_IIF},
		{e.FlagPRESENT, unix.NFTA_FIB_F_PRESENT},
	} {
		if f.is {
			flags |= f.bit
		}
	}
	return flags
}

func fibResult(e *expr.Fib) uint32 {
	if e.ResultOIF {
		return unix.NFT_FIB_RESULT_OIF
	}
	return unix.NFT_FIB_RESULT_ADDRTYPE
}

func appendLookup(b []byte, e *expr.Lookup) []byte {
	b = nlwire.AppendString(b, unix.NFTA_LOOKUP_SET, e.SetName)
	b = nlwire.AppendBE32(b, unix.NFTA_LOOKUP_SREG, e.SourceRegister)
	if e.IsDestRegSet {
		b = nlwire.AppendBE32(b, unix.NFTA_LOOKUP_DREG, e.DestRegister)
	}
	if e.Invert {
		b = nlwire.AppendBE32(b, unix.NFTA_LOOKUP_FLAGS, unix.NFT_LOOKUP_F_INV)
	}
	return b
}

// appendVerdict appends the data of a verdict, which is written into a register of its own.
func appendVerdict(b []byte, e *expr.Verdict) []byte {
	b = nlwire.AppendBE32(b, unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
	b, data := nlwire.OpenAttr(b, nlwire.Nested|unix.NFTA_IMMEDIATE_DATA)
	b, verdict := nlwire.OpenAttr(b, nlwire.Nested|unix.NFTA_DATA_VERDICT)
	b = nlwire.AppendBE32(b, unix.NFTA_VERDICT_CODE, uint32(e.Kind))
	if e.Chain != "" {
		b = nlwire.AppendString(b, unix.NFTA_VERDICT_CHAIN, e.Chain)
	}
	return nlwire.CloseAttr(nlwire.CloseAttr(b, verdict), data)
}

func appendMasquerade(b []byte, e *expr.Masq) []byte {
	flags := uint32(0)
	if e.FullyRandom {
		flags |= natProtoRandomFully
	}
	if e.ToPorts {
		flags |= natProtoSpecified
	}
	b = nlwire.AppendBE32(b, unix.NFTA_MASQ_FLAGS, flags)
	if e.ToPorts {
		b = nlwire.AppendBE32(b, unix.NFTA_MASQ_REG_PROTO_MIN, e.RegProtoMin)
		if e.RegProtoMax != 0 {
			b = nlwire.AppendBE32(b, unix.NFTA_MASQ_REG_PROTO_MAX, e.RegProtoMax)
		}
	}
	return b
}
