// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// tuple is one direction of a flow.
type tuple struct {
	proto    uint8
	src, dst netip.AddrPort
	zone     uint16
}

// entry is a table entry as the kernel sent it. The slices are views into the
// receive buffer: whoever wants to keep them copies them.
type entry struct {
	family      uint8
	orig, reply []byte // contents of CTA_TUPLE_ORIG and CTA_TUPLE_REPLY
	zone        []byte // contents of CTA_ZONE; nil: none was sent
	id          []byte // contents of CTA_ID
	status      []byte // contents of CTA_STATUS

	origTuple tuple // orig, decoded
}

// decodeEntry reads the payload of an IPCTNL_MSG_CT_NEW message as far as is
// needed to tell whether anybody wants the entry; flow reads the rest. Unknown
// attributes are passed over. What the kernel always sends must be there: an
// entry without its tuple or id could not be deleted exactly, and is malformed.
//
// The result is false for an entry of a family that is not IP.
func decodeEntry(b []byte, e *entry) (bool, error) {
	if len(b) < nfgenHeaderLen {
		return false, errMalformed
	}
	*e = entry{family: b[0]}
	if e.family != unix.AF_INET && e.family != unix.AF_INET6 {
		return false, nil
	}
	for b = b[nfgenHeaderLen:]; len(b) > 0; {
		typ, data, rest, err := nextAttr(b)
		if err != nil {
			return false, err
		}
		switch typ {
		case ctaTupleOrig:
			e.orig = data
		case ctaTupleReply:
			e.reply = data
		case ctaZone:
			e.zone = data
		case ctaID:
			e.id = data
		case ctaStatus:
			e.status = data
		}
		b = rest
	}
	if len(e.id) != 4 || len(e.status) != 4 || (e.zone != nil && len(e.zone) != 2) {
		return false, errMalformed
	}
	var err error
	if e.origTuple, err = decodeTuple(e.family, e.orig); err != nil {
		return false, err
	}
	return true, nil
}

// flow completes the decoding.
func (e *entry) flow() (Flow, error) {
	reply, err := decodeTuple(e.family, e.reply)
	if err != nil {
		return Flow{}, err
	}
	f := Flow{
		Proto:    e.origTuple.proto,
		Zone:     e.origTuple.zone,
		ID:       binary.BigEndian.Uint32(e.id),
		Status:   Status(binary.BigEndian.Uint32(e.status)),
		Src:      e.origTuple.src,
		Dst:      e.origTuple.dst,
		ReplySrc: reply.src,
		ReplyDst: reply.dst,
	}
	// A zone of both directions is an attribute of the entry, a zone of one
	// direction an attribute of its tuple (ctnetlink_dump_zone_id).
	if e.zone != nil {
		f.Zone = binary.BigEndian.Uint16(e.zone)
	}
	return f, nil
}

func decodeTuple(family uint8, b []byte) (tuple, error) {
	var (
		t          tuple
		src, dst   netip.Addr
		ports      [2]uint16
		ip, proto  []byte
		err        error
		data, rest []byte
		typ        uint16
	)
	for ; len(b) > 0; b = rest {
		if typ, data, rest, err = nextAttr(b); err != nil {
			return tuple{}, err
		}
		switch typ {
		case ctaTupleIP:
			ip = data
		case ctaTupleProto:
			proto = data
		case ctaTupleZone:
			if len(data) != 2 {
				return tuple{}, errMalformed
			}
			t.zone = binary.BigEndian.Uint16(data)
		}
	}
	if src, dst, err = decodeAddrs(family, ip); err != nil {
		return tuple{}, err
	}
	if t.proto, ports, err = decodeProto(proto); err != nil {
		return tuple{}, err
	}
	t.src = netip.AddrPortFrom(src, ports[0])
	t.dst = netip.AddrPortFrom(dst, ports[1])
	return t, nil
}

func decodeAddrs(family uint8, b []byte) (src, dst netip.Addr, err error) {
	for len(b) > 0 {
		typ, data, rest, err := nextAttr(b)
		if err != nil {
			return src, dst, err
		}
		switch {
		case typ == ctaIPv4Src && family == unix.AF_INET && len(data) == 4:
			src = netip.AddrFrom4([4]byte(data))
		case typ == ctaIPv4Dst && family == unix.AF_INET && len(data) == 4:
			dst = netip.AddrFrom4([4]byte(data))
		case typ == ctaIPv6Src && family == unix.AF_INET6 && len(data) == 16:
			src = netip.AddrFrom16([16]byte(data))
		case typ == ctaIPv6Dst && family == unix.AF_INET6 && len(data) == 16:
			dst = netip.AddrFrom16([16]byte(data))
		}
		b = rest
	}
	if !src.IsValid() || !dst.IsValid() {
		return src, dst, errMalformed
	}
	return src, dst, nil
}

// decodeProto reads CTA_TUPLE_PROTO. Ports stay 0 for protocols that have
// none; what ICMP has instead (id, type, code) is of no use to this package.
func decodeProto(b []byte) (proto uint8, ports [2]uint16, err error) {
	found := false
	for len(b) > 0 {
		typ, data, rest, err := nextAttr(b)
		if err != nil {
			return 0, ports, err
		}
		switch typ {
		case ctaProtoNum:
			if len(data) != 1 {
				return 0, ports, errMalformed
			}
			proto, found = data[0], true
		case ctaProtoSrcPort, ctaProtoDstPort:
			if len(data) != 2 {
				return 0, ports, errMalformed
			}
			ports[typ-ctaProtoSrcPort] = binary.BigEndian.Uint16(data)
		}
		b = rest
	}
	if !found {
		return 0, ports, errMalformed
	}
	return proto, ports, nil
}

// decodeStats reads the answer to IPCTNL_MSG_CT_GET_STATS. The limit is 0
// where the kernel does not send it (before 4.18).
func decodeStats(b []byte) (entries, limit uint32, err error) {
	if len(b) < nfgenHeaderLen {
		return 0, 0, errMalformed
	}
	found := false
	for b = b[nfgenHeaderLen:]; len(b) > 0; {
		typ, data, rest, err := nextAttr(b)
		if err != nil {
			return 0, 0, err
		}
		switch typ {
		case ctaStatsGlobalEntries, ctaStatsGlobalMaxEntries:
			if len(data) != 4 {
				return 0, 0, errMalformed
			}
			if typ == ctaStatsGlobalEntries {
				entries, found = binary.BigEndian.Uint32(data), true
			} else {
				limit = binary.BigEndian.Uint32(data)
			}
		}
		b = rest
	}
	if !found {
		return 0, 0, errMalformed
	}
	return entries, limit, nil
}
