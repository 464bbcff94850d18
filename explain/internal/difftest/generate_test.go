// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package difftest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// table is a table of nftables.
type table struct {
	family, name string
	dormant      bool
	elder        bool // older than that of nftnat
	sets         []string
	chains       []*chain
}

// chain is a chain, a base chain if base is not empty.
type chain struct {
	name, base string
	rules      []string
}

// generator makes a scenario.
type generator struct {
	*rand.Rand
	site *site
	sc   *scenario
	// What the rule at hand is of.
	table  *table
	hook   string
	kind   string // filter, nat or route
	prio   int
	chains []string // that may be jumped to
	n      int      // for names
	client client   // whom the rule at hand is about
	answer bool     // it is about the answer
}

func (g *generator) percent(n int) bool { return g.IntN(100) < n }

func one[T any](g *generator, of ...T) T { return of[g.IntN(len(of))] }

// weighted is something that is chosen as often as its weight says.
type weighted[T any] struct {
	weight int
	value  T
}

func choose[T any](g *generator, of []weighted[T]) T {
	sum := 0
	for _, w := range of {
		sum += w.weight
	}
	n := g.IntN(sum)
	for _, w := range of {
		if n -= w.weight; n < 0 {
			return w.value
		}
	}
	panic("unreachable")
}

func (g *generator) name(prefix string) string {
	g.n++
	return prefix + strconv.Itoa(g.n)
}

// v4 reports the family of the rule's client.
func (g *generator) v4() bool { return g.client.addr.Is4() }

// translated reports whether the destination is already the backend.
func (g *generator) translated() bool {
	switch g.hook {
	case "prerouting", "output":
		return g.prio > -100
	case "ingress":
		return false
	}
	return true
}

// ends returns the addresses and ports of the packet that the rule is about, mostly.
func (g *generator) ends() (src, dst netip.AddrPort) {
	c := g.client
	src, dst = netip.AddrPortFrom(c.addr, 20000), c.frontend
	back := netip.AddrPortFrom(c.mapping.Backend.Addr(), c.backendPort())
	if g.answer {
		if g.hook == "postrouting" || g.hook == "egress" {
			return back, src
		}
		return back, src
	}
	if g.translated() && !g.percent(10) {
		dst = back
	}
	if g.hook == "egress" {
		dst = back
	}
	return src, dst
}

func (g *generator) strayAddr() netip.Addr {
	if g.v4() {
		return one(g, append(append(client4, other4...), append(inside4, host4...)...)...)
	}
	return one(g, append(append(client6, other6...), append(inside6, host6...)...)...)
}

func (g *generator) strayPort() uint16 {
	return one[uint16](g, 22, 53, 80, 443, 8080, 8081, 8082, 8084, 9080, 5353, 5354, 9053, 8090, 8095)
}

// addrText is an address, a prefix or a range that has the address.
func (g *generator) addrText(a netip.Addr) string {
	switch g.IntN(6) {
	case 0, 1:
		bits := one(g, 24, 16, 28, 31, 8, 25)
		if !a.Is4() {
			bits = one(g, 64, 48, 126, 32, 120)
		}
		p, _ := a.Prefix(bits)
		return p.String()
	case 2:
		if a.Prev().IsValid() && a.Next().IsValid() {
			return a.Prev().String() + "-" + a.Next().String()
		}
	}
	return a.String()
}

func (g *generator) portText(p uint16) string {
	switch g.IntN(6) {
	case 0:
		return fmt.Sprintf("%d-%d", p-uint16(g.IntN(5)), p+uint16(g.IntN(40)))
	case 1:
		return one(g, "1024-65535", "1-65535", "8000-9999")
	}
	return strconv.Itoa(int(p))
}

func (g *generator) op() string {
	if g.percent(12) {
		return "!= "
	}
	return ""
}

// proto is the name of the client's protocol, seldom the other one.
func (g *generator) proto() string {
	p := g.client.mapping.Proto
	if g.percent(6) {
		p = map[nat.Proto]nat.Proto{nat.TCP: nat.UDP, nat.UDP: nat.TCP}[p]
	}
	return p.String()
}

// layer is ip or ip6.
func (g *generator) layer() string {
	if g.v4() {
		return "ip"
	}
	return "ip6"
}

// distinct removes what stands twice and what is in others, roughly: elements that overlap are refused.
func distinct(elements []string) string {
	var kept []string
	for _, e := range elements {
		if !slices.Contains(kept, e) {
			kept = append(kept, e)
		}
	}
	return strings.Join(kept, ", ")
}

// addrMatch matches the source or destination.
func (g *generator) addrMatch() string {
	src, dst := g.ends()
	field, a := "saddr", src.Addr()
	if g.percent(50) {
		field, a = "daddr", dst.Addr()
	}
	if g.percent(15) {
		a = g.strayAddr()
	}
	head := g.layer() + " " + field + " "
	switch g.IntN(8) {
	case 0:
		return head + g.op() + "{ " + distinct([]string{a.String(), g.strayAddr().String(), g.strayAddr().String()}) + " }"
	case 1:
		return head + g.op() + "@" + g.set("type "+g.layerType()+"; flags interval; auto-merge", g.addrText(a), g.addrText(g.strayAddr()))
	case 2:
		return head + g.op() + "@" + g.set("type "+g.layerType(), a.String(), g.strayAddr().String())
	case 3:
		if g.v4() {
			return head + "& 255.255.255.0 == " + netip.PrefixFrom(a, 24).Masked().Addr().String()
		}
	}
	return head + g.op() + g.addrText(a)
}

func (g *generator) layerType() string {
	if g.v4() {
		return "ipv4_addr"
	}
	return "ipv6_addr"
}

// set adds a named set and returns its name.
func (g *generator) set(what string, elements ...string) string {
	name := g.name("s")
	g.table.sets = append(g.table.sets, fmt.Sprintf("set %s { %s; elements = { %s }; }", name, what, distinct(elements)))
	return name
}

func (g *generator) mapOf(what string, elements ...string) string {
	name := g.name("m")
	g.table.sets = append(g.table.sets, fmt.Sprintf("map %s { %s; elements = { %s }; }", name, what, distinct(elements)))
	return name
}

// portMatch matches a port.
func (g *generator) portMatch() string {
	src, dst := g.ends()
	field, p := "dport", dst.Port()
	if g.answer {
		field, p = "sport", src.Port()
	}
	if g.percent(10) {
		p = g.strayPort()
	}
	head := g.proto() + " " + field + " "
	if g.percent(15) {
		head = "meta l4proto { tcp, udp } th " + field + " "
	}
	switch g.IntN(6) {
	case 0:
		return head + g.op() + "{ " + distinct([]string{strconv.Itoa(int(p)), "22", "443"}) + " }"
	case 1:
		return head + g.op() + "@" + g.set("type inet_service; flags interval; auto-merge", g.portText(p), "22")
	case 2:
		return head + one(g, ">= ", "> ", "< ", "<= ") + strconv.Itoa(int(p))
	case 3:
		if g.percent(30) {
			return fmt.Sprintf("meta l4proto %s @th,16,16 %d", g.proto(), p)
		}
	}
	return head + g.op() + g.portText(p)
}

// pairMatch matches a concatenation.
func (g *generator) pairMatch() string {
	src, dst := g.ends()
	layer, proto := g.layer(), g.client.mapping.Proto.String()
	port := dst.Port()
	field := "dport"
	if g.answer {
		port, field = src.Port(), "sport"
	}
	t := g.layerType()
	switch g.IntN(7) {
	case 0:
		return fmt.Sprintf("%s saddr . %s %s %s{ %s . %d, %s . 22 }", layer, proto, field, g.op(), src.Addr(), port, g.strayAddr())
	case 1:
		return fmt.Sprintf("%s saddr . %s %s @%s", layer, proto, field, g.set("type "+t+" . inet_service; flags interval",
			g.addrText(src.Addr())+" . "+g.portText(port)))
	case 2:
		return fmt.Sprintf("%s saddr . %s daddr @%s", layer, layer, g.set("type "+t+" . "+t, src.Addr().String()+" . "+dst.Addr().String()))
	case 3:
		return fmt.Sprintf("meta l4proto . th %s { %s . %d, udp . 123 }", field, proto, port)
	case 4:
		return fmt.Sprintf("%s saddr . %s daddr . %s %s @%s", layer, layer, proto, field, g.set("type "+t+" . "+t+" . inet_service; flags interval",
			g.addrText(src.Addr())+" . "+g.addrText(dst.Addr())+" . "+g.portText(port)))
	case 5:
		in, _ := g.links()
		if in == "" {
			break
		}
		return fmt.Sprintf("iifname . %s saddr { %s . %s, up1 . %s }", layer, in, src.Addr(), g.strayAddr())
	}
	return fmt.Sprintf("meta nfproto . meta l4proto { %s . %s, ipv4 . icmp }", map[bool]string{true: "ipv4", false: "ipv6"}[g.v4()], proto)
}

// linkOf is the interface of the host towards an address.
func linkOf(a netip.Addr) string {
	for _, l := range []struct{ link, prefix string }{
		{"br0", "172.30.0.0/24"},
		{"br0", "fd30::/64"},
		{"pt0", "10.40.0.0/24"},
		{"pt0", "fd40::/64"},
		{"up1", "198.51.100.0/24"},
		{"up1", "2001:db8:2::/64"},
		{"lo", "127.0.0.0/8"},
		{"lo", "::1/128"},
	} {
		if netip.MustParsePrefix(l.prefix).Contains(a) {
			return l.link
		}
	}
	return "up0"
}

// links are the interfaces by which the packet comes and goes at the hook; empty: the hook has none.
func (g *generator) links() (in, out string) {
	src, dst := g.ends()
	back := g.client.mapping.Backend.Addr()
	in, out = linkOf(src.Addr()), linkOf(back)
	if g.answer {
		in, out = linkOf(back), linkOf(dst.Addr())
	}
	switch g.hook {
	case "prerouting", "input", "ingress":
		return in, ""
	case "output", "postrouting", "egress":
		return "", out
	}
	return in, out
}

func (g *generator) linkMatch() string {
	in, out := g.links()
	field, link := "iif", in
	if in == "" || out != "" && g.percent(50) {
		field, link = "oif", out
	}
	if link == "" {
		return ""
	}
	if g.percent(15) {
		link = one(g, "up0", "up1", "br0", "pt0", "lo")
	}
	switch g.IntN(9) {
	case 0:
		return field + " " + g.op() + link
	case 1:
		return field + "name " + g.op() + "{ " + distinct([]string{`"` + link + `"`, `"eth7"`}) + " }"
	case 2:
		return field + "name " + g.op() + `"` + link[:2] + `*"`
	case 3:
		return field + "type " + g.op() + one(g, "ether", "loopback")
	case 4:
		return field + "group " + one(g, "default", "0", "5")
	case 5:
		return "meta " + field + "kind " + g.op() + one(g, `"veth"`, `"bridge"`, `"vlan"`)
	}
	return field + "name " + g.op() + `"` + link + `"`
}

func (g *generator) ctMatch() string {
	c := g.client
	src, dst := netip.AddrPortFrom(c.addr, 0), c.frontend
	back := netip.AddrPortFrom(c.mapping.Backend.Addr(), c.backendPort())
	layer := g.layer()
	switch g.IntN(20) {
	case 0, 1:
		return "ct state " + g.op() + "{ established, related }"
	case 2:
		return "ct state established,related"
	case 3, 4:
		return "ct state new"
	case 5:
		return "ct state " + one(g, "invalid", "untracked", "!= new", "!= established")
	case 6, 7, 8:
		return "ct status " + one(g, "dnat", "snat", "dnat,snat", "seen-reply", "assured", "confirmed", "expected", "! dnat", "& (dnat|snat) != 0", "! snat")
	case 9, 10:
		return "ct direction " + one(g, "original", "reply")
	case 11:
		return fmt.Sprintf("ct original %s daddr %s", layer, g.addrText(dst.Addr()))
	case 12:
		return fmt.Sprintf("ct original %s saddr %s", layer, g.addrText(src.Addr()))
	case 13:
		return fmt.Sprintf("meta l4proto %s ct original proto-dst %d", c.mapping.Proto, dst.Port())
	case 14:
		return fmt.Sprintf("ct reply %s saddr %s", layer, g.addrText(back.Addr()))
	case 15:
		return fmt.Sprintf("meta l4proto %s ct reply proto-src %d", c.mapping.Proto, back.Port())
	case 16:
		return fmt.Sprintf("ct original protocol %s", c.mapping.Proto)
	case 17:
		return "ct mark " + one(g, "0", "1", "0x10", "and 0xf == 1")
	case 18:
		return "ct l3proto " + one(g, "ipv4", "ipv6")
	}
	return "ct zone " + one(g, "0", "1")
}

func (g *generator) markMatch() string {
	return "meta mark " + one(g, "0", "1", "2", "0x10", "!= 0", "and 0xf == 1", "and 0xf != 0", "{ 0, 1 }", "1-9", "or 1 == 1")
}

func (g *generator) fibMatch() string {
	switch g.IntN(8) {
	case 0, 1, 2:
		return "fib daddr type " + g.op() + one(g, "local", "local", "unicast", "broadcast", "{ local, multicast }")
	case 3:
		return "fib saddr type " + g.op() + one(g, "local", "unicast")
	case 4:
		if g.hook == "prerouting" || g.hook == "input" || g.hook == "forward" {
			return "fib saddr . iif oif " + one(g, "missing", "exists")
		}
	case 5:
		if g.hook == "prerouting" || g.hook == "input" || g.hook == "forward" {
			return "fib saddr . mark . iif oif " + one(g, "missing", "exists", `"up0"`)
		}
	case 6:
		return "fib daddr oif " + one(g, `"br0"`, `"lo"`, `"pt0"`, `"up0"`)
	}
	return "fib daddr oifname " + one(g, `"up0"`, `"br0"`, `"up1"`)
}

// headerMatch matches what a packet of a client's system has in its headers.
func (g *generator) headerMatch() string {
	proto := g.client.mapping.Proto.String()
	switch g.IntN(17) {
	case 0, 1:
		if proto == "tcp" {
			return "tcp flags " + one(g, "syn", "& (fin|syn|rst|ack) == syn", "& (syn|ack) == syn|ack", "! syn", "& syn == 0", "ack", "!= syn",
				"& (fin|syn|rst|ack) != syn", "{ syn, syn | ack }", "syn / fin,syn,rst,ack", "& (fin|rst) != 0")
		}
	case 2, 3, 4:
		if g.percent(20) {
			g.sc.unknowable = true // it depends on the client's system, and where it is
			if g.v4() {
				return one(g, "ip ttl 64", "ip ttl 63", "ip ttl < 64", "ip ttl 1-10", "ip length < 200", "ip length > 500", "meta length < 100", "meta length 0-20")
			}
			return one(g, "ip6 hoplimit 64", "ip6 hoplimit 63", "ip6 hoplimit < 64", "ip6 length < 200", "ip6 length > 500", "meta length > 100")
		}
	case 5:
		if g.v4() {
			return "ip protocol " + one(g, proto, "icmp", "!= "+proto)
		}
		return "ip6 nexthdr " + one(g, proto, "ipv6-icmp", "!= "+proto)
	case 6:
		if g.v4() {
			return one(g, "ip dscp cs0", "ip dscp cs1", "ip frag-off & 0x1fff != 0", "ip frag-off & 0x1fff == 0", "ip version 4", "ip hdrlength 5")
		}
		return one(g, "ip6 dscp cs0", "ip6 dscp cs1", "ip6 version 6")
	case 7:
		return one(g, "icmp type echo-request", "icmpv6 type nd-neighbor-solicit", "icmp type destination-unreachable", "meta l4proto icmp", "meta l4proto ipv6-icmp")
	case 8:
		return "meta pkttype " + one(g, "host", "broadcast", "multicast", "!= host")
	case 9, 10:
		return "meta l4proto " + g.op() + one(g, proto, "{ tcp, udp }", "{ icmp, ipv6-icmp }", "tcp", "udp")
	case 11:
		return "meta nfproto " + one(g, "ipv4", "ipv6", "!= ipv4")
	case 12:
		return "meta protocol " + one(g, "ip", "ip6", "{ ip, ip6 }")
	case 13:
		if g.hook == "output" || g.hook == "postrouting" {
			g.sc.unknowable = true // the owner of a socket of the host
			return one(g, "meta skuid 0", "meta skuid != 0", "meta skgid 0", "meta skuid 1000")
		}
	case 14:
		if g.hook == "prerouting" || g.hook == "input" {
			return one(g, "ether saddr 02:00:00:00:00:99", "ether type ip", "ether type ip6", "ether type vlan", "meta iiftype ether ether daddr 02:00:00:00:00:b0")
		}
	case 15:
		if g.percent(20) {
			g.sc.unknowable = true
			return one(g, "udp length 8-100", "tcp doff 5-15", "udp checksum 0", "tcp window > 0", "ip6 flowlabel 0")
		}
	}
	return "ip saddr 0.0.0.0/0"
}

// unknowable is a condition of which nobody can say whether it holds.
func (g *generator) unknowable() string {
	g.sc.unknowable = true
	return one(g, "limit rate 1/hour burst 1 packets", "limit rate over 1/minute", "meta random < 2147483648", "numgen inc mod 2 0",
		"jhash ip saddr mod 2 0", "quota over 100000 bytes", "quota 500 mbytes", "ct count over 3", "meta cpu 0", "tcp option maxseg size 1460",
		"rt mtu > 100", "ip id > 20000")
}

// condition is a match; weights are such that rules are neither about everything nor about nothing.
func (g *generator) condition() string {
	f := choose(g, []weighted[func() string]{
		{18, g.addrMatch},
		{18, g.portMatch},
		{8, g.pairMatch},
		{12, g.linkMatch},
		{12, g.ctMatch},
		{6, g.markMatch},
		{7, g.fibMatch},
		{14, g.headerMatch},
	})
	return f()
}

// allowed reports whether the family and hook have a match; what nft refuses is left out later.
func (g *generator) allowed(match string) bool {
	switch g.table.family {
	case "netdev":
		return !strings.HasPrefix(match, "ct ") && !strings.HasPrefix(match, "fib ") && !strings.Contains(match, "skuid") && !strings.Contains(match, "skgid")
	case "ip", "ip6":
		return !strings.Contains(match, "nfproto")
	case "bridge":
		return !strings.HasPrefix(match, "ct ") && !strings.HasPrefix(match, "fib ") && !strings.Contains(match, "sku") && !strings.Contains(match, "skgid")
	}
	return true
}

// aim chooses whom the rule at hand is about, mostly one of the family of the table.
func (g *generator) aim() {
	for range 20 {
		g.client = one(g, g.sc.clients...)
		if g.table == nil || (g.table.family != "ip" || g.v4()) && (g.table.family != "ip6" || !g.v4()) {
			break
		}
	}
	g.answer = g.percent(22)
}

var (
	speaksOf = map[string]*regexp.Regexp{
		"ip": regexp.MustCompile(`\b(ip|icmp) `), "ip6": regexp.MustCompile(`\b(ip6|icmpv6) `),
		"tcp": regexp.MustCompile(`\btcp `), "udp": regexp.MustCompile(`\budp `), "icmp": regexp.MustCompile(`\bicmp(v6)?\b|ipv6-icmp`),
	}
	exclude = [][2]string{{"ip", "ip6"}, {"tcp", "udp"}, {"tcp", "icmp"}, {"udp", "icmp"}}
)

// conflicting reports what nft refuses in one rule, roughly.
func conflicting(matches []string) bool {
	text := strings.Join(matches, " ") + " "
	for _, e := range exclude {
		if !strings.Contains(text, "{ tcp, udp }") && speaksOf[e[0]].MatchString(text) && speaksOf[e[1]].MatchString(text) {
			return true
		}
	}
	return false
}

// conditions are those of a rule.
func (g *generator) conditions() string {
	n := choose(g, []weighted[int]{{6, 0}, {40, 1}, {36, 2}, {18, 3}})
	if g.hook == "" || g.kind == "nat" && n == 0 {
		n++
	}
	var all []string
	for range n {
		for range 5 {
			if m := g.condition(); m != "" && g.allowed(m) && !conflicting(append(all, m)) {
				all = append(all, m)
				break
			}
		}
	}
	if g.sc.limits && g.percent(8) {
		all = append(all, g.unknowable())
	}
	return strings.Join(all, " ")
}

// change is a statement that goes on.
func (g *generator) change() string {
	options := []weighted[string]{
		{10, "counter"},
		{10, "meta mark set " + one(g, "1", "2", "0x10", "0", "meta mark or 0x10", "meta mark and 0xf0", "meta mark xor 1", "meta mark and 0xfffffff0 or 1")},
		{3, "log group 5"},
		{2, "meta priority set 1:1"},
	}
	ip := g.table.family == "ip" || g.table.family == "ip6" || g.table.family == "inet"
	if ip && g.hook != "ingress" {
		options = append(options,
			weighted[string]{4, "ct mark set " + one(g, "1", "meta mark", "ct mark or 0x10")},
			weighted[string]{4, "meta mark set ct mark"},
			weighted[string]{2, "add @" + g.dynamic() + " { " + g.layer() + " saddr }"},
			weighted[string]{2, fmt.Sprintf("meta mark set %s saddr map { %s : 1, %s : 2 }", g.layer(), g.client.addr, g.otherThan(g.client.addr))},
		)
		if (g.hook == "prerouting" || g.hook == "output") && g.prio < -200 {
			options = append(options, weighted[string]{8, "notrack"})
		}
	}
	return choose(g, options)
}

// dynamic adds a set to which rules add.
func (g *generator) dynamic() string {
	name := g.name("d")
	g.table.sets = append(g.table.sets, fmt.Sprintf("set %s { type %s; size 65535; flags dynamic; timeout 1h; }", name, g.layerType()))
	return name
}

func (g *generator) otherThan(a netip.Addr) netip.Addr {
	for {
		if o := g.strayAddr(); o != a {
			return o
		}
	}
}

// verdict ends a rule.
func (g *generator) verdict() string {
	drops := g.sc.drops
	options := []weighted[string]{{30, "accept"}, {drops, "drop"}, {8, ""}, {6, "return"}, {2, "continue"}}
	if len(g.chains) > 0 {
		to := one(g, g.chains...)
		options = append(options, weighted[string]{26, "jump " + to}, weighted[string]{8, "goto " + to})
	}
	ip := g.table.family == "ip" || g.table.family == "ip6" || g.table.family == "inet"
	if ip && (g.hook == "input" || g.hook == "forward" || g.hook == "output" || g.hook == "prerouting") {
		how := "reject"
		if g.table.family == "inet" {
			how = one(g, "reject", "reject with icmpx admin-prohibited", "meta l4proto tcp reject with tcp reset")
		} else if g.client.mapping.Proto == nat.TCP {
			how = one(g, "reject", "meta l4proto tcp reject with tcp reset")
		}
		options = append(options, weighted[string]{drops / 2, how})
	}
	if g.sc.limits && ip && g.percent(5) {
		g.sc.unknowable = true
		return one(g, "queue num 7 bypass", "queue num 7")
	}
	return choose(g, options)
}

// vmap is a rule by a verdict map.
func (g *generator) vmap() string {
	src, dst := g.ends()
	layer, proto := g.layer(), g.client.mapping.Proto.String()
	v := func() string {
		if len(g.chains) > 0 && g.percent(40) {
			return one(g, "jump ", "goto ") + one(g, g.chains...)
		}
		if g.IntN(100) < g.sc.drops*2 {
			return "drop"
		}
		return one(g, "accept", "return", "continue")
	}
	in, _ := g.links()
	switch g.IntN(8) {
	case 0:
		return fmt.Sprintf("%s dport vmap { %d : %s, 22 : accept }", proto, dst.Port(), v())
	case 1:
		return fmt.Sprintf("%s saddr vmap @%s", layer, g.mapOf("type "+g.layerType()+" : verdict; flags interval", g.addrText(src.Addr())+" : "+v()))
	case 2:
		return fmt.Sprintf("%s saddr vmap @%s", layer, g.mapOf("type "+g.layerType()+" : verdict", src.Addr().String()+" : "+v(), g.otherThan(src.Addr()).String()+" : "+v(), "* : "+v()))
	case 3:
		return fmt.Sprintf("meta l4proto vmap { tcp : %s, udp : %s }", v(), v())
	case 4:
		if g.table.family == "netdev" || g.table.family == "bridge" || g.hook == "ingress" {
			break
		}
		return fmt.Sprintf("ct state vmap { established : %s, related : accept, new : %s, untracked : %s }", one(g, "accept", v()), v(), v())
	case 5:
		if in != "" {
			return fmt.Sprintf("iifname vmap { %q : %s, \"eth9\" : drop }", in, v())
		}
	case 6:
		return fmt.Sprintf("%s saddr . %s dport vmap { %s . %d : %s }", layer, proto, src.Addr(), dst.Port(), v())
	}
	return fmt.Sprintf("th dport vmap { %s : %s }", g.portText(dst.Port()), v())
}

// translation is a statement of a nat chain.
func (g *generator) translation() string {
	c := g.client
	to := one(g, inside4...)
	if !g.v4() {
		to = one(g, inside6...)
	}
	port := one(g, 80, 80, 8090, 81)
	if c.mapping.Proto == nat.UDP {
		port = one(g, 53, 53, 54)
	}
	addr, end := to.String(), netip.AddrPortFrom(to, uint16(port)).String()
	family := ""
	if g.table.family == "inet" {
		family = g.layer() + " "
	}
	proto := "meta l4proto " + c.mapping.Proto.String() + " "
	switch g.hook {
	case "prerouting", "output":
		return choose(g, []weighted[string]{
			{5, proto + "dnat " + family + "to " + end},
			{2, "dnat " + family + "to " + addr},
			{2, proto + "redirect to :" + strconv.Itoa(port)},
			{1, "redirect"},
			{2, fmt.Sprintf("dnat %sto %s dport map { %d : %s }", family, c.mapping.Proto, c.frontend.Port(), addr)},
			{2, fmt.Sprintf("dnat %s to %s daddr . %s dport map { %s . %d : %s . %d }", g.layer(), g.layer(), c.mapping.Proto,
				c.frontend.Addr(), c.frontend.Port(), addr, port)},
			{6, "accept"},
			{3, "return"},
			{1, "drop"},
		})
	case "postrouting":
		self := "172.30.0.1"
		if !g.v4() {
			self = "fd30::1"
		}
		return choose(g, []weighted[string]{
			{5, "masquerade"},
			{2, proto + "masquerade to :30000-40000"},
			{4, "snat " + family + "to " + one(g, self, addr, one(g, host4...).String())},
			{5, "accept"},
			{3, "return"},
			{1, "drop"},
		})
	}
	return choose(g, []weighted[string]{{4, "snat " + family + "to " + addr}, {5, "accept"}, {2, "return"}, {1, "drop"}})
}

// rule makes a rule of the chain at hand.
func (g *generator) rule(last bool) string {
	g.aim()
	number := g.name("r")
	var text string
	for range 10 {
		if text = g.body(last); !conflicting([]string{text}) {
			break
		}
	}
	return text + ` comment "` + number + `"`
}

// body is a rule without its comment.
func (g *generator) body(last bool) (text string) {
	switch {
	case g.kind == "nat" && (last || g.percent(60)):
		text = g.conditions() + " counter " + g.translation()
	case g.percent(12):
		text = g.conditions() + " counter " + g.vmap()
	case g.percent(25):
		text = g.conditions() + " counter " + g.change()
	case g.percent(10):
		text = g.conditions() + " counter " + g.change() + " " + g.verdict()
	default:
		text = g.conditions() + " counter " + g.verdict()
	}
	return text
}

// hookOf says for each family which hooks base chains have.
var hooksOf = map[string][]string{
	"ip":     {"prerouting", "prerouting", "forward", "forward", "forward", "input", "output", "postrouting"},
	"ip6":    {"prerouting", "prerouting", "forward", "forward", "forward", "input", "output", "postrouting"},
	"inet":   {"prerouting", "prerouting", "forward", "forward", "forward", "input", "output", "postrouting", "ingress"},
	"bridge": {"prerouting", "forward", "input", "output", "postrouting"},
	"netdev": {"ingress", "egress"},
	"arp":    {"input", "output"},
}

// base makes the head of a base chain.
func (g *generator) base() string {
	f := g.table.family
	g.hook = one(g, hooksOf[f]...)
	g.kind = "filter"
	ip := f == "ip" || f == "ip6" || f == "inet"
	if ip && g.percent(22) && g.hook != "forward" && g.hook != "ingress" {
		g.kind = "nat"
	} else if ip && g.hook == "output" && g.percent(25) {
		g.kind = "route"
	}
	g.prio = one(g, -400, -300, -300, -250, -199, -150, -150, -101, -100, -99, -10, 0, 0, 0, 0, 5, 10, 50, 100, 101, 225, 300)
	if g.kind == "nat" {
		g.prio = one(g, -100, -100, -110, -90, -150, 0)
		if g.hook == "postrouting" || g.hook == "input" {
			g.prio = one(g, 100, 100, 90, 110, 0)
		}
	}
	policy := "accept"
	if g.kind != "nat" && g.percent(g.sc.policies) {
		policy = "drop"
	}
	device := ""
	if g.hook == "ingress" || g.hook == "egress" {
		device = ` devices = { ` + distinct([]string{one(g, "up0", "up0", "up1", "vb1", "br0", "pt0"), one(g, "up0", "vb1", "vb2", "pt0")}) + ` }`
		if g.percent(50) {
			device = ` device "` + one(g, "up0", "up0", "vb1", "pt0", "br0") + `"`
		}
	}
	return fmt.Sprintf("type %s hook %s%s priority %d; policy %s;", g.kind, g.hook, device, g.prio, policy)
}

// ruleset makes a table.
func (g *generator) ruleset() *table {
	t := &table{
		family: choose(g, []weighted[string]{{22, "ip"}, {12, "ip6"}, {42, "inet"}, {8, "bridge"}, {10, "netdev"}, {3, "arp"}}),
		name:   g.name("t"),
	}
	g.table = t
	t.dormant, t.elder = g.percent(4), g.percent(30)
	if t.family == "arp" {
		t.chains = append(t.chains, &chain{name: g.name("c"), base: "type filter hook " + one(g, "input", "output") + " priority 0; policy accept;",
			rules: []string{`arp operation request arp saddr ip 192.0.2.77 counter drop comment "` + g.name("r") + `"`}})
		return t
	}
	g.chains = nil
	for range 1 + g.IntN(2) {
		g.hook = ""
		base := g.base()
		g.chains = nil
		// Chains that are jumped to come first, so that there are no loops. Some are of nobody.
		for range g.IntN(4) {
			c := &chain{name: g.name("c")}
			for range 1 + g.IntN(3) {
				c.rules = append(c.rules, g.rule(false))
			}
			t.chains = append(t.chains, c)
			g.chains = append(g.chains, c.name)
		}
		c := &chain{name: g.name("c"), base: base}
		if strings.Contains(base, "policy drop") || g.percent(20) {
			c.rules = g.allow()
		}
		n := 1 + g.IntN(5)
		for i := range n {
			c.rules = append(c.rules, g.rule(i == n-1))
		}
		t.chains = append(t.chains, c)
	}
	return t
}

// allow begins a chain as people do: what is established, what is local, what is published.
func (g *generator) allow() (rules []string) {
	add := func(text string) { rules = append(rules, text+` comment "`+g.name("r")+`"`) }
	ip := g.table.family == "ip" || g.table.family == "ip6" || g.table.family == "inet"
	if !ip || g.hook == "ingress" {
		add("counter " + one(g, "accept", "continue"))
		return rules
	}
	if g.percent(75) {
		add("ct state established,related counter accept")
	}
	if g.percent(50) {
		add("ct status dnat counter accept")
	}
	if g.percent(40) {
		add(`iifname { "br0", "pt0", "lo" } counter accept`)
	}
	return rules
}
