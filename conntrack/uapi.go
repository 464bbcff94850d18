// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import "golang.org/x/sys/unix"

// Message types of the subsystem: enum cntl_msg_types in
// include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const (
	msgNew      = unix.NFNL_SUBSYS_CTNETLINK << 8   // IPCTNL_MSG_CT_NEW: what a dump is made of
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
	ctaID         = 12
	ctaZone       = 18
	ctaFilter     = 25

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

	// enum ctattr_filter
	ctaFilterOrigFlags = 1 // host byte order: nla_get_u32 in ctnetlink_parse_filter

	// enum ctattr_stats_global
	ctaStatsGlobalEntries    = 1
	ctaStatsGlobalMaxEntries = 2
)

// Which fields of the tuple the dump filter compares: CTA_FILTER_F_CTA_* in
// net/netfilter/nf_internals.h. No uapi header has them, but libnetfilter_conntrack
// relies on their values, so they are fixed.
const (
	filterIPDst        = 1 << 1
	filterProtoNum     = 1 << 3
	filterProtoDstPort = 1 << 5
)
