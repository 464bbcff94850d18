// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// Bounds of one Run.
const (
	maxWays   = 256     // at one rule
	maxSteps  = 1 << 20 // expressions
	maxDepth  = 1000    // of jumps; nftables allows 16, a legacy table as many as it has chains
	maxReason = 16      // of one outcome
	// stepsOfWay is how many expressions one more way is worth.
	stepsOfWay = 32
)

// Run evaluates a packet at a hook, as the kernel does: the base chains of all tables that are
// called there, in their order. It returns every end that the packet may meet; if there is one alone,
// it is certain. An error means that something could not be read.
func Run(rs *rules.Ruleset, h Hook, p Packet, facts Facts) ([]Outcome, error) {
	return runAt(rs, h, p, facts, time.Now())
}

func runAt(rs *rules.Ruleset, h Hook, p Packet, facts Facts, now time.Time) ([]Outcome, error) {
	if h == Ingress || h == Prerouting || h == Input || h == BridgePrerouting || h == ArpInput {
		p.Out, p.PhysOut = Interface{}, Interface{}
	}
	if h == Egress || h == Output || h == ArpOutput {
		p.In, p.PhysIn = Interface{}, Interface{}
	}
	r := &run{rs: rs, hook: h, base: p, facts: facts, now: now, memo: map[call][]result{}}
	list, unknown := entries(rs, h, &p, sequence{})
	ends := r.entries(list, newState(&p))
	if all := unknown.possible(); len(all) > 1 {
		for _, o := range all[1:] {
			if r.err != nil {
				break
			}
			list, _ = entries(rs, h, &p, o)
			ends = append(ends, r.entries(list, newState(&p))...)
		}
		why := []Unknown{{Reason: "the order of chains that have one priority"}}
		if unknown.legacyFirst {
			why[0].Reason = "the order of chains of iptables-legacy and nftables that have one priority"
		}
		if merged := merge(append([]result(nil), ends...)); len(merged) > 1 {
			for i := range ends {
				ends[i].because = join(ends[i].because, why)
			}
		}
		ends = merge(ends)
	}
	if r.err != nil {
		return nil, r.err
	}
	outcomes := make([]Outcome, len(ends))
	for i, e := range ends {
		outcomes[i] = Outcome{
			End: e.end(), Packet: e.state.packet(&r.base), By: e.by, Chain: e.chain,
			Translated: e.state.translated, Reroute: e.state.reroute, If: e.because, Steps: e.steps.list(),
		}
	}
	return outcomes, nil
}

// run is one evaluation.
type run struct {
	rs    *rules.Ruleset
	hook  Hook
	base  Packet // interfaces and other things that no rule changes
	facts Facts
	now   time.Time

	// Of the base chain that runs.
	family rules.Family // of the hook: IPv4 or IPv6 for inet
	nat    bool
	depth  int
	// priority is that of the base chain.
	priority int32

	steps int
	memo  map[call][]result
	err   error

	cur  cursor // of the rule that is evaluated
	ways []cursor
	xt   struct {
		state  state
		packet Packet
	}
}

// call is a chain that a packet came to.
type call struct {
	chain    *rules.Chain
	state    state
	family   rules.Family
	nat      bool
	priority int32
}

// Codes of results beside the kernel's.
const (
	codeStolen   = 2 // NF_STOLEN
	codeQueue    = 3 // NF_QUEUE
	codeAccept   = 1
	codeDrop     = 0
	codeContinue = -1
	codeBreak    = -2
	codeJump     = -3
	codeGoto     = -4
	codeReturn   = -5
	codeReject   = 100
	codeUnclear  = 101
)

// result is what may come of a rule or chain.
type result struct {
	code    int32
	state   *state
	by      *rules.Rule
	chain   *rules.Chain
	because []Unknown // never appended to in place
	steps   *steps
}

func (r result) end() End {
	switch r.code {
	case codeAccept:
		return Accepted
	case codeDrop:
		return Dropped
	case codeReject:
		return Rejected
	case codeQueue:
		return Queued
	case codeStolen:
		return Stolen
	}
	return Unclear
}

// goesOn reports whether what follows sees the packet.
func (r result) goesOn() bool {
	return r.code == codeContinue || r.code == codeAccept || r.code == codeReturn
}

// same reports whether two results make no difference.
func (r result) same(o result) bool {
	return r.code == o.code && (!r.goesOn() || r.state == o.state || *r.state == *o.state)
}

// difference is what of a result makes a difference.
type difference struct {
	code  int32
	state state
}

func (r result) difference() difference {
	if !r.goesOn() {
		return difference{code: r.code}
	}
	return difference{r.code, *r.state}
}

// steps is a list of steps, the last one first.
type steps struct {
	before *steps
	step   Step
}

func (s *steps) list() (list []Step) {
	n := 0
	for x := s; x != nil; x = x.before {
		n++
	}
	list = make([]Step, n)
	for x := s; x != nil; x = x.before {
		n--
		list[n] = x.step
	}
	return list
}

// then appends steps.
func (s *steps) then(more *steps) *steps {
	if more == nil {
		return s
	}
	if s == nil {
		return more
	}
	return &steps{s.then(more.before), more.step}
}

// join joins reasons.
func join(a, b []Unknown) []Unknown {
	if len(b) == 0 {
		return a
	}
	if len(a) == 0 {
		return b
	}
	all := append([]Unknown(nil), a...)
next:
	for _, u := range b {
		for _, v := range all {
			if u == v {
				continue next
			}
		}
		if len(all) < maxReason {
			all = append(all, u)
		}
	}
	return all
}

// merge makes one of results that make no difference. Of their rules the last one is kept: it decides if
// what is not known turns out not to match. One result that is left depends on nothing, unless it is
// itself not clear.
func merge(list []result) []result {
	out := list[:0]
	var at map[difference]int // of long lists
	if len(list) > 8 {
		at = make(map[difference]int, len(list))
	}
	for _, r := range list {
		i := 0
		if at == nil {
			for i < len(out) && !out[i].same(r) {
				i++
			}
		} else if n, ok := at[r.difference()]; ok {
			i = n
		} else {
			i = len(out)
			at[r.difference()] = i
		}
		if i == len(out) {
			out = append(out, r)
			continue
		}
		r.because = join(out[i].because, r.because)
		out[i] = r
	}
	if len(out) == 1 && out[0].code != codeUnclear {
		out[0].because = nil
	}
	return out
}

// after puts results behind what led to them.
func after(before result, list []result) []result {
	if len(before.because) == 0 && before.steps == nil {
		return list
	}
	out := make([]result, len(list))
	for i, r := range list {
		r.because = join(before.because, r.because)
		r.steps = before.steps.then(r.steps)
		out[i] = r
	}
	return out
}

// bound cuts the ways that go on from one place: the rest is one end that is not clear.
func (r *run) bound(live, done []result, c *rules.Chain) (_, _ []result) {
	if len(live) > 1 {
		live = mergeLive(live)
	}
	if len(live) <= maxWays && r.steps <= maxSteps {
		return live, done
	}
	keep := maxWays
	if r.steps > maxSteps {
		keep = 0
	}
	rest := live[keep]
	rest.code, rest.chain, rest.by = codeUnclear, c, nil
	rest.because = join([]Unknown{{Reason: "the rules, of which too many depend on what is not known"}}, rest.because)
	return live[:keep], append(done, rest)
}

// mergeLive makes one of ways that make no difference. Unlike merge it leaves the reasons, because other
// ways may have ended.
func mergeLive(list []result) []result {
	because := list[0].because
	merged := merge(list)
	if len(merged) == 1 {
		for _, w := range list {
			because = join(because, w.because)
		}
		merged[0].because = because
	}
	return merged
}

// entries runs what is at a hook.
func (r *run) entries(list []entry, s *state) []result {
	live := []result{{code: codeAccept, state: s}}
	var done []result
	for _, e := range list {
		var next []result
		for _, w := range live {
			for _, x := range after(w, r.entry(e, w.state)) {
				if x.goesOn() {
					next = append(next, x)
				} else {
					done = append(done, x)
				}
			}
		}
		if r.err != nil {
			return nil
		}
		if len(next) == 0 {
			live = nil
			break
		}
		live, done = r.bound(next, done, e.chain)
	}
	return merge(append(done, live...))
}

func (r *run) entry(e entry, s *state) []result {
	switch {
	case e.conntrack:
		return []result{{code: codeAccept, state: r.track(s)}}
	case e.chain != nil:
		return r.baseChain(e.chain, s)
	}
	return r.natHook(e.nat, s)
}

// baseChain runs a base chain; every result is final for it.
func (r *run) baseChain(c *rules.Chain, s *state) []result {
	r.family, r.nat, r.priority = c.Table.Family, c.Base.Type == "nat", c.Base.Priority
	if r.family == unix.NFPROTO_INET {
		r.family = unix.NFPROTO_IPV4
		if r.base.EtherType == unix.ETH_P_IPV6 {
			r.family = unix.NFPROTO_IPV6
		}
	}
	list := append([]result(nil), r.chain(c, s)...)
	for i := range list {
		x := &list[i]
		if x.code == codeContinue {
			x.code, x.by, x.chain = codeAccept, nil, c
			if c.Base.Policy == codeDrop {
				x.code = codeDrop
				x.steps = &steps{x.steps, Step{Chain: c}}
			}
		}
		if x.goesOn() && r.hook == Output && c.Base.Type == "route" && routeKey(x.state) != routeKey(s) {
			changed := *x.state
			changed.reroute = true
			x.state = &changed
		}
	}
	return merge(list)
}

// routeKey is what a chain of type route looks at.
func routeKey(s *state) [3]any {
	var addrs [32]byte
	other := s.net.val[1] // TOS
	if s.net.len == 40 {
		copy(addrs[:], s.net.val[8:40])
		other = s.net.val[7] // hop limit; the flow label is not known
	} else {
		copy(addrs[:], s.net.val[12:20])
	}
	return [3]any{addrs, [2]uint32{s.mark, uint32(other)}, s.markUnknown}
}

// chain runs a chain. What falls off its end, or returns, is codeContinue.
func (r *run) chain(c *rules.Chain, s *state) []result {
	key := call{c, *s, r.family, r.nat, r.priority}
	if list, ok := r.memo[key]; ok {
		if list == nil { // it runs: a loop, which the kernel does not load
			return r.unclear(s, nil, c, "a loop of jumps")
		}
		return list
	}
	if r.depth++; r.depth > maxDepth {
		r.depth--
		return r.unclear(s, nil, c, "jumps that are too deep")
	}
	defer func() { r.depth-- }()
	list, err := r.facts.Rules(c)
	if err != nil {
		if r.err == nil {
			r.err = fmt.Errorf("read chain %s of table %s %s: %w", c.Name, c.Table.Family, c.Table.Name, err)
		}
		return nil
	}
	r.memo[key] = nil
	live := []result{{code: codeContinue, state: s}}
	var done []result
	for _, rl := range list {
		if len(live) == 1 {
			if r.simple(rl, &live[0]) {
				continue
			}
		}
		var next []result
		for _, w := range live {
			for _, x := range after(w, r.rule(rl, w.state)) {
				switch x.code {
				case codeContinue:
					next = append(next, x)
				case codeReturn:
					x.code = codeContinue
					done = append(done, x)
				default:
					done = append(done, x)
				}
			}
		}
		if r.err != nil {
			return nil
		}
		if live = next; len(live) == 0 {
			break
		}
		if live, done = r.bound(live, done, c); len(live) == 0 {
			break
		}
	}
	ends := merge(append(done, live...))
	r.memo[key] = ends
	return ends
}

func (r *run) unclear(s *state, rl *rules.Rule, c *rules.Chain, why string) []result {
	return []result{{code: codeUnclear, state: s, by: rl, chain: c, because: []Unknown{{rl, why}}}}
}

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
