// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// Explain puts a comment of nft(8) before each map and set of a printed ruleset.
func Explain(ruleset string) string {
	var b strings.Builder
	for line := range strings.Lines(ruleset) {
		if words := strings.Fields(line); len(words) == 3 && (words[0] == "map" || words[0] == "set") {
			b.WriteString("\t# " + explanation(words[1]) + "\n")
		}
		b.WriteString(line)
	}
	return b.String()
}

// explanation says what a map or set of the ruleset is for.
func explanation(name string) string {
	if of, ok := strings.CutSuffix(name, nextSuffix); ok {
		return "what takes the place of an element of " + of + ": asked after it, and empty at rest"
	}
	switch name {
	case setLimited:
		return "ports of any address that are for some clients only, by the family of the address"
	case setLimitedRange:
		return "ranges of any address that are for some clients only, by the family of the address"
	case setHoles:
		return "ports that no range of any address serves, by the family of the address"
	}
	i := strings.IndexAny(name, "46")
	base, digit, variant := name[:i], name[i:i+1], strings.TrimPrefix(name[i+1:], "_")
	family := "IPv" + digit
	switch base {
	case nat.TCP.String(), nat.UDP.String():
		return explainPorts(strings.ToUpper(base)+" ports", family, variant)
	case setProxiedSources:
		return family + " addresses of this host from which it reaches published ports by proxies alone"
	case setAnswers:
		return "the mark of answers, by the " + family + " address that was called"
	case setAnswerMarks:
		return "marks for which there are rules (ip rule)"
	case setNetworks:
		return family + " networks; the comment is the name, and the gateway in brackets"
	case setMasqueraded:
		return "those of them whose way out is masqueraded"
	case setGuarded:
		return "those of them that only published ports of answer from outside"
	case setInside:
		return "each of them twice: what has both ends in one is between siblings"
	case setSegments:
		return family + " prefixes that are on link by an interface that leads to a backend: who comes from one by it is answered by this host"
	case setCursors:
		return "the address of each network at which the next lease is looked for"
	case setLeases:
		return "the addresses of endpoints; the comment is the endpoint's name"
	case setLimited:
		if variant == "host_range" {
			return "ranges of one " + family + " address that are for some clients only"
		}
		return "ports of one " + family + " address that are for some clients only"
	case setHoles:
		return "ports that no range of one " + family + " address serves"
	case setFrom:
		if variant == "host_range" {
			return "the " + family + " clients of limited ranges of one address"
		}
		return "the " + family + " clients of limited ranges"
	case setMasquerade:
		if ranges, ok := strings.CutSuffix(variant, "range"); ok {
			return "the same as " + strings.TrimSuffix(base+digit+"_"+ranges, "_") + ", of ranges"
		}
		if variant == "" {
			return family + " backends that see this host as the client, whichever of its addresses the client called"
		}
		return family + " backends that see this host as the client, if the client called the last address"
	case setHairpin:
		return family + " backends for which a bridge port has hairpin mode; the comment is the port"
	}
	return ""
}

// explainPorts says what a map of ports is for, by what follows on its name's "_".
func explainPorts(ports, family, variant string) string {
	if of, ok := strings.CutSuffix(variant, strings.TrimPrefix(rangeSuffix, "_")); ok && of != "" && of != "host_" {
		return explainPorts(ports, family, strings.TrimSuffix(of, "_")) + ", as ranges"
	}
	switch variant {
	case "range":
		return "ranges of " + ports + " published on any " + family + " address, and the backend that has the same ports"
	case "host_range":
		return "ranges of " + ports + " published on one " + family + " address, and the backend that has the same ports"
	case "":
		return ports + " published on any " + family + " address, and the backend each leads to"
	case "host":
		return ports + " published on one " + family + " address: address and port, and the backend they lead to"
	case "out":
		return family + " backends that send from published " + ports + ", and the ports they leave by"
	case "link_out":
		return "the same where a port is published on one address, by the interfaces that have it"
	case "host_out":
		return "the same where the address is on no interface that leads anywhere"
	case "from":
		return "the " + family + " clients of limited " + ports
	case "to4", "to6":
		if family == "IPv"+variant[2:] {
			return ports + " published on " + family + " addresses, by proxies alone because the mapping says so"
		}
	case "ended":
		return ports + " that led to " + family + " backends and are not published any more, or end by themselves, until their flows have ended"
	}
	return ports + " published on " + family + " addresses that lead to backends of the other family, by proxies alone"
}
