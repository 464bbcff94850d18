// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pktinfo is the struct in_pktinfo or in6_pktinfo of an answer: the address that it
// leaves from.
type pktinfo struct {
	data [unix.SizeofInet6Pktinfo]byte
	n    uint8 // 0: let routing choose
	// port is that of the local address in network order, where a socket receives for many. Else zero.
	port [2]byte
}

// arrival is where a datagram has arrived.
type arrival struct {
	pktinfo
	// via is the interface of a broadcast, by which its answer leaves. 0: it was none.
	via int32
}

// controlRoom is enough for both kinds of pktinfo and UDP_GRO or UDP_SEGMENT:
// CMSG_SPACE on 64 bit is 40, 32 and 24. Of the address that was asked for one comes alone,
// with UDP_GRO: 32 or 48.
const controlRoom = 96

// control is the control buffer of one message, aligned as struct cmsghdr.
type control struct {
	_ [0]uint64
	b [controlRoom]byte
}

// cmsgs calls f for each control message in b. It trusts no length in there.
func cmsgs(b []byte, f func(level, kind int32, data []byte)) {
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(b)))
		size := int(h.Len)
		if size < unix.SizeofCmsghdr || size > len(b) {
			return
		}
		f(h.Level, h.Type, b[unix.CmsgLen(0):size])
		b = b[min(unix.CmsgSpace(size-unix.CmsgLen(0)), len(b)):]
	}
}

// put appends a control message at b[at:] and returns the offset behind it.
func (c *control) put(at, level, kind int, data []byte) int {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c.b[at]))
	h.Level, h.Type = int32(level), int32(kind)
	h.SetLen(unix.CmsgLen(len(data)))
	copy(c.b[at+unix.CmsgLen(0):], data)
	return at + unix.CmsgSpace(len(data))
}

// putSegment appends UDP_SEGMENT (udp(7)).
func (c *control) putSegment(at, size int) int {
	var v [2]byte
	binary.NativeEndian.PutUint16(v[:], uint16(size))
	return c.put(at, unix.IPPROTO_UDP, unix.UDP_SEGMENT, v[:])
}

// putLocal appends the address that the datagram leaves from; or, with an interface, that
// it leaves by it, from the address there that routing chooses.
func (c *control) putLocal(at int, p *pktinfo, via int32) int {
	switch p.n {
	case unix.SizeofInet4Pktinfo:
		if via != 0 {
			var by [unix.SizeofInet4Pktinfo]byte
			binary.NativeEndian.PutUint32(by[:], uint32(via))
			return c.put(at, unix.IPPROTO_IP, unix.IP_PKTINFO, by[:])
		}
		return c.put(at, unix.IPPROTO_IP, unix.IP_PKTINFO, p.data[:p.n])
	case unix.SizeofInet6Pktinfo:
		return c.put(at, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, p.data[:p.n])
	}
	return at
}

// parse reads the control messages of a received datagram: into local, unless nil,
// the local address that it was sent to; and the size of the segments that UDP_GRO
// joined, 0 for a single one.
func (c *control) parse(n int, local *arrival) (segment int) {
	cmsgs(c.b[:min(n, len(c.b))], func(level, kind int32, data []byte) {
		switch {
		case level == unix.IPPROTO_UDP && kind == unix.UDP_GRO && len(data) >= 4:
			segment = int(binary.NativeEndian.Uint32(data))
		case local == nil:
		case level == unix.IPPROTO_IP && kind == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			local.set4(data)
		case level == unix.IPPROTO_IPV6 && kind == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			local.set6(data)
		case level == unix.IPPROTO_IP && kind == unix.IP_ORIGDSTADDR && len(data) >= unix.SizeofSockaddrInet4,
			level == unix.IPPROTO_IPV6 && kind == unix.IPV6_ORIGDSTADDR && len(data) >= unix.SizeofSockaddrInet6:
			local.setAsked(data)
		}
	})
	return segment
}

// addr is the address; the zero Addr if there is none.
func (p *pktinfo) addr() netip.Addr {
	switch p.n {
	case unix.SizeofInet4Pktinfo:
		return netip.AddrFrom4([4]byte(p.data[4:8]))
	case unix.SizeofInet6Pktinfo:
		a := netip.AddrFrom16([16]byte(p.data[:16]))
		if zone := binary.NativeEndian.Uint32(p.data[16:]); zone != 0 {
			a = a.WithZone(strconv.FormatUint(uint64(zone), 10))
		}
		return a
	}
	return netip.Addr{}
}

// addrPort is the address with its port.
func (p *pktinfo) addrPort() netip.AddrPort {
	return netip.AddrPortFrom(p.addr(), binary.BigEndian.Uint16(p.port[:]))
}

// setAsked takes struct sockaddr_in or sockaddr_in6.
func (a *arrival) setAsked(data []byte) {
	copy(a.port[:], data[2:4])
	if len(data) < unix.SizeofSockaddrInet6 {
		copy(a.data[4:8], data[4:8])
		a.n = unix.SizeofInet4Pktinfo
		return
	}
	copy(a.data[:16], data[8:24])
	copy(a.data[16:20], data[24:28]) // zero unless it is link-local
	a.n = unix.SizeofInet6Pktinfo
}

// set4 takes struct in_pktinfo { int ifindex; in_addr spec_dst; in_addr addr }.
// spec_dst is the local address even if addr is a broadcast one (ip(7)). Only the answer
// to a broadcast names an interface; for others routing chooses.
func (a *arrival) set4(data []byte) {
	copy(a.data[4:8], data[4:8])
	a.n = unix.SizeofInet4Pktinfo
	if string(data[4:8]) != string(data[8:12]) {
		a.via = int32(binary.NativeEndian.Uint32(data))
	}
}

// set6 takes struct in6_pktinfo { in6_addr addr; int ifindex }. That of an IPv4 datagram
// is left to set4: its addr may be a broadcast one.
func (a *arrival) set6(data []byte) {
	if netip.AddrFrom16([16]byte(data)).Is4In6() {
		return
	}
	copy(a.data[:16], data[:16])
	if data[0] == 0xfe && data[1]&0xc0 == 0x80 {
		copy(a.data[16:20], data[16:20]) // link-local means nothing without its link
	}
	a.n = unix.SizeofInet6Pktinfo
}
