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

// Not every packet that gets where it should not is answered to who sent it: one with
// another's source is answered to him, and one to ::1 with an answer that no machine
// takes off a wire. The backend counts them.

// portOfImpostors is a port of the backend's to which impostors send. Nothing leads to
// it; siblings could ask it, but none does.
const portOfImpostors = 83

// watchForTrespassers has the backend count what may not come to it, and gives two
// machines outside the network the address of one inside. Of TCP from the host to the
// loopback frontend's backend it counts only what begins a connection: one that its proxy
// has had, as it may, can still be ending.
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

// knock has everybody but the host ask for loopback frontends.
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

// leave has endpoints send to the far server what has no ports.
func (r *reach) leave(t *testing.T) {
	t.Helper()
	for _, ns := range []*lab.NS{r.top.Backend1, r.top.Other} {
		ping(t, ns, r.top.Far.V4)
		ping(t, ns, r.top.Far.V6)
	}
}

// solicit has the sibling make sure that the backend is still where it was, which it does
// from its link-local address (RFC 4861 section 7.2.2). With bridge-nf that comes by the
// guard.
func (r *reach) solicit(t *testing.T) {
	t.Helper()
	labtest.Reaches(t, r.top.Backend2, "udp", at(r.top.Backend1.V6, 80), serverPublished)
	labtest.Exec(t, r.top.Backend2, "ip", "neighbour", "change", r.top.Backend1.V6.String(), "dev", lab.MachineLink, "nud", "probe")
}

// trespasses are the packets that came to the backend and should not have, and those
// that should have and did not, one a line. It forgets them.
func (r *reach) trespasses(t *testing.T) (lines []string) {
	t.Helper()
	r.knock(t)
	r.impersonate(t)
	r.leave(t)
	r.solicit(t)
	counts := counters(t, r.top.Backend1)
	for end := time.Now().Add(silence); counts["solicited"] == 0 && time.Now().Before(end); {
		counts = counters(t, r.top.Backend1) // the kernel sends it a moment later
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

// forget sets the counters to zero. The flows go first: what TCP sends again of one that
// was let through while a rule was missing would be counted.
func (r *reach) forget(t *testing.T) {
	t.Helper()
	labtest.Exec(t, r.top.Host, "conntrack", "-F")
	for _, ns := range []*lab.NS{r.top.Backend1, r.top.Far} {
		nft(t, ns, "reset", "counters")
	}
}

// counters are those of a machine, by their names.
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
