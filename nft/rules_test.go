// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
)

// randomTable is a table that Validate accepts, with maps and sets of many types and
// chains of random rules. Its chains have no side effects beyond the namespace.
func randomTable(r *rand.Rand, name string, rules int) Table {
	t := Table{Name: name}
	fields := []Selector{IPSaddr, IPDaddr, IP6Saddr, IP6Daddr, TCPDport, UDPDport, IIFName, OIFName, NFProto, L4Proto, THDport, CTOriginalIPDaddr, CTOriginalIP6Daddr}
	// A map and a set for each of some lists of fields, named after their numbers.
	lists := map[string][]Selector{}
	for i := range 12 {
		var list []Selector
		for range 1 + r.IntN(4) {
			list = append(list, fields[r.IntN(len(fields))])
		}
		if err := (&protocols{}).addFields(list...); err != nil {
			continue
		}
		key := concatenation(list).keyType()
		if key.validate() != nil {
			continue
		}
		set := Set{Name: fmt.Sprintf("set%d", i), Key: key, Interval: r.IntN(2) == 0, Timeout: r.IntN(2) == 0}
		if slices.Contains(key, InetProto) || slices.Contains(key, NfProto) {
			set.Interval = false // nft(8) would convert the byte order, which it has none of
		}
		t.Sets = append(t.Sets, set)
		lists[set.Name] = list
		m := Set{Name: fmt.Sprintf("map%d", i), Key: key, Value: Type{IPv4Addr, InetService}, Timeout: r.IntN(2) == 0}
		if r.IntN(2) == 0 {
			m.Value[0] = IPv6Addr
		}
		if r.IntN(2) == 0 {
			m.Size = 1 + r.Uint32N(1000)
		}
		t.Sets = append(t.Sets, m)
		lists[m.Name] = list
	}
	// No rule looks in these.
	t.Sets = append(t.Sets,
		Set{Name: "links", Key: Type{IfName}, Timeout: r.IntN(2) == 0},
		Set{Name: "places", Key: Type{IfName, IPv4Addr}, Interval: r.IntN(2) == 0})
	t.Sets = append(t.Sets, Set{Name: "names", Key: Type{IfName}, Value: Type{IPv4Addr, InetService}})
	var sets, maps []Set
	for _, s := range t.Sets {
		if s.Kind() == "map" {
			maps = append(maps, s)
		} else {
			sets = append(sets, s)
		}
	}
	regular := Chain{Name: "regular", Comment: randomComment(r)}
	nat := Chain{Name: "nat", Hook: Hook{"nat", "prerouting", -100}}
	// nft(8) lists the protocols before a masquerade to ports of a map.
	outs := []Set{
		{Name: "out4", Key: Type{IPv4Addr, InetService}, Value: Type{InetService}, Timeout: r.IntN(2) == 0},
		{Name: "out6", Key: Type{IPv6Addr, InetService}, Value: Type{InetService}},
		{Name: "link4", Key: Type{IfName, IPv4Addr, InetService}, Value: Type{IPv4Addr, InetService}},
		{Name: "link6", Key: Type{IfName, IPv6Addr, InetService}, Value: Type{IPv6Addr, InetService}, Timeout: r.IntN(2) == 0},
	}
	t.Sets = append(t.Sets, outs...)
	source := Chain{Name: "source", Hook: Hook{"nat", "postrouting", 100}}
	filter := Chain{Name: "guard", Hook: Hook{"filter", "forward", int32(r.IntN(700) - 350)}}
	// CheckName knows "nat" and "source" as good names.
	for range rules {
		match := randomMatches(r, sets, lists)
		nat.Rules = keep(nat.Rules, t, append(match, randomDNAT(r, maps, lists)))
		source.Rules = keep(source.Rules, t, append(match, randomMasquerade(r)...))
		source.Rules = keep(source.Rules, t, append(match, randomSNAT(r)))
		filter.Rules = keep(filter.Rules, t, append(match, []Stmt{Accept(), Drop(), Return(), Jump("regular")}[r.IntN(4)]))
		regular.Rules = keep(regular.Rules, t, append(match, []Stmt{Accept(), Drop(), Return()}[r.IntN(2)]))
	}
	t.Chains = []Chain{regular, nat, source, filter}
	return t
}

func randomMasquerade(r *rand.Rand) []Stmt {
	first := 1 + r.IntN(65534)
	last := first + 1 + r.IntN(65535-first)
	return [][]Stmt{
		{MasqueradeFullyRandom()},
		{OverIPv4(), OverTCP(), MasqueradeTo("out4", IPSaddr, TCPSport)},
		{OverIPv6(), OverUDP(), MasqueradeTo("out6", IP6Saddr, UDPSport)},
		{[]Stmt{OverTCP(), OverUDP()}[r.IntN(2)], MasqueradeFullyRandomTo(uint16(first), uint16(last))},
	}[r.IntN(4)]
}

func randomSNAT(r *rand.Rand) Stmt {
	return []Stmt{
		SNATv4("link4", OIFName, IPSaddr, UDPSport), SNATv4("link4", OIFName, IPDaddr, TCPDport),
		SNATv6("link6", OIFName, IP6Saddr, TCPSport),
	}[r.IntN(3)]
}

// behindFamilies is a rule that nft(8) 1.1.3 and 1.1.7 list and do not load: with a field of a
// protocol behind a set of families alone ("conflicting network layer protocols specified").
var behindFamilies = regexp.MustCompile(`meta nfproto (!= )?@.*\b(ip6?|tcp|udp|th) `)

// keep appends the rule if it is valid, and every nft(8) loads it.
func keep(rules []Rule, t Table, stmts []Stmt) []Rule {
	rule := Rule(append([]Stmt(nil), stmts...))
	if behindFamilies.MatchString(rule.String()) {
		return rules
	}
	if t.validateRule(rule, map[string]Chain{"regular": {Name: "regular"}}) != nil {
		return rules
	}
	return append(rules, rule)
}

func randomMatches(r *rand.Rand, sets []Set, lists map[string][]Selector) []Stmt {
	var stmts []Stmt
	for range r.IntN(4) {
		switch r.IntN(11) {
		case 9:
			stmts = append(stmts, SaddrNotLocal())
		case 10:
			stmts = append(stmts, FromNoInterface())
		case 0:
			stmts = append(stmts, []Stmt{DaddrLocal(), DaddrBroadcast()}[r.IntN(2)])
		case 1:
			stmts = append(stmts, Within([]Selector{IPSaddr, IPDaddr}[r.IntN(2)], netip.PrefixFrom(addr4(r), r.IntN(33))))
		case 2:
			stmts = append(stmts, Within([]Selector{IP6Saddr, IP6Daddr}[r.IntN(2)], netip.PrefixFrom(addr6(r), r.IntN(129))))
		case 3:
			stmts = append(stmts, NotFromInterface([]string{"lo", "eth0", "a b"[:1], "veth-0.1@x", "wörk0"}[r.IntN(5)]))
		case 4:
			stmts = append(stmts, CTStatusDNAT())
		case 5:
			stmts = append(stmts, CTStateEstablished())
		case 6:
			stmts = append(stmts, CTDirectionReply())
		case 7:
			stmts = append(stmts, []Stmt{MarkIs(r.Uint32()), MarkIsNot(r.Uint32())}[r.IntN(2)])
		case 8:
			if len(sets) == 0 {
				continue
			}
			s := sets[r.IntN(len(sets))]
			if r.IntN(2) == 0 {
				stmts = append(stmts, In(s.Name, lists[s.Name]...))
			} else {
				stmts = append(stmts, NotIn(s.Name, lists[s.Name]...))
			}
		}
	}
	return stmts
}

func randomDNAT(r *rand.Rand, maps []Set, lists map[string][]Selector) Stmt {
	if len(maps) == 0 {
		return Accept()
	}
	m := maps[r.IntN(len(maps))]
	if m.Value[0] == IPv6Addr {
		return DNATv6(m.Name, lists[m.Name]...)
	}
	return DNATv4(m.Name, lists[m.Name]...)
}
