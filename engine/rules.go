// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/conntrack"
	"github.com/nftnat/nftnat/engine/internal/answers"
	"github.com/nftnat/nftnat/engine/internal/hostnet"
	"github.com/nftnat/nftnat/engine/internal/schema"
	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// policy is the policy routing of the host, a *hostnet.Policy outside of tests.
type policy interface {
	Rules(is4 bool) ([]hostnet.Rule, error)
	AddRule(hostnet.Rule) error
	DeleteRule(hostnet.Rule) error
	Addresses() ([]netip.Addr, error)
	WayTo(to, from netip.Addr) (hostnet.Way, error)
	Close()
}

// followRules brings about what the rules of the host (ip rule) require: rules for the
// answers of published ports, and the addresses from which this host reaches them by proxies
// alone. Without rules for some sources it needs nothing.
//
// The table is the record of the rules that the engine has added. A mark is recorded before
// its rules are added and until they are deleted; answers get a mark when it has all its
// rules.
func (e *core) followRules() error {
	if e.policy == nil {
		return nil
	}
	rules, err := e.readRules()
	if err != nil {
		return fmt.Errorf("follow rules: %w", err)
	}
	if e.sourced = rules.sourced(); !e.sourced && e.answers.Len() == 0 || !e.table.Present() {
		return nil
	}
	want, err := e.planRules(rules)
	if err == nil {
		err = e.changeRules(rules, want)
	}
	if err == nil {
		err = e.endProxied(want.Proxied)
	}
	if err != nil {
		return fmt.Errorf("follow rules: %w", err)
	}
	return nil
}

// endProxied ends the flows that this host has begun to backends from addresses that have
// become proxied ones, for they are translated still: those over UDP, and those over TCP that
// nobody has answered.
func (e *core) endProxied(proxied map[netip.Addr]struct{}) error {
	became := maps.Clone(proxied)
	maps.DeleteFunc(became, func(a netip.Addr, _ struct{}) bool {
		_, ended := e.ended[a]
		return ended
	})
	if len(became) != 0 {
		translated := func(f conntrack.Flow) bool {
			_, from := became[f.Src.Addr()]
			return from && f.Status&conntrack.StatusDNAT != 0 && e.backends.Of(f.ReplySrc.Addr()) != 0
		}
		_, udp := e.flows.Delete(conntrack.Filter{Proto: uint8(nat.UDP)}, translated)
		_, tcp := e.flows.Delete(conntrack.Filter{Proto: uint8(nat.TCP), Unanswered: true}, translated)
		if err := errors.Join(udp, tcp); err != nil {
			return err
		}
	}
	e.ended = proxied
	return nil
}

// hostRules are the rules of the host.
type hostRules struct {
	others map[bool][]hostnet.Rule // by whether they are of IPv4, without those of the engine
	all    map[bool][]hostnet.Rule
}

func (e *core) readRules() (hostRules, error) {
	h := hostRules{others: map[bool][]hostnet.Rule{}, all: map[bool][]hostnet.Rule{}}
	for _, is4 := range []bool{true, false} {
		rules, err := e.policy.Rules(is4)
		if err != nil {
			return h, err
		}
		h.all[is4] = rules
		h.others[is4] = slices.DeleteFunc(slices.Clone(rules), e.answers.IsOwn)
	}
	return h, nil
}

// sourced reports whether some rules are for packets from some addresses.
func (h hostRules) sourced() bool {
	hasSource := func(r hostnet.Rule) bool { return r.From.IsValid() }
	return slices.ContainsFunc(h.others[true], hasSource) || slices.ContainsFunc(h.others[false], hasSource)
}

// wantedRules is the record as it should be, and the rules for each mark.
type wantedRules struct {
	answers.State
	rules map[answers.Mark][]hostnet.Rule
}

// planRules computes what the rules of the host require.
func (e *core) planRules(h hostRules) (wantedRules, error) {
	want := wantedRules{answers.NewState(), map[answers.Mark][]hostnet.Rule{}}
	if !h.sourced() || e.backends.Len() == 0 {
		return want, nil
	}
	addrs, err := e.policy.Addresses()
	if err != nil {
		return want, err
	}
	for _, is4 := range []bool{true, false} {
		backends := e.sampleBackends(is4)
		if len(backends) == 0 {
			continue
		}
		own, err := e.addressesOf(is4, addrs)
		if err != nil {
			return want, err
		}
		p := answers.Plan(e.opts.Table, h.all[is4], own, e.answers)
		maps.Copy(want.By, p.By)
		for mark, rules := range p.Rules {
			m := answers.Mark{Is4: is4, Mark: mark}
			want.Marks[m], want.rules[m] = struct{}{}, rules
		}
		if len(p.Unmarked) != 0 {
			e.log.Warn("answers from these addresses are not routed by the rules for them: there are too many", "addresses", p.Unmarked)
		}
		for _, a := range own {
			away, err := e.leadsElsewhere(h.others[is4], a, backends)
			if err != nil {
				return want, err
			}
			if away {
				want.Proxied[a] = struct{}{}
			}
		}
	}
	return want, nil
}

// addressesOf returns the addresses of a family that clients can call, in order. Those of a
// wide local route (AnyIP) are not listed by the kernel, but the frontends are known.
func (e *core) addressesOf(is4 bool, addrs []netip.Addr) ([]netip.Addr, error) {
	own := slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return a.Is4() != is4 })
	routes := hostnet.NewRouteCache(e.host.Lookup, hostnet.RouteMap{})
	for p := range e.mappings.All {
		a := p.Host()
		if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.Is4() != is4 {
			continue
		}
		i, found := slices.BinarySearchFunc(own, a, netip.Addr.Compare)
		if found {
			continue
		}
		switch r, err := routes.Lookup(a); {
		case err != nil:
			return nil, err
		case r.Kind == hostnet.Local:
			own = slices.Insert(own, i, a)
		}
	}
	return own, nil
}

// maxSamples bounds for how many backends the routes are compared.
const maxSamples = 64

// sampleBackends returns backends of a family: one of each segment, and some of those that
// are on none.
func (e *core) sampleBackends(is4 bool) []netip.Addr {
	lowest := map[netip.Prefix]netip.Addr{}
	for a := range e.backends.Keys {
		if a.Is4() != is4 {
			continue
		}
		p, ok := e.segments.Around(a)
		if !ok {
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if have, ok := lowest[p]; !ok || a.Less(have) {
			lowest[p] = a
		}
	}
	samples := slices.SortedFunc(maps.Values(lowest), netip.Addr.Compare)
	return samples[:min(len(samples), maxSamples)]
}

// leadsElsewhere reports whether the rules lead packets from an address of this host to a
// backend elsewhere than packets that have no source yet.
func (e *core) leadsElsewhere(rules []hostnet.Rule, a netip.Addr, backends []netip.Addr) (bool, error) {
	if !answers.HasSource(rules, a) {
		return false, nil
	}
	for _, backend := range backends {
		usual, err := e.policy.WayTo(backend, netip.Addr{})
		if err != nil {
			return false, err
		}
		way, err := e.policy.WayTo(backend, a)
		if err != nil {
			return false, err
		}
		if usual.Link != 0 && way != usual {
			return true, nil
		}
	}
	return false, nil
}

// changeRules makes the record and the rules what they should be.
func (e *core) changeRules(h hostRules, want wantedRules) error {
	before := e.answers.By
	both := answers.State{Marks: maps.Clone(e.answers.Marks), By: e.answers.By, Proxied: want.Proxied}
	maps.Copy(both.Marks, want.Marks)
	if err := e.recordAnswers(both); err != nil {
		return err
	}
	have := map[answers.Mark][]hostnet.Rule{}
	for _, is4 := range []bool{true, false} {
		for _, r := range h.all[is4] {
			if m := (answers.Mark{Is4: is4, Mark: r.Mark}); e.answers.IsOwn(r) {
				have[m] = append(have[m], r)
			}
		}
	}
	for m, rules := range want.rules {
		if slices.Equal(rules, have[m]) {
			continue
		}
		if err := errors.Join(e.eachRule(have[m], e.policy.DeleteRule), e.eachRule(rules, e.policy.AddRule)); err != nil {
			return err
		}
	}
	if err := e.recordAnswers(answers.State{Marks: both.Marks, By: want.By, Proxied: want.Proxied}); err != nil {
		return err
	}
	for m, rules := range have {
		if _, ok := want.Marks[m]; ok {
			continue
		}
		if err := e.eachRule(rules, e.policy.DeleteRule); err != nil {
			return err
		}
	}
	if err := e.recordAnswers(want.State); err != nil {
		return err
	}
	if !maps.Equal(before, want.By) {
		e.sendHost(answersMessage(want.By))
	}
	return nil
}

// answersMessage says for which addresses of this host answers follow rules.
func answersMessage(by map[netip.Addr]uint32) string {
	if len(by) == 0 {
		return "answers of published ports follow no rules (ip rule) for addresses of this host any more"
	}
	addrs := slices.SortedFunc(maps.Keys(by), netip.Addr.Compare)
	return fmt.Sprintf("answers of published ports follow the rules (ip rule) for %v", addrs[:min(len(addrs), maxSamples)])
}

// eachRule calls f with each rule until there is an error.
func (e *core) eachRule(rules []hostnet.Rule, f func(hostnet.Rule) error) error {
	for _, r := range rules {
		if err := f(r); err != nil {
			return err
		}
	}
	return nil
}

// recordAnswers makes the record in the table this.
func (e *core) recordAnswers(s answers.State) error {
	ch := difference(schema.AnswerElements(e.answers), schema.AnswerElements(s))
	if len(ch.Delete)+len(ch.Add) != 0 {
		if err := e.table.UpdateFinally(ch); err != nil {
			return err
		}
	}
	e.answers = s
	return nil
}

// difference returns the change from elements to others.
func difference(before, after []nft.Element) (ch nft.Change) {
	gone := make(map[nft.Element]struct{}, len(before))
	for _, el := range before {
		gone[el] = struct{}{}
	}
	for _, el := range after {
		if _, ok := gone[el]; ok {
			delete(gone, el)
		} else {
			ch.Add = append(ch.Add, el)
		}
	}
	ch.Delete, ch.Add = inSets(slices.Collect(maps.Keys(gone))), inSets(ch.Add)
	return ch
}

// removeRules removes the rules and the record of them.
func (e *core) removeRules() error {
	if e.policy == nil || len(e.answers.Marks) == 0 || !e.table.Present() {
		return nil
	}
	h, err := e.readRules()
	if err == nil {
		err = e.changeRules(h, wantedRules{State: answers.NewState()})
	}
	if err != nil {
		return fmt.Errorf("remove rules: %w", err)
	}
	return nil
}

// warnOfRules logs an error of following the rules that no caller waits for.
func (e *core) warnOfRules(err error) {
	if err != nil {
		e.log.Warn("rules of policy routing could not be followed", "table", e.opts.Table, "error", err)
	}
}

// ruleWarnings returns what the rules of the host keep from working.
func (e *core) ruleWarnings() []string {
	if len(e.answers.Proxied) == 0 {
		return nil
	}
	addrs := slices.SortedFunc(maps.Keys(e.answers.Proxied), netip.Addr.Compare)
	unserved := 0
	for p := range e.mappings.All {
		if p.ProxiedOnly() || e.holder.Enabled() && !p.NoProxy {
			continue
		}
		for _, a := range addrs {
			if host := p.Host(); !host.IsValid() || host == a || host.IsUnspecified() && host.Is4() == a.Is4() {
				unserved += p.Len()
				break
			}
		}
	}
	if unserved == 0 {
		return nil
	}
	return []string{fmt.Sprintf("this host does not reach %d ports by its addresses %v: rules (ip rule) send packets from them "+
		"by a table that does not lead to the backend, and there are no proxies", unserved, addrs)}
}
