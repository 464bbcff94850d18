// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"strings"

	"github.com/nftnat/nftnat/nat"
	"github.com/nftnat/nftnat/nft"
)

// Plan is the ruleset that an engine keeps in a table of that name, as nft(8)
// lists it; an empty name is DefaultTable. It needs no privilege and no kernel. The
// error is ErrInvalid if nft(8) could not read the name back.
func Plan(table string) (string, error) {
	if table == "" {
		table = DefaultTable
	}
	if err := ValidateTableName(table); err != nil {
		return "", err
	}
	return ruleset(table).String(), nil
}

// ValidateTableName reports whether an engine's table can have that name: one that
// nft(8) can read back. The error is an [*InvalidError].
func ValidateTableName(name string) error {
	if err := nft.CheckName(name); err != nil {
		return &nat.InvalidError{What: "table", Input: name, Reason: err.Error()}
	}
	return nil
}

// ExplainedPlan is Plan with a line before each map and set that says what it is for;
// of the chains their comments say it, which are in the kernel too. nft(8) reads it as it
// reads Plan: the lines are comments of its own (nft(8), "LEXICAL CONVENTIONS").
func ExplainedPlan(table string) (string, error) {
	plan, err := Plan(table)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for line := range strings.Lines(plan) {
		if words := strings.Fields(line); len(words) == 3 && (words[0] == "map" || words[0] == "set") {
			b.WriteString("\t# " + explanation(words[1]) + "\n")
		}
		b.WriteString(line)
	}
	return b.String(), nil
}

// explanation says what a map or set of the ruleset is for.
func explanation(name string) string {
	base, variant, _ := strings.Cut(name, "_")
	base, digit := base[:len(base)-1], base[len(base)-1:]
	family := "IPv" + digit
	switch base {
	case nat.TCP.String(), nat.UDP.String():
		return explainPorts(strings.ToUpper(base)+" ports", family, variant)
	case setNetworks:
		return family + " networks; the comment is the name, and the gateway in brackets"
	case setMasqueraded:
		return "those of them whose way out is masqueraded"
	case setGuarded:
		return "those of them that only published ports of answer from outside"
	case "inside":
		return family + " segments: what has both ends on one is between siblings, or a hairpin"
	case setCursors:
		return "the address of each network at which the next lease is looked for"
	case setLeases:
		return "the addresses of endpoints; the comment is the endpoint's name"
	case "hairpin":
		return family + " backends for which a bridge port has hairpin mode; the comment is the port"
	}
	return ""
}

// explainPorts says what a map of ports is for, by what follows on its name's "_".
func explainPorts(ports, family, variant string) string {
	switch variant {
	case "":
		return ports + " published on any " + family + " address, and the backend each leads to"
	case "host":
		return ports + " published on one " + family + " address: address and port, and the backend they lead to"
	case "ended":
		return ports + " that led to " + family + " backends and are not published any more, until their flows have ended"
	}
	return ports + " published on " + family + " addresses that lead to backends of the other family, by proxies alone"
}
