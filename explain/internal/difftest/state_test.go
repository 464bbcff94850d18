// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package difftest

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/nftnat/nftnat/internal/lab"
)

// change0 is a change of routes, policy rules or settings.
func (g *generator) change0() change {
	g.aim()
	f := choose(g, []weighted[func() change]{
		{22, g.routeChange},
		{26, g.ruleChange},
		{26, g.settingChange},
		{6, g.addressChange},
		{10, g.backendChange},
		{4, g.mtuChange},
	})
	return f()
}

func (g *generator) host(do, undo string) change {
	return change{ns: g.site.host, do: do + "\n", undo: undo + "\n"}
}

// ipFlag selects the family of the client.
func (g *generator) ipFlag() string {
	if g.v4() {
		return ""
	}
	return "-6 "
}

func (g *generator) gateway() string {
	if g.v4() {
		return one(g, "via 198.51.100.2 dev up1", "via 192.0.2.2 dev up0", "via 172.30.0.3 dev br0", "dev pt0", "dev up1")
	}
	return one(g, "via 2001:db8:2::2 dev up1", "via 2001:db8:1::2 dev up0", "via fd30::3 dev br0", "dev pt0", "dev up1")
}

// prefixOf is the client's address or its backend's, or a prefix with it.
func (g *generator) prefixOf() string {
	a := one(g, g.client.addr, g.client.mapping.Backend.Addr())
	if a.IsLoopback() {
		a = g.client.mapping.Backend.Addr()
	}
	bits := one(g, a.BitLen(), a.BitLen(), a.BitLen()-1, a.BitLen()-3)
	p, _ := a.Prefix(bits)
	return p.String()
}

func (g *generator) routeChange() change {
	to := g.prefixOf()
	switch g.IntN(6) {
	case 0:
		return g.host("route add blackhole "+to, "route del blackhole "+to)
	case 1:
		return g.host("route add unreachable "+to, "route del unreachable "+to)
	case 2:
		return g.host("route add prohibit "+to, "route del prohibit "+to)
	case 3:
		return g.host("route add throw "+to, "route del throw "+to)
	case 4:
		// In another table, that nobody asks.
		return g.host("route add blackhole "+to+" table 77", "route del blackhole "+to+" table 77")
	}
	via := g.gateway()
	g.sc.routed = g.sc.routed || strings.Contains(via, "via")
	return g.host("route add "+to+" "+via+" metric 7", "route del "+to+" "+via+" metric 7")
}

// ruleChange is a policy rule with a table of its own.
func (g *generator) ruleChange() change {
	c := g.client
	back := c.mapping.Backend
	host := func(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }
	proto := c.mapping.Proto.String()
	selector := one(g,
		"from "+host(c.addr), "from "+host(back.Addr()), "to "+host(back.Addr()), "to "+host(c.addr),
		"from "+host(c.frontend.Addr()), "to "+host(c.frontend.Addr()),
		"iif up0", "iif br0", "iif lo", "iif pt0", "oif up0",
		"fwmark 1", "fwmark 0x10/0x10", "fwmark 0/0xff",
		"ipproto "+proto, fmt.Sprintf("ipproto %s dport %d", proto, back.Port()), fmt.Sprintf("ipproto %s sport %d", proto, back.Port()),
		fmt.Sprintf("ipproto %s dport %d", proto, c.frontend.Port()),
		"not from "+host(c.addr), "from all", "to "+host(back.Addr())+" iif up0", "from "+host(back.Addr())+" iif br0",
		"uidrange 0-0", "tos 0x10")
	pref := one(g, 100, 100, 100, 32800)
	flag := g.ipFlag()
	if strings.Contains(selector, "127.0.0.1") || strings.Contains(selector, "::1/") {
		selector = "from all"
	}
	if g.percent(25) {
		action := one(g, "blackhole", "unreachable", "prohibit")
		if selector == "from all" && pref == 100 {
			pref = 32800
		}
		r := fmt.Sprintf("%srule %%s %s pref %d %s", flag, selector, pref, action)
		return g.host(fmt.Sprintf(r, "add"), fmt.Sprintf(r, "del"))
	}
	if g.percent(12) {
		r := fmt.Sprintf("%srule %%s %s pref %d lookup main suppress_prefixlength %d", flag, selector, 100, one(g, 0, 16, 24))
		return g.host(fmt.Sprintf(r, "add"), fmt.Sprintf(r, "del"))
	}
	g.n++
	number := 90 + g.n
	r := fmt.Sprintf("%srule %%s %s pref %d lookup %d", flag, selector, pref, number)
	what := one(g, "default "+g.gateway(), g.prefixOf()+" "+g.gateway(), "blackhole "+g.prefixOf(), "unreachable "+g.prefixOf(), "throw "+g.prefixOf(), "prohibit default")
	g.sc.routed = g.sc.routed || strings.Contains(what, "via")
	if what == "prohibit default" && selector == "from all" {
		what = "blackhole " + g.prefixOf()
	}
	route := fmt.Sprintf("%sroute %%s %s table %d", flag, what, number)
	return g.host(fmt.Sprintf(route+"\n"+r, "add", "add"), fmt.Sprintf(r+"\n"+route, "del", "del"))
}

func (g *generator) settingChange() change {
	link := one(g, "up0", "up0", "br0", "pt0", "up1", "all", "default")
	set := func(key, value string) change { return change{ns: g.site.host, sysctl: key, value: value} }
	if !g.v4() {
		return one(g,
			set("net.ipv6.conf."+link+".forwarding", "0"),
			set("net.ipv6.conf."+one(g, "up0", "br0", "pt0")+".forwarding", "0"),
			set("net.ipv6.conf."+one(g, "up0", "br0", "pt0", "all")+".force_forwarding", "1"),
			set("net.ipv6.conf."+link+".accept_ra", "2"),
			g.nf(),
		)
	}
	return one(g,
		set("net.ipv4.conf."+link+".rp_filter", one(g, "1", "1", "2")),
		set("net.ipv4.conf."+link+".rp_filter", one(g, "1", "1", "2")),
		set("net.ipv4.conf."+link+".forwarding", "0"),
		set("net.ipv4.ip_forward", "0"),
		set("net.ipv4.conf."+link+".accept_local", "1"),
		set("net.ipv4.conf."+link+".route_localnet", "1"),
		set("net.ipv4.conf."+link+".src_valid_mark", "1"),
		set("net.ipv4.conf."+link+".log_martians", "0"),
		set("net.ipv4.conf."+link+".arp_filter", "1"),
		set("net.ipv4.tcp_syncookies", "1"),
		g.nf(),
	)
}

// nf is a setting of netfilter.
func (g *generator) nf() change {
	set := func(key, value string) change { return change{ns: g.site.host, sysctl: key, value: value} }
	return one(g,
		set("net.bridge.bridge-nf-call-iptables", "1"),
		set("net.bridge.bridge-nf-call-ip6tables", "1"),
		set("net.netfilter.nf_conntrack_tcp_loose", "0"),
		set("net.netfilter.nf_conntrack_tcp_be_liberal", "1"),
		set("net.netfilter.nf_conntrack_checksum", "0"),
	)
}

func (g *generator) addressChange() change {
	a := one(g, "192.0.2.9/24 dev up0", "198.51.100.1/24 dev up1", "2001:db8:1::9/64 dev up0", "2001:db8:2::1/64 dev up1")
	nodad := ""
	if strings.Contains(a, ":") {
		nodad = " nodad"
	}
	// The address may be the router of a client, or lead to it.
	g.sc.routed = true
	return g.host("addr del "+a, "addr add "+a+nodad)
}

// backendChange is something about a backend.
func (g *generator) backendChange() change {
	g.sc.afterwards = true
	b := one(g, g.site.backend1, g.site.backend2, g.site.backend3)
	gateway4, gateway6 := "172.30.0.1", "fd30::1"
	if b == g.site.backend3 {
		gateway4, gateway6 = "10.40.0.1", "fd40::1"
	}
	line := func(ns *lab.NS, do, undo string) change { return change{ns: ns, do: do + "\n", undo: undo + "\n"} }
	switch g.IntN(4) {
	case 0:
		return line(b, "route del default via "+gateway4, "route add default via "+gateway4)
	case 1:
		return line(b, "-6 route del default via "+gateway6, "-6 route add default via "+gateway6)
	case 2:
		return line(b, "route del default via "+gateway4+"\nroute add 192.0.2.0/24 via "+gateway4,
			"route del 192.0.2.0/24 via "+gateway4+"\nroute add default via "+gateway4)
	}
	who := one(g, client4...).String()
	return line(b, "route add blackhole "+who, "route del blackhole "+who)
}

func (g *generator) mtuChange() change {
	link := one(g, "br0", "up0", "pt0")
	return g.host("link set "+link+" mtu 1400", "link set "+link+" mtu 1500")
}
