// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"slices"
	"strings"
)

const pageHead = `# Who reaches what

There are two networks, each on a bridge of the host. One has an endpoint, *the backend*, which publishes ports of every kind, and a *sibling*, which publishes none. *Another network* has an endpoint too. On the host's LAN are a *client*, whose router is the host, and a *neighbour*. The neighbour has routes by the host to the networks and to 127.0.0.0/8 and ::1; the sibling has routes to the latter two as well.

Each cell says which source address the backend sees (*gateway* is the host's own address on the network: proxies connect from it, and hairpin flows are masqueraded as it). On the way out, *its port* is that of the frontend; without that, masqueraded flows have a random one. **Refused** means a TCP reset or an ICMP port unreachable; **dropped** means no answer. A cell holds for TCP and UDP, and for IPv4 and IPv6 unless it says otherwise; link-local sources are IPv6. The cells are the same with and without netfilter for bridged frames (bridge-nf-call-iptables; with it, the ports have hairpin mode), and whatever route_localnet is set to.

` + "`TestReachability` in `integration` checks every cell with real packets, %d in each of five runs: four where eBPF serves localhost, one where proxies do. The %d cells of the first table hold for the ports of ranges as well, and each run checks them; the port that is not published is then one that was taken out of a range. `TestReachabilityMutations` checks that each rule of the ruleset is needed by one of them. `TestReachabilityPage` writes this page." + `
`

const pageTail = `
## Without an answer

Some packets would get no answer even if they arrived. So the backend and the server far away count what they receive:

- packets from outside, from the neighbour or from another network, with a sibling's source address: none;
- packets to a loopback frontend that did not come from the host itself: none;
- packets with a network's own source address at the server far away, also of protocols without ports: none.

With bridge-nf, the sibling's neighbour discovery passes the guard although its source is a link-local address.

## Client and backend on one link

| who asks | the backend | is seen as | test |
|---|---|---|---|
| a machine on the backend's link, from whatever prefix the link has: a second one of IPv4, a ULA, a global one | on the link, by whatever prefix, or by a route to it alone | the host's address on the link | ` + "`TestSiblingsOfOneLink`" + ` |
| the host, by any of its addresses there | the same | itself | ` + "`TestSiblingsOfOneLink`" + ` |
| a machine behind a router on the link | on the link | itself | ` + "`TestRoutersOnALink`" + ` |
| a machine on the link | behind a router on the link | the host's address on the link | ` + "`TestRoutersOnALink`" + ` |
| a machine on the LAN | behind a tunnel, by a route that is so wide that it has the LAN in it | itself | ` + "`TestWideRoute`" + ` |
| a machine behind the tunnel | behind the tunnel | the host's address there | ` + "`TestWideRoute`" + ` |

Each row holds for TCP and UDP, IPv4 and IPv6, with and without netfilter for bridged frames, whether the port was published before or after the host had its addresses and routes (` + "`TestSegmentsFollow`" + `). [ADR 44](adr/0044-segments-are-of-links.md) says how. A link whose name nft(8) cannot write (quotes, spaces, a final ` + "`*`" + `) is left out, and ` + "`status`" + ` says so.

## Other ways

| what | reaches the backend | test |
|---|---|---|
| a broadcast (192.0.2.255, 255.255.255.255) to a UDP port that is published on any address, or on 0.0.0.0 | once, by the daemon's proxy, as gateway. The answer comes from the host's address on the link of the broadcast. Without the proxy (` + "`--no-proxy`, `--direct`" + `), and to a port of a range that has no socket of its own (eBPF holds it): **dropped** | ` + "`TestBroadcast`" + ` |
| a broadcast on the backend's own link, to a published port that is the backend's port too | only directly; the proxy leaves it | ` + "`TestBroadcastToOthers`" + ` |
| multicast (224.0.0.0/4, ff00::/8) | **dropped** | ` + "`TestBroadcastToOthers`" + ` |
| an address of a prefix that is routed to the host as local (AnyIP, ` + "`ip route add local 203.0.113.0/24 dev lo`" + `) | as by a LAN address, if the port is published on any address or on this one | ` + "`TestAnyIP`" + ` |
| a client by the second uplink, with ` + "`ip rule add from ADDRESS lookup TABLE`" + ` for the address that it calls, or marks that are saved in the flow | as the client, and is answered by that uplink | ` + "`TestUplinkAnswers`, `TestUplinkRules`" + ` |
| the host itself, from an address of its own for which a rule has another table that does not lead to the backend, or bound to 127.0.0.1 or ::1 and to another address of its own | by the proxy, as gateway. Without it (` + "`--no-proxy`, `--direct`" + `): **refused** or **dropped** | ` + "`TestUplinkOwnAddress`" + ` |
| a port that is published with ` + "`--proxy-only`" + ` | from everywhere as gateway | ` + "`TestNoWayBack`" + ` |
| a port that is published with ` + "`--masquerade`" + ` | from clients elsewhere as gateway; from the host as by any other port | ` + "`TestNoWayBack`" + ` |
| a port that is published with ` + "`--from`" + `, by a client that is not in it | **dropped**, whichever way it would be served; the host itself is served | ` + "`TestFrom`" + `, ` + "`TestFromByBroadcast`" + ` |
| a client of the other family than the backend's, where an input chain drops | **dropped**, unless the chain accepts the *frontend's* port: a proxy serves the client, so that it is input for the host and not forwarded, and ` + "`ct status dnat`" + ` is not true for it. [beside.md](beside.md#what-other-programs-see) has the lines | ` + "`TestBesideNftables`" + ` |

**TFTP.** A TFTP server answers from a port of its own choice. Where the backend's port is 69, a proxy follows this: clients at 127.0.0.1 and ::1, and those of the other family, get and send files, all by the frontend's port (` + "`TestTFTP`" + `). Clients on the LAN do so by netfilter, if the backend is in a declared network. The host itself does not by another address of its own, such as 192.0.2.1. It must use 127.0.0.1 or ::1, or the server must answer from one port (dnsmasq: ` + "`--tftp-single-port`" + `, without ` + "`--bind-interfaces`" + `). Backends on another port than 69 need that everywhere.
`

// reachabilityPage is docs/reachability.md.
func reachabilityPage() string {
	var b strings.Builder
	fmt.Fprintf(&b, pageHead, len(cells(32))+len(cells(128)), len(hostCells(32))+len(hostCells(128)))
	for _, part := range []struct {
		title string
		by    []asked
	}{
		{"By an address of the host", byHost},
		{"By the backend's own address", []asked{byBackend}},
		{"The way out", []asked{byFar, byNear}},
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

// cellText is the outcome if it is the same for families and protocols, or each outcome.
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
	if len(texts) == 0 {
		return "–"
	}
	if len(slices.Compact(texts)) == 1 {
		return texts[0]
	}
	return strings.Join(labels, ", ")
}
