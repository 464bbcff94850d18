// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import "github.com/nftnat/nftnat/nft"

// A range whose ports are the same at the backend is one element. Rules look these up behind the
// maps of single ports:
//
//	tcp4_range       ranges of any address: the ports, and the backend's address
//	tcp4_host_range  those of one address. The port is first in the key, because a range is found
//	                 slowly among many of one address
//	holes            ports that no range of any address serves, by family
//	holes4_host      those that no range of one address serves
//
// A port that is taken out of a range is an element of a map of single ports, or of holes. An
// element of a map of ranges is never changed, nor deleted together with adding another that has
// some of its ports: some kernels show neither to some packets. What takes its place is added to
// a second map before, of the same name with "_next" behind it, which is asked last. It is empty
// at rest.
//
// What follows a port and an IPv4 address in the registers must be no address: behind an address in
// a key of ranges is the protocol (docs/adr/0064).
//
// What only proxies serve is looked up by no rule: tcp4_to6_range has the first port with the
// address of the frontend, and the last port with that of the backend.

const (
	rangeSuffix     = "_range"
	nextSuffix      = "_next"
	setHoles        = "holes"
	setLimitedRange = setLimited + rangeSuffix
	setFrom         = "from"
)

// rangeSets returns the sets and maps of ranges.
func rangeSets() (sets []nft.Set) {
	both := func(s nft.Set) {
		sets = append(sets, s)
		s.Name += nextSuffix
		sets = append(sets, s)
	}
	families := []struct {
		digit, other string
		addr, to     nft.DataType
	}{{"4", "6", nft.IPv4Addr, nft.IPv6Addr}, {"6", "4", nft.IPv6Addr, nft.IPv4Addr}}
	for _, f := range families {
		for _, proto := range []string{"tcp", "udp"} {
			name, service := proto+f.digit, nft.Type{nft.InetService, f.addr}
			both(nft.Set{Name: name + rangeSuffix, Key: service[:1], Value: service[1:], Interval: true, Timeout: true})
			both(nft.Set{Name: name + hostSuffix + rangeSuffix, Key: service, Value: service[1:], Interval: true, Timeout: true})
			sets = append(sets,
				hostMap(name+"_to"+f.other+rangeSuffix, f.addr, f.to), hostMap(name+"_to"+f.digit+rangeSuffix, f.addr, f.addr),
				notesMap(name+endedSuffix+rangeSuffix, f.addr),
				nft.Set{Name: name + suffixOut + rangeSuffix, Key: service, Interval: true, Timeout: true},
				nft.Set{Name: name + suffixLinkOut + rangeSuffix, Key: nft.Type{nft.IfName, nft.InetService, f.addr}, Value: service[1:], Interval: true, Timeout: true},
				nft.Set{Name: name + suffixHostOut + rangeSuffix, Key: service, Value: service[1:], Interval: true, Timeout: true},
			)
		}
		sets = append(sets,
			nft.Set{Name: setHoles + f.digit + hostSuffix, Key: nft.Type{nft.InetProto, f.addr, nft.InetService}},
		)
		called := nft.Type{nft.InetService, f.addr, nft.InetProto, f.addr}
		both(nft.Set{Name: setLimited + f.digit + hostSuffix + rangeSuffix, Key: called[:3], Interval: true, Timeout: true})
		both(nft.Set{Name: setFrom + f.digit + rangeSuffix, Key: called[:3], Interval: true})
		both(nft.Set{Name: setFrom + f.digit + hostSuffix + rangeSuffix, Key: called, Interval: true})
		both(nft.Set{Name: setMasquerade + f.digit + rangeSuffix, Key: called[:3], Interval: true})
		both(nft.Set{Name: setMasquerade + f.digit + hostSuffix + rangeSuffix, Key: called, Interval: true})
	}
	sets = append(sets, nft.Set{Name: setHoles, Key: nft.Type{nft.NfProto, nft.InetProto, nft.InetService}})
	both(nft.Set{Name: setLimitedRange, Key: nft.Type{nft.InetService, nft.NfProto, nft.InetProto}, Interval: true, Timeout: true})
	return sets
}

// rangeChains returns the chains that look up ranges.
func rangeChains() []nft.Chain {
	return []nft.Chain{
		onlyFromRanges("only-from-ranges", rangeSuffix), onlyFromRanges("only-from-next-ranges", rangeSuffix+nextSuffix),
		onlyFromHostRanges("only-from-host-ranges", hostSuffix+rangeSuffix), onlyFromHostRanges("only-from-next-host-ranges", hostSuffix+rangeSuffix+nextSuffix),
		hostRanges("4", nft.IPDaddr, nft.DNATv4SamePort), hostRanges("6", nft.IP6Daddr, nft.DNATv6SamePort),
		publishRanges(),
	}
}

// publishRanges looks the packet's destination up in ranges: of one address first, as single
// ports are. Each map has its limits asked right before it, so that those of a second map count
// for nothing as long as the first has the port.
func publishRanges() nft.Chain {
	c := nft.Chain{
		Name:    "publish-ranges",
		Comment: "what a port of a range leads to, if it was not taken out: one address first, then any",
		Rules: []nft.Rule{
			{nft.OverIPv4(), nft.Jump("host-ranges4")},
			{nft.OverIPv6(), nft.Jump("host-ranges6")},
			{nft.In(setHoles, nft.NFProto, nft.L4Proto, nft.THDport), nft.Return()},
		},
	}
	for _, suffix := range []string{"", nextSuffix} {
		chain := "only-from-ranges"
		if suffix != "" {
			chain = "only-from-next-ranges"
		}
		c.Rules = append(c.Rules,
			nft.Rule{nft.In(setLimitedRange+suffix, nft.THDport, nft.NFProto, nft.L4Proto), nft.Jump(chain)},
			nft.Rule{nft.DNATv4SamePort("tcp4_range"+suffix, nft.TCPDport)},
			nft.Rule{nft.DNATv4SamePort("udp4_range"+suffix, nft.UDPDport)},
			nft.Rule{nft.DNATv6SamePort("tcp6_range"+suffix, nft.TCPDport)},
			nft.Rule{nft.DNATv6SamePort("udp6_range"+suffix, nft.UDPDport)},
		)
	}
	return c
}

func hostRanges(digit string, daddr nft.Selector, dnat func(string, ...nft.Selector) nft.Stmt) nft.Chain {
	c := nft.Chain{
		Name:    "host-ranges" + digit,
		Comment: "ranges of one IPv" + digit + " address",
		Rules:   []nft.Rule{{nft.In(setHoles+digit+hostSuffix, nft.L4Proto, daddr, nft.THDport), nft.Return()}},
	}
	for _, suffix := range []string{"", nextSuffix} {
		chain := "only-from-host-ranges"
		if suffix != "" {
			chain = "only-from-next-host-ranges"
		}
		suffix = digit + hostSuffix + rangeSuffix + suffix
		c.Rules = append(c.Rules,
			nft.Rule{nft.In(setLimited+suffix, nft.THDport, daddr, nft.L4Proto), nft.Jump(chain)},
			nft.Rule{dnat("tcp"+suffix, nft.TCPDport, daddr)},
			nft.Rule{dnat("udp"+suffix, nft.UDPDport, daddr)},
		)
	}
	return c
}

// onlyFromRanges drops what does not come from a client of a range that is for some only. What
// this host sends itself, which has no interface that it came in by, is not limited.
func onlyFromRanges(name, suffix string) nft.Chain {
	return nft.Chain{
		Name:    name,
		Comment: "ranges for some clients only",
		Rules: []nft.Rule{
			{nft.FromNoInterface(), nft.Return()},
			{nft.NotIn(setFrom+"4"+suffix, nft.THDport, nft.IPSaddr, nft.L4Proto), nft.Drop()},
			{nft.NotIn(setFrom+"6"+suffix, nft.THDport, nft.IP6Saddr, nft.L4Proto), nft.Drop()},
		},
	}
}

func onlyFromHostRanges(name, suffix string) nft.Chain {
	return nft.Chain{
		Name:    name,
		Comment: "ranges of one address for some clients only",
		Rules: []nft.Rule{
			{nft.FromNoInterface(), nft.Return()},
			{nft.NotIn(setFrom+"4"+suffix, nft.THDport, nft.IPDaddr, nft.L4Proto, nft.IPSaddr), nft.Drop()},
			{nft.NotIn(setFrom+"6"+suffix, nft.THDport, nft.IP6Daddr, nft.L4Proto, nft.IP6Saddr), nft.Drop()},
		},
	}
}

// byRange is by-frontend for ranges, of which its sets and maps have what was not taken out.
func byRange() nft.Chain {
	c := nft.Chain{
		Name:    "by-range",
		Comment: "from a port of a published range by the same port",
	}
	for _, f := range []struct {
		digit string
		saddr nft.Selector
		snat  func(string, nft.Selector, ...nft.Selector) nft.Stmt
	}{{"4", nft.IPSaddr, nft.SNATv4SamePort}, {"6", nft.IP6Saddr, nft.SNATv6SamePort}} {
		for _, p := range []struct {
			name  string
			sport nft.Selector
		}{{"tcp", nft.TCPSport}, {"udp", nft.UDPSport}} {
			name := p.name + f.digit
			c.Rules = append(c.Rules,
				nft.Rule{nft.In(name+suffixOut+rangeSuffix, p.sport, f.saddr), nft.MasqueradeSamePort(p.sport)},
				nft.Rule{f.snat(name+suffixLinkOut+rangeSuffix, p.sport, nft.OIFName, p.sport, f.saddr)},
				nft.Rule{f.snat(name+suffixHostOut+rangeSuffix, p.sport, p.sport, f.saddr)},
			)
		}
	}
	return c
}
