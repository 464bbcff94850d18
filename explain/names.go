// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
	"github.com/nftnat/nftnat/internal/printable"
	"github.com/nftnat/nftnat/internal/rules"
	"github.com/nftnat/nftnat/internal/rules/xt"
)

// tableText names a table: "table inet corpwall", "iptables-legacy table filter".
func tableText(t *rules.Table) string {
	name := printable.Text(t.Name)
	if !t.Legacy {
		return fmt.Sprintf("table %s %s", t.Family, name)
	}
	return fmt.Sprintf("%s table %s", legacyTool(t), name)
}

// legacyTool is the program that lists a legacy table.
func legacyTool(t *rules.Table) string {
	switch t.Family {
	case unix.NFPROTO_IPV6:
		return "ip6tables-legacy"
	case unix.NFPROTO_BRIDGE:
		return "ebtables-legacy"
	case unix.NFPROTO_ARP:
		return "arptables-legacy"
	}
	return "iptables-legacy"
}

// chainText names a chain, and when the kernel calls it.
func chainText(c *rules.Chain) string {
	text := tableText(c.Table) + ", chain " + printable.Text(c.Name)
	if c.Base != nil && !c.Table.Legacy {
		text += fmt.Sprintf(" (hook %s, priority %s)", c.Hook(), c.Priority())
	}
	return text
}

// ruleText is a rule as its tool lists it, with its table and chain.
func (s *Snapshot) ruleText(r *rules.Rule) string {
	p := rules.Printer{Link: func(index uint32) string { return s.name(int(index)) }, XT: xt.Printer{SetName: s.eval.setName}}
	return tableText(r.Chain.Table) + ", chain " + printable.Text(r.Chain.Name) + ": " + printable.Text(p.Rule(r))
}

// addr prints an address.
func addr(a netip.Addr) string { return a.String() }

// port prints an address and a port; zero: any.
func port(a netip.Addr, p uint16) string {
	text := a.String()
	if a.Is6() {
		text = "[" + text + "]"
	}
	if p == 0 {
		return text + ":any"
	}
	return text + ":" + strconv.Itoa(int(p))
}

// protoName is tcp or udp.
func protoName(p uint8) string {
	if p == unix.IPPROTO_UDP {
		return "udp"
	}
	return "tcp"
}

// packetText is a packet in a line: "192.0.2.2:any -> 192.0.2.1:8080, tcp syn".
func packetText(p *eval.Packet) string {
	text := port(p.Src, p.SrcPort) + " -> " + port(p.Dst, p.DstPort) + ", " + protoName(p.Proto)
	if p.Proto != unix.IPPROTO_TCP {
		return text
	}
	switch p.TCPFlags {
	case tcpSYN:
		return text + " syn"
	case tcpSYN | tcpACK:
		return text + " syn,ack"
	}
	return text + " ack"
}

// Flags of TCP.
const (
	tcpSYN = 0x02
	tcpACK = 0x10
)
