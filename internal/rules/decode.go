// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Decode returns the expressions of a list, as of NFTA_RULE_EXPRESSIONS. It keeps nothing of the
// argument.
func Decode(list []byte) []Expr { return expressions(nil).decode(list) }

// expressions are some that were decoded, by their attributes. Rules of a chain have many in common,
// which take time and memory once.
type expressions map[string]Expr

// maxExpressions bounds how many are kept. Those that most rules have are among the first.
const maxExpressions = 256

func (k expressions) decode(list []byte) []Expr {
	n := 0
	for walk := (nlwire.Attrs{Data: list}); walk.Next(); {
		n++
	}
	exprs := make([]Expr, 0, n)
	walk := nlwire.Attrs{Data: list}
	for walk.Next() {
		e, known := k[string(walk.Payload)]
		if !known {
			e = decodeExpr(walk.Payload)
			if k != nil && len(k) < maxExpressions {
				k[string(walk.Payload)] = e
			}
		}
		exprs = append(exprs, e)
	}
	if walk.Err != nil {
		exprs = append(exprs, Unknown{Data: bytes.Clone(walk.Data)})
	}
	return exprs
}

// decodeExpr returns one expression, or an Unknown.
func decodeExpr(b []byte) Expr {
	name, data := nlwire.FindString(b, unix.NFTA_EXPR_NAME), nlwire.Find(b, unix.NFTA_EXPR_DATA)
	a := parse(data)
	if e := decodeNamed(name, &a); e != nil && !a.bad {
		return e
	}
	return Unknown{Name: name, Data: bytes.Clone(data)}
}

func decodeNamed(name string, a *attrs) Expr {
	switch name {
	case "immediate":
		return decodeImmediate(a)
	case "cmp":
		a.need(unix.NFTA_CMP_DATA)
		return Cmp{Sreg: a.needReg(unix.NFTA_CMP_SREG), Op: a.u32(unix.NFTA_CMP_OP), Data: a.data(unix.NFTA_CMP_DATA)}
	case "range":
		a.need(unix.NFTA_RANGE_FROM_DATA, unix.NFTA_RANGE_TO_DATA)
		return Range{
			Sreg: a.needReg(unix.NFTA_RANGE_SREG), Not: a.u32(unix.NFTA_RANGE_OP) == unix.NFT_RANGE_NEQ,
			From: a.data(unix.NFTA_RANGE_FROM_DATA), To: a.data(unix.NFTA_RANGE_TO_DATA),
		}
	case "bitwise":
		return decodeBitwise(a)
	case "byteorder":
		return Byteorder{
			Sreg: a.needReg(unix.NFTA_BYTEORDER_SREG), Dreg: a.needReg(unix.NFTA_BYTEORDER_DREG), Op: a.u32(unix.NFTA_BYTEORDER_OP),
			Len: a.length(unix.NFTA_BYTEORDER_LEN), Size: a.length(unix.NFTA_BYTEORDER_SIZE),
		}
	case "meta":
		a.loadsOrSets(unix.NFTA_META_DREG, unix.NFTA_META_SREG)
		return Meta{Key: a.u32(unix.NFTA_META_KEY), Dreg: a.reg(unix.NFTA_META_DREG), Sreg: a.reg(unix.NFTA_META_SREG), Set: a.has(unix.NFTA_META_SREG)}
	case "ct":
		return decodeCT(a)
	case "payload":
		a.loadsOrSets(unix.NFTA_PAYLOAD_DREG, unix.NFTA_PAYLOAD_SREG)
		return Payload{
			Base: a.u32(unix.NFTA_PAYLOAD_BASE), Offset: a.length(unix.NFTA_PAYLOAD_OFFSET), Len: a.length(unix.NFTA_PAYLOAD_LEN),
			Dreg: a.reg(unix.NFTA_PAYLOAD_DREG), Sreg: a.reg(unix.NFTA_PAYLOAD_SREG), Set: a.has(unix.NFTA_PAYLOAD_SREG),
			CsumType: a.u32(unix.NFTA_PAYLOAD_CSUM_TYPE), CsumOffset: a.u32(unix.NFTA_PAYLOAD_CSUM_OFFSET), CsumFlags: a.u32(unix.NFTA_PAYLOAD_CSUM_FLAGS),
		}
	case "exthdr":
		return decodeExthdr(a)
	case "lookup":
		return decodeLookup(a)
	case "dynset":
		return decodeDynset(a)
	case "fib":
		return Fib{Result: a.u32(unix.NFTA_FIB_RESULT), Flags: a.u32(unix.NFTA_FIB_FLAGS), Dreg: a.needReg(unix.NFTA_FIB_DREG)}
	case "rt":
		return Rt{Key: a.u32(unix.NFTA_RT_KEY), Dreg: a.needReg(unix.NFTA_RT_DREG)}
	case "socket":
		return Socket{Key: a.u32(nftaSocketKey), Level: a.u32(nftaSocketLevel), Dreg: a.needReg(nftaSocketDreg)}
	case "numgen":
		return Numgen{
			Modulus: a.u32(unix.NFTA_NG_MODULUS), Type: a.u32(unix.NFTA_NG_TYPE), Offset: a.u32(unix.NFTA_NG_OFFSET), Dreg: a.needReg(unix.NFTA_NG_DREG),
		}
	case "hash":
		return Hash{
			Type: a.u32(unix.NFTA_HASH_TYPE), Seed: a.u32(unix.NFTA_HASH_SEED), Seeded: a.has(unix.NFTA_HASH_SEED), Modulus: a.u32(unix.NFTA_HASH_MODULUS), Offset: a.u32(unix.NFTA_HASH_OFFSET),
			Sreg: a.reg(unix.NFTA_HASH_SREG), Dreg: a.needReg(unix.NFTA_HASH_DREG), Len: a.length(unix.NFTA_HASH_LEN),
		}
	case "osf":
		return OSF{Dreg: a.needReg(nftaOsfDreg), TTL: a.u8(nftaOsfTTL), Flags: a.u32(nftaOsfFlags)}
	case "xfrm":
		return Xfrm{Dreg: a.needReg(nftaXfrmDreg), Key: a.u32(nftaXfrmKey), Dir: a.u8(nftaXfrmDir), Number: a.u32(nftaXfrmSpnum)}
	case "tunnel":
		return Tunnel{Key: a.u32(nftaTunnelKey), Mode: a.u32(nftaTunnelMode), Dreg: a.needReg(nftaTunnelDreg)}
	case "inner":
		a.need(nftaInnerExpr)
		return Inner{
			Num: a.u32(nftaInnerNum), Type: a.u32(nftaInnerType), Flags: a.u32(nftaInnerFlags), HeaderLen: a.u32(nftaInnerHdrSize),
			Expr: decodeExpr(a.of[nftaInnerExpr]),
		}
	case "match":
		a.need(unix.NFTA_MATCH_NAME)
		return Match{Name: a.string(unix.NFTA_MATCH_NAME), Rev: a.u32(unix.NFTA_MATCH_REV), Info: bytes.Clone(a.of[unix.NFTA_MATCH_INFO])}
	}
	return decodeStatement(name, a)
}

// decodeStatement returns an expression that does something, or nil.
func decodeStatement(name string, a *attrs) Expr {
	switch name {
	case "nat":
		return Nat{
			Type: a.u32(unix.NFTA_NAT_TYPE), Family: a.u32(unix.NFTA_NAT_FAMILY), Flags: a.u32(unix.NFTA_NAT_FLAGS),
			AddrMin: a.reg(unix.NFTA_NAT_REG_ADDR_MIN), AddrMax: a.reg(unix.NFTA_NAT_REG_ADDR_MAX),
			PortMin: a.reg(unix.NFTA_NAT_REG_PROTO_MIN), PortMax: a.reg(unix.NFTA_NAT_REG_PROTO_MAX),
		}
	case "redir":
		return Redir{PortMin: a.reg(unix.NFTA_REDIR_REG_PROTO_MIN), PortMax: a.reg(unix.NFTA_REDIR_REG_PROTO_MAX), Flags: a.u32(unix.NFTA_REDIR_FLAGS)}
	case "masq":
		return Masq{PortMin: a.reg(unix.NFTA_MASQ_REG_PROTO_MIN), PortMax: a.reg(unix.NFTA_MASQ_REG_PROTO_MAX), Flags: a.u32(unix.NFTA_MASQ_FLAGS)}
	case "reject":
		return Reject{Type: a.u32(unix.NFTA_REJECT_TYPE), Code: a.u8(unix.NFTA_REJECT_ICMP_CODE)}
	case "limit":
		return decodeLimit(a)
	case "counter":
		return decodeCounter(a)
	case "quota":
		return decodeQuota(a)
	case "connlimit":
		return decodeConnLimit(a)
	case "log":
		l := Log{
			Prefix: a.string(unix.NFTA_LOG_PREFIX), Group: -1, Level: a.u32(unix.NFTA_LOG_LEVEL), Flags: a.u32(unix.NFTA_LOG_FLAGS),
			Snaplen: a.u32(unix.NFTA_LOG_SNAPLEN), QThreshold: uint32(a.u16(unix.NFTA_LOG_QTHRESHOLD)),
		}
		if a.has(unix.NFTA_LOG_GROUP) {
			l.Group = int(a.u16(unix.NFTA_LOG_GROUP))
		}
		return l
	case "notrack":
		return Notrack{}
	case "queue":
		return Queue{
			First: uint32(a.u16(unix.NFTA_QUEUE_NUM)), Total: uint32(a.u16(unix.NFTA_QUEUE_TOTAL)), Flags: uint32(a.u16(unix.NFTA_QUEUE_FLAGS)),
			Sreg: a.reg(unix.NFTA_QUEUE_SREG_QNUM),
		}
	case "dup":
		return Dup{Addr: a.reg(unix.NFTA_DUP_SREG_ADDR), Dev: a.reg(unix.NFTA_DUP_SREG_DEV)}
	case "fwd":
		return Fwd{Dev: a.needReg(unix.NFTA_FWD_SREG_DEV), Addr: a.reg(nftaFwdSregAddr), Family: a.u32(nftaFwdNfproto)}
	case "tproxy":
		return Tproxy{Family: a.u32(nftaTproxyFamily), Addr: a.reg(nftaTproxyAddr), Port: a.reg(nftaTproxyPort)}
	case "synproxy":
		return decodeSynproxy(a)
	case "flow_offload":
		a.need(nftaFlowTableName)
		return Flow{Table: a.string(nftaFlowTableName)}
	case "objref":
		if !a.has(unix.NFTA_OBJREF_IMM_NAME) {
			a.need(unix.NFTA_OBJREF_SET_NAME)
			return Objref{Map: a.string(unix.NFTA_OBJREF_SET_NAME), Sreg: a.needReg(unix.NFTA_OBJREF_SET_SREG)}
		}
		return Objref{Type: a.u32(unix.NFTA_OBJREF_IMM_TYPE), Name: a.string(unix.NFTA_OBJREF_IMM_NAME)}
	case "last":
		return Last{Seen: a.u32(nftaLastSet) != 0, Ago: a.u64(nftaLastMsecs)}
	case "target":
		a.need(unix.NFTA_TARGET_NAME)
		return Target{Name: a.string(unix.NFTA_TARGET_NAME), Rev: a.u32(unix.NFTA_TARGET_REV), Info: bytes.Clone(a.of[unix.NFTA_TARGET_INFO])}
	}
	return nil
}

func decodeImmediate(a *attrs) Expr {
	a.need(unix.NFTA_IMMEDIATE_DREG, unix.NFTA_IMMEDIATE_DATA)
	if a.u32(unix.NFTA_IMMEDIATE_DREG) == unix.NFT_REG_VERDICT {
		d := a.decision(unix.NFTA_IMMEDIATE_DATA)
		a.bad = a.bad || d == nil
		return Immediate{Decision: d}
	}
	return Immediate{Dreg: a.reg(unix.NFTA_IMMEDIATE_DREG), Data: a.data(unix.NFTA_IMMEDIATE_DATA)}
}

func decodeBitwise(a *attrs) Expr {
	e := Bitwise{
		Sreg: a.needReg(unix.NFTA_BITWISE_SREG), Sreg2: a.reg(nftaBitwiseSreg2), Dreg: a.needReg(unix.NFTA_BITWISE_DREG),
		Op: a.u32(nftaBitwiseOp), Len: a.length(unix.NFTA_BITWISE_LEN),
		Mask: a.data(unix.NFTA_BITWISE_MASK), Xor: a.data(unix.NFTA_BITWISE_XOR), Data: a.data(nftaBitwiseData),
	}
	switch e.Op {
	case BitwiseMaskXor:
		a.bad = a.bad || len(e.Mask) != e.Len || len(e.Xor) != e.Len
	case BitwiseLshift, BitwiseRshift:
		if a.bad = a.bad || len(e.Data) != 4; !a.bad {
			e.Shift, e.Data = binary.NativeEndian.Uint32(e.Data), nil
		}
	case BitwiseAnd, BitwiseOr, BitwiseXor:
		a.bad = a.bad || (e.Sreg2 == 0) == (len(e.Data) != e.Len)
	default:
		a.bad = true
	}
	return e
}

// The operations of a Bitwise, enum nft_bitwise_ops.
const (
	BitwiseMaskXor = iota
	BitwiseLshift
	BitwiseRshift
	BitwiseAnd
	BitwiseOr
	BitwiseXor
)

func decodeCT(a *attrs) Expr {
	a.loadsOrSets(unix.NFTA_CT_DREG, unix.NFTA_CT_SREG)
	e := CT{Key: a.u32(unix.NFTA_CT_KEY), Dreg: a.reg(unix.NFTA_CT_DREG), Sreg: a.reg(unix.NFTA_CT_SREG), Set: a.has(unix.NFTA_CT_SREG), Direction: -1}
	if a.has(unix.NFTA_CT_DIRECTION) {
		e.Direction = int(a.u8(unix.NFTA_CT_DIRECTION))
	}
	return e
}

func decodeExthdr(a *attrs) Expr {
	e := Exthdr{
		Op: a.u32(unix.NFTA_EXTHDR_OP), Type: uint32(a.u8(unix.NFTA_EXTHDR_TYPE)), Flags: a.u32(unix.NFTA_EXTHDR_FLAGS),
		Offset: a.length(unix.NFTA_EXTHDR_OFFSET), Len: a.length(unix.NFTA_EXTHDR_LEN),
		Dreg: a.reg(unix.NFTA_EXTHDR_DREG), Sreg: a.reg(unix.NFTA_EXTHDR_SREG), Set: a.has(unix.NFTA_EXTHDR_SREG),
	}
	e.Present = e.Flags&unix.NFT_EXTHDR_F_PRESENT != 0
	return e // with no register at all it removes a TCP option
}

func decodeLookup(a *attrs) Expr {
	a.need(unix.NFTA_LOOKUP_SET)
	e := Lookup{
		Set: a.string(unix.NFTA_LOOKUP_SET), Sreg: a.needReg(unix.NFTA_LOOKUP_SREG), Map: a.has(unix.NFTA_LOOKUP_DREG),
		Not: a.u32(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0,
	}
	if e.Map && a.u32(unix.NFTA_LOOKUP_DREG) != unix.NFT_REG_VERDICT {
		e.Dreg = a.reg(unix.NFTA_LOOKUP_DREG)
	}
	return e
}

func decodeDynset(a *attrs) Expr {
	a.need(unix.NFTA_DYNSET_SET_NAME)
	e := Dynset{
		Set: a.string(unix.NFTA_DYNSET_SET_NAME), Op: a.u32(unix.NFTA_DYNSET_OP),
		KeyReg: a.needReg(unix.NFTA_DYNSET_SREG_KEY), DataReg: a.reg(unix.NFTA_DYNSET_SREG_DATA),
		Not: a.u32(unix.NFTA_DYNSET_FLAGS)&unix.NFT_DYNSET_F_INV != 0, Timeout: a.u64(unix.NFTA_DYNSET_TIMEOUT),
	}
	e.Exprs = a.exprs(unix.NFTA_DYNSET_EXPR, nftaDynsetExpressions)
	return e
}

// exprs reads a list of expressions, or the one that stands alone.
func (a *attrs) exprs(one, list int) []Expr {
	switch {
	case a.has(list):
		return Decode(a.of[list])
	case a.has(one):
		return []Expr{decodeExpr(a.of[one])}
	}
	return nil
}

func decodeLimit(a *attrs) Expr {
	return Limit{
		Rate: a.u64(unix.NFTA_LIMIT_RATE), Unit: a.u64(unix.NFTA_LIMIT_UNIT), Burst: a.u32(unix.NFTA_LIMIT_BURST), Type: a.u32(unix.NFTA_LIMIT_TYPE),
		Over: a.u32(unix.NFTA_LIMIT_FLAGS)&limitInvert != 0,
	}
}

func decodeCounter(a *attrs) Expr {
	return Counter{Packets: a.u64(unix.NFTA_COUNTER_PACKETS), Bytes: a.u64(unix.NFTA_COUNTER_BYTES)}
}

func decodeQuota(a *attrs) Expr {
	return Quota{Bytes: a.u64(unix.NFTA_QUOTA_BYTES), Used: a.u64(unix.NFTA_QUOTA_CONSUMED), Over: a.u32(unix.NFTA_QUOTA_FLAGS)&unix.NFT_QUOTA_F_INV != 0}
}

func decodeConnLimit(a *attrs) Expr {
	return ConnLimit{Count: a.u32(nftaConnlimitCount), Over: a.u32(nftaConnlimitFlags)&connlimitInvert != 0}
}

func decodeSynproxy(a *attrs) Expr {
	return Synproxy{MSS: uint32(a.u16(nftaSynproxyMSS)), Wscale: uint32(a.u8(nftaSynproxyWscale)), Flags: a.u32(nftaSynproxyFlags)}
}
