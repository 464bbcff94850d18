// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"slices"

	"github.com/nftnat/nftnat/migrate/internal/chains"
	"github.com/nftnat/nftnat/migrate/internal/packets"
)

// unreached lists the rules that translate and that no packet reaches.
func (im *Import) unreached(rs *chains.Ruleset, h *host, wanted func(*chains.Rule) bool) {
	reached := map[*chains.Rule]bool{}
	for _, c := range h.prerouting {
		reached[c.Rule] = true
	}
	output := map[*chains.Rule]bool{}
	if claims, err := rs.Walk(chains.Output); err == nil {
		for _, c := range claims {
			output[c.Rule] = true
		}
	}
	for _, t := range rs.Tables {
		for _, c := range t.Chains {
			for _, r := range c.Rules {
				if (r.Action != chains.Translate && r.Action != chains.Redirect) || reached[r] || !wanted(r) {
					continue
				}
				im.leaveOut(r.Origin(), whyUnreached(r, output[r], h.prerouting))
			}
		}
	}
}

func whyUnreached(r *chains.Rule, atOutput bool, claims []chains.Claim) string {
	if atOutput {
		return "it is only for what this host itself sends"
	}
	if !slices.ContainsFunc(r.Match, func(b packets.Box) bool { return b.Classes&^packets.Others != 0 }) {
		return otherProtocol
	}
	// A rule before it that has all its packets, or else one that has some of them.
	for _, all := range []bool{true, false} {
		for _, c := range claims {
			if c.Rule != r && slices.ContainsFunc(r.Match, func(b packets.Box) bool { return meets(c, b, all) }) {
				return "a rule before it takes its packets: " + c.Rule.Origin()
			}
		}
	}
	return "no packet to a port of this host reaches it"
}

// meets reports whether a claim has packets of a box; all: whether its rule is for all of them.
func meets(c chains.Claim, b packets.Box, all bool) bool {
	if _, ok := b.Intersect(c.Box()); !ok || !all {
		return ok
	}
	return slices.ContainsFunc(c.Rule.Match, func(m packets.Box) bool { return len(b.Minus(m)) == 0 })
}
