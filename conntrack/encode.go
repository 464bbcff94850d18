// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// Message types of the subsystem: enum cntl_msg_types in
// include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const (
	msgNew      = unix.NFNL_SUBSYS_CTNETLINK << 8   // IPCTNL_MSG_CT_NEW: what a dump is made of, and a request to create
	msgGet      = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET
	msgDelete   = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE
	msgGetStats = unix.NFNL_SUBSYS_CTNETLINK<<8 | 5 // IPCTNL_MSG_CT_GET_STATS
)

// Attributes, from the same header. Their integers are big-endian, save where
// said otherwise.
const (
	// enum ctattr_type
	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaStatus     = 3
	ctaProtoInfo  = 4
	ctaTimeout    = 7 // in seconds
	ctaID         = 12
	ctaZone       = 18
	ctaFilter     = 25
	ctaStatusMask = 26

	// enum ctattr_tuple
	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaTupleZone  = 3

	// enum ctattr_ip
	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	// enum ctattr_l4proto
	ctaProtoNum     = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3

	// enum ctattr_protoinfo
	ctaProtoInfoTCP = 1

	// enum ctattr_protoinfo_tcp
	ctaTCPState      = 1
	ctaTCPFlagsOrig  = 4
	ctaTCPFlagsReply = 5

	// enum ctattr_filter
	ctaFilterOrigFlags = 1 // host byte order: nla_get_u32 in ctnetlink_parse_filter

	// enum ctattr_stats_global
	ctaStatsGlobalEntries    = 1
	ctaStatsGlobalMaxEntries = 2
)

// The fields of the tuple that the dump filter compares: CTA_FILTER_F_CTA_* in
// net/netfilter/nf_internals.h, on whose values libnetfilter_conntrack relies.
const (
	filterIPSrc        = 1 << 0
	filterIPDst        = 1 << 1
	filterProtoNum     = 1 << 3
	filterProtoSrcPort = 1 << 4
	filterProtoDstPort = 1 << 5
)

func request(b []byte, typ, flags uint16, family uint8) ([]byte, int) {
	return nlwire.OpenNetfilter(b, typ, flags, family, 0, 0)
}

// setSequence numbers the message at the head of b, and asks for an
// acknowledgement or not. Errors are answered either way.
func setSequence(b []byte, seq uint32, ack bool) {
	flags := binary.NativeEndian.Uint16(b[6:]) &^ unix.NLM_F_ACK
	if ack {
		flags |= unix.NLM_F_ACK
	}
	binary.NativeEndian.PutUint16(b[6:], flags)
	binary.NativeEndian.PutUint32(b[8:], seq)
}

// dumpRequest returns the request for a dump of the entries of the filter's family, or of both, which
// kernels without filters know as well: they ignore the status.
func dumpRequest(f Filter) []byte {
	b, _ := request(nil, msgGet, unix.NLM_F_DUMP, f.family())
	return nlwire.CloseMessage(appendStatus(b, f), 0)
}

// appendStatus has the kernel choose by the status.
func appendStatus(b []byte, f Filter) []byte {
	var status, mask Status
	if f.Unanswered {
		mask |= StatusSeenReply
	}
	if f.Translated {
		status |= StatusDNAT
		mask |= StatusDNAT
	}
	if mask != 0 {
		b = nlwire.AppendAttr(b, ctaStatus, binary.BigEndian.AppendUint32(nil, uint32(status))...)
		b = nlwire.AppendAttr(b, ctaStatusMask, binary.BigEndian.AppendUint32(nil, uint32(mask))...)
	}
	return b
}

// filteredDumpRequest returns the request for a dump of those entries of one
// family that may match the filter, as far as the kernel filters correctly:
//
//   - A filter needs a family and a protocol (ctnetlink_parse_tuple_filter).
//   - Ports are compared for TCP and UDP only; asked for other protocols, the
//     flag has no effect (ctnetlink_filter_match_tuple).
//   - Ranges of ports it does not know.
//   - A status it compares by a mask (ctnetlink_filter_parse_status); kernels that cannot,
//     ignore it.
//   - IPv6 addresses are compared the wrong way round: entries that have the
//     address are left out, others are sent. So it was written in 5.8 and so
//     it is in 6.18 (ctnetlink_filter_match_tuple: !ipv6_addr_cmp); an IPv6
//     address is therefore never given to the kernel.
func filteredDumpRequest(family uint8, f Filter) []byte {
	flags := uint32(filterProtoNum)
	b, _ := request(make([]byte, 0, 128), msgGet, unix.NLM_F_DUMP, family)
	b, orig := nlwire.OpenAttr(b, nlwire.Nested|ctaTupleOrig)
	if src, dst := f.Src.Is4(), f.exactDst() && f.Dst.Is4(); src || dst {
		var ip int
		b, ip = nlwire.OpenAttr(b, nlwire.Nested|ctaTupleIP)
		if src {
			flags |= filterIPSrc
			b = nlwire.AppendAttr(b, ctaIPv4Src, f.Src.AsSlice()...)
		}
		if dst {
			flags |= filterIPDst
			b = nlwire.AppendAttr(b, ctaIPv4Dst, f.Dst.AsSlice()...)
		}
		b = nlwire.CloseAttr(b, ip)
	}
	b, proto := nlwire.OpenAttr(b, nlwire.Nested|ctaTupleProto)
	b = nlwire.AppendAttr(b, ctaProtoNum, f.Proto)
	hasPorts := f.Proto == unix.IPPROTO_TCP || f.Proto == unix.IPPROTO_UDP
	if hasPorts && f.SrcPort != 0 {
		flags |= filterProtoSrcPort
		b = nlwire.AppendAttr(b, ctaProtoSrcPort, byte(f.SrcPort>>8), byte(f.SrcPort))
	}
	if hasPorts && f.exactPort() {
		flags |= filterProtoDstPort
		b = nlwire.AppendAttr(b, ctaProtoDstPort, byte(f.FirstPort>>8), byte(f.FirstPort))
	}
	b = nlwire.CloseAttr(nlwire.CloseAttr(b, proto), orig)
	// CTA_FILTER is refused without the flag (nla_parse_nested, unlike the older nests).
	b, filter := nlwire.OpenAttr(b, nlwire.Nested|ctaFilter)
	b = nlwire.AppendAttr(b, ctaFilterOrigFlags, binary.NativeEndian.AppendUint32(nil, flags)...)
	b = nlwire.CloseAttr(b, filter)
	return nlwire.CloseMessage(appendStatus(b, f), 0)
}

// appendDelete appends the request to delete exactly this entry, with tuple and
// zone as the kernel sent them. The id protects a later entry of the same tuple.
//
// A delete request without a tuple would flush the table
// (ctnetlink_del_conntrack); decodeEntry refuses entries without one.
func appendDelete(b []byte, e *entry) []byte {
	b, at := request(b, msgDelete, 0, e.family)
	b = nlwire.AppendAttr(b, nlwire.Nested|ctaTupleOrig, e.orig...)
	if e.zone != nil {
		b = nlwire.AppendAttr(b, ctaZone, e.zone...)
	}
	b = nlwire.AppendAttr(b, ctaID, e.id...)
	return nlwire.CloseMessage(b, at)
}

// statsRequest returns the request for the number of entries.
func statsRequest() []byte {
	return nlwire.CloseMessage(request(nil, msgGetStats, 0, unix.AF_UNSPEC))
}
