// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"math/big"
	"strings"

	"golang.org/x/sys/unix"
)

var cmpSymbols = [...]string{
	unix.NFT_CMP_EQ: "==", unix.NFT_CMP_NEQ: "!=", unix.NFT_CMP_LT: "<", unix.NFT_CMP_LTE: "<=", unix.NFT_CMP_GT: ">", unix.NFT_CMP_GTE: ">=",
}

// relation joins both sides; == is said only if it must be.
func relation(left string, op uint32, right string, always bool) string {
	if op == unix.NFT_CMP_EQ && !always {
		return left + " " + right
	}
	return left + " " + cmpSymbols[op] + " " + right
}

func (s *printing) cmp(e Cmp) {
	o := s.at(e.Sreg)
	if o == nil || o.bits == 0 || int(e.Op) >= len(cmpSymbols) {
		s.unreadable("cmp reg %d 0x%x", e.Sreg, e.Data)
		return
	}
	if o.bits < 8*len(e.Data) {
		s.cmpConcat(e)
		return
	}
	equality := e.Op == unix.NFT_CMP_EQ || e.Op == unix.NFT_CMP_NEQ
	if o.isPayload && equality {
		switch {
		case len(o.ops) == 0:
			s.expand(o, e.Op, e.Data)
			return
		case len(o.ops) == 1 && o.ops[0].symbol == "&" && o.ops[0].text == "":
			if s.cmpField(o, e) {
				return
			}
		}
	}
	data := e.Data
	if part, shift := s.fieldOf(o); part != o && len(data) <= o.bits/8 {
		data = extract(data, 0, 8*len(data)-shift)
		o = part
	}
	o = s.used(o)
	data = significant(data, o.kind, o.host)
	masked := len(o.ops) == 1 && o.ops[0].symbol == "&" && o.ops[0].text == ""
	switch {
	case masked && o.kind.bitmask && equality:
		s.cmpBits(o, e.Op, data)
		return
	case masked && o.kind.prefix:
		if n, ok := maskLen(significant(o.ops[0].data, o.kind, o.host)); ok {
			plain := *o
			plain.ops = nil
			s.match(relation(s.text(&plain), e.Op, fmt.Sprintf("%s/%d", o.kind.format(s, data, false), n), false))
			return
		}
	case o.bits > 8*len(data) && o.kind != kindIfname && o.kind != kindString:
		whole := append(append([]byte{}, data...), make([]byte, o.bits/8-len(data))...)
		s.match(relation(s.text(o), e.Op, fmt.Sprintf("%s/%d", o.kind.format(s, whole, false), 8*len(data)), false))
		return
	}
	left := s.text(o)
	right := s.bits(data, o.kind)
	if s.endRange(left, e.Op, o.kind.format(s, data, true)) {
		return
	}
	at := s.match(relation(left, e.Op, right, len(o.ops) != 0 || o.kind.bitmask && one(data)))
	switch e.Op {
	case unix.NFT_CMP_GTE, unix.NFT_CMP_LT:
		s.lower = &bound{at, left, e.Op, o.kind.format(s, data, true)}
	case unix.NFT_CMP_EQ:
		s.learn(o, at, data)
		if o.ct && (o.key == unix.NFT_CT_SRC || o.key == unix.NFT_CT_DST) && s.deps[network] != nil {
			s.remove(network)
		}
	}
}

// endRange makes a range of this comparison and the one before, if they are both ends of one.
func (s *printing) endRange(left string, op uint32, value string) bool {
	l := s.lower
	if l == nil || l.left != left {
		return false
	}
	switch {
	case l.op == unix.NFT_CMP_GTE && op == unix.NFT_CMP_LTE:
		s.statements[l.statement].text = left + " " + l.value + "-" + value
	case l.op == unix.NFT_CMP_LT && op == unix.NFT_CMP_GT:
		s.statements[l.statement].text = left + " != " + l.value + "-" + value
	default:
		return false
	}
	s.lower = nil
	return true
}

// cmpBits prints a comparison of some bits of a bitmask.
func (s *printing) cmpBits(o *operand, op uint32, data []byte) {
	mask := significant(o.ops[0].data, o.kind, o.host)
	names := strings.Join(o.kind.bitNames(s, mask), ",")
	switch {
	case isZero(data) && op == unix.NFT_CMP_NEQ:
		s.match(o.text + " " + names)
	case isZero(data):
		s.match(o.text + " ! " + names)
	case one(data) && string(data) == string(mask):
		s.match(relation(s.text(o), op, o.kind.format(s, data, false), true))
	default:
		s.match(relation(o.text, op, strings.Join(o.kind.bitNames(s, data), ",")+" / "+names, false))
	}
}

func (s *printing) cmpConcat(e Cmp) {
	parts := s.key(e.Sreg, len(e.Data))
	if parts == nil {
		s.unreadable("cmp reg %d 0x%x", e.Sreg, e.Data)
		return
	}
	var left, right []string
	rest := e.Data
	for _, o := range parts {
		o = s.used(o)
		n := min(o.bits/8, len(rest))
		left = append(left, s.text(o))
		right = append(right, s.value(rest[:n], o.kind, o.host))
		rest = rest[min(4*slots(o.bits), len(rest)):]
	}
	s.match(relation(strings.Join(left, " . "), e.Op, strings.Join(right, " . "), false))
}

func (s *printing) inRange(e Range) {
	o := s.at(e.Sreg)
	if o == nil {
		s.unreadable("range reg %d 0x%x 0x%x", e.Sreg, e.From, e.To)
		return
	}
	from, to := e.From, e.To
	if part, shift := s.fieldOf(o); part != o {
		from, to = extract(from, 0, 8*len(from)-shift), extract(to, 0, 8*len(to)-shift)
		o = part
	}
	o = s.used(o)
	from, to = significant(from, o.kind, o.host), significant(to, o.kind, o.host)
	op := uint32(unix.NFT_CMP_EQ)
	if e.Not {
		op = unix.NFT_CMP_NEQ
	}
	s.match(relation(s.text(o), op, o.kind.format(s, from, true)+"-"+o.kind.format(s, to, true), len(o.ops) != 0))
}

// extract returns the bits of data from an offset on, as a number of whole bytes.
func extract(data []byte, off, n int) []byte {
	v := new(big.Int).SetBytes(data)
	v.Rsh(v, uint(max(8*len(data)-off-n, 0)))
	v.And(v, new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), uint(n)), big.NewInt(1)))
	return v.FillBytes(make([]byte, (n+7)/8))
}
