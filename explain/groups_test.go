// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nftnat/nftnat/engine"
	"github.com/nftnat/nftnat/internal/lab"
	"github.com/nftnat/nftnat/internal/lab/labtest"
	"github.com/nftnat/nftnat/nat"
)

// dice makes rules about ports and addresses of mappings.
type dice struct{ *rand.Rand }

func (d dice) port() int { return []int{1000, 2000, 3000}[d.IntN(3)] + d.IntN(120) }

func (d dice) ports() string {
	from := d.port()
	switch d.IntN(4) {
	case 0:
		return fmt.Sprint(from)
	case 1:
		return fmt.Sprintf("%d-%d", from, from+1+d.IntN(60))
	case 2:
		return fmt.Sprintf("!= %d", from)
	}
	return fmt.Sprintf("{ %d, %d, %d-%d }", from, from+3, from+7, from+20)
}

func (d dice) addrs(v6 bool) string {
	all := []string{"172.30.0.2", "172.30.0.3", "172.30.0.0/30", "172.30.0.2-172.30.0.9", "192.0.2.0/24", "10.1.2.3", "172.16.0.0/12", "{ 172.30.0.3, 10.0.0.0/8 }"}
	if v6 {
		all = []string{"fd30::2", "fd30::/64", "2001:db8::/32", "fd30::2-fd30::3"}
	}
	return all[d.IntN(len(all))]
}

func (d dice) match() string {
	side := []string{"sport", "dport"}[d.IntN(2)]
	switch d.IntN(9) {
	case 0:
		return "ip " + []string{"saddr", "daddr"}[d.IntN(2)] + " " + d.addrs(false)
	case 1:
		return "ip6 " + []string{"saddr", "daddr"}[d.IntN(2)] + " " + d.addrs(true)
	case 2:
		return fmt.Sprintf("ip daddr . tcp dport { 172.30.0.2 . %d-%d, 172.30.0.0/24 . %d }", d.port(), 4000, d.port())
	case 3:
		return "meta l4proto tcp ct original proto-dst " + fmt.Sprint(d.port())
	case 4:
		if d.IntN(4) != 0 {
			break
		}
		return fmt.Sprintf("th %s & 0x%x == 0", side, 1<<d.IntN(5))
	case 5:
		return fmt.Sprintf("tcp %s < %d", side, d.port())
	case 6:
		return "ip daddr 172.30.0.2 tcp dport " + fmt.Sprint(d.port())
	}
	return []string{"tcp ", "udp ", "th "}[d.IntN(3)] + side + " " + d.ports()
}

// rules is a table with some chains, of which a few drop.
func (d dice) rules() string {
	var b strings.Builder
	b.WriteString("table inet foreign {\n")
	for i, hook := range []string{"prerouting priority raw", "forward priority filter", "input priority filter", "postrouting priority mangle", "output priority filter"} {
		if d.IntN(3) == 0 {
			continue
		}
		fmt.Fprintf(&b, "chain c%d { type filter hook %s; policy accept;\n", i, hook)
		for range d.IntN(5) {
			match := d.match()
			if more := d.match(); d.IntN(2) == 0 && strings.Contains(match, "ip6") == strings.Contains(more, "ip6") && strings.Contains(match, "udp") == strings.Contains(more, "udp") && !strings.Contains(match+more, "l4proto") {
				match += " " + more
			}
			fmt.Fprintf(&b, "%s %s\n", match, []string{"drop", "accept", "counter", "meta mark set 7", "drop", "limit rate 1/second drop"}[d.IntN(6)])
		}
		if d.IntN(3) == 0 {
			fmt.Fprintf(&b, "tcp dport vmap { %d : drop, %d-%d : accept, %d : drop }\n", d.port(), 5000, 5000+d.IntN(9), 5100+d.IntN(9))
		}
		if d.IntN(4) == 0 {
			b.WriteString("meta mark 7 drop\n")
		}
		b.WriteString("}\n")
	}
	if d.IntN(4) == 0 {
		fmt.Fprintf(&b, "chain rival { type nat hook prerouting priority dstnat - %d; tcp dport %s dnat ip to 172.30.0.3:%d; }\n", d.IntN(2)*5, strings.TrimPrefix(d.ports(), "!= "), d.port())
	}
	b.WriteString("}\n")
	return b.String()
}

// Mappings of one group meet the same, whatever the rules.
func TestGroupsMeetTheSame(t *testing.T) {
	top, err := lab.Build(lab.Options{Parts: lab.PartBackend1 | lab.PartBackend2, Forwarding: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, top.Close()) })
	e, err := engine.Open(t.Context(), engine.Options{NetNS: top.Host.Path(), NoProxies: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	seed := uint64(time.Now().UnixNano())
	d := dice{rand.New(rand.NewPCG(seed, 0))}
	published := map[string]bool{}
	for i := range 200 {
		backend := []string{"172.30.0.2", "172.30.0.3", "[fd30::2]"}[d.IntN(3)]
		frontend := []string{"", "", "192.0.2.1:", "0.0.0.0:"}[d.IntN(4)]
		if backend[0] == '[' {
			frontend = ""
		}
		text := fmt.Sprintf("%s%d->%s:%d", frontend, 1000+i, backend, d.port())
		if d.IntN(3) == 0 {
			text += "/udp"
		}
		m, err := nat.ParseMappingText(text)
		require.NoError(t, err)
		m.Masquerade = false
		if _, err := e.Publish(t.Context(), nat.PublishOptions{}, m); err == nil {
			published[text] = true
		}
	}
	require.Greater(t, len(published), 150)
	rtp, err := nat.ParseMappingText("5000-5119->172.30.0.3:5000-5119/udp")
	require.NoError(t, err)
	_, err = e.Publish(t.Context(), nat.PublishOptions{}, rtp)
	require.NoError(t, err)
	all, err := e.Mappings(t.Context())
	require.NoError(t, err)
	x, err := New(Options{NetNS: top.Host.Path(), ProbeTimeout: -1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, x.Close()) })
	// Random rules may tell each port apart; ours alone do not.
	s, err := x.Snapshot(t.Context())
	require.NoError(t, err)
	doc := newDoctor(t.Context(), s, Examination{Mappings: slices.Values(all), Proxies: true, Time: time.Minute})
	doc.collect()
	require.Less(t, len(doc.groups()), len(all)/2, "mappings are put together")
	rounds := 3
	if n, err := strconv.Atoi(os.Getenv("NFTNAT_ROUNDS")); err == nil {
		rounds = n
	}
	for range rounds {
		text := d.rules()
		labtest.ExecInput(t, top.Host, text, "nft", "-f", "-")
		s, err := x.Snapshot(t.Context())
		require.NoError(t, err)
		doc := newDoctor(t.Context(), s, Examination{Mappings: slices.Values(all), Proxies: true, Time: time.Minute})
		doc.collect()
		first := map[kind]string{}
		for _, m := range all {
			is := doc.meets(m)
			k := doc.kindOf(m)
			was, known := first[k]
			if !known {
				first[k] = is
				continue
			}
			require.Equal(t, was, is, "seed %d, %s, in\n%s", seed, m, text)
		}
		doc = newDoctor(t.Context(), s, Examination{Mappings: slices.Values(nat.Collapse(all)), Proxies: true, Time: time.Minute})
		doc.collect()
		var ports []nat.Mapping
		for i := range doc.all {
			is := doc.meets(doc.all[i])
			for m := range nat.Expand(doc.published(i)) {
				ports = append(ports, m)
				require.Equal(t, is, doc.meets(m), "seed %d, %s, in\n%s", seed, m, text)
			}
		}
		require.Equal(t, nat.Collapse(all), nat.Collapse(ports), "no port is lost")
		require.True(t, doc.apart.eachPort || len(doc.all) < len(ports), "ports of ranges are taken together")
		labtest.Exec(t, top.Host, "nft", "delete", "table", "inet", "foreign")
	}
}

// meets is what a mapping meets, without what names it.
func (d *doctor) meets(m nat.Mapping) string {
	var lines []string
	for _, a := range d.clients(m) {
		r := d.Explain(d.ctx, Query{Proto: m.Proto, Frontend: m.Frontend, From: a}, d.servers(m)...)
		line := fmt.Sprint(a, " ", r.Verdict, " ", r.Mapping == m)
		if c := r.Cause; c != nil {
			thing := c.Thing
			for _, own := range []string{m.Backend.String(), netip.AddrPortFrom(m.Backend.Addr(), m.Frontend.Port()).String()} {
				thing = strings.ReplaceAll(thing, own, "backend")
			}
			line += " " + c.Kind + " " + thing
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}
