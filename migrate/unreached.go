// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"github.com/nftnat/nftnat/migrate/internal/chains"
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
	for _, c := range claims {
		for _, b := range r.Match {
			if _, meets := b.Intersect(c.Box()); meets && c.Rule != r {
				return "a rule before it takes its packets: " + c.Rule.Origin()
			}
		}
	}
	return "no packet to a port of this host reaches it"
}
