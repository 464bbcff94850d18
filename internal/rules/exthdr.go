// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func (s *printing) exthdr(e Exthdr) {
	o := exthdrOperand(e)
	switch {
	case e.Set:
		s.say(o.text + " set " + s.argument(e.Sreg, o.kind, false))
	case e.Dreg == 0:
		e.Present = true
		s.say("reset " + exthdrOperand(e).text)
	default:
		s.load(e.Dreg, o)
	}
}

func exthdrOperand(e Exthdr) *operand {
	off, size := 8*e.Offset, 8*e.Len
	o := &operand{kind: kindInteger, bits: size, option: &e, off: off}
	option, known := optionOf(e.Op, e.Type)
	lead := map[uint32]string{exthdrTCP: "tcp option ", exthdrIPv4: "ip option ", exthdrSCTP: "sctp chunk "}[e.Op]
	switch {
	case e.Present:
		o.kind, o.bits = kindBoolean, 8
		if e.Op == exthdrIPv6 {
			lead = "exthdr "
		}
		o.text = lead + choose(known, option.name, fmt.Sprint(e.Type))
		return o
	case !known && e.Op == exthdrIPv6:
		o.text = fmt.Sprintf("exthdr %d @%d,%d", e.Type, off, size)
		return o
	case !known:
		o.text = fmt.Sprintf("%s@%d,%d,%d", lead, e.Type, off, size)
		return o
	}
	o.optionField(option, lead, size)
	return o
}

// optionField names the field of an option.
func (o *operand) optionField(option header, lead string, size int) bool {
	for _, f := range option.fields {
		if f.off == o.off && f.bits == size {
			number := ""
			if o.option.Op == exthdrTCP && f.off >= 64 {
				number = fmt.Sprint(f.off / 64)
			}
			o.text, o.kind = lead+option.name+number+" "+f.name, f.kind
			return true
		}
	}
	if name, field, k := moreRouting(o.off, size); k != nil && o.option.Op == exthdrIPv6 && o.option.Type == unix.IPPROTO_ROUTING {
		o.text, o.kind = name+" "+field, k
		return true
	}
	o.text = fmt.Sprintf("%s%s @%d,%d", lead, option.name, o.off, size)
	return false
}

// optionBits returns an operand whose mask leaves one field of an option as that field.
func optionBits(o *operand) (field *operand, shift int) {
	if o.option == nil || o.option.Present || len(o.ops) != 1 || o.ops[0].symbol != "&" || o.ops[0].text != "" {
		return o, 0
	}
	first, last := -1, -1
	for i := range o.bits {
		if i/8 < len(o.ops[0].data) && o.ops[0].data[i/8]&(0x80>>(i%8)) != 0 {
			if first < 0 {
				first = i
			}
			last = i
		}
	}
	option, known := optionOf(o.option.Op, o.option.Type)
	if first < 0 || !known {
		return o, 0
	}
	part := *o
	part.ops, part.off = nil, o.off+first
	lead := map[uint32]string{exthdrTCP: "tcp option ", exthdrIPv4: "ip option ", exthdrSCTP: "sctp chunk "}[o.option.Op]
	if !part.optionField(option, lead, last-first+1) {
		return o, 0
	}
	return &part, o.bits - 1 - last
}
