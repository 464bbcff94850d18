// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

func payloadOperand(base uint32, off, bits int) *operand {
	o := &operand{isPayload: true, base: base, layer: min(layerOf(base), inner), off: off, bits: bits, kind: kindHex}
	o.unresolved()
	return o
}

// unresolved names bytes of a packet of which the protocol is not known.
func (o *operand) unresolved() {
	bases := [...]string{"ll", "nh", "th", "ih", "tun"}
	base := fmt.Sprint(o.base)
	if int(o.base) < len(bases) {
		base = bases[o.base]
	}
	o.text = fmt.Sprintf("@%s,%d,%d", base, o.off, o.bits)
	if o.base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && o.bits == 16 && (o.off == 0 || o.off == 16) {
		o.resolve(headerTH, &headerTH.fields[o.off/16])
	}
}

func (o *operand) resolve(h *header, f *field) {
	o.header, o.field, o.kind, o.text, o.host = h, f, f.kind, h.name+" "+f.name, false
	if o.says = noLayer; f.name == h.key {
		o.says = h.layer
	}
}

// headerAt returns the header that an offset of a layer is in, and where it begins.
func (s *printing) headerAt(l layer, off int) (h *header, begin int) {
	h = s.headers[l]
	if l != link || len(s.stacked) == 0 {
		return h, 0
	}
	for _, below := range s.stacked {
		if off < begin+below.bits {
			return below, begin
		}
		begin += below.bits
	}
	return h, begin
}

// fieldAt returns the field at an offset of so many bits, or one that is longer, or else a shorter one.
func (s *printing) fieldAt(h *header, off, bits int, exact bool) *field {
	if h == nil {
		return nil
	}
	for i := range h.fields {
		f := &h.fields[i]
		if f.off != off || exact && f.bits != bits || f.icmp != 0 && s.icmp != 0 && s.icmp != f.icmp {
			continue
		}
		return f
	}
	return nil
}

// complete finds the field that bytes of a packet are.
func (s *printing) complete(o *operand) {
	h, begin := s.headerAt(o.layer, o.off)
	if f := s.fieldAt(h, o.off-begin, o.bits, true); f != nil && o.base <= unix.NFT_PAYLOAD_TRANSPORT_HEADER {
		o.resolve(h, f)
	}
}

// fieldOf returns an operand whose mask leaves one field as that field, and how many bits follow it.
func (s *printing) fieldOf(o *operand) (part *operand, shift int) {
	if part, shift = s.trimmed(o); part == o {
		part, shift = optionBits(o)
	}
	return part, shift
}

// expand prints a comparison of bytes of a packet as those of the fields in them.
func (s *printing) expand(o *operand, op uint32, data []byte) {
	h, begin := s.headerAt(o.layer, o.off)
	off, bits := o.off, min(o.bits, 8*len(data))
	if o.base > unix.NFT_PAYLOAD_TRANSPORT_HEADER || h == headerUnknown {
		h = nil
	}
	s.expandBits(o, h, begin, off, bits, op, data, 0)
}

// expandBits is expand from an offset in the packet and one in the data on.
func (s *printing) expandBits(o *operand, h *header, begin, off, bits int, op uint32, data []byte, at int) {
	for bits > 0 {
		f := s.fieldAt(h, off-begin, bits, false)
		if f == nil {
			rest := payloadOperand(o.base, off, bits)
			value := extract(data, at, bits)
			s.kill(rest)
			s.match(relation(rest.text, op, rest.kind.format(s, value, false), false))
			return
		}
		n := min(f.bits, bits)
		part := payloadOperand(o.base, off, n)
		part.resolve(h, f)
		value := extract(data, at, n)
		if n < f.bits { // the begin of an address
			whole := make([]byte, (f.bits+7)/8)
			copy(whole, value)
			s.match(relation(part.text, op, fmt.Sprintf("%s/%d", f.kind.format(s, whole, false), n), false))
			s.kill(part)
			return
		}
		stmt := s.match(relation(part.text, op, s.value(value, f.kind, false), f.kind.bitmask && one(value)))
		s.kill(part)
		if op == unix.NFT_CMP_EQ {
			s.learn(part, stmt, value)
		}
		off, bits, at = off+n, bits-n, at+n
	}
}

// cmpField prints a comparison of bytes with a mask as that of the fields that the mask leaves.
func (s *printing) cmpField(o *operand, e Cmp) bool {
	off, bits, ok := s.trim(o, o.ops[0].data)
	if !ok {
		return false
	}
	h, begin := s.headerAt(o.layer, off)
	s.expandBits(o, h, begin, off, bits, e.Op, e.Data, off-o.off)
	return true
}

// trim returns the bits that a mask leaves, if they are fields.
func (s *printing) trim(o *operand, mask []byte) (off, bits int, ok bool) {
	if o.base > unix.NFT_PAYLOAD_TRANSPORT_HEADER || 8*len(mask) != o.bits {
		return 0, 0, false
	}
	first, last := -1, -1
	for i := range o.bits {
		if mask[i/8]&(0x80>>(i%8)) == 0 {
			continue
		}
		if first < 0 {
			first = i
		} else if last != i-1 {
			return 0, 0, false
		}
		last = i
	}
	if first < 0 {
		return 0, 0, false
	}
	off, bits = o.off+first, last-first+1
	h, begin := s.headerAt(o.layer, off)
	if bits == o.bits || h == nil {
		return 0, 0, false
	}
	for n := 0; n < bits; {
		i := slices.IndexFunc(h.fields, func(f field) bool { return f.off == off-begin+n })
		if i < 0 || n+h.fields[i].bits > bits {
			return 0, 0, false
		}
		n += h.fields[i].bits
	}
	return off, bits, true
}

// trimmed returns an operand whose mask leaves one field as that field, and how far values are to be shifted.
func (s *printing) trimmed(o *operand) (field *operand, shift int) {
	ops := o.ops
	shifted := 0
	if len(ops) == 2 && ops[1].symbol == ">>" {
		if _, err := fmt.Sscan(ops[1].text, &shifted); err != nil {
			return o, 0
		}
		ops = ops[:1]
	}
	if !o.isPayload || len(ops) != 1 || ops[0].symbol != "&" || ops[0].text != "" {
		return o, 0
	}
	off, bits, ok := s.trim(o, ops[0].data)
	if !ok {
		return o, 0
	}
	part := payloadOperand(o.base, off, bits)
	if s.complete(part); part.header == nil {
		return o, 0
	}
	shift = o.off + o.bits - off - bits
	if shift -= shifted; shift < 0 {
		return o, 0
	}
	part.bits = o.bits // of the register
	return part, shift
}
