// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import "github.com/nftnat/nftnat/internal/rules"

// breaksLater reports whether the rest of a rule breaks it off whatever a look-up loads to a register,
// so that the kernel need not be asked. It takes the kernel long to find one of 10,000 sets.
func (r *run) breaksLater(rl *rules.Rule, cur *cursor, dreg rules.Register, n int) bool {
	if cur.next >= len(rl.Exprs) {
		return false
	}
	c := *cur
	c.owned = false
	c.regs.forget(dreg, n)
	for _, x := range rl.Exprs[cur.next:] {
		r.steps++
		switch x := x.(type) {
		case rules.Immediate:
			if x.Decision != nil {
				return false
			}
			c.regs.store(x.Dreg, x.Data...)
		case rules.Cmp:
			at, ok := span(x.Sreg, len(x.Data))
			if ok && c.regs.compare(at, x.Op, x.Data, c.state) == No {
				return true
			}
		case rules.Range:
			at, ok := span(x.Sreg, len(x.From))
			if !ok || len(x.From) != len(x.To) {
				return false
			}
			a := c.regs.between(at, x.From, x.To, c.state)
			if a == No && !x.Not || a == Yes && x.Not {
				return true
			}
		case rules.Bitwise:
			bitwise(x, &c.regs)
		case rules.Byteorder:
			byteorder(x, &c.regs)
		case rules.Meta:
			if x.Set {
				return false
			}
			r.meta(rl, x, &c)
		case rules.CT:
			if x.Set {
				return false
			}
			r.ct(rl, x, &c)
		case rules.Payload:
			if x.Set {
				return false
			}
			if r.payload(rl, x, &c); len(r.ways) > 0 {
				r.ways = r.ways[:0]
				return false
			}
		case rules.Lookup:
			if x.Map {
				return false
			}
		case rules.Fib:
			c.regs.forget(x.Dreg, fibLen(x))
		case rules.Counter, rules.Limit, rules.Log, rules.Last:
		default:
			return false
		}
		if c.ended {
			return true
		}
	}
	return false
}
