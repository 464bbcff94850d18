// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
)

// The sender of a packet that passes although it should not does not always get an answer:
// with a forged source the answer goes to another machine, and no machine accepts an answer
// from ::1. So the backend counts such packets.

// portOfImpostors is a port of the backend to which machines with forged addresses send. No
// other machine uses it.
const portOfImpostors = 83

// watchForTrespassers lets the backend count packets that must not arrive, and gives two
// machines outside the network the address of one inside. Of TCP from the host to the backend
// of the loopback frontend it counts only packets that begin a connection, because earlier
// connections of the proxy may still be ending.
func (r *reach) watchForTrespassers(t *testing.T) {
	t.Helper()
	top := r.top
	load(t, top.Backend1, fmt.Sprintf(`table inet watch {
		counter impostors {}
		counter loopback {}
		counter solicited {}
		chain prerouting {
			type filter hook prerouting priority raw;
			udp dport %[1]d counter name impostors
			udp dport 82 counter name loopback
			ip saddr %[2]s tcp dport 82 tcp flags & (syn | ack) != syn return
			ip6 saddr %[3]s tcp dport 82 tcp flags & (syn | ack) != syn return
			tcp dport 82 counter name loopback
			ip6 saddr fe80::/10 ip6 daddr %[4]s icmpv6 type nd-neighbor-solicit counter name solicited
		}
	}`, portOfImpostors, top.Gateway4, top.Gateway6, top.Backend1.V6))
	load(t, top.Far, fmt.Sprintf(`table inet watch {
		counter naked {}
		chain prerouting {
			type filter hook prerouting priority raw;
			ip saddr { %s, %s } counter name naked
			ip6 saddr { %s, %s } counter name naked
		}
	}`, top.Inside4, top.OtherNet4, top.Inside6, top.OtherNet6))
	for _, impostor := range []*lab.NS{top.Neighbour, top.Other} {
		for _, a := range []netip.Addr{top.Backend2.V4, top.Backend2.V6} {
			labtest.Exec(t, impostor, "ip", "address", "add", a.String(), "dev", "lo", "nodad")
		}
	}
}

// impersonate sends packets with the sibling's source from outside the network.
func (r *reach) impersonate(t *testing.T) {
	t.Helper()
	for _, impostor := range []*lab.NS{r.top.Neighbour, r.top.Other} {
		for _, f := range families(r.top) {
			spray(t, impostor, "udp", f.backend2, netip.AddrPortFrom(f.backend1, portOfImpostors), []int{20000})
		}
		r.askLater(t, impostor)
	}
}

// knock sends to loopback frontends from all machines except the host.
func (r *reach) knock(t *testing.T) {
	t.Helper()
	nft(t, r.top.Backend1, "reset", "counters")
	var all []cell
	for _, bits := range []int{32, 128} {
		for _, c := range cells(bits) {
			if c.source != fromHost && c.asked == byLoopback && c.target == publishedLoopback {
				all = append(all, c)
			}
		}
	}
	r.measure(t, all)
}

// leave sends packets without ports from endpoints to the far server.
func (r *reach) leave(t *testing.T) {
	t.Helper()
	for _, ns := range []*lab.NS{r.top.Backend1, r.top.Other} {
		ping(t, ns, r.top.Far.V4)
		ping(t, ns, r.top.Far.V6)
	}
}

// solicit makes the sibling verify the backend's link layer address, which it does from its
// link-local address (RFC 4861 section 7.2.2). With bridge-nf that passes the guard.
func (r *reach) solicit(t *testing.T) {
	t.Helper()
	labtest.Reaches(t, r.top.Backend2, "udp", at(r.top.Backend1.V6, 80), serverPublished)
	labtest.Exec(t, r.top.Backend2, "ip", "neighbour", "change", r.top.Backend1.V6.String(), "dev", lab.MachineLink, "nud", "probe")
}

// sideways lists the answers of the backend that do not arrive if they come by its other link.
func (r *reach) sideways(t *testing.T) (lines []string) {
	t.Helper()
	for _, f := range families(r.top) {
		for name, probe := range sidewayProbes(t, r.top, f) {
			if err := probe(silence); err != nil {
				lines = append(lines, fmt.Sprintf("%s %s: no answer by the backend's other link: %v", f.name, name, err))
			}
		}
	}
	return lines
}

// trespasses lists the packets that arrived at the backend and should not have, and those
// that should have and did not, one a line, and resets the counters.
func (r *reach) trespasses(t *testing.T) (lines []string) {
	t.Helper()
	r.knock(t)
	r.impersonate(t)
	r.leave(t)
	r.solicit(t)
	lines = append(lines, r.sideways(t)...)
	counts := counters(t, r.top.Backend1)
	for end := time.Now().Add(silence); counts["solicited"] == 0 && time.Now().Before(end); {
		counts = counters(t, r.top.Backend1) // the kernel counts it a moment later
	}
	counts["naked"] = counters(t, r.top.Far)["naked"]
	if counts["solicited"] == 0 {
		lines = append(lines, "sibling: its neighbour discovery does not get through")
	}
	for name, what := range map[string]string{
		"impostors": "packets from outside with a sibling's source", "loopback": "packets to a loopback frontend",
		"naked": "packets with a network's source",
	} {
		if counts[name] != 0 {
			lines = append(lines, fmt.Sprintf("%d %s got through", counts[name], what))
		}
	}
	r.forget(t)
	return lines
}

// forget deletes the flows and sets the counters to zero. Without the first, retransmissions
// of a flow that passed while a rule was missing would be counted.
func (r *reach) forget(t *testing.T) {
	t.Helper()
	labtest.Exec(t, r.top.Host, "conntrack", "-F")
	for _, ns := range []*lab.NS{r.top.Backend1, r.top.Far} {
		nft(t, ns, "reset", "counters")
	}
}

// counters returns the counters of a machine, by their names.
func counters(t *testing.T, ns *lab.NS) map[string]int {
	t.Helper()
	counts := map[string]int{}
	listing := nft(t, ns, "list", "counters")
	for _, found := range regexp.MustCompile(`counter (\w+) \{\s*packets (\d+)`).FindAllStringSubmatch(listing, -1) {
		var n int
		_, err := fmt.Sscan(found[2], &n)
		require.NoError(t, err)
		counts[found[1]] = n
	}
	require.Len(t, counts, strings.Count(listing, "counter "))
	return counts
}
