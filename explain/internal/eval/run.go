// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"fmt"
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
