// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/nlwire"
)

// tuple is one direction of a flow.
type tuple struct {
	proto    uint8
	src, dst netip.AddrPort
	zone     uint16
}

// entry is a table entry as the kernel sent it. The slices are views into the
// receive buffer.
type entry struct {
	family      uint8
	orig, reply []byte // contents of CTA_TUPLE_ORIG and CTA_TUPLE_REPLY
	zone        []byte // contents of CTA_ZONE; nil: none was sent
	id          []byte // contents of CTA_ID
	status      []byte // contents of CTA_STATUS

	origTuple tuple // orig, decoded
}

// decodeEntry reads the payload of an IPCTNL_MSG_CT_NEW message as far as a filter
// needs; flow reads the rest. An entry without the attributes that the kernel always sends is
// malformed: it could not be deleted exactly. The result is false for a family that is not IP.
func decodeEntry(b []byte, e *entry) (bool, error) {
	if len(b) < nlwire.NetfilterHeader {
		return false, nlwire.ErrMalformed
	}
	*e = entry{family: b[0]}
	if e.family != unix.AF_INET && e.family != unix.AF_INET6 {
		return false, nil
	}
	for b = b[nlwire.NetfilterHeader:]; len(b) > 0; {
		typ, data, rest, err := nlwire.CutAttr(b)
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
		return false, nlwire.ErrMalformed
	}
	var err error
	e.origTuple, err = decodeTuple(e.family, e.orig)
	return err == nil, err
}

// flags decodes the status.
func (e *entry) flags() Status { return Status(binary.BigEndian.Uint32(e.status)) }

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
		Status:   e.flags(),
		Src:      e.origTuple.src,
		Dst:      e.origTuple.dst,
		ReplySrc: reply.src,
		ReplyDst: reply.dst,
	}
	// A zone of one direction is an attribute of its tuple instead (ctnetlink_dump_zone_id).
	if e.zone != nil {
		f.Zone = binary.BigEndian.Uint16(e.zone)
	}
	return f, nil
}

func decodeTuple(family uint8, b []byte) (t tuple, err error) {
	var ip, proto []byte
	for len(b) > 0 {
		typ, data, rest, err := nlwire.CutAttr(b)
		if err != nil {
			return tuple{}, err
		}
		switch typ {
		case ctaTupleIP:
			ip = data
		case ctaTupleProto:
			proto = data
		case ctaTupleZone:
			if len(data) != 2 {
				return tuple{}, nlwire.ErrMalformed
			}
			t.zone = binary.BigEndian.Uint16(data)
		}
		b = rest
	}
	src, dst, err := decodeAddrs(family, ip)
	if err != nil {
		return tuple{}, err
	}
	var ports [2]uint16
	if t.proto, ports, err = decodeProto(proto); err != nil {
		return tuple{}, err
	}
	t.src = netip.AddrPortFrom(src, ports[0])
	t.dst = netip.AddrPortFrom(dst, ports[1])
	return t, nil
}

func decodeAddrs(family uint8, b []byte) (src, dst netip.Addr, err error) {
	for len(b) > 0 {
		typ, data, rest, err := nlwire.CutAttr(b)
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
		return src, dst, nlwire.ErrMalformed
	}
	return src, dst, nil
}

// decodeProto reads CTA_TUPLE_PROTO. Ports stay 0 for protocols that have none; the id,
// type and code that ICMP has instead are of no use to this package.
func decodeProto(b []byte) (proto uint8, ports [2]uint16, err error) {
	found := false
	for len(b) > 0 {
		typ, data, rest, err := nlwire.CutAttr(b)
		if err != nil {
			return 0, ports, err
		}
		switch {
		case typ == ctaProtoNum && len(data) == 1:
			proto, found = data[0], true
		case (typ == ctaProtoSrcPort || typ == ctaProtoDstPort) && len(data) == 2:
			ports[typ-ctaProtoSrcPort] = binary.BigEndian.Uint16(data)
		case typ == ctaProtoNum, typ == ctaProtoSrcPort, typ == ctaProtoDstPort:
			return 0, ports, nlwire.ErrMalformed
		}
		b = rest
	}
	if !found {
		return 0, ports, nlwire.ErrMalformed
	}
	return proto, ports, nil
}

// decodeStats reads the answer to IPCTNL_MSG_CT_GET_STATS. The limit is 0
// where the kernel does not send it (before 4.18).
func decodeStats(b []byte) (entries, limit uint32, err error) {
	found := false
	a := nlwire.Message{Payload: b}.Attrs(nlwire.NetfilterHeader)
	for a.Next() {
		switch a.Type {
		case ctaStatsGlobalEntries:
			entries, found = a.BE32(), true
		case ctaStatsGlobalMaxEntries:
			limit = a.BE32()
		}
	}
	if a.Err != nil || !found {
		return 0, 0, nlwire.ErrMalformed
	}
	return entries, limit, nil
}
