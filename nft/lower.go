// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// assembler builds the bytecode of one rule.
type assembler struct {
	exprs []expr.Any
	// nfproto and l4proto are the protocols that the rule tests already; zero: none.
	nfproto, l4proto byte
}

// assemble lowers a rule to bytecode.
func assemble(r Rule) []expr.Any {
	a := assembler{exprs: make([]expr.Any, 0, 16)} // which few rules exceed
	for _, s := range r {
		s.lower(&a)
	}
	return a.exprs
}

func (a *assembler) emit(es ...expr.Any) { a.exprs = append(a.exprs, es...) }

// The data registers are 16 words of 32 bits (NFT_REG32_COUNT).
const registerWords = 16

// register is the kernel's number of the register that begins at the 32-bit word: that of
// an old 128-bit register, NFT_REG_1.., if one begins there, else NFT_REG32_00.. The kernel
// lists rules so (nft_dump_register in net/netfilter/nf_tables_api.c).
func register(word int) uint32 {
	if word < 0 || word >= registerWords {
		//nolint:forbidigo // Validate bounds every type to the registers there are
		panic(fmt.Sprintf("nft: register word %d does not exist", word))
	}
	if word%4 == 0 {
		return unix.NFT_REG_1 + uint32(word)/4
	}
	return unix.NFT_REG32_00 + uint32(word)
}

// load reads a key's fields into registers from word 0 on, each at the start of a word,
// behind the tests of depend.
func (a *assembler) load(fields concatenation) {
	for _, s := range fields {
		a.depend(s)
	}
	word := 0
	for _, s := range fields {
		size := dataTypes[selectors[s].typ].size
		a.loadBytes(s, size, word)
		word += padded(size) / 4
	}
}

// metaKeys and ctKeys are the fields that are not of the payload. Those of ct are of the
// original direction.
var (
	metaKeys = map[Selector]expr.MetaKey{
		IIFName: expr.MetaKeyIIFNAME, OIFName: expr.MetaKeyOIFNAME, NFProto: expr.MetaKeyNFPROTO,
		L4Proto: expr.MetaKeyL4PROTO, MetaMark: expr.MetaKeyMARK,
	}
	ctKeys = map[Selector]expr.CtKey{CTOriginalIPDaddr: expr.CtKeyDSTIP, CTOriginalIP6Daddr: expr.CtKeyDSTIP6}
)

func (a *assembler) loadBytes(s Selector, size, word int) {
	if key, ok := metaKeys[s]; ok {
		a.emit(&expr.Meta{Key: key, Register: register(word)})
		return
	}
	if key, ok := ctKeys[s]; ok {
		a.emit(&expr.Ct{Key: key, Register: register(word)})
		return
	}
	a.emit(&expr.Payload{
		OperationType: expr.PayloadLoad,
		DestRegister:  register(word),
		Base:          selectors[s].base,
		Offset:        selectors[s].offset,
		Len:           uint32(size),
	})
}

// depend tests, once in a rule, that the packet has the protocols of a field.
func (a *assembler) depend(s Selector) {
	d := selectors[s]
	if d.nfproto != 0 {
		overFamily{d.nfproto}.lower(a)
	}
	if d.l4proto != 0 {
		over{d.l4proto}.lower(a)
	}
}

func (o overFamily) lower(a *assembler) {
	if a.nfproto != o.nfproto {
		a.nfproto = o.nfproto
		a.emit(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register(0)}, equal([]byte{o.nfproto}))
	}
}

func (o over) lower(a *assembler) {
	if a.l4proto != o.l4proto {
		a.l4proto = o.l4proto
		a.emit(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register(0)}, equal([]byte{o.l4proto}))
	}
}

func equal(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: register(0), Data: data}
}

func notEqual(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpNeq, Register: register(0), Data: data}
}

// host32 is a number that the kernel keeps in host byte order.
func host32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func (f fixed) lower(a *assembler) { a.emit(f.exprs...) }

func (w within) lower(a *assembler) {
	a.depend(w.selector)
	addr, bits := w.prefix.Addr().AsSlice(), w.prefix.Bits()
	if bits%8 == 0 && bits > 0 {
		// Whole bytes: read and compare just those, as nft(8) does.
		a.loadBytes(w.selector, bits/8, 0)
		a.emit(equal(addr[:bits/8]))
		return
	}
	a.loadBytes(w.selector, len(addr), 0)
	a.emit(
		&expr.Bitwise{
			SourceRegister: register(0), DestRegister: register(0), Len: uint32(len(addr)),
			Mask: mask(w.prefix), Xor: make([]byte, len(addr)),
		},
		equal(addr),
	)
}

func mask(p netip.Prefix) []byte {
	m := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

func (i in) lower(a *assembler) {
	a.load(i.fields)
	a.emit(&expr.Lookup{SourceRegister: register(0), SetName: i.set, Invert: i.not})
}

func (n notFromInterface) lower(a *assembler) {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, n.name)
	a.emit(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register(0)}, notEqual(name))
}

// anyBit tests that at least one of the bits is set in register word 0.
func anyBit(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Bitwise{
			SourceRegister: register(0), DestRegister: register(0), Len: 4,
			Mask: host32(bits), Xor: host32(0),
		},
		notEqual(host32(0)),
	}
}

// ipCTDirReply is IP_CT_DIR_REPLY of enum ip_conntrack_dir
// (include/uapi/linux/netfilter/nf_conntrack_tuple_common.h).
const ipCTDirReply = 1

// ipsDstNAT is IPS_DST_NAT of enum ip_conntrack_status
// (include/uapi/linux/netfilter/nf_conntrack_common.h).
const ipsDstNAT = 1 << 5

func (d translation) lower(a *assembler) {
	a.load(d.fields)
	kind := expr.NATTypeDestNAT
	if d.source {
		kind = expr.NATTypeSourceNAT
	}
	a.emit(&expr.Lookup{SourceRegister: register(0), SetName: d.m, DestRegister: register(0), IsDestRegSet: true})
	// A packet of the other family passes: nft_nat_inet_eval translates only where the family
	// fits.
	nat := &expr.NAT{Type: kind, Family: uint32(d.family()), RegAddrMin: register(0)}
	switch {
	case d.port != 0:
		const next = 4 // the second of the old registers, as nft(8) does
		a.loadBytes(d.port, dataTypes[InetService].size, next)
		nat.RegProtoMin = register(next)
	case !d.same:
		nat.RegProtoMin = register(padded(dataTypes[d.addr].size) / 4) // the value's second field
	}
	a.emit(nat)
}

func (s samePort) lower(a *assembler) {
	a.depend(s.port)
	a.loadBytes(s.port, dataTypes[InetService].size, 0)
	a.emit(&expr.Masq{ToPorts: true, RegProtoMin: register(0)})
}

func (s markFrom) lower(a *assembler) {
	a.load(s.fields)
	a.emit(
		&expr.Lookup{SourceRegister: register(0), SetName: s.m, DestRegister: register(0), IsDestRegSet: true},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register(0), SourceRegister: true},
	)
}

func (m masquerade) lower(a *assembler) {
	masq := &expr.Masq{FullyRandom: true}
	if m.toPorts() {
		const next = 4 // the second of the old registers, as nft(8) does
		masq.ToPorts, masq.RegProtoMin, masq.RegProtoMax = true, register(0), register(next)
		a.emit(
			&expr.Immediate{Register: masq.RegProtoMin, Data: binary.BigEndian.AppendUint16(nil, m.first)},
			&expr.Immediate{Register: masq.RegProtoMax, Data: binary.BigEndian.AppendUint16(nil, m.last)},
		)
	}
	a.emit(masq)
}

func (m masqueradeTo) lower(a *assembler) {
	a.load(m.fields)
	a.emit(
		&expr.Lookup{SourceRegister: register(0), SetName: m.m, DestRegister: register(0), IsDestRegSet: true},
		&expr.Masq{ToPorts: true, RegProtoMin: register(0)},
	)
}

func (r redirectTo) lower(a *assembler) {
	a.load(r.fields)
	a.emit(
		&expr.Lookup{SourceRegister: register(0), SetName: r.m, DestRegister: register(0), IsDestRegSet: true},
		&expr.Redir{RegisterProtoMin: register(0), Flags: natProtoSpecified},
	)
}

func (v verdict) lower(a *assembler) { a.emit(&expr.Verdict{Kind: v.kind, Chain: v.chain}) }
