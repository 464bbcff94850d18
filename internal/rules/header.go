// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package rules

import "golang.org/x/sys/unix"

// layer is a layer of protocols.
type layer int

const (
	noLayer layer = iota
	link
	network
	transport
	inner
)

// layerOf returns the layer of a base of payload, NFT_PAYLOAD_*.
func layerOf(base uint32) layer { return layer(base) + 1 }

// header is the header of a protocol, with its fields in the order of their offsets in bits.
type header struct {
	name   string
	layer  layer
	key    string // the field that says what comes next
	bits   int    // of a header of the link layer
	fields []field
}

type field struct {
	name      string
	off, bits int
	kind      *kind
	// icmp is set if the field is there in messages of that type alone.
	icmp uint8
}

var (
	headerEther = &header{name: "ether", layer: link, key: "type", bits: 112, fields: []field{
		{"daddr", 0, 48, kindEther, 0}, {"saddr", 48, 48, kindEther, 0}, {"type", 96, 16, kindEtherType, 0},
	}}
	headerVLAN = &header{name: "vlan", layer: link, key: "type", bits: 32, fields: []field{
		{"pcp", 0, 3, kindInteger, 0}, {"dei", 3, 1, kindInteger, 0}, {"id", 4, 12, kindInteger, 0}, {"type", 16, 16, kindEtherType, 0},
	}}
	// headerInet and headerNetdev stand for what is below the network layer.
	headerInet   = &header{name: "inet", layer: link}
	headerNetdev = &header{name: "netdev", layer: link}
	headerARP    = &header{name: "arp", layer: network, fields: []field{
		{"htype", 0, 16, kindInteger, 0}, {"ptype", 16, 16, kindEtherType, 0}, {"hlen", 32, 8, kindInteger, 0}, {"plen", 40, 8, kindInteger, 0},
		{"operation", 48, 16, kindARPOp, 0}, {"saddr ether", 64, 48, kindEther, 0}, {"saddr ip", 112, 32, kindIPv4, 0},
		{"daddr ether", 144, 48, kindEther, 0}, {"daddr ip", 192, 32, kindIPv4, 0},
	}}
	headerIP = &header{name: "ip", layer: network, key: "protocol", fields: []field{
		{"version", 0, 4, kindInteger, 0}, {"hdrlength", 4, 4, kindInteger, 0}, {"dscp", 8, 6, kindDSCP, 0}, {"ecn", 14, 2, kindECN, 0},
		{"length", 16, 16, kindInteger, 0}, {"id", 32, 16, kindInteger, 0}, {"frag-off", 48, 16, kindInteger, 0}, {"ttl", 64, 8, kindInteger, 0},
		{"protocol", 72, 8, kindProto, 0}, {"checksum", 80, 16, kindInteger, 0}, {"saddr", 96, 32, kindIPv4, 0}, {"daddr", 128, 32, kindIPv4, 0},
	}}
	headerIP6 = &header{name: "ip6", layer: network, key: "nexthdr", fields: []field{
		{"version", 0, 4, kindInteger, 0}, {"dscp", 4, 6, kindDSCP, 0}, {"ecn", 10, 2, kindECN, 0}, {"flowlabel", 12, 20, kindInteger, 0},
		{"length", 32, 16, kindInteger, 0}, {"nexthdr", 48, 8, kindProto, 0}, {"hoplimit", 56, 8, kindInteger, 0},
		{"saddr", 64, 128, kindIPv6, 0}, {"daddr", 192, 128, kindIPv6, 0},
	}}
	headerTH = &header{name: "th", layer: transport, fields: []field{
		{"sport", 0, 16, kindPort, 0}, {"dport", 16, 16, kindPort, 0},
	}}
	headerTCP = &header{name: "tcp", layer: transport, fields: []field{
		{"sport", 0, 16, kindPort, 0}, {"dport", 16, 16, kindPort, 0}, {"sequence", 32, 32, kindInteger, 0}, {"ackseq", 64, 32, kindInteger, 0},
		{"doff", 96, 4, kindInteger, 0}, {"reserved", 100, 4, kindInteger, 0}, {"flags", 104, 8, kindTCPFlags, 0}, {"window", 112, 16, kindInteger, 0},
		{"checksum", 128, 16, kindInteger, 0}, {"urgptr", 144, 16, kindInteger, 0},
	}}
	headerUDP = &header{name: "udp", layer: transport, fields: []field{
		{"sport", 0, 16, kindPort, 0}, {"dport", 16, 16, kindPort, 0}, {"length", 32, 16, kindInteger, 0}, {"checksum", 48, 16, kindInteger, 0},
	}}
	headerUDPLite = &header{name: "udplite", layer: transport, fields: []field{
		{"sport", 0, 16, kindPort, 0}, {"dport", 16, 16, kindPort, 0}, {"csumcov", 32, 16, kindInteger, 0}, {"checksum", 48, 16, kindInteger, 0},
	}}
	headerSCTP = &header{name: "sctp", layer: transport, fields: []field{
		{"sport", 0, 16, kindPort, 0}, {"dport", 16, 16, kindPort, 0}, {"vtag", 32, 32, kindInteger, 0}, {"checksum", 64, 32, kindInteger, 0},
	}}
	headerDCCP = &header{name: "dccp", layer: transport, fields: []field{
		{"sport", 0, 16, kindPort, 0}, {"dport", 16, 16, kindPort, 0}, {"type", 67, 4, kindDCCPType, 0},
	}}
	headerAH = &header{name: "ah", layer: transport, key: "nexthdr", fields: []field{
		{"nexthdr", 0, 8, kindProto, 0}, {"hdrlength", 8, 8, kindInteger, 0}, {"reserved", 16, 16, kindInteger, 0},
		{"spi", 32, 32, kindInteger, 0}, {"sequence", 64, 32, kindInteger, 0},
	}}
	headerESP  = &header{name: "esp", layer: transport, fields: []field{{"spi", 0, 32, kindInteger, 0}, {"sequence", 32, 32, kindInteger, 0}}}
	headerComp = &header{name: "comp", layer: transport, key: "nexthdr", fields: []field{
		{"nexthdr", 0, 8, kindProto, 0}, {"flags", 8, 8, kindBitmask, 0}, {"cpi", 16, 16, kindInteger, 0},
	}}
	headerICMP = &header{name: "icmp", layer: transport, key: "type", fields: []field{
		{"type", 0, 8, kindICMPType, 0}, {"code", 8, 8, kindICMPCode, 0}, {"checksum", 16, 16, kindInteger, 0},
		{"id", 32, 16, kindInteger, icmpEcho}, {"sequence", 48, 16, kindInteger, icmpEcho}, {"gateway", 32, 32, kindInteger, icmpRedirect},
		{"mtu", 48, 16, kindInteger, icmpUnreachable},
	}}
	headerICMPv6 = &header{name: "icmpv6", layer: transport, key: "type", fields: []field{
		{"type", 0, 8, kindICMPv6Type, 0}, {"code", 8, 8, kindICMPv6Code, 0}, {"checksum", 16, 16, kindInteger, 0},
		{"parameter-problem", 32, 32, kindInteger, icmpv6Problem}, {"mtu", 32, 32, kindInteger, icmpv6TooBig},
		{"id", 32, 16, kindInteger, icmpv6Echo}, {"sequence", 48, 16, kindInteger, icmpv6Echo}, {"max-delay", 32, 16, kindInteger, icmpv6Query},
	}}
	headerIGMP = &header{name: "igmp", layer: transport, fields: []field{
		{"type", 0, 8, kindIGMPType, 0}, {"mrt", 8, 8, kindInteger, 0}, {"checksum", 16, 16, kindInteger, 0}, {"group", 32, 32, kindInteger, 0},
	}}
)

// Types of ICMP that fields depend on.
const (
	icmpUnreachable = 3
	icmpRedirect    = 5
	icmpEcho        = 8
	icmpv6TooBig    = 2
	icmpv6Problem   = 4
	icmpv6Echo      = 128
	icmpv6EchoReply = 129
	icmpv6Query     = 130
)

// networkOf returns the header for a type of Ethernet.
func networkOf(etherType uint64) *header {
	switch etherType {
	case unix.ETH_P_IP:
		return headerIP
	case unix.ETH_P_IPV6:
		return headerIP6
	case unix.ETH_P_ARP:
		return headerARP
	case unix.ETH_P_8021Q, unix.ETH_P_8021AD:
		return headerVLAN
	}
	return nil
}

// transportOf returns the header of a protocol of IP.
func transportOf(proto uint64) *header {
	switch proto {
	case unix.IPPROTO_TCP:
		return headerTCP
	case unix.IPPROTO_UDP:
		return headerUDP
	case unix.IPPROTO_ICMP:
		return headerICMP
	case unix.IPPROTO_ICMPV6:
		return headerICMPv6
	case unix.IPPROTO_SCTP:
		return headerSCTP
	case unix.IPPROTO_UDPLITE:
		return headerUDPLite
	case unix.IPPROTO_DCCP:
		return headerDCCP
	case unix.IPPROTO_AH:
		return headerAH
	case unix.IPPROTO_ESP:
		return headerESP
	case unix.IPPROTO_COMP:
		return headerComp
	case unix.IPPROTO_IGMP:
		return headerIGMP
	}
	return nil
}

// optionOf returns the name and fields of what an exthdr expression loads from.
func optionOf(op, typ uint32) (option header, ok bool) {
	common := []field{{"kind", 0, 8, kindInteger, 0}, {"length", 8, 8, kindInteger, 0}}
	with := func(more ...field) []field { return append(common, more...) }
	switch op {
	case exthdrTCP:
		names := map[uint32]header{
			0: {name: "eol", fields: common[:1]}, 1: {name: "nop", fields: common[:1]},
			2:  {name: "maxseg", fields: with(field{"size", 16, 16, kindInteger, 0})},
			3:  {name: "window", fields: with(field{"count", 16, 8, kindInteger, 0})},
			4:  {name: "sack-perm", fields: common},
			5:  {name: "sack", fields: with(field{"left", 16, 32, kindInteger, 0}, field{"right", 48, 32, kindInteger, 0}, field{"left", 80, 32, kindInteger, 0}, field{"right", 112, 32, kindInteger, 0}, field{"left", 144, 32, kindInteger, 0}, field{"right", 176, 32, kindInteger, 0}, field{"left", 208, 32, kindInteger, 0}, field{"right", 240, 32, kindInteger, 0})},
			8:  {name: "timestamp", fields: with(field{"tsval", 16, 32, kindInteger, 0}, field{"tsecr", 48, 32, kindInteger, 0})},
			19: {name: "md5sig", fields: common},
			30: {name: "mptcp", fields: with(field{"subtype", 16, 4, kindInteger, 0})},
			34: {name: "fastopen", fields: common},
		}
		option, ok = names[typ]
	case exthdrIPv4:
		address := []field{{"type", 0, 8, kindInteger, 0}, {"length", 8, 8, kindInteger, 0}, {"ptr", 16, 8, kindInteger, 0}, {"addr", 24, 32, kindInteger, 0}}
		names := map[uint32]header{
			7: {name: "rr", fields: address}, 131: {name: "lsrr", fields: address}, 137: {name: "ssrr", fields: address},
			148: {name: "ra", fields: []field{address[0], address[1], {"value", 16, 16, kindInteger, 0}}},
		}
		option, ok = names[typ]
	case exthdrIPv6:
		next := field{"nexthdr", 0, 8, kindProto, 0}
		length := field{"hdrlength", 8, 8, kindInteger, 0}
		names := map[uint32]header{
			unix.IPPROTO_HOPOPTS: {name: "hbh", fields: []field{next, length}},
			unix.IPPROTO_DSTOPTS: {name: "dst", fields: []field{next, length}},
			unix.IPPROTO_ROUTING: {name: "rt", fields: []field{next, length, {"type", 16, 8, kindInteger, 0}, {"seg-left", 24, 8, kindInteger, 0}}},
			unix.IPPROTO_FRAGMENT: {name: "frag", fields: []field{
				next, {"reserved", 8, 8, kindInteger, 0}, {"frag-off", 16, 13, kindInteger, 0}, {"reserved2", 29, 2, kindInteger, 0},
				{"more-fragments", 31, 1, kindInteger, 0}, {"id", 32, 32, kindInteger, 0},
			}},
			unix.IPPROTO_MH: {name: "mh", fields: []field{
				next, length, {"type", 16, 8, kindMHType, 0}, {"reserved", 24, 8, kindInteger, 0}, {"checksum", 32, 16, kindInteger, 0},
			}},
		}
		option, ok = names[typ]
	case exthdrSCTP:
		chunk := []field{{"type", 0, 8, kindInteger, 0}, {"flags", 8, 8, kindInteger, 0}, {"length", 16, 16, kindInteger, 0}}
		of := func(more ...field) []field { return append(chunk, more...) }
		initial := of(field{"init-tag", 32, 32, kindInteger, 0}, field{"a-rwnd", 64, 32, kindInteger, 0}, field{"num-outbound-streams", 96, 16, kindInteger, 0},
			field{"num-inbound-streams", 112, 16, kindInteger, 0}, field{"initial-tsn", 128, 32, kindInteger, 0})
		names := map[uint32]header{
			0: {name: "data", fields: of(field{"tsn", 32, 32, kindInteger, 0}, field{"stream", 64, 16, kindInteger, 0}, field{"ssn", 80, 16, kindInteger, 0}, field{"ppid", 96, 32, kindInteger, 0})},
			1: {name: "init", fields: initial}, 2: {name: "init-ack", fields: initial},
			3: {name: "sack", fields: of(field{"cum-tsn-ack", 32, 32, kindInteger, 0}, field{"a-rwnd", 64, 32, kindInteger, 0}, field{"num-gap-ack-blocks", 96, 16, kindInteger, 0}, field{"num-dup-tsns", 112, 16, kindInteger, 0})},
			4: {name: "heartbeat", fields: chunk}, 5: {name: "heartbeat-ack", fields: chunk}, 6: {name: "abort", fields: chunk},
			7: {name: "shutdown", fields: of(field{"cum-tsn-ack", 32, 32, kindInteger, 0})}, 8: {name: "shutdown-ack", fields: chunk}, 9: {name: "error", fields: chunk},
			10: {name: "cookie-echo", fields: chunk}, 11: {name: "cookie-ack", fields: chunk},
			12: {name: "ecne", fields: of(field{"lowest-tsn", 32, 32, kindInteger, 0})}, 13: {name: "cwr", fields: of(field{"lowest-tsn", 32, 32, kindInteger, 0})},
			14: {name: "shutdown-complete", fields: chunk}, 128: {name: "asconf-ack", fields: of(field{"seqno", 32, 32, kindInteger, 0})},
			192: {name: "forward-tsn", fields: of(field{"new-cum-tsn", 32, 32, kindInteger, 0})}, 193: {name: "asconf", fields: of(field{"seqno", 32, 32, kindInteger, 0})},
		}
		option, ok = names[typ]
	}
	return option, ok
}

// Headers of exthdr, NFT_EXTHDR_OP_*.
const (
	exthdrIPv6 = 0
	exthdrTCP  = 1
	exthdrIPv4 = 2
	exthdrSCTP = 3
)

// moreRouting are fields of routing headers of types of their own.
func moreRouting(off, bits int) (name, field string, k *kind) {
	switch {
	case off == 32 && bits == 8:
		return "srh", "last-entry", kindInteger
	case off == 40 && bits == 8:
		return "srh", "flags", kindInteger
	case off == 48 && bits == 16:
		return "srh", "tag", kindInteger
	case off == 64 && bits == 128:
		return "srh", "sid[1]", kindIPv6
	case off == 192 && bits == 128:
		return "srh", "sid[2]", kindIPv6
	case off == 32 && bits == 32:
		return "rt0", "reserved", kindInteger
	}
	return "", "", nil
}
