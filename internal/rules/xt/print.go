// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// Printer prints matches and targets as `iptables -S` does.
type Printer struct {
	// SetName returns the name of a set of ipset by its number; nil: the number is printed.
	SetName func(set uint16) string
}

func (p Printer) setName(set uint16) string {
	if p.SetName != nil {
		if name := p.SetName(set); name != "" {
			return name
		}
	}
	return "#" + strconv.Itoa(int(set))
}

// Match prints a match, as "-m tcp --dport 80".
func (p Printer) Match(family rules.Family, m rules.Match) string {
	v := DecodeMatch(family, m)
	name, options := m.Name, ""
	switch v := v.(type) {
	case Header, ARPHeader:
		return v.Options()
	case Conntrack:
		if v.Alias {
			name = "state"
		}
		options = v.Options()
	case Set:
		options = v.named(p.setName(v.Index))
	default:
		options = v.Options()
	}
	if family == unix.NFPROTO_BRIDGE { // among expressions of nft(8); ebtables prints no names of matches
		if n, ok := v.(interface{ nft() string }); ok {
			return n.nft()
		}
		return options
	}
	return joinWords("-m "+name, options)
}

// Target prints a target, as "-j REJECT --reject-with tcp-reset".
func (p Printer) Target(family rules.Family, t rules.Target) string {
	switch v := DecodeTarget(family, t).(type) {
	case Harmless:
		if family == unix.NFPROTO_BRIDGE && (t.Name == "log" || t.Name == "nflog") { // it calls them watchers
			return v.options
		}
		return joinWords("-j "+t.Name, v.options)
	case AddSet:
		return joinWords("-j "+t.Name, v.named(p.setName))
	case Track:
		if v.Alias {
			return "-j NOTRACK"
		}
		return joinWords("-j "+t.Name, v.Options())
	default:
		return joinWords("-j "+t.Name, v.Options())
	}
}

func joinWords(a, b string) string {
	if b == "" {
		return a
	}
	return a + " " + b
}

// Rule prints a rule of a legacy table, as "-A INPUT -p tcp -j DROP".
func (p Printer) Rule(r *rules.Rule) string {
	family := r.Chain.Table.Family
	text := "-A " + r.Chain.Name
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case rules.Match:
			text = joinWords(text, p.Match(family, e))
		case rules.Target:
			text = joinWords(text, p.Target(family, e))
		case rules.Immediate:
			if e.Decision != nil {
				text = joinWords(text, decision(*e.Decision))
			}
		}
	}
	return text
}

// The verdicts NF_* that rules have.
const (
	nfDrop   = 0
	nfAccept = 1
	nfQueue  = 3
)

// decision is the option for a verdict.
func decision(d rules.Decision) string {
	switch d.Code {
	case nfDrop:
		return "-j DROP"
	case nfAccept:
		return "-j ACCEPT"
	case nfQueue:
		return "-j QUEUE"
	case unix.NFT_RETURN:
		return "-j RETURN"
	case unix.NFT_JUMP:
		return "-j " + d.Chain
	case unix.NFT_GOTO:
		return "-g " + d.Chain
	}
	return "-j " + strconv.Itoa(int(d.Code))
}

// Table prints a legacy table line by line, as `iptables-legacy -S` does.
func (p Printer) Table(t *rules.Table) []string {
	var policies, chains, lines []string
	for _, c := range t.Chains {
		if c.Base == nil {
			chains = append(chains, "-N "+c.Name)
			continue
		}
		policy := "ACCEPT"
		if c.Base.Policy == nfDrop {
			policy = "DROP"
		}
		policies = append(policies, "-P "+c.Name+" "+policy)
	}
	for _, c := range t.Chains {
		for _, r := range c.Rules {
			lines = append(lines, p.Rule(r))
		}
	}
	return append(append(policies, chains...), lines...)
}
