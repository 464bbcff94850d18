// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// dumpRequest returns the request for a dump of one family's entries, of both
// for AF_UNSPEC. The kernel has looked at the family for longer than it has
// had filters, so that alone is no filter to fall back from.
func dumpRequest(family uint8) []byte {
	return endMessage(appendMessage(nil, msgGet, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, family), 0)
}

// filteredDumpRequest returns the request for a dump of those entries of one
// family that may match the filter. It narrows as far as the kernel can be
// trusted to, and no further:
//
//   - A filter needs a family and a protocol (ctnetlink_parse_tuple_filter).
//   - Ports are compared for TCP and UDP only; asked for other protocols, the
//     flag has no effect (ctnetlink_filter_match_tuple).
//   - Ranges of ports it does not know.
//   - IPv6 addresses are compared the wrong way round: entries that have the
//     address are left out, others are sent. So it was written in 5.8 and so
//     it is in 6.18 (ctnetlink_filter_match_tuple: !ipv6_addr_cmp); an IPv6
//     address is therefore never given to the kernel.
func filteredDumpRequest(family uint8, f Filter) []byte {
	flags := uint32(filterProtoNum)
	b := appendMessage(nil, msgGet, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, family)
	nest := len(b)
	b = beginNest(b, ctaTupleOrig)
	if f.exactDst() && f.Dst.Is4() {
		flags |= filterIPDst
		ip, addr := len(b), f.Dst.As4()
		b = beginNest(b, ctaTupleIP)
		b = appendAttr(b, ctaIPv4Dst, addr[:]...)
		b = endNest(b, ip)
	}
	proto := len(b)
	b = beginNest(b, ctaTupleProto)
	b = appendAttr(b, ctaProtoNum, f.Proto)
	if f.exactPort() && (f.Proto == unix.IPPROTO_TCP || f.Proto == unix.IPPROTO_UDP) {
		flags |= filterProtoDstPort
		b = appendAttr(b, ctaProtoDstPort, byte(f.FirstPort>>8), byte(f.FirstPort))
	}
	b = endNest(b, proto)
	b = endNest(b, nest)
	nest = len(b)
	b = beginNest(b, ctaFilter)
	b = appendAttr(b, ctaFilterOrigFlags, binary.NativeEndian.AppendUint32(nil, flags)...)
	return endMessage(endNest(b, nest), 0)
}

// appendDelete appends the request to delete exactly this entry. Tuple and
// zone are what the kernel sent, byte for byte, so that they name the entry to
// it whatever they hold; the id keeps a later entry of the same tuple safe.
//
// A delete request without a tuple flushes the table
// (ctnetlink_del_conntrack); decodeEntry lets no entry through without one.
func appendDelete(b []byte, e *entry) []byte {
	start := len(b)
	b = appendMessage(b, msgDelete, unix.NLM_F_REQUEST, e.family)
	b = appendAttr(b, ctaTupleOrig|nlaNested, e.orig...)
	if e.zone != nil {
		b = appendAttr(b, ctaZone, e.zone...)
	}
	b = appendAttr(b, ctaID, e.id...)
	return endMessage(b, start)
}

// statsRequest returns the request for the number of entries.
func statsRequest() []byte {
	return endMessage(appendMessage(nil, msgGetStats, unix.NLM_F_REQUEST, unix.AF_UNSPEC), 0)
}
