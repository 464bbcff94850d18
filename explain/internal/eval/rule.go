// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"slices"

	"github.com/nftnat/nftnat/internal/rules"
)

// cursor is a place in a rule, with what is in the registers there.
type cursor struct {
	state   *state
	owned   bool // the state is the cursor's own
	next    int  // expression
	ended   bool // code is the verdict already
	regs    regs
	code    int32
	target  string
	pending *rules.Decision // of a verdict map
	because []Unknown
	what    string // what is not known of the registers
}

// change returns the state to be changed.
func (c *cursor) change() *state {
	if !c.owned {
		own := *c.state
		c.state, c.owned = &own, true
	}
	return c.state
}

// simple evaluates a rule that matches or does not, and lets the packet go on: it is the way of most
// rules, and allocates nothing.
func (r *run) simple(rl *rules.Rule, w *result) bool {
	before := w.state
	r.cur = cursor{state: before}
	r.ways = r.ways[:0]
	if !r.expressions(rl, &r.cur) || r.cur.code != codeContinue && r.cur.code != codeBreak {
		return false
	}
	if r.cur.state != before && *r.cur.state != *before {
		w.state = r.cur.state
		w.steps = &steps{w.steps, Step{rl.Chain, rl}}
	}
	return true
}

// rule evaluates a rule. What goes on to the next one is codeContinue.
func (r *run) rule(rl *rules.Rule, s *state) []result {
	var out []result
	todo := []cursor{{state: s}}
	for len(todo) > 0 {
		cur := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		r.ways = r.ways[:0]
		if !r.expressions(rl, &cur) {
			for _, w := range slices.Backward(r.ways) {
				todo = append(todo, w)
			}
			if len(out)+len(todo) > 2*maxWays {
				return append(out, r.unclear(s, rl, rl.Chain, "an expression that may have too many results")...)
			}
			continue
		}
		out = append(out, r.decided(rl, &cur, s)...)
		if r.err != nil {
			return nil
		}
	}
	return merge(out)
}

// expressions evaluates a rule from a place on, to its end or a verdict. It returns false if there
// is more than one way to go on, in r.ways.
func (r *run) expressions(rl *rules.Rule, cur *cursor) bool {
	if cur.ended {
		return true
	}
	cur.code = codeContinue
	if d := cur.pending; d != nil {
		cur.pending = nil
		if r.decide(rl, cur, *d); len(r.ways) > 0 {
			return false
		}
		if cur.code != codeContinue {
			return true
		}
	}
	for cur.next < len(rl.Exprs) {
		x := rl.Exprs[cur.next]
		cur.next++
		if r.steps++; r.steps > maxSteps {
			cur.code = codeUnclear
			cur.because = join(cur.because, []Unknown{{rl, "the rules, of which there are too many"}})
			return true
		}
		if r.expr(rl, x, cur); len(r.ways) > 0 {
			return false
		}
		if cur.code != codeContinue {
			break
		}
	}
	return true
}

// decided follows the verdict of a rule.
func (r *run) decided(rl *rules.Rule, cur *cursor, before *state) []result {
	x := result{code: cur.code, state: cur.state, because: cur.because}
	switch {
	case cur.code == codeBreak:
		x.code = codeContinue
		if cur.state == before || *cur.state == *before {
			x.state = before
			return []result{x}
		}
	case cur.code == codeContinue && (cur.state == before || *cur.state == *before):
		x.state = before
		return []result{x}
	}
	x.steps = &steps{step: Step{rl.Chain, rl}}
	switch x.code {
	case codeJump, codeGoto:
		target := rl.Chain.Table.Chain(cur.target)
		if target == nil {
			return after(x, r.unclear(x.state, rl, rl.Chain, "a jump to chain "+cur.target+", which is not there"))
		}
		list := append([]result(nil), after(result{because: x.because}, r.chain(target, x.state))...)
		for i := range list {
			if y := &list[i]; y.code != codeContinue {
				y.steps = x.steps.then(y.steps)
				continue
			} else if y.state != before && *y.state != *before {
				y.steps = x.steps.then(y.steps)
			}
			if x.code == codeGoto {
				list[i].code = codeReturn
			}
		}
		return list
	case codeContinue, codeReturn:
	default:
		x.by, x.chain = rl, rl.Chain
	}
	return []result{x}
}

// fork follows both ways: the rule goes on, or breaks off.
func (r *run) fork(rl *rules.Rule, cur *cursor, reason string) {
	r.steps += stepsOfWay
	cur.because = join(cur.because, []Unknown{{rl, reason}})
	cur.owned = false
	on := *cur
	off := *cur
	off.ended, off.code = true, codeBreak
	r.ways = append(r.ways, on, off)
}

// end gives a rule a verdict.
func (c *cursor) end(code int32) { c.ended, c.code = true, code }

// way adds one of several ways to go on.
func (r *run) way(rl *rules.Rule, cur *cursor, reason string) *cursor {
	r.steps += stepsOfWay
	way := *cur
	way.owned = false
	way.because = join(way.because, []Unknown{{rl, reason}})
	r.ways = append(r.ways, way)
	return &r.ways[len(r.ways)-1]
}
