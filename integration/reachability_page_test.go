// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"slices"
	"strings"
)

const pageHead = `# Who reaches what

Two networks, each on a bridge of the host's. One has an endpoint, *the backend*, that publishes ports of every kind, and a *sibling* that publishes none; *another network* has an endpoint too. On the host's LAN are a *client*, whose router is the host, and a *neighbour*, who has routes by the host to the networks and, as has the sibling, to 127.0.0.0/8 and ::1.

Each cell says as whom the backend sees who has asked (*gateway* is the host's own address on the network: the host's proxies ask from it, and what hairpins is masqueraded as it), or that he is **refused** (a TCP reset, an ICMP port unreachable), or that what he sends is **dropped**. Cells hold for TCP and UDP alike, and for IPv4 and IPv6 unless they say otherwise; link-local sources are of IPv6. They are the same whether the bridges call netfilter (bridge-nf-call-iptables) or not, the ports having hairpin mode where they do, and whatever somebody else has set route_localnet to.

` + "`TestReachability` in `integration` proves every cell with real packets, %d in each of four runs; `TestReachabilityMutations` that each rule of the ruleset is needed by one of them. `TestReachabilityPage` writes this page." + `
`

const pageTail = `
## Without an answer

Not all that may not arrive would be answered to who sent it. The backend and the server far away count:

- packets from outside, by the neighbour or from another network, with a sibling's source: none;
- packets to a loopback frontend that did not come from the host itself: none;
- packets with a network's own source far away, of protocols without ports too: none.

And with bridge-nf the sibling's neighbour discovery passes the guard, though its source is a link-local address.
`

// reachabilityPage is docs/reachability.md.
func reachabilityPage() string {
	var b strings.Builder
	fmt.Fprintf(&b, pageHead, len(cells(32))+len(cells(128)))
	for _, part := range []struct {
		title string
		by    []asked
	}{
		{"By an address of the host's", []asked{byLAN, bySecond, byGateway, byLoopback}},
		{"By the backend's own address", []asked{byBackend}},
		{"The way out", []asked{byWorld}},
	} {
		columns := targets(part.by[0])
		fmt.Fprintf(&b, "\n## %s\n\n| who asks | by |", part.title)
		for _, to := range columns {
			fmt.Fprintf(&b, " %s |", to)
		}
		b.WriteString("\n|---|---|" + strings.Repeat("---|", len(columns)) + "\n")
		for _, s := range sources() {
			for _, by := range part.by {
				if !slices.Contains(addresses(s), by) {
					continue
				}
				fmt.Fprintf(&b, "| %s | %s |", s, by)
				for _, to := range columns {
					fmt.Fprintf(&b, " %s |", cellText(s, by, to))
				}
				b.WriteString("\n")
			}
		}
	}
	b.WriteString(pageTail)
	return b.String()
}

// cellText is what families and protocols have in common, or else what each has.
func cellText(s source, by asked, to target) string {
	var labels, texts []string
	for _, bits := range []int{32, 128} {
		for _, c := range cells(bits) {
			if c.source != s || c.asked != by || c.target != to {
				continue
			}
			o := c.want()
			text := "as " + o.seen
			if o.server == "" {
				text = "**" + o.none + "**"
			}
			label := map[int]string{32: "IPv4", 128: "IPv6"}[bits]
			if c.network == "udp" {
				if texts[len(texts)-1] == text {
					continue // as over TCP
				}
				label += " over UDP"
			}
			labels, texts = append(labels, label+": "+text), append(texts, text)
		}
	}
	if len(slices.Compact(texts)) == 1 {
		return texts[0]
	}
	return strings.Join(labels, ", ")
}
