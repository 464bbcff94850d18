// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// mutation is one change of the ruleset in the kernel, and the probe that has to notice it.
type mutation struct {
	chain, rule string // as the plan has them
	// becomes replaces the rule. Empty: the rule is removed.
	becomes string
	// networks are declared for the probe, by hand.
	networks []string
	bridgeNF bool
	probe    probe
}

func (m mutation) name() string {
	if m.becomes == "" {
		return m.chain + ": without " + m.rule
	}
	return m.chain + ": " + m.becomes + " instead of " + m.rule
}

// byUplinks is why the rules for policy routing are not probed.
const byUplinks = "it takes two uplinks: TestUplinkMutations"

// notProbed are rules whose absence no probe notices, and why.
func notProbed() map[string]string {
	const counted = "it takes a count of what comes unanswered: TestReachabilityMutations"
	const byPort = "it takes what is published of a network: TestReachabilityMutations"
	const sideway = "it takes a backend on two networks: TestTwoNetworks"
	reasons := map[string]string{
		"by-frontend: jump way-out":        byPort,
		"way-out: masquerade fully-random": counted,
		"mangle-prerouting: ip saddr @guarded4 fib saddr . iif oif missing jump from-elsewhere":  counted,
		"mangle-prerouting: ip6 saddr @guarded6 fib saddr . iif oif missing jump from-elsewhere": counted,
		"from-elsewhere: drop": counted,
		"nat-prerouting: meta nfproto . meta l4proto . th dport @limited fib daddr type broadcast jump only-from": "it takes a proxy: TestFromByBroadcast",
		"from-elsewhere: ct direction reply ct status dnat return":                                                sideway,
		"from-elsewhere: ct direction reply fib daddr type local return":                                          sideway,
		"filter-forward: ip6 saddr fe80::/10 accept":                                                              counted,
		"nat-output: ip saddr 127.0.0.0/8 return":                                                                 byUplinks,
		"nat-output: ip6 saddr ::1 return":                                                                        byUplinks,
		"nat-output: ip saddr @proxied_sources4 return":                                                           byUplinks,
		"nat-output: ip6 saddr @proxied_sources6 return":                                                          byUplinks,

		"mangle-prerouting: ct direction reply ct status dnat meta mark 0x00000000 jump mark-answers":   byUplinks,
		"mark-answers: meta mark set ct original ip daddr map @answers4":                                byUplinks,
		"mark-answers: meta mark set ct original ip6 daddr map @answers6":                               byUplinks,
		"filter-forward: meta mark != 0x00000000 ct direction reply ct status dnat jump unmark-answers": byUplinks,
		"unmark-answers: meta mark @answer_marks4 meta mark set 0x00000000":                             byUplinks,
		"unmark-answers: meta mark @answer_marks6 meta mark set 0x00000000":                             byUplinks,
	}
	for _, m := range sharedMutations() {
		reasons[m.chain+": "+m.rule] = "it takes a program that has the port: TestSharedMutations"
	}
	for digit, ip := range map[string]string{"4": "ip", "6": "ip6"} {
		for _, network := range []string{"tcp", "udp"} {
			source := ip + " saddr . " + network + " sport map @" + network + digit
			reasons["by-frontend: meta nfproto ipv"+digit+" meta l4proto "+network+" masquerade to :"+source+"_out"] = byPort
			reasons["by-frontend: snat "+ip+" to oifname . "+source+"_link_out"] = byPort
			reasons["by-frontend: snat "+ip+" to "+source+"_host_out"] = byPort
		}
	}
	return reasons
}

// Without any one of the rules, a probe fails.
func TestMutations(t *testing.T) {
	top := newTopology(t, lab.Options{Hairpin: true, Forwarding: true})
	p := newProber(t, top)
	all := mutations(p)
	flushed := flushScript(t)
	t.Run("every rule", func(t *testing.T) { requireAllRules(t, all) })
	for _, m := range labtest.Some(t, "rules taken away", 3, all) {
		t.Run(m.name(), func(t *testing.T) { m.test(t, p, flushed) })
	}
}

func (m mutation) test(t *testing.T, p *prober, flushed string) {
	t.Helper()
	host := p.top.Host
	// TestRepairAtOpen tests that an engine repairs this.
	e := open(t, host, engine.Options{})
	require.NoError(t, p.top.SetBridgeNF(m.bridgeNF))
	for _, n := range m.networks {
		nft(t, host, "add", "element", "inet", "nftnat", n)
	}
	require.NoError(t, p.run(m.probe, answerTimeout))

	harm := []string{"delete", "rule", "inet", "nftnat", m.chain, "handle", ruleHandle(t, host, m.chain, m.rule)}
	if m.becomes != "" {
		harm[0] = "replace"
		harm = append(harm, m.becomes)
	}
	nft(t, host, harm...)
	noticed := p.run(m.probe, silence)
	require.Error(t, noticed, "nobody has noticed")
	t.Log(noticed)

	require.NoError(t, e.Close())
	require.NoError(t, open(t, host, engine.Options{}).Close())
	for _, n := range m.networks { // unless they were in the table that was replaced
		labtest.Run(t, host, command(t, "nft", "delete", "element", "inet", "nftnat", n))
	}
	// The engine has taken other mappings to the same backend for masqueraded ones, and adopted ranges.
	load(t, host, flushed)
}

// ruleHandle finds the number of a rule in the kernel.
func ruleHandle(t *testing.T, ns *lab.NS, chain, rule string) string {
	t.Helper()
	line := regexp.MustCompile(`(?m)^\s*` + regexp.QuoteMeta(rule) + ` # handle (\d+)$`)
	found := line.FindAllStringSubmatch(nft(t, ns, "-a", "list", "chain", "inet", "nftnat", chain), -1)
	require.Len(t, found, 1, "%s in chain %s", rule, chain)
	return found[0][1]
}

// requireAllRules checks that every rule of the plan has a probe or a reason.
func requireAllRules(t *testing.T, all []mutation) {
	t.Helper()
	covered := map[string]bool{}
	for _, m := range all {
		if m.becomes == "" {
			covered[m.chain+": "+m.rule] = true
		}
	}
	plan, err := engine.Plan("")
	require.NoError(t, err)
	rules := rulesOf(plan)
	require.Len(t, rules, 152)
	for _, rule := range rules {
		reason := notProbed()[rule]
		require.NotEqual(t, covered[rule], reason != "", "a probe or a reason, for %s", rule)
		delete(covered, rule)
	}
	require.Empty(t, covered, "no rules of the plan")
}

// rulesOf are the rules of a ruleset, "CHAIN: RULE".
func rulesOf(plan string) []string {
	var rules []string
	var chain string
	for line := range strings.Lines(plan) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "chain "):
			chain = strings.Fields(line)[1]
		case line == "}":
			chain = ""
		case chain != "" && !strings.HasPrefix(line, "type ") && !strings.HasPrefix(line, "comment "):
			rules = append(rules, chain+": "+line)
		}
	}
	return rules
}

// mutations returns all mutations. Some remove one condition of a rule.
func mutations(p *prober) []mutation {
	return slices.Concat(publishMutations(p), optionMutations(p), natMutations(p), wayOutMutations(p), postroutingMutations(p), forwardMutations(p), rawMutations(p), rangeMutations(p))
}

func publishMutations(p *prober) []mutation {
	const chain = "publish"
	top := p.top
	ms := []mutation{{
		chain: chain, rule: "ip6 saddr fe80::/10 return",
		probe: p.linkLocal("tcp", at(top.Host.V6, portOfHost), "host"),
	}}
	for _, network := range []string{"tcp", "udp"} {
		for digit, f := range map[string]family{"4": families(top)[0], "6": families(top)[1]} {
			ip := map[string]string{"4": "ip", "6": "ip6"}[digit]
			ms = append(ms, mutation{
				chain: chain, rule: "dnat " + ip + " to " + network + " dport map @" + network + digit,
				probe: reaches(top.Client, network, at(f.host, portOfAny), "backend1", f.client),
			}, mutation{
				chain: chain, rule: "dnat " + ip + " to " + ip + " daddr . " + network + " dport map @" + network + digit + "_host",
				probe: reaches(top.Client, network, at(f.host, portOfOne), "backend1", f.client),
			})
		}
	}
	return ms
}

// optionMutations let in who may not, and do not masquerade.
func optionMutations(p *prober) []mutation {
	top := p.top
	v4 := families(top)[0]
	ms := []mutation{
		{
			chain: "admit", rule: "jump publish",
			probe: reaches(top.Client, "tcp", at(v4.host, portOfAny), "backend1", v4.client),
		},
		{
			chain: "admit", rule: "meta nfproto . meta l4proto . th dport @limited jump only-from",
			networks: []string{"limited { ipv4 . udp . 8080 }", "udp4_from { 0.0.0.0/0 . 8080 . 172.30.0.3 }"},
			probe:    silent(top.Client, "udp", at(v4.host, portOfAny)),
		},
		{
			chain: "nat-postrouting", rule: "ct status dnat jump to-backends",
			networks: []string{"masquerade_to4 { tcp . 172.30.0.2 . 80 }"},
			probe:    reaches(top.Client, "tcp", at(v4.host, portOfAny), "backend1", v4.gateway),
		},
	}
	for digit, f := range map[string]family{"4": families(top)[0], "6": families(top)[1]} {
		ip := map[string]string{"4": "ip", "6": "ip6"}[digit]
		ms = append(ms, mutation{
			chain: "admit", rule: "meta l4proto . " + ip + " daddr . th dport @limited" + digit + "_host jump only-from",
			networks: []string{
				"limited" + digit + "_host { tcp . " + f.host.String() + " . 8081 }",
				"tcp" + digit + "_from { " + f.host.String() + " . 8081 . " + f.backend2.String() + " }",
			},
			probe: silent(top.Client, "tcp", at(f.host, portOfOne)),
		}, mutation{
			chain: "to-backends", rule: "meta l4proto . " + ip + " daddr . th dport @masquerade_to" + digit + " jump way-out",
			networks: []string{"masquerade_to" + digit + " { udp . " + f.backend1.String() + " . 80 }"},
			probe:    reaches(top.Client, "udp", at(f.host, portOfAny), "backend1", f.gateway),
		}, mutation{
			chain: "to-backends", rule: "meta l4proto . " + ip + " daddr . th dport . ct original " + ip + " daddr @masquerade_to" + digit + "_host jump way-out",
			networks: []string{"masquerade_to" + digit + "_host { tcp . " + f.backend1.String() + " . 80 . " + f.host.String() + " }"},
			probe:    reaches(top.Client, "tcp", at(f.host, portOfOne), "backend1", f.gateway),
		})
		for _, network := range []string{"tcp", "udp"} {
			ms = append(ms, mutation{
				chain: "only-from", rule: ip + " daddr . " + network + " dport . " + ip + " saddr != @" + network + digit + "_from drop",
				networks: []string{
					"limited { ipv" + digit + " . " + network + " . 8080 }",
					network + digit + "_from { " + f.wildcard.String() + "/0 . 8080 . " + f.backend2.String() + " }",
				},
				probe: silent(top.Client, network, at(f.host, portOfAny)),
			})
		}
	}
	return ms
}

func natMutations(p *prober) []mutation {
	top := p.top
	v4, v6 := families(top)[0], families(top)[1]
	const local, elsewhere = "fib daddr type local jump publish", "fib daddr type local jump admit"
	return []mutation{
		{
			chain: "nat-prerouting", rule: elsewhere,
			probe: reaches(top.Client, "tcp", at(v4.host, portOfAny), "backend1", v4.client),
		},
		{ // transit traffic is hijacked
			chain: "nat-prerouting", rule: elsewhere, becomes: "jump admit",
			probe: reaches(top.Client, "tcp", at(v4.far, portOfAny), "far", v4.client),
		},
		{
			chain: "nat-prerouting", rule: elsewhere, becomes: "jump admit",
			probe: reaches(top.Client, "udp", at(v6.far, portOfAny), "far", v6.client),
		},
		{
			chain: "nat-output", rule: local,
			probe: reaches(top.Host, "tcp", at(v4.host, portOfAny), "backend1", v4.host),
		},
		{ // the host's own traffic is hijacked
			chain: "nat-output", rule: local, becomes: "jump publish",
			probe: reaches(top.Host, "tcp", at(v4.far, portOfAny), "far", anybody),
		},
		{ // the host's own services on loopback addresses are cut off
			chain: "nat-output", rule: "ip daddr 127.0.0.0/8 return",
			probe: reachesFrom(top.Host, v4.host, "tcp", at(loopback4, portOfAny), "host"),
		},
		{
			chain: "nat-output", rule: "ip6 daddr ::1 return",
			probe: reachesFrom(top.Host, v6.host, "tcp", at(loopback6, portOfAny), "host"),
		},
	}
}

// wayOutMutations let a backend choose the port it goes out by.
func wayOutMutations(p *prober) []mutation {
	top := p.top
	v4 := families(top)[0]
	var ms []mutation
	for _, network := range []string{"tcp", "udp"} {
		ms = append(ms, mutation{
			chain: "way-out", rule: "meta l4proto " + network + " masquerade to :32768-49152 fully-random",
			networks: declared("4", top.Inside4.String()),
			probe:    highPort(top.Backend1, network, at(v4.far, portOfAny), v4.backend1),
		})
	}
	return ms
}

func postroutingMutations(p *prober) []mutation {
	const chain = "nat-postrouting"
	top := p.top
	var ms []mutation
	for i, f := range families(top) {
		digit, ip, inside, far := "4", "ip", top.Inside4.String(), top.FarNet4.String()
		if i == 1 {
			digit, ip, inside, far = "6", "ip6", top.Inside6.String(), top.FarNet6.String()
		}
		hairpin := "ct status dnat iifname . oifname . " + ip + " saddr @segments" + digit + " jump way-out"
		bridged := "ct status dnat iif 0 oifname . oifname . " + ip + " saddr @segments" + digit + " fib saddr type != local jump way-out"
		inside2 := "ct status dnat " + ip + " saddr . " + ip + " daddr @inside" + digit + " jump way-out"
		all := map[string]string{"4": "0.0.0.0/0", "6": "::/0"}[digit]
		wayOut := ip + " saddr @masqueraded" + digit + " " + ip + " daddr != @networks" + digit + " jump by-frontend"
		one := declared(digit, inside)
		two := declared(digit, inside, far)
		hostFar := map[string]string{"4": "198.51.100.1", "6": "2001:db8:2::1"}[digit]
		ms = append(ms, []mutation{
			{ // a sibling is answered from another address than the one that it called
				chain: chain, rule: hairpin,
				probe: reaches(top.Backend2, "tcp", at(f.host, portOfAny), "backend1", f.gateway),
			},
			{ // all source addresses are lost
				chain: chain, rule: hairpin, becomes: "meta nfproto ipv" + digit + " ct status dnat masquerade",
				probe: reaches(top.Client, "tcp", at(f.host, portOfAny), "backend1", f.client),
			},
			{ // a sibling whose frames a bridge has netfilter look at is answered so
				chain: chain, rule: bridged, bridgeNF: true,
				probe: reaches(top.Backend2, "tcp", at(f.host, portOfAny), "backend1", f.gateway),
			},
			{ // addresses are lost between siblings
				chain: chain, rule: bridged, becomes: strings.TrimPrefix(strings.Replace(bridged, "jump way-out", "masquerade", 1), "ct status dnat "), bridgeNF: true,
				probe: reaches(top.Backend2, "tcp", at(f.backend1, 80), "backend1", f.backend2),
			},
			{ // both are in one network, and each has a link of its own
				chain: chain, rule: inside2, networks: []string{"inside" + digit + " { " + all + " . " + all + " }"},
				probe: reaches(top.Client, "tcp", at(f.host, portOfAny), "backend1", f.gateway),
			},
			{ // the networks' addresses are seen outside
				chain: chain, rule: wayOut, networks: one,
				probe: reaches(top.Backend1, "tcp", at(f.far, portOfAny), "far", mustAddr(hostFar)),
			},
			{ // and a backend chooses the port it goes out by
				chain: chain, rule: wayOut, becomes: strings.Replace(wayOut, "jump by-frontend", "masquerade", 1), networks: one,
				probe: otherPort(top.Backend1, "tcp", at(f.far, portOfAny), f.backend1),
			},
			{ // addresses are masqueraded between networks
				chain: chain, rule: wayOut, becomes: ip + " saddr @masqueraded" + digit + " masquerade", networks: two,
				probe: reaches(top.Far, "tcp", at(f.host, portOfAny), "backend1", f.far),
			},
		}...)
	}
	return ms
}

// declared are the elements by which prefixes are networks, masqueraded and guarded.
func declared(digit string, prefixes ...string) []string {
	var elements []string
	for _, set := range []string{"networks", "masqueraded", "guarded"} {
		elements = append(elements, set+digit+" { "+strings.Join(prefixes, ", ")+" }")
	}
	for _, p := range prefixes {
		elements = append(elements, "inside"+digit+" { "+p+" . "+p+" }")
	}
	return elements
}

func forwardMutations(p *prober) []mutation {
	const chain = "filter-forward"
	top := p.top
	v4, v6 := families(top)[0], families(top)[1]
	both := append(declared("4", top.Inside4.String()), declared("6", top.Inside6.String())...)
	return []mutation{
		{ // the networks get no answers from outside
			chain: chain, rule: "ct state established,related accept", networks: both,
			probe: reaches(top.Backend1, "tcp", at(v4.far, portOfAny), "far", anybody),
		},
		{ // published ports are dropped by the guard
			chain: chain, rule: "ct status dnat accept", networks: both,
			probe: reaches(top.Client, "udp", at(v6.host, portOfAny), "backend1", v6.client),
		},
		{ // siblings are dropped by the guard
			chain: chain, rule: "ip saddr . ip daddr @inside4 accept", networks: both, bridgeNF: true,
			probe: reaches(top.Backend2, "tcp", at(v4.backend1, 80), "backend1", v4.backend2),
		},
		{
			chain: chain, rule: "ip6 saddr . ip6 daddr @inside6 accept", networks: both, bridgeNF: true,
			probe: reaches(top.Backend2, "tcp", at(v6.backend1, 80), "backend1", v6.backend2),
		},
		{ // all ports of a backend can be reached by routing
			chain: chain, rule: "ip daddr @guarded4 drop", networks: both,
			probe: silent(top.Neighbour, "tcp", at(v4.backend1, 80)),
		},
		{
			chain: chain, rule: "ip6 daddr @guarded6 drop", networks: both,
			probe: silent(top.Neighbour, "udp", at(v6.backend1, 80)),
		},
	}
}

func rawMutations(p *prober) []mutation {
	const (
		chain = "raw-prerouting"
		drop4 = `ip daddr 127.0.0.0/8 iifname != "lo" drop`
		drop6 = `ip6 daddr ::1 iifname != "lo" drop`
	)
	top := p.top
	return []mutation{
		{ // a neighbour reaches services on loopback addresses
			chain: chain, rule: drop4,
			probe: silent(top.Neighbour, "tcp", at(loopback4, portOfLoopback)),
		},
		{ // the host's own loopback is cut off
			chain: chain, rule: drop4, becomes: "ip daddr 127.0.0.0/8 drop",
			probe: reaches(top.Host, "udp", at(loopback4, portOfAny), "host", loopback4),
		},
		{ // The kernel accepts no ::1 from a wire, but a bridge with bridge-nf passes it to
			// netfilter before IPv6 checks it, so that a sibling reaches the backend.
			chain: chain, rule: drop6, bridgeNF: true,
			probe: p.reachesNotByLoopback6(),
		},
		{
			chain: chain, rule: drop6, becomes: "ip6 daddr ::1 drop",
			probe: reaches(top.Host, "udp", at(loopback6, portOfAny), "host", loopback6),
		},
	}
}
