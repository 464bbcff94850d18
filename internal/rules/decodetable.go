// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"bytes"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// decodeObject returns what a named object is.
func decodeObject(b []byte) Object {
	o := parse(b)
	object := Object{Name: o.string(unix.NFTA_OBJ_NAME), Type: o.u32(unix.NFTA_OBJ_TYPE), Handle: o.u64(nftaObjHandle)}
	a := parse(o.of[unix.NFTA_OBJ_DATA])
	switch object.Type {
	case objCounter:
		object.Value = decodeCounter(&a)
	case objQuota:
		object.Value = decodeQuota(&a)
	case objLimit:
		object.Value = decodeLimit(&a)
	case objConnLimit:
		object.Value = decodeConnLimit(&a)
	case objSynproxy:
		object.Value = decodeSynproxy(&a)
	case objCTHelper:
		object.Value = CTHelper{
			Name: a.string(unix.NFTA_CT_HELPER_NAME), L3Proto: a.u16(unix.NFTA_CT_HELPER_L3PROTO), L4Proto: a.u8(unix.NFTA_CT_HELPER_L4PROTO),
		}
	case objCTTimeout:
		e := CTTimeout{L3Proto: a.u16(nftaCTTimeoutL3Proto), L4Proto: a.u8(nftaCTTimeoutL4Proto), Timeouts: map[uint16]uint32{}}
		for list := (nlwire.Attrs{Data: a.of[nftaCTTimeoutData]}); list.Next(); {
			e.Timeouts[list.Type] = list.BE32()
		}
		object.Value = e
	case objCTExpect:
		object.Value = CTExpectation{
			L3Proto: a.u16(nftaCTExpectL3Proto), L4Proto: a.u8(nftaCTExpectL4Proto), Port: a.u16(nftaCTExpectDport),
			Timeout: a.host32(nftaCTExpectTimeout), Size: a.u8(nftaCTExpectSize),
		}
	case objSecmark:
		object.Value = Secmark{Context: a.string(nftaSecmarkCtx)}
	}
	if object.Value == nil || o.bad || a.bad {
		object.Value = Unknown{Name: "object", Data: bytes.Clone(o.of[unix.NFTA_OBJ_DATA])}
	}
	return object
}

// decodeTable returns a table without what is in it.
func decodeTable(family uint8, b []byte) *Table {
	a := parse(b)
	return &Table{
		Family: Family(family), Name: a.string(unix.NFTA_TABLE_NAME), Handle: a.u64(nftaTableHandle), Flags: a.u32(unix.NFTA_TABLE_FLAGS),
		Owner: a.u32(nftaTableOwner), Comment: comment(a.of[nftaTableUserData]),
	}
}

func decodeChain(b []byte) *Chain {
	a := parse(b)
	c := &Chain{
		Name: a.string(unix.NFTA_CHAIN_NAME), Handle: a.u64(unix.NFTA_CHAIN_HANDLE), Flags: a.u32(nftaChainFlags),
		Comment: comment(a.of[nftaChainUserData]),
	}
	if a.has(unix.NFTA_CHAIN_HOOK) {
		hook := parse(a.of[unix.NFTA_CHAIN_HOOK])
		c.Base = &Base{
			Type: a.string(unix.NFTA_CHAIN_TYPE), Hook: hook.u32(unix.NFTA_HOOK_HOOKNUM), Priority: int32(hook.u32(unix.NFTA_HOOK_PRIORITY)),
			Policy: 1, Devices: decodeDevices(hook.of[nftaHookDevs], hook.of[unix.NFTA_HOOK_DEV]),
		}
		if a.has(unix.NFTA_CHAIN_POLICY) {
			c.Base.Policy = int32(a.u32(unix.NFTA_CHAIN_POLICY))
		}
	}
	return c
}

// decodeDevices returns the names of a list, or of the only interface.
func decodeDevices(list, one []byte) (names []string) {
	for walk := (nlwire.Attrs{Data: list}); walk.Next(); {
		switch name := unix.ByteSliceToString(walk.Payload); walk.Type {
		case nftaDeviceName:
			names = append(names, name)
		case nftaDevicePrefix:
			names = append(names, name+"*")
		}
	}
	if len(names) == 0 && one != nil {
		names = append(names, unix.ByteSliceToString(one))
	}
	return names
}

func decodeFlowtable(b []byte) *Flowtable {
	a := parse(b)
	hook := parse(a.of[nftaFlowtableHook])
	return &Flowtable{
		Name: a.string(nftaFlowtableName), Flags: a.u32(nftaFlowtableFlags), Hook: hook.u32(nftaFlowtableHookNum),
		Priority: int32(hook.u32(nftaFlowtableHookPriority)), Devices: decodeDevices(hook.of[nftaFlowtableHookDevs], nil),
	}
}

func decodeSet(b []byte) *Set {
	a := parse(b)
	s := &Set{
		Name: a.string(unix.NFTA_SET_NAME), Handle: a.u64(nftaSetHandle), Flags: a.u32(unix.NFTA_SET_FLAGS),
		KeyType: a.u32(unix.NFTA_SET_KEY_TYPE), KeyLen: a.u32(unix.NFTA_SET_KEY_LEN),
		DataType: a.u32(unix.NFTA_SET_DATA_TYPE), DataLen: a.u32(unix.NFTA_SET_DATA_LEN), ObjType: a.u32(unix.NFTA_SET_OBJ_TYPE),
		Timeout: a.u64(unix.NFTA_SET_TIMEOUT), GCInterval: a.u32(unix.NFTA_SET_GC_INTERVAL), Policy: a.u32(unix.NFTA_SET_POLICY),
		Exprs: a.exprs(nftaSetExpr, nftaSetExpressions), UserData: bytes.Clone(a.of[unix.NFTA_SET_USERDATA]),
	}
	desc := parse(a.of[unix.NFTA_SET_DESC])
	s.Size = desc.u32(unix.NFTA_SET_DESC_SIZE)
	for fields := (nlwire.Attrs{Data: desc.of[nftaSetDescConcat]}); fields.Next(); {
		if n, ok := nlwire.FindBE32(fields.Payload, nftaSetFieldLen); ok {
			s.FieldLens = append(s.FieldLens, int(n))
		}
	}
	return s
}

// decodeElement returns an element of a set; false: it cannot be read.
func decodeElement(b []byte) (Element, bool) {
	a := parse(b)
	flags := a.u32(unix.NFTA_SET_ELEM_FLAGS)
	e := Element{
		Key: a.data(unix.NFTA_SET_ELEM_KEY), End: a.data(nftaSetElemKeyEnd), IntervalEnd: flags&unix.NFT_SET_ELEM_INTERVAL_END != 0, CatchAll: flags&setElemCatchall != 0,
		Object: a.string(unix.NFTA_SET_ELEM_OBJREF), Exprs: a.exprs(unix.NFTA_SET_ELEM_EXPR, nftaSetElemExpressions),
		Timeout: a.u64(unix.NFTA_SET_ELEM_TIMEOUT), Expires: a.u64(unix.NFTA_SET_ELEM_EXPIRATION),
		Comment: comment(a.of[unix.NFTA_SET_ELEM_USERDATA]),
	}
	if a.has(unix.NFTA_SET_ELEM_DATA) {
		if e.Decision = a.decision(unix.NFTA_SET_ELEM_DATA); e.Decision == nil {
			e.Data = a.data(unix.NFTA_SET_ELEM_DATA)
		}
	}
	e.Conditional = slices.ContainsFunc(e.Exprs, decides)
	return e, !a.bad && (e.Key != nil || e.CatchAll)
}

// decides reports whether an expression may break off a rule.
func decides(e Expr) bool {
	switch e.(type) {
	case Counter, Last:
		return false
	}
	return true
}

func decodeRule(c *Chain, index int, b []byte, known expressions) *Rule {
	a := parse(b)
	return &Rule{
		Chain: c, Handle: a.u64(unix.NFTA_RULE_HANDLE), Index: index, Exprs: known.decode(a.of[unix.NFTA_RULE_EXPRESSIONS]),
		Comment: comment(a.of[unix.NFTA_RULE_USERDATA]),
	}
}

// What nft(8) notes behind tables, chains, rules and elements (libnftnl/udata.h): a byte for the type, one
// for the length, and the value.
const udataComment = 0

func userValue(b []byte, typ byte) []byte {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		if b[0] == typ {
			return b[2 : 2+int(b[1])]
		}
		b = b[2+int(b[1]):]
	}
	return nil
}

func comment(userData []byte) string {
	return unix.ByteSliceToString(userValue(userData, udataComment))
}
