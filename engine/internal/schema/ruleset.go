// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"net/netip"
	"slices"

	"github.com/nftnat/nftnat/nft"
)

// portMapSize makes room for every port at once. See nft.Set.Size for what it buys.
const portMapSize = 65535

// Ruleset returns the whole ruleset. Its rules and chains never change, because mappings
// are elements of maps. Each protocol and family has a map for frontends of any local
// address and one for frontends of one address: a single map with 0.0.0.0 in its keys would
// need a rule that loads a constant into a concatenation, which nft(8) cannot list. No rule
// uses the maps from one family to the other, and those to the same family: they record the
// mappings that only proxies serve.
func Ruleset(name string) nft.Table {
	return nft.Table{
		Name:    name,
		Comment: Comment(Version),
		Sets: append([]nft.Set{
			anyMap("tcp4", nft.IPv4Addr), hostMap("tcp4_host", nft.IPv4Addr, nft.IPv4Addr),
			anyMap("udp4", nft.IPv4Addr), hostMap("udp4_host", nft.IPv4Addr, nft.IPv4Addr),
			anyMap("tcp6", nft.IPv6Addr), hostMap("tcp6_host", nft.IPv6Addr, nft.IPv6Addr),
			anyMap("udp6", nft.IPv6Addr), hostMap("udp6_host", nft.IPv6Addr, nft.IPv6Addr),
			hostMap("tcp4_to6", nft.IPv4Addr, nft.IPv6Addr), hostMap("tcp6_to4", nft.IPv6Addr, nft.IPv4Addr),
			hostMap("udp4_to6", nft.IPv4Addr, nft.IPv6Addr), hostMap("udp6_to4", nft.IPv6Addr, nft.IPv4Addr),
			outMap("tcp4", nft.IPv4Addr), linkOutMap("tcp4", nft.IPv4Addr), hostOutMap("tcp4", nft.IPv4Addr),
			outMap("udp4", nft.IPv4Addr), linkOutMap("udp4", nft.IPv4Addr), hostOutMap("udp4", nft.IPv4Addr),
			outMap("tcp6", nft.IPv6Addr), linkOutMap("tcp6", nft.IPv6Addr), hostOutMap("tcp6", nft.IPv6Addr),
			outMap("udp6", nft.IPv6Addr), linkOutMap("udp6", nft.IPv6Addr), hostOutMap("udp6", nft.IPv6Addr),
			hostMap("tcp4_to4", nft.IPv4Addr, nft.IPv4Addr), hostMap("tcp6_to6", nft.IPv6Addr, nft.IPv6Addr),
			hostMap("udp4_to4", nft.IPv4Addr, nft.IPv4Addr), hostMap("udp6_to6", nft.IPv6Addr, nft.IPv6Addr),
			notesMap("tcp4_ended", nft.IPv4Addr), notesMap("udp4_ended", nft.IPv4Addr),
			notesMap("tcp6_ended", nft.IPv6Addr), notesMap("udp6_ended", nft.IPv6Addr),
			networkSet("networks4", nft.IPv4Addr), networkSet("masqueraded4", nft.IPv4Addr), networkSet("guarded4", nft.IPv4Addr),
			{Name: "inside4", Key: nft.Type{nft.IPv4Addr, nft.IPv4Addr}, Interval: true},
			{Name: "segments4", Key: nft.Type{nft.IfName, nft.IfName, nft.IPv4Addr}, Interval: true},
			addrSet("cursors4", nft.IPv4Addr), addrSet("leases4", nft.IPv4Addr),
			networkSet("networks6", nft.IPv6Addr), networkSet("masqueraded6", nft.IPv6Addr), networkSet("guarded6", nft.IPv6Addr),
			{Name: "inside6", Key: nft.Type{nft.IPv6Addr, nft.IPv6Addr}, Interval: true},
			{Name: "segments6", Key: nft.Type{nft.IfName, nft.IfName, nft.IPv6Addr}, Interval: true},
			addrSet("cursors6", nft.IPv6Addr), addrSet("leases6", nft.IPv6Addr),
			// No rule uses these: they record bridge ports that were given hairpin mode, so
			// that the next engine can take it back.
			addrSet(setHairpin+"4", nft.IPv4Addr), addrSet(setHairpin+"6", nft.IPv6Addr),
			addrSet(setProxiedSources+"4", nft.IPv4Addr), answersMap("answers4", nft.IPv4Addr), markSet("answer_marks4"),
			addrSet(setProxiedSources+"6", nft.IPv6Addr), answersMap("answers6", nft.IPv6Addr), markSet("answer_marks6"),
		}, slices.Concat(optionSets(), rangeSets(), sharedMaps())...),
		Chains: slices.Concat(rangeChains(), pastHolders(), []nft.Chain{
			publishChain(), onlyFrom(), admit(), natPrerouting(), natLocalhost(), natOutput(), wayOut(), byRange(), byFrontend(), toBackends(), natPostrouting(),
			unmarkAnswers(), filterForward(), fromElsewhere(), markAnswers(), manglePrerouting(), rawPrerouting(),
		}),
	}
}

func anyMap(name string, addr nft.DataType) nft.Set {
	return nft.Set{
		Name: name, Key: nft.Type{nft.InetService}, Value: nft.Type{addr, nft.InetService},
		Timeout: true, Size: portMapSize,
	}
}

func hostMap(name string, frontend, backend nft.DataType) nft.Set {
	return nft.Set{
		Name: name, Key: nft.Type{frontend, nft.InetService}, Value: nft.Type{backend, nft.InetService},
		Timeout: true,
	}
}

// outMap, linkOutMap and hostOutMap are the maps of exits: see out.go.

func outMap(name string, addr nft.DataType) nft.Set {
	return nft.Set{Name: name + suffixOut, Key: nft.Type{addr, nft.InetService}, Value: nft.Type{nft.InetService}, Timeout: true}
}

func linkOutMap(name string, addr nft.DataType) nft.Set {
	m := hostOutMap(name, addr)
	m.Name, m.Key = name+suffixLinkOut, append(nft.Type{nft.IfName}, m.Key...)
	return m
}

func hostOutMap(name string, addr nft.DataType) nft.Set {
	return hostMap(name+suffixHostOut, addr, addr)
}

// notesMap holds what no rule looks up: see ended.go.
func notesMap(name string, addr nft.DataType) nft.Set {
	return nft.Set{Name: name, Key: nft.Type{addr, nft.InetService}, Value: nft.Type{addr, nft.InetService}}
}

// networkSet is a set of prefixes, addrSet one of single addresses.
func networkSet(name string, addr nft.DataType) nft.Set {
	return nft.Set{Name: name, Key: nft.Type{addr}, Interval: true}
}

func addrSet(name string, addr nft.DataType) nft.Set { return nft.Set{Name: name, Key: nft.Type{addr}} }

// answersMap gives the answers of published ports a mark, by the address that was called.
func answersMap(name string, addr nft.DataType) nft.Set {
	return nft.Set{Name: name, Key: nft.Type{addr}, Value: nft.Type{nft.Mark}}
}

func markSet(name string) nft.Set { return nft.Set{Name: name, Key: nft.Type{nft.Mark}} }

// publishChain looks the packet's destination up. An address of its own goes before
// any address: a miss falls through to the next rule, a hit ends the chain. Ranges are asked last,
// so that a single port takes its number out of one.
func publishChain() nft.Chain {
	return nft.Chain{
		Name:    "publish",
		Comment: "what a published port leads to: one address first, then any",
		Rules: []nft.Rule{
			// A link-local source is not valid beyond its link (RFC 4291 section
			// 2.5.6): no router may forward it, so a backend could not be reached.
			{nft.Within(nft.IP6Saddr, linkLocal6()), nft.Return()},
			{nft.DNATv4("tcp4_host", nft.IPDaddr, nft.TCPDport)},
			{nft.DNATv4("tcp4", nft.TCPDport)},
			{nft.DNATv4("udp4_host", nft.IPDaddr, nft.UDPDport)},
			{nft.DNATv4("udp4", nft.UDPDport)},
			{nft.DNATv6("tcp6_host", nft.IP6Daddr, nft.TCPDport)},
			{nft.DNATv6("tcp6", nft.TCPDport)},
			{nft.DNATv6("udp6_host", nft.IP6Daddr, nft.UDPDport)},
			{nft.DNATv6("udp6", nft.UDPDport)},
			{nft.Jump("publish-ranges")},
		},
	}
}

// onlyFrom drops what does not come from a client of a port that is for some only. A chain of
// nat sees the first packet of a flow, so it costs the others nothing. What a proxy serves
// comes by here as well.
func onlyFrom() nft.Chain {
	return nft.Chain{
		Name:    "only-from",
		Comment: "ports for some clients only",
		Rules: []nft.Rule{
			{nft.NotIn("tcp4_from", nft.IPDaddr, nft.TCPDport, nft.IPSaddr), nft.Drop()},
			{nft.NotIn("udp4_from", nft.IPDaddr, nft.UDPDport, nft.IPSaddr), nft.Drop()},
			{nft.NotIn("tcp6_from", nft.IP6Daddr, nft.TCPDport, nft.IP6Saddr), nft.Drop()},
			{nft.NotIn("udp6_from", nft.IP6Daddr, nft.UDPDport, nft.IP6Saddr), nft.Drop()},
		},
	}
}

// admit asks who may reach a port before it asks what the port leads to.
func admit() nft.Chain {
	return nft.Chain{
		Name:    "admit",
		Comment: "who may reach a published port, then what it leads to",
		Rules: []nft.Rule{
			{nft.In(setLimited, nft.NFProto, nft.L4Proto, nft.THDport), nft.Jump("only-from")},
			{nft.In("limited4_host", nft.L4Proto, nft.IPDaddr, nft.THDport), nft.Jump("only-from")},
			{nft.In("limited6_host", nft.L4Proto, nft.IP6Daddr, nft.THDport), nft.Jump("only-from")},
			{nft.Jump("publish")},
		},
	}
}

// natPrerouting publishes to the network. Only packets to an address of this host
// are looked up: without that, transit traffic to the same port number would be
// caught (CVE-2025-67499).
func natPrerouting() nft.Chain {
	return nft.Chain{
		Name:    "nat-prerouting",
		Comment: "clients elsewhere",
		Hook:    nft.Hook{Type: "nat", Point: "prerouting", Priority: nft.PriorityDstNAT},
		Rules: []nft.Rule{
			{nft.DaddrLocal(), nft.Jump("admit")},
			// The proxies take broadcasts. The set is looked at first, because most packets
			// that are not for this host pass through it.
			{nft.In(setLimited, nft.NFProto, nft.L4Proto, nft.THDport), nft.DaddrBroadcast(), nft.Jump("only-from")},
			{nft.In(setLimitedRange, nft.THDport, nft.NFProto, nft.L4Proto), nft.DaddrBroadcast(), nft.Jump("only-from-ranges")},
			{nft.In(setLimitedRange+nextSuffix, nft.THDport, nft.NFProto, nft.L4Proto), nft.DaddrBroadcast(), nft.Jump("only-from-next-ranges")},
		},
	}
}

// natOutput publishes to this host. Loopback addresses are left out, as destinations and as
// sources: a packet from 127.0.0.1 cannot leave by another interface without route_localnet,
// one from ::1 not at all. So are sources that another routing table is for, which leads
// elsewhere than to the backend: a packet keeps its source when it is translated. The proxies
// serve those.
func natOutput() nft.Chain {
	return nft.Chain{
		Name:    "nat-output",
		Comment: "clients on this host, by its other addresses than loopback",
		Hook:    nft.Hook{Type: "nat", Point: "output", Priority: nft.PriorityDstNAT},
		Rules: []nft.Rule{
			{nft.Within(nft.IPDaddr, loopback4()), nft.Return()},
			{nft.Within(nft.IP6Daddr, loopback6()), nft.Return()},
			{nft.Within(nft.IPSaddr, loopback4()), nft.Return()},
			{nft.Within(nft.IP6Saddr, loopback6()), nft.Return()},
			{nft.In(setProxiedSources+"4", nft.IPSaddr), nft.Return()},
			{nft.In(setProxiedSources+"6", nft.IP6Saddr), nft.Return()},
			{nft.DaddrLocal(), nft.Jump("publish")},
		},
	}
}

// The source ports of masqueraded flows. A backend that opens enough flows to one port of a
// client occupies all of them, and packets of the client to one of them are then taken for
// answers (CVE-2021-3773, port shadow). So no service should have a port in this range. It
// excludes the well-known ports, unlike the range of the kernel, and the ports that are
// chosen for frontends.
const (
	FirstMasqueradePort = 32768
	LastMasqueradePort  = 49152
)

// wayOut gives a flow the host's address. Ports are random so that a backend cannot foresee
// them if one of the range is published after all.
func wayOut() nft.Chain {
	return nft.Chain{
		Name:    "way-out",
		Comment: "as this host, by ports that frontends are not chosen from",
		Rules: []nft.Rule{
			{nft.OverTCP(), nft.MasqueradeFullyRandomTo(FirstMasqueradePort, LastMasqueradePort)},
			{nft.OverUDP(), nft.MasqueradeFullyRandomTo(FirstMasqueradePort, LastMasqueradePort)},
			{nft.MasqueradeFullyRandom()},
		},
	}
}

// byFrontend lets what a backend sends from a published port leave by its frontend, so that
// all peers see the port by which they reach the backend. A backend has no other's frontend, so
// that it cannot take the answers to another (see FirstMasqueradePort). If a flow with the same
// peer has the port already, the kernel drops the packet.
func byFrontend() nft.Chain {
	return nft.Chain{
		Name:    "by-frontend",
		Comment: "from a published port by its frontend, else by the way out",
		Rules: []nft.Rule{
			{nft.OverIPv4(), nft.OverTCP(), nft.MasqueradeTo("tcp4_out", nft.IPSaddr, nft.TCPSport)},
			{nft.SNATv4("tcp4_link_out", nft.OIFName, nft.IPSaddr, nft.TCPSport)},
			{nft.SNATv4("tcp4_host_out", nft.IPSaddr, nft.TCPSport)},
			{nft.OverIPv4(), nft.OverUDP(), nft.MasqueradeTo("udp4_out", nft.IPSaddr, nft.UDPSport)},
			{nft.SNATv4("udp4_link_out", nft.OIFName, nft.IPSaddr, nft.UDPSport)},
			{nft.SNATv4("udp4_host_out", nft.IPSaddr, nft.UDPSport)},
			{nft.OverIPv6(), nft.OverTCP(), nft.MasqueradeTo("tcp6_out", nft.IP6Saddr, nft.TCPSport)},
			{nft.SNATv6("tcp6_link_out", nft.OIFName, nft.IP6Saddr, nft.TCPSport)},
			{nft.SNATv6("tcp6_host_out", nft.IP6Saddr, nft.TCPSport)},
			{nft.OverIPv6(), nft.OverUDP(), nft.MasqueradeTo("udp6_out", nft.IP6Saddr, nft.UDPSport)},
			{nft.SNATv6("udp6_link_out", nft.OIFName, nft.IP6Saddr, nft.UDPSport)},
			{nft.SNATv6("udp6_host_out", nft.IP6Saddr, nft.UDPSport)},
			{nft.Jump("by-range")},
			{nft.Jump("way-out")},
		},
	}
}

// toBackends masquerades what clients send to backends that have no way back to them.
func toBackends() nft.Chain {
	return nft.Chain{
		Name:    "to-backends",
		Comment: "backends that see this host as the client",
		Rules: []nft.Rule{
			{nft.In("masquerade_to4", nft.L4Proto, nft.IPDaddr, nft.THDport), nft.Jump("way-out")},
			{nft.In("masquerade_to4_host", nft.L4Proto, nft.IPDaddr, nft.THDport, nft.CTOriginalIPDaddr), nft.Jump("way-out")},
			{nft.In("masquerade_to6", nft.L4Proto, nft.IP6Daddr, nft.THDport), nft.Jump("way-out")},
			{nft.In("masquerade_to6_host", nft.L4Proto, nft.IP6Daddr, nft.THDport, nft.CTOriginalIP6Daddr), nft.Jump("way-out")},
			{nft.In("masquerade_to4_range", nft.THDport, nft.IPDaddr, nft.L4Proto), nft.Jump("way-out")},
			{nft.In("masquerade_to4_range_next", nft.THDport, nft.IPDaddr, nft.L4Proto), nft.Jump("way-out")},
			{nft.In("masquerade_to4_host_range", nft.THDport, nft.IPDaddr, nft.L4Proto, nft.CTOriginalIPDaddr), nft.Jump("way-out")},
			{nft.In("masquerade_to4_host_range_next", nft.THDport, nft.IPDaddr, nft.L4Proto, nft.CTOriginalIPDaddr), nft.Jump("way-out")},
			{nft.In("masquerade_to6_range", nft.THDport, nft.IP6Daddr, nft.L4Proto), nft.Jump("way-out")},
			{nft.In("masquerade_to6_range_next", nft.THDport, nft.IP6Daddr, nft.L4Proto), nft.Jump("way-out")},
			{nft.In("masquerade_to6_host_range", nft.THDport, nft.IP6Daddr, nft.L4Proto, nft.CTOriginalIP6Daddr), nft.Jump("way-out")},
			{nft.In("masquerade_to6_host_range_next", nft.THDport, nft.IP6Daddr, nft.L4Proto, nft.CTOriginalIP6Daddr), nft.Jump("way-out")},
		},
	}
}

// natPostrouting translates sources. First is the hairpin: where client and backend are on
// one link, the backend would answer the client directly, from an address the client does
// not expect. The client has come in by the link that the packet leaves by, and its address
// is on link there: one behind a router is answered by way of this host as any other.
//
// Frames that a bridge has netfilter look at have no interface that they came in by. Nor
// has what this host sends, which is answered as it is. The pairs are for networks whose
// endpoints have an interface each. The last two rules are the networks' way out, not
// towards each other or themselves.
func natPostrouting() nft.Chain {
	return nft.Chain{
		Name:    "nat-postrouting",
		Comment: "hairpin, then the networks' way out",
		Hook:    nft.Hook{Type: "nat", Point: "postrouting", Priority: nft.PrioritySrcNAT},
		Rules: []nft.Rule{
			{nft.CTStatusDNAT(), nft.In("segments4", nft.IIFName, nft.OIFName, nft.IPSaddr), nft.Jump("way-out")},
			{nft.CTStatusDNAT(), nft.In("segments6", nft.IIFName, nft.OIFName, nft.IP6Saddr), nft.Jump("way-out")},
			{nft.CTStatusDNAT(), nft.FromNoInterface(), nft.In("segments4", nft.OIFName, nft.OIFName, nft.IPSaddr), nft.SaddrNotLocal(), nft.Jump("way-out")},
			{nft.CTStatusDNAT(), nft.FromNoInterface(), nft.In("segments6", nft.OIFName, nft.OIFName, nft.IP6Saddr), nft.SaddrNotLocal(), nft.Jump("way-out")},
			{nft.CTStatusDNAT(), nft.In("inside4", nft.IPSaddr, nft.IPDaddr), nft.Jump("way-out")},
			{nft.CTStatusDNAT(), nft.In("inside6", nft.IP6Saddr, nft.IP6Daddr), nft.Jump("way-out")},
			{nft.CTStatusDNAT(), nft.Jump("to-backends")},
			{nft.In("masqueraded4", nft.IPSaddr), nft.NotIn("networks4", nft.IPDaddr), nft.Jump("by-frontend")},
			{nft.In("masqueraded6", nft.IP6Saddr), nft.NotIn("networks6", nft.IP6Daddr), nft.Jump("by-frontend")},
		},
	}
}

// filterForward guards the declared networks: replies, published ports and siblings
// get in, all else does not. It drops in a base chain of its own, so that no accept
// of another table can undo it.
//
// What has a link-local source is never forwarded (RFC 4291 section 2.5.6); where a
// bridge calls netfilter, the neighbour discovery of siblings comes by here (RFC 4861
// section 7.2.2), and no flow is tracked for it.
func filterForward() nft.Chain {
	return nft.Chain{
		Name:    "filter-forward",
		Comment: "guard of the networks: only replies, published ports and siblings get in",
		Hook:    nft.Hook{Type: "filter", Point: "forward", Priority: nft.PriorityFilter},
		Rules: []nft.Rule{
			{nft.MarkIsNot(0), nft.CTDirectionReply(), nft.CTStatusDNAT(), nft.Jump("unmark-answers")},
			{nft.CTStateEstablished(), nft.Accept()},
			{nft.CTStatusDNAT(), nft.Accept()},
			{nft.In("inside4", nft.IPSaddr, nft.IPDaddr), nft.Accept()},
			{nft.In("guarded4", nft.IPDaddr), nft.Drop()},
			{nft.Within(nft.IP6Saddr, linkLocal6()), nft.Accept()},
			{nft.In("inside6", nft.IP6Saddr, nft.IP6Daddr), nft.Accept()},
			{nft.In("guarded6", nft.IP6Daddr), nft.Drop()},
		},
	}
}

// rawPrerouting drops packets to loopback addresses from the network before
// anything else sees them: DNAT happens before the kernel's own check for them, so
// that a mapping of 127.0.0.1 would answer a neighbour.
//
// Every packet of the host comes here. So the address is looked at first, which nearly
// none has; the name of an interface is 16 bytes to copy and compare.
func rawPrerouting() nft.Chain {
	return nft.Chain{
		Name:    "raw-prerouting",
		Comment: "loopback addresses answer this host alone",
		Hook:    nft.Hook{Type: "filter", Point: "prerouting", Priority: nft.PriorityRaw},
		Rules: []nft.Rule{
			{nft.Within(nft.IPDaddr, loopback4()), nft.NotFromInterface("lo"), nft.Drop()},
			{nft.Within(nft.IP6Daddr, loopback6()), nft.NotFromInterface("lo"), nft.Drop()},
		},
	}
}

// manglePrerouting checks sources: what comes from elsewhere with the source of a guarded
// network would be taken for a sibling's by the guard (RFC 2827). It runs behind connection
// tracking, since a backend on two networks may answer by either, and before DNAT.
//
// It also has answers routed as packets from the address that the client called, by marks and
// rules that package answers makes. An administrator may have marked them already, according
// to the flow.
func manglePrerouting() nft.Chain {
	return nft.Chain{
		Name:    "mangle-prerouting",
		Comment: "siblings are not impersonated, and answers are routed as from the address that was called",
		Hook:    nft.Hook{Type: "filter", Point: "prerouting", Priority: nft.PriorityMangle},
		Rules: []nft.Rule{
			{nft.In("guarded4", nft.IPSaddr), nft.SaddrElsewhere(), nft.Jump("from-elsewhere")},
			{nft.In("guarded6", nft.IP6Saddr), nft.SaddrElsewhere(), nft.Jump("from-elsewhere")},
			{nft.CTDirectionReply(), nft.CTStatusDNAT(), nft.MarkIs(0), nft.Jump("mark-answers")},
		},
	}
}

func markAnswers() nft.Chain {
	return nft.Chain{
		Name:    "mark-answers",
		Comment: "rules (ip rule) for the mark say what those for the address say",
		Rules: []nft.Rule{
			{nft.SetMarkFrom(setAnswers+"4", nft.CTOriginalIPDaddr)},
			{nft.SetMarkFrom(setAnswers+"6", nft.CTOriginalIP6Daddr)},
		},
	}
}

// unmarkAnswers removes the marks when they have done their work, so that others do not see
// them: rules of the forward chain behind this one, and those who save the marks of flows.
func unmarkAnswers() nft.Chain {
	return nft.Chain{
		Name:    "unmark-answers",
		Comment: "a mark of ours has done its work",
		Rules: []nft.Rule{
			{nft.In(setAnswerMarks+"4", nft.MetaMark), nft.SetMark(0)},
			{nft.In(setAnswerMarks+"6", nft.MetaMark), nft.SetMark(0)},
		},
	}
}

// fromElsewhere lets in answers of published ports and answers to this host, and nothing
// else. The last rule has no condition because packets that are not tracked match none about
// tracking.
func fromElsewhere() nft.Chain {
	return nft.Chain{
		Name:    "from-elsewhere",
		Comment: "a source of a network, by another link: only answers pass",
		Rules: []nft.Rule{
			{nft.CTDirectionReply(), nft.CTStatusDNAT(), nft.Return()},
			{nft.CTDirectionReply(), nft.DaddrLocal(), nft.Return()},
			{nft.Drop()},
		},
	}
}

func linkLocal6() netip.Prefix { return netip.MustParsePrefix("fe80::/10") }

func loopback4() netip.Prefix { return netip.MustParsePrefix("127.0.0.0/8") }

func loopback6() netip.Prefix { return netip.MustParsePrefix("::1/128") }
