// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package difftest

import (
	"fmt"
	"strings"

	"github.com/nftnat/nftnat/nat"
)

// xtables is the input of iptables-restore or one of its siblings.
type xtables struct {
	tool   string // iptables-nft-restore and so on
	tables []*xtable
}

type xtable struct {
	name   string
	chains []string // ":FORWARD ACCEPT [0:0]"
	rules  []string // "-A FORWARD ..."
}

func (x *xtables) String() string {
	var b strings.Builder
	for _, t := range x.tables {
		fmt.Fprintf(&b, "*%s\n", t.name)
		for _, c := range t.chains {
			fmt.Fprintln(&b, c)
		}
		for _, r := range t.rules {
			fmt.Fprintln(&b, r)
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

var xtChains = map[string][]string{
	"filter": {"INPUT", "FORWARD", "OUTPUT"},
	"nat":    {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"},
	"mangle": {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"},
	"raw":    {"PREROUTING", "OUTPUT"},
}

// xtPrio are the priorities of the tables, for what a packet is at their hooks.
var xtPrio = map[string]int{"filter": 0, "nat": -100, "mangle": -150, "raw": -300}

// iptables makes the rules of a program of iptables.
func (g *generator) iptables(legacy bool) *xtables {
	g.aim()
	x := &xtables{tool: "iptables"}
	v4 := g.v4()
	if !v4 {
		x.tool = "ip6tables"
	}
	if legacy {
		x.tool += "-legacy"
	} else {
		x.tool += "-nft"
	}
	x.tool += "-restore"
	g.table = &table{family: map[bool]string{true: "ip", false: "ip6"}[v4]}
	names := []string{"filter"}
	for _, n := range []string{"mangle", "nat", "raw"} {
		if g.percent(25) {
			names = append(names, n)
		}
	}
	for _, name := range names {
		x.tables = append(x.tables, g.xtable(name, v4))
	}
	return x
}

func (g *generator) xtable(name string, v4 bool) *xtable {
	t := &xtable{name: name}
	for _, c := range xtChains[name] {
		policy := "ACCEPT"
		if name == "filter" && g.percent(g.sc.policies) {
			policy = "DROP"
		}
		t.chains = append(t.chains, fmt.Sprintf(":%s %s [0:0]", c, policy))
	}
	var users []string
	for range g.IntN(3) {
		users = append(users, g.name("U"))
	}
	for _, u := range users {
		t.chains = append(t.chains, ":"+u+" - [0:0]")
	}
	g.prio, g.kind = xtPrio[name], "filter"
	if name == "nat" {
		g.kind = "nat"
	}
	chains := xtChains[name]
	for range 1 + g.IntN(6) {
		c := one(g, chains...)
		if name == "filter" && g.percent(60) {
			c = "FORWARD"
		}
		g.hook = strings.ToLower(c)
		t.rules = append(t.rules, "-A "+c+" "+g.xtRule(name, users, v4))
	}
	for i, u := range users {
		// A user chain may be of any hook: rules that are of one hook alone may be refused, and are left out.
		g.hook = "forward"
		for range 1 + g.IntN(2) {
			t.rules = append(t.rules, "-A "+u+" "+g.xtRule(name, users[:i], v4))
		}
	}
	return t
}

// xtAim aims at a client of the family.
func (g *generator) xtAim(v4 bool) {
	for range 20 {
		if g.aim(); g.v4() == v4 {
			return
		}
	}
}

func (g *generator) not() string {
	if g.percent(12) {
		return "! "
	}
	return ""
}

func (g *generator) xtRule(table string, users []string, v4 bool) string {
	g.xtAim(v4)
	if g.v4() != v4 {
		return "-m comment --comment none -j RETURN"
	}
	var parts []string
	src, dst := g.ends()
	c := g.client
	proto := c.mapping.Proto.String()
	withProto := false
	used := map[int]bool{}
	for range 1 + g.IntN(3) {
		n := g.IntN(22)
		kind := n / 2
		if n >= 6 {
			kind = n
		}
		if used[kind] {
			continue
		}
		used[kind] = true
		switch n {
		case 0, 1:
			parts = append(parts, g.not()+"-s "+g.xtAddr(src.Addr().String()))
		case 2, 3:
			parts = append(parts, g.not()+"-d "+g.xtAddr(dst.Addr().String()))
		case 4, 5:
			in, out := g.links()
			if in != "" && g.hook != "output" && g.hook != "postrouting" {
				parts = append(parts, g.not()+"-i "+one(g, in, in, in[:2]+"+", "up1"))
			}
			if out != "" && g.percent(50) && g.hook != "prerouting" && g.hook != "input" {
				parts = append(parts, g.not()+"-o "+one(g, out, out, "up1"))
			}
		case 6, 7, 8:
			if !withProto {
				withProto = true
				port, opt := dst.Port(), "--dport "
				if g.answer {
					port, opt = src.Port(), "--sport "
				}
				if g.percent(30) {
					parts = append(parts, fmt.Sprintf("-p %s -m multiport %s%s 22,%d,9000:9100", proto, g.not(), strings.Replace(opt, "port", "ports", 1), port))
				} else {
					parts = append(parts, fmt.Sprintf("-p %s -m %s %s%s%s", proto, proto, g.not(), opt, one(g, fmt.Sprint(port), fmt.Sprintf("%d:%d", port-3, port+9))))
				}
			}
		case 9:
			if !withProto && c.mapping.Proto == nat.TCP {
				withProto = true
				parts = append(parts, "-p tcp -m tcp "+g.not()+one(g, "--syn", "--tcp-flags SYN,ACK SYN,ACK", "--tcp-flags FIN,SYN,RST,ACK SYN", "--tcp-flags ALL NONE"))
			}
		case 10, 11, 12:
			parts = append(parts, "-m conntrack "+g.not()+one(g, "--ctstate NEW", "--ctstate RELATED,ESTABLISHED", "--ctstate INVALID", "--ctstate DNAT",
				"--ctstatus SEEN_REPLY", "--ctdir ORIGINAL", "--ctdir REPLY", "--ctstate UNTRACKED", "--ctproto "+proto,
				"--ctorigdst "+c.frontend.Addr().String(), "--ctorigsrc "+c.addr.String(), fmt.Sprintf("--ctorigdstport %d", c.frontend.Port()),
				"--ctreplsrc "+c.mapping.Backend.Addr().String(), "--ctstate SNAT,DNAT"))
		case 13:
			parts = append(parts, "-m addrtype "+g.not()+one(g, "--dst-type LOCAL", "--src-type LOCAL", "--dst-type UNICAST", "--dst-type BROADCAST"))
		case 14:
			parts = append(parts, "-m mark "+g.not()+"--mark "+one(g, "0", "1", "0x10/0x10", "0/0xff", "1/0xf"))
		case 15:
			parts = append(parts, "-m connmark "+g.not()+"--mark "+one(g, "0", "1", "0x10/0x10"))
		case 16:
			a := src.Addr()
			parts = append(parts, fmt.Sprintf("-m iprange %s--src-range %s-%s", g.not(), a, a.Next()))
		case 17:
			g.sc.unknowable = true
			if v4 {
				parts = append(parts, "-m ttl "+one(g, "--ttl-eq 64", "--ttl-lt 64", "--ttl-gt 10", "--ttl-eq 63"))
			} else {
				parts = append(parts, "-m hl "+one(g, "--hl-eq 64", "--hl-lt 64", "--hl-gt 10"))
			}
		case 18:
			g.sc.unknowable = true
			parts = append(parts, "-m length "+g.not()+"--length "+one(g, "0:100", "1000:65535", "28"))
		case 19:
			parts = append(parts, "-m pkttype "+g.not()+"--pkt-type "+one(g, "unicast", "broadcast"))
		case 20:
			switch g.hook {
			case "output", "postrouting":
				parts = append(parts, "-m owner "+g.not()+"--uid-owner "+one(g, "0", "1000"))
			case "prerouting":
				parts = append(parts, "-m rpfilter "+one(g, "", "--loose", "--invert"))
			}
		case 21:
			parts = append(parts, `-m comment --comment "two words"`)
		}
	}
	if g.sc.limits && g.percent(8) {
		g.sc.unknowable = true
		parts = append(parts, one(g, "-m limit --limit 1/hour --limit-burst 1", "-m statistic --mode random --probability 0.5",
			"-m recent --name seen --set", "-m connlimit --connlimit-above 2", "-m hashlimit --hashlimit-upto 1/hour --hashlimit-name h"))
	}
	return strings.Join(parts, " ") + " -m comment --comment " + g.name("r") + " " + g.xtTarget(table, users, proto, withProto)
}

func (g *generator) xtAddr(a string) string {
	if g.percent(40) {
		return g.addrPrefix(a)
	}
	return a
}

func (g *generator) addrPrefix(a string) string {
	if strings.Contains(a, ":") {
		return a + one(g, "/64", "/126", "/32")
	}
	return a + one(g, "/24", "/28", "/8")
}

func (g *generator) xtTarget(table string, users []string, proto string, withProto bool) string {
	drops := g.sc.drops
	options := []weighted[string]{{30, "-j ACCEPT"}, {drops, "-j DROP"}, {6, "-j RETURN"}, {2, "-j NFLOG --nflog-group 5"}, {1, ""}}
	for _, u := range users {
		options = append(options, weighted[string]{20, "-j " + u}, weighted[string]{5, "-g " + u})
	}
	switch table {
	case "filter":
		options = append(options, weighted[string]{drops / 2, "-j REJECT"})
		if withProto && proto == "tcp" {
			options = append(options, weighted[string]{drops / 3, "-j REJECT --reject-with tcp-reset"})
		}
	case "mangle":
		options = append(options, weighted[string]{30, "-j MARK --set-mark " + one(g, "1", "2", "0x10")},
			weighted[string]{10, "-j MARK " + one(g, "--set-xmark 0x10/0x10", "--or-mark 0x20", "--and-mark 0xf", "--xor-mark 1")},
			weighted[string]{10, "-j CONNMARK " + one(g, "--save-mark", "--restore-mark", "--set-mark 1")})
	case "raw":
		options = append(options, weighted[string]{15, "-j CT --notrack"}, weighted[string]{5, "-j MARK --set-mark 1"})
	case "nat":
		options = []weighted[string]{{6, "-j ACCEPT"}, {4, "-j RETURN"}}
		for _, u := range users {
			options = append(options, weighted[string]{6, "-j " + u})
		}
		to := one(g, inside4...).String()
		if !g.v4() {
			to = "[" + one(g, inside6...).String() + "]"
		}
		bare := strings.Trim(to, "[]")
		switch g.hook {
		case "prerouting", "output":
			options = append(options, weighted[string]{8, "-j DNAT --to-destination " + bare}, weighted[string]{2, "-j REDIRECT"})
			if withProto {
				options = append(options, weighted[string]{10, "-j DNAT --to-destination " + to + ":" + one(g, "80", "81", "8090", "53")},
					weighted[string]{3, "-j REDIRECT --to-ports 80"})
			}
		case "postrouting":
			options = append(options, weighted[string]{12, "-j MASQUERADE"}, weighted[string]{8, "-j SNAT --to-source " + bare})
		}
	}
	return choose(g, options)
}
