// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/explain/internal/host"
	"github.com/nftnat/nftnat/internal/printable"
	"github.com/nftnat/nftnat/internal/rules"
)

// remedy is a command that lets the packet through a chain.
func (x *walk) remedy(w *way, h eval.Hook, c *rules.Chain) string {
	if managed := x.managed(w, h, c); managed != "" {
		return managed
	}
	if c.Table.Legacy || c.Table.IPTables() {
		return x.iptables(w, h, c)
	}
	return fmt.Sprintf("nft insert rule %s %s %s %s accept", c.Table.Family, printable.Text(c.Table.Name), printable.Text(c.Name), x.match(w, h))
}

// managed is the command of the program whose rules these are, if it is known.
func (x *walk) managed(w *way, h eval.Hook, c *rules.Chain) string {
	if w.answer || w.proxies || w.later {
		return ""
	}
	ufw := c.Table.Chain("ufw-user-forward") != nil || c.Table.Chain("ufw6-user-forward") != nil
	switch {
	case ufw && h == eval.Forward:
		return fmt.Sprintf("ufw route allow in on %s out on %s to %s port %d proto %s", w.p.In.Name, w.p.Out.Name, w.p.Dst, w.p.DstPort, protoName(x.proto))
	case ufw && h == eval.Input:
		return fmt.Sprintf("ufw allow in on %s to any port %d proto %s", w.p.In.Name, w.p.DstPort, protoName(x.proto))
	case c.Table.Name == "firewalld" && h == eval.Input:
		return fmt.Sprintf("firewall-cmd --add-port=%d/%s", w.p.DstPort, protoName(x.proto))
	}
	return ""
}

// iptables is the command of iptables for remedy.
func (x *walk) iptables(w *way, h eval.Hook, c *rules.Chain) string {
	tool := "iptables"
	switch {
	case c.Table.Legacy:
		tool = legacyTool(c.Table)
	case c.Table.Family == unix.NFPROTO_IPV6:
		tool = "ip6tables"
	}
	if c.Table.Name != "filter" {
		tool += " -t " + printable.Text(c.Table.Name)
	}
	chain := c.Name
	if h == eval.Forward && c.Table.Chain("DOCKER-USER") != nil {
		chain = "DOCKER-USER"
	}
	var match string
	if c.Table.Family == unix.NFPROTO_BRIDGE || c.Table.Family == unix.NFPROTO_ARP {
		return fmt.Sprintf("%s -I %s -j ACCEPT", tool, printable.Text(chain))
	}
	switch {
	case w.p.Proto == unix.IPPROTO_ICMPV6:
		match = fmt.Sprintf("-p ipv6-icmp --icmpv6-type %d", w.p.ICMPType)
	case w.p.Proto == unix.IPPROTO_ICMP:
		match = fmt.Sprintf("-p icmp --icmp-type %d", w.p.ICMPType)
	case conntracked(h) && (w.answer || w.later):
		match = "-m conntrack --ctstate ESTABLISHED,RELATED"
	case h == eval.Forward:
		match = fmt.Sprintf("-i %s -o %s -m conntrack --ctstate DNAT", w.p.In.Name, w.p.Out.Name)
	case w.answer:
		match = fmt.Sprintf("-p %s -s %s --sport %d", protoName(x.proto), w.p.Src, w.p.SrcPort)
	case h == eval.Input:
		match = fmt.Sprintf("-p %s --dport %d", protoName(x.proto), w.p.DstPort)
	default:
		match = fmt.Sprintf("-p %s -d %s --dport %d", protoName(x.proto), w.p.Dst, w.p.DstPort)
	}
	return fmt.Sprintf("%s -I %s %s -j ACCEPT", tool, printable.Text(chain), match)
}

// conntracked reports whether connection tracking has seen the packets of a hook.
func conntracked(h eval.Hook) bool { return h >= eval.Input && h <= eval.Postrouting }

// match is what a rule of nft matches the packet by.
func (x *walk) match(w *way, h eval.Hook) string {
	if w.p.EtherType == unix.ETH_P_ARP {
		return "meta protocol arp"
	}
	if w.p.Proto == unix.IPPROTO_ICMPV6 || w.p.Proto == unix.IPPROTO_ICMP {
		what := "icmp type"
		if w.p.Proto == unix.IPPROTO_ICMPV6 {
			what = "icmpv6 type"
		}
		return fmt.Sprintf("%s %d", what, w.p.ICMPType)
	}
	ip := "ip"
	if w.p.EtherType == unix.ETH_P_IPV6 {
		ip = "ip6"
	}
	switch {
	case conntracked(h) && (w.answer || w.later):
		return "ct state established,related"
	case h == eval.Forward:
		return fmt.Sprintf("iifname %q oifname %q ct status dnat", w.p.In.Name, w.p.Out.Name)
	case w.answer:
		return fmt.Sprintf("%s saddr %s %s sport %d", ip, w.p.Src, protoName(x.proto), w.p.SrcPort)
	case h == eval.Input:
		return fmt.Sprintf("%s dport %d", protoName(x.proto), w.p.DstPort)
	}
	return fmt.Sprintf("%s daddr %s %s dport %d", ip, w.p.Dst, protoName(x.proto), w.p.DstPort)
}

// ourCause says in the words of a mapping why a rule of our own table stops the packet.
func (x *walk) ourCause(w *way, c *Cause) {
	m := x.mapping
	switch {
	case !m.From.IsZero() && !m.From.Allow(w.p.Src):
		c.Kind = KindClient
		c.What = fmt.Sprintf("%s is published for clients of %s only", m, m.From)
		c.Remedy = fmt.Sprintf("nftnat add %s %s %s --replace %s --from %s", m.Proto, m.FrontendText(), m.BackendText(), froms(m.From.Texts()), w.p.Src)
	default:
		c.Remedy = ""
	}
}

func froms(texts []string) string {
	var b strings.Builder
	for i, t := range texts {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString("--from " + t)
	}
	return b.String()
}

// deleteRule is a command that removes a rule.
func deleteRule(r *rules.Rule) string {
	t := r.Chain.Table
	switch {
	case t.Legacy:
		return fmt.Sprintf("%s -t %s -D %s %d", legacyTool(t), printable.Text(t.Name), printable.Text(r.Chain.Name), r.Index+1)
	case t.IPTables():
		tool := "iptables"
		if t.Family == unix.NFPROTO_IPV6 {
			tool = "ip6tables"
		}
		return fmt.Sprintf("%s -t %s -D %s %d", tool, printable.Text(t.Name), printable.Text(r.Chain.Name), r.Index+1)
	}
	return fmt.Sprintf("nft delete rule %s %s %s handle %d", t.Family, printable.Text(t.Name), printable.Text(r.Chain.Name), r.Handle)
}

// routeDel is a command that removes a route.
func routeDel(r *host.Route) string {
	tool := "ip route del "
	if r.Dst.Addr().Is6() {
		tool = "ip -6 route del "
	}
	if r.NextHop != 0 { // ip-route(8) refuses what its nexthop says
		return tool + r.Dst.String() + fmt.Sprintf(" nhid %d", r.NextHop) + inTable(r)
	}
	return tool + strings.TrimSuffix(strings.Replace(r.Text, " in table ", " table ", 1), " table main")
}

// inTable is the end of a command for routes of the table of one.
func inTable(r *host.Route) string {
	if r.Table == unix.RT_TABLE_MAIN || r.Table == unix.RT_TABLE_UNSPEC {
		return ""
	}
	return fmt.Sprintf(" table %d", r.Table)
}
