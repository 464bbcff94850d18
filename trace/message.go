// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// message is an event of nftrace (nft_trace_notify in net/netfilter/nf_tables_trace.c).
type message struct {
	id           uint32
	family       uint8 // of the table
	typ          uint32
	table, chain string
	handle       uint64
	code         int32 // of the verdict, or the policy
	target       string
	iif, oif     int
	// header is that of the packet, which comes with the first event of each base chain. known: there is one.
	header header
	known  bool
}

// decodeMessage reads an event. False: it is none.
func decodeMessage(m nlwire.Message) (t message, ok bool) {
	if m.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_TRACE || len(m.Payload) < nlwire.NetfilterHeader {
		return message{}, false
	}
	t.family = m.Payload[0]
	var network, transport []byte
	attrs := m.Attrs(nlwire.NetfilterHeader)
	for attrs.Next() {
		switch attrs.Type {
		case unix.NFTA_TRACE_ID:
			t.id = attrs.BE32()
		case unix.NFTA_TRACE_TYPE:
			t.typ = attrs.BE32()
		case unix.NFTA_TRACE_TABLE:
			t.table = unix.ByteSliceToString(attrs.Payload)
		case unix.NFTA_TRACE_CHAIN:
			t.chain = unix.ByteSliceToString(attrs.Payload)
		case unix.NFTA_TRACE_RULE_HANDLE:
			t.handle = attrs.BE64()
		case unix.NFTA_TRACE_VERDICT:
			code, _ := nlwire.FindBE32(attrs.Payload, unix.NFTA_VERDICT_CODE)
			t.code = int32(code)
			t.target = nlwire.FindString(attrs.Payload, unix.NFTA_VERDICT_CHAIN)
		case unix.NFTA_TRACE_POLICY:
			t.code = int32(attrs.BE32())
		case unix.NFTA_TRACE_IIF:
			t.iif = int(attrs.BE32())
		case unix.NFTA_TRACE_OIF:
			t.oif = int(attrs.BE32())
		case unix.NFTA_TRACE_NETWORK_HEADER:
			network = attrs.Payload
		case unix.NFTA_TRACE_TRANSPORT_HEADER:
			transport = attrs.Payload
		}
	}
	if attrs.Err != nil {
		return message{}, false
	}
	if network != nil {
		if transport == nil {
			transport = []byte{}
		}
		t.header, t.known = parseHeader(network, transport)
	}
	return t, true
}

// verdictText names a verdict as nft(8) does.
func (t message) verdictText() string {
	switch code := t.code; {
	case code == unix.NFT_CONTINUE, code == unix.NFT_BREAK:
		return "continue"
	case code == unix.NFT_JUMP:
		return "jump " + t.target
	case code == unix.NFT_GOTO:
		return "goto " + t.target
	case code == unix.NFT_RETURN:
		return "return"
	case code < 0:
		return "unknown"
	case code&verdictMask == verdictDrop:
		return "drop"
	case code&verdictMask == verdictStolen:
		return "stolen"
	case code&verdictMask == verdictQueue:
		return "queue"
	}
	return "accept"
}

// Verdicts of include/uapi/linux/netfilter.h. What is above the mask is a number of errors and queues.
const (
	verdictDrop   = 0
	verdictStolen = 2
	verdictQueue  = 3
	verdictMask   = 0xff
)

// familyText names a family of tables as nft(8) does.
func familyText(family uint8) string {
	switch family {
	case unix.NFPROTO_INET:
		return "inet"
	case unix.NFPROTO_IPV4:
		return "ip"
	case unix.NFPROTO_IPV6:
		return "ip6"
	case unix.NFPROTO_ARP:
		return "arp"
	case unix.NFPROTO_NETDEV:
		return "netdev"
	case unix.NFPROTO_BRIDGE:
		return "bridge"
	}
	return "unknown"
}
