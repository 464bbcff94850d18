// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestValidateAcceptsSample(t *testing.T) {
	require.NoError(t, sample().Validate())
	require.NoError(t, Table{Name: "empty"}.Validate())
}

// TestValidateRefuses changes the sample in one place at a time.
func TestValidateRefuses(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")
	rule := func(stmts ...Stmt) func(*Table) {
		return func(t *Table) { t.Chains[1].Rules = append(t.Chains[1].Rules, Rule(stmts)) }
	}
	hook := func(h Hook) func(*Table) { return func(t *Table) { t.Chains[1].Hook = h } }
	addMap := func(m Set) func(*Table) { return func(t *Table) { t.Sets = append(t.Sets, m) } }
	addSet := func(s Set) func(*Table) { return func(t *Table) { t.Sets = append(t.Sets, s) } }
	addChain := func(c Chain) func(*Table) { return func(t *Table) { t.Chains = append(t.Chains, c) } }
	for _, tt := range []struct {
		name   string
		change func(*Table)
		want   string
	}{
		{"name", func(t *Table) { t.Name = "table" }, `check name "table": it is a keyword of nft(8)`},
		{"no name", func(t *Table) { t.Name = "" }, "check name: it is empty"},
		{"comment", func(t *Table) { t.Comment = `a "b"` }, "byte 3 cannot be written"},
		{"long comment", func(t *Table) { t.Comment = strings.Repeat("a", 128) }, "it has 128 bytes, nft(8) reads 127"},
		{"map name", func(t *Table) { t.Sets[0].Name = "a b" }, `map a b: check name "a b"`},
		{"map twice", addMap(Set{Name: "tcp4", Key: Type{InetService}, Value: Type{IPv4Addr, InetService}}), "map tcp4: a map or set of that name is there already"},
		{"set like a map", addSet(Set{Name: "tcp4", Key: Type{InetService}}), "set tcp4: a map or set of that name is there already"},
		{"map of intervals", addMap(Set{Name: "odd", Key: Type{IPv4Addr}, Value: Type{IPv4Addr, InetService}, Interval: true}), "map odd: a map of intervals has ranges of ports for keys, and addresses for values"},
		{"map with an empty value", addMap(Set{Name: "novalue", Key: Type{InetService}, Value: Type{}}), "value: a type has 1 to 5 fields, not 0"},
		{"no key", addSet(Set{Name: "nokey"}), "set nokey: key: a type has 1 to 5 fields, not 0"},
		{"long key", addSet(Set{Name: "long", Key: Type{InetService, InetService, InetService, InetService, InetService, InetService}}), "not 6"},
		{"wide key", addSet(Set{Name: "wide", Key: Type{IPv6Addr, IPv6Addr, IPv6Addr, IPv6Addr, InetService}}), "needs 68 bytes of registers, the kernel has 64"},
		{"data type 0", addSet(Set{Name: "s", Key: Type{0}}), "there is no data type 0"},
		{"data type 9", addSet(Set{Name: "s", Key: Type{IPv4Addr, 9}}), "there is no data type 9"},
		{"chain name", func(t *Table) { t.Chains[1].Name = "dnat" }, "chain dnat: check name"},
		{"chain twice", addChain(Chain{Name: "publish"}), "chain publish: it is there already"},
		{"chain comment", func(t *Table) { t.Chains[1].Comment = "\n" }, "byte 1 cannot be written"},
		{"hook point", hook(Hook{"filter", "input", 0}), `there is no hook "input"`},
		{"hook type", hook(Hook{"route", "output", 0}), `there is no chain type "route"`},
		{"half a hook", hook(Hook{Priority: 1}), `there is no hook ""`},
		{"nat in forward", hook(Hook{"nat", "forward", 0}), "the kernel does no nat at hook forward"},
		{"nat before conntrack", hook(Hook{"nat", "prerouting", -200}), "does no nat at hook prerouting priority -200"},
		{"no statement", rule(), "chain nat-prerouting: rule 2: it has no statement"},
		{"nil statement", rule(DaddrLocal(), nil), "statement 2 is nil"},
		{"no such chain", rule(Jump("nowhere")), "jump nowhere: no chain of that name stands before this one"},
		{"later chain", rule(Jump("later")), "no chain of that name stands before"},
		{"itself", rule(Jump("nat-prerouting")), "no chain of that name stands before"},
		{"base chain", func(t *Table) { t.Chains[2].Rules = []Rule{{Jump("nat-prerouting")}} }, "nat-prerouting is a base chain"},
		{"no prefix", rule(Within(IPDaddr, netip.Prefix{})), "it lacks a selector or a prefix"},
		{"no selector", rule(Within(0, v4)), "it lacks a selector or a prefix"},
		{"unknown selector", rule(Within(77, v4)), "it lacks a selector or a prefix"},
		{"IPv6 prefix of IPv4", rule(Within(IPDaddr, v6)), "ip daddr has 32 bits, not 128"},
		{"IPv4 prefix of IPv6", rule(Within(IP6Daddr, v4)), "ip6 daddr has 128 bits, not 32"},
		{"prefix of a port", rule(Within(TCPDport, v4)), "tcp dport has 16 bits, not 32"},
		{"prefix of a name", rule(Within(IIFName, v6)), "it lacks a selector or a prefix"},
		{"names as an address", rule(In("segments4", IIFName, OIFName, IP6Saddr)), "the fields make a key of type ifname . ifname . ipv6_addr"},
		{"no such set", rule(In("nosuch", IPDaddr)), "there is no map or set nosuch"},
		{"no such map", rule(DNATv4("nosuch", TCPDport)), "there is no map or set nosuch"},
		{"other key", rule(In("networks4", IP6Daddr)), "the fields make a key of type ipv6_addr, set networks4 has ipv4_addr"},
		{"shorter key", rule(In("inside4", IPDaddr)), "set inside4 has ipv4_addr . ipv4_addr"},
		{"no fields", rule(In("networks4")), "the fields make a key of type"},
		{"unknown field", rule(In("networks4", 77)), "the fields make a key of type"},
		{"map as a set", rule(In("tcp4", TCPDport)), `it needs a value of type "", map tcp4 has "ipv4_addr . inet_service"`},
		{"set as a map", rule(DNATv4("ports", TCPDport)), `it needs a value of type "ipv4_addr . inet_service", set ports has ""`},
		{"map of the other family", rule(DNATv6("tcp4", TCPDport)), `it needs a value of type "ipv6_addr . inet_service"`},
		{"prefix of a mark", rule(Within(MetaMark, v4)), "it lacks a selector or a prefix"},
		{"mark from a map of addresses", rule(SetMarkFrom("udp4", UDPDport)), `it needs a value of type "mark"`},
		{"mark from a set", rule(SetMarkFrom("leases4", IPDaddr)), `it needs a value of type "mark"`},
		{"interface", rule(NotFromInterface("a/b")), "it is no interface name"},
		{"no interface", rule(NotFromInterface("")), "it is no interface name"},
		{"interface wildcard", rule(NotFromInterface("eth*")), "it is no interface name"},
		{"interface of 16 bytes", rule(NotFromInterface("abcdefghijklmnop")), "it is no interface name"},
		{"interface with a line end", rule(NotFromInterface("a\vb")), "it is no interface name"},
		{"directory", rule(NotFromInterface("..")), "it is no interface name"},
		{"behind a verdict", rule(Drop(), Accept()), "drop: nothing behind it would be run"},
		{"behind a jump", rule(Jump("publish"), Accept()), "jump publish: nothing behind it would be run"},
		{"behind masquerade", rule(MasqueradeFullyRandom(), Accept()), "nothing behind it would be run"},
		{"ports backwards", rule(OverTCP(), MasqueradeFullyRandomTo(2, 1)), "it has no range of ports"},
		{"one port", rule(OverTCP(), MasqueradeFullyRandomTo(2, 2)), "it has no range of ports"},
		{"port 0", rule(OverTCP(), MasqueradeFullyRandomTo(0, 1)), "it has no range of ports"},
		{"ports of any protocol", rule(MasqueradeFullyRandomTo(1, 2)), "a port is translated only behind a match of tcp or udp"},
		{"protocol said twice", rule(OverTCP(), In("ports", TCPDport)), "nft(8) says it once"},
		{"protocol of a field", rule(In("ports", TCPDport), OverTCP()), "the rule says already"},
		{"two protocols", rule(OverTCP(), OverUDP(), Drop()), "the rule says already"},
		{"masquerade to a map of any family", rule(OverTCP(), MasqueradeTo("udp4_out", IPSaddr, TCPSport)), "the rule must say first which protocols its fields are of"},
		{"masquerade to a map of any protocol", rule(OverIPv4(), MasqueradeTo("udp4_out", IPSaddr, TCPSport)), "the rule must say first which protocols its fields are of"},
		{"masquerade to a map of another protocol", rule(OverUDP(), OverIPv4(), MasqueradeTo("udp4_out", IPSaddr, TCPSport)), "the rule must say first which protocols its fields are of"},
		{"masquerade to a map of addresses", rule(OverTCP(), OverIPv4(), MasqueradeTo("tcp4_host", IPSaddr, TCPSport)), `it needs a value of type "inet_service"`},
		{"redirect to a map of any protocol", rule(OverIPv4(), RedirectTo("udp4_out", IPDaddr, TCPDport)), "the rule must say first which protocols its fields are of"},
		{"redirect to a map of another family", rule(OverIPv6(), OverTCP(), RedirectTo("udp4_out", IPDaddr, TCPDport)), "the rule must say first which protocols its fields are of"},
		{"redirect to a map of addresses", rule(OverIPv4(), OverTCP(), RedirectTo("tcp4_host", IPDaddr, TCPDport)), `it needs a value of type "inet_service"`},
		{"behind redirect", rule(OverIPv4(), OverTCP(), RedirectTo("udp4_out", IPDaddr, TCPDport), Accept()), "nothing behind it would be run"},
		{"two families", rule(OverIPv4(), OverIPv6()), "the rule says already which family it is about"},
		{"family said twice", rule(OverIPv4(), Within(IPSaddr, v4)), "ip saddr says which family it is about, and nft(8) says it once"},
		{"prefix of a name", rule(Within(OIFName, v6)), "it lacks a selector or a prefix"},
		{"snat of the other family", rule(Within(IP6Saddr, v6), SNATv4("tcp4", TCPDport)), "the rule matches packets of the other family"},
		{"behind dnat", rule(DNATv4("tcp4", TCPDport), Return()), "nothing behind it would be run"},
		{"two families", rule(Within(IPSaddr, v4), Within(IP6Daddr, v6)), "no packet has both ip6 daddr and an earlier field"},
		{"two transports", rule(In("ports", TCPDport), In("ports", UDPDport)), "no packet has both udp dport and an earlier field"},
		{"two families in a key", func(t *Table) {
			t.Sets = append(t.Sets, Set{Name: "mixed", Key: Type{IPv4Addr, IPv6Addr}})
			t.Chains[1].Rules = []Rule{{In("mixed", IPSaddr, IP6Daddr)}}
		}, "no packet has both ip6 daddr and an earlier field"},
		{"dnat of the other family", rule(Within(IP6Saddr, v6), DNATv4("tcp4", TCPDport)), "the rule matches packets of the other family"},
		{"dnat without a port", func(t *Table) {
			t.Sets = append(t.Sets, Set{Name: "noport", Key: Type{IPv4Addr}, Value: Type{IPv4Addr, InetService}})
			t.Chains[1].Rules = []Rule{{DNATv4("noport", IPDaddr)}}
		}, "a port is translated only behind a match of tcp or udp"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := sample()
			table.Chains = append(table.Chains, Chain{Name: "later"})
			require.NoError(t, table.Validate())
			tt.change(&table)
			require.ErrorContains(t, table.Validate(), tt.want)
		})
	}
}

func TestChangeValidateRefuses(t *testing.T) {
	port := netip.AddrPortFrom(netip.Addr{}, 80)
	web, web6 := netip.MustParseAddrPort("172.17.0.2:80"), netip.MustParseAddrPort("[fd00::2]:80")
	host, host6 := netip.MustParseAddrPort("192.0.2.1:80"), netip.MustParseAddrPort("[2001:db8::1]:80")
	mapped := netip.MustParseAddrPort("[::ffff:192.0.2.1]:80")
	zoned := netip.MustParseAddrPort("[fe80::1%eth0]:80")
	pair, prefix := PairKey(netip.MustParsePrefix("10.0.0.0/8")), PrefixKey(netip.MustParsePrefix("10.0.0.0/8"))
	for _, tt := range []struct {
		name string
		e    Element
		want string
	}{
		{"no such map", Element{Set: "nosuch", Key: PortKey(1)}, "table nftnat has no such map or set"},
		{"no value", Element{Set: "tcp4", Key: PortKey(1)}, "the value is no ipv4_addr . inet_service"},
		{"value of the other family", Element{Set: "tcp4", Key: PortKey(1), Value: web6}, "the value is no ipv4_addr"},
		{"mapped value", Element{Set: "tcp6", Key: PortKey(1), Value: mapped}, "the value is no ipv6_addr"},
		{"value with a zone", Element{Set: "tcp6", Key: PortKey(1), Value: zoned}, "the value is no ipv6_addr"},
		{"value of a set", Element{Set: "ports", Key: PortKey(1), Value: web}, "a set has no values"},
		{"host in a port map", Element{Set: "tcp4", Key: AddrPortKey(host), Value: web}, "the key is no inet_service"},
		{"port in a host map", Element{Set: "tcp4_host", Key: PortKey(1), Value: web}, "the key is no ipv4_addr . inet_service"},
		{"key of the other family", Element{Set: "tcp4_host", Key: AddrPortKey(host6), Value: web}, "the key is no ipv4_addr"},
		{"mapped key", Element{Set: "hosts6", Key: AddrPortKey(mapped)}, "the key is no ipv6_addr"},
		{"pair in a host set", Element{Set: "hosts4", Key: pair}, "the key is no ipv4_addr"},
		{"host in a pair set", Element{Set: "inside4", Key: AddrPortKey(host)}, "the key is no ipv4_addr"},
		{"pair of the other family", Element{Set: "inside6", Key: pair}, "the key is no ipv6_addr"},
		{"pair in a network set", Element{Set: "networks4", Key: pair}, "the key is no ipv4_addr"},
		{"prefix in a pair set", Element{Set: "inside4", Key: prefix}, "the key is no ipv4_addr . ipv4_addr"},
		{"pair in a segment set", Element{Set: "segments4", Key: pair}, "the key is no ifname . ifname . ipv4_addr"},
		{"segment in a pair set", Element{Set: "inside4", Key: SegmentKey("br0", netip.MustParsePrefix("10.0.0.0/8"))}, "the key is no ipv4_addr . ipv4_addr"},
		{"IPv4 segment of IPv6", Element{Set: "segments6", Key: SegmentKey("br0", netip.MustParsePrefix("10.0.0.0/8"))}, "the key is no ifname . ifname . ipv6_addr"},
		{"IPv6 segment of IPv4", Element{Set: "segments4", Key: SegmentKey("br0", netip.MustParsePrefix("fd00::/64"))}, "the key is no ifname . ifname . ipv4_addr"},
		{"segment of a bad name", Element{Set: "segments4", Key: SegmentKey("eth*", netip.MustParsePrefix("10.0.0.0/8"))}, "the key is no ifname . ifname . ipv4_addr"},
		{"prefix in an address set", Element{Set: "leases4", Key: prefix}, "the key is no ipv4_addr"},
		{"address in a network set", Element{Set: "networks4", Key: AddrKey(host.Addr())}, "the key is no ipv4_addr"},
		{"prefix of the other family", Element{Set: "networks6", Key: prefix}, "the key is no ipv6_addr"},
		{"mapped prefix", Element{Set: "networks6", Key: PrefixKey(netip.PrefixFrom(mapped.Addr(), 128))}, "the key is no ipv6_addr"},
		{"prefix that is none", Element{Set: "networks4", Key: PrefixKey(netip.Prefix{})}, "networks4 { invalid }: the key is no ipv4_addr"},
		{"address of the other family", Element{Set: "leases4", Key: AddrKey(host6.Addr())}, "the key is no ipv4_addr"},
		{"mapped address", Element{Set: "leases6", Key: AddrKey(mapped.Addr())}, "the key is no ipv6_addr"},
		{"address with a zone", Element{Set: "leases6", Key: AddrKey(zoned.Addr())}, "the key is no ipv6_addr"},
		{"address that is none", Element{Set: "leases4", Key: AddrKey(netip.Addr{})}, "the key is no ipv4_addr"},
		{"host in an address set", Element{Set: "leases4", Key: AddrPortKey(host)}, "the key is no ipv4_addr"},
		{"address in a host set", Element{Set: "hosts4", Key: AddrKey(host.Addr())}, "the key is no ipv4_addr . inet_service"},
		{"name in an address set", Element{Set: "leases6", Key: InterfaceKey("lo")}, "the key is no ipv6_addr"},
		{"link in a host map", Element{Set: "udp4_out", Key: LinkKey("lan0", host), Value: port}, "the key is no ipv4_addr . inet_service"},
		{"host in a link map", Element{Set: "udp4_link_out", Key: AddrPortKey(host), Value: web}, "the key is no ifname . ipv4_addr . inet_service"},
		{"link of the other family", Element{Set: "udp4_link_out", Key: LinkKey("lan0", host6), Value: web}, "the key is no ifname"},
		{"mapped link", Element{Set: "tcp6_link_out", Key: LinkKey("lan0", mapped), Value: web6}, "the key is no ifname"},
		{"bad name of a link", Element{Set: "udp4_link_out", Key: LinkKey("a/b", host), Value: web}, "the key is no ifname"},
		{"link without an address", Element{Set: "udp4_link_out", Key: LinkKey("lan0", netip.AddrPort{}), Value: web}, "the key is no ifname"},
		{"address in a map of ports", Element{Set: "udp4_out", Key: AddrPortKey(host), Value: web}, "the value is no inet_service"},
		{"no port", Element{Set: "udp4_out", Key: AddrPortKey(host)}, "the value is no inet_service"},
		{"port in a map of addresses", Element{Set: "tcp4", Key: PortKey(1), Value: port}, "the value is no ipv4_addr . inet_service"},
		{"port of a set", Element{Set: "ports", Key: PortKey(1), Value: port}, "a set has no values"},
		{"mark in a map of ports", Element{Set: "udp4_out", Key: AddrPortKey(host), Value: port, Mark: 1}, "the value is no inet_service"},
		{"address in a set of names", Element{Set: "links", Key: AddrKey(host6.Addr())}, "the key is no ifname"},
		{"bad name", Element{Set: "links", Key: InterfaceKey("eth*")}, "the key is no ifname"},
		{"value of a set of names", Element{Set: "links", Key: InterfaceKey("lo"), Value: web}, "a set has no values"},
		{"time-out of a set of names", Element{Set: "links", Key: InterfaceKey("lo"), Timeout: 1}, "set links has no time-outs"},
		{"time-out of networks", Element{Set: "networks4", Key: prefix, Timeout: 1}, "set networks4 has no time-outs"},
		{"negative time-out of a set", Element{Set: "away4", Key: prefix, Timeout: -1}, "time-out -1ns with 0s left"},
		{"no key", Element{Set: "hosts4"}, "the key is no ipv4_addr"},
		{"quote", Element{Set: "ports", Key: PortKey(1), Comment: `"`}, `byte 1 cannot be written`},
		{"NUL", Element{Set: "ports", Key: PortKey(1), Comment: "a\x00"}, `byte 2 cannot be written`},
		{"delete character", Element{Set: "ports", Key: PortKey(1), Comment: "a\x7f"}, `byte 2 cannot be written`},
		{"long comment", Element{Set: "ports", Key: PortKey(1), Comment: strings.Repeat("é", 64)}, `it has 128 bytes`},
		{"time-out of a set", Element{Set: "ports", Key: PortKey(1), Timeout: 1}, "set ports has no time-outs"},
		{"time-out of a map without", Element{Set: "udp4", Key: PortKey(1), Value: web, Timeout: 1}, "map udp4 has no time-outs"},
		{"negative time-out", Element{Set: "tcp4", Key: PortKey(1), Value: web, Timeout: -1}, "time-out -1ns with 0s left"},
		{"negative rest", Element{Set: "tcp4", Key: PortKey(1), Value: web, Timeout: 1, Expires: -1}, "time-out 1ns with -1ns left"},
		{"rest longer than all", Element{Set: "tcp4", Key: PortKey(1), Value: web, Timeout: 1, Expires: 2}, "time-out 1ns with 2ns left"},
		{"rest of nothing", Element{Set: "tcp4", Key: PortKey(1), Value: web, Expires: time.Second}, "time-out 0s with 1s left"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := sample()
			err := Change{Add: []Element{tt.e}}.Validate(table)
			require.ErrorContains(t, err, "add element "+tt.e.String())
			require.ErrorContains(t, err, tt.want)
			// No Conn asks the kernel.
			c := &Conn{socket: closedSocket{}}
			require.EqualError(t, c.Update(table, Change{Add: []Element{tt.e}}), err.Error())
			require.EqualError(t, c.Replace(table, []Element{tt.e}, 0), err.Error())
		})
	}
	// Only the set and the key of what is deleted count.
	require.NoError(t, Change{Delete: []Element{{Set: "tcp4", Key: PortKey(1), Value: web6, Timeout: -1}}}.Validate(sample()))
	require.ErrorContains(t, Change{Delete: []Element{{Set: "hosts4", Key: PortKey(1)}}}.Validate(sample()), "delete element hosts4 { 1 }: the key is no")
	require.ErrorContains(t, Change{Delete: []Element{{Set: "nosuch"}}}.Validate(sample()), "no such map or set")
}
