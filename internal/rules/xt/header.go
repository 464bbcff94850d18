// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules"
)

// HeaderName is the name of the rules.Match that holds what iptables-legacy compares itself (struct ipt_ip,
// struct ip6t_ip6). No match of the kernel has it.
const HeaderName = "(header)"

// The flags of the structs: IPT_F_*, IP6T_F_*, IPT_INV_*.
const (
	ipFragment = 0x01
	ipGoto     = 0x02
	ip6TOS     = 0x02
	ip6Goto    = 0x04

	invIn       = 0x01
	invOut      = 0x02
	invTOS      = 0x04
	invSrc      = 0x08
	invDst      = 0x10
	invFragment = 0x20
	invProto    = 0x40
)

// DecodeHeader returns the value of a match HeaderName of IPv4 or IPv6; false: it is another one.
func DecodeHeader(family rules.Family, m rules.Match) (h Header, ok bool) {
	ip6 := family == unix.NFPROTO_IPV6
	if m.Name != HeaderName || len(m.Info) != headerLen(ip6) {
		return Header{}, false
	}
	b := blob{data: m.Info}
	return decodeHeader(&b, ip6), true
}

func decodeHeader(b *blob, ip6 bool) Header {
	n := 4
	if ip6 {
		n = 16
	}
	h := Header{
		IP6: ip6,
		Src: AddrMask{b.addr(0, ip6), b.addr(2*n, ip6)}, Dst: AddrMask{b.addr(n, ip6), b.addr(3*n, ip6)},
	}
	at := 4 * n
	for i, field := range []*[unix.IFNAMSIZ]byte{&h.In, &h.Out, &h.InMask, &h.OutMask} {
		copy(field[:], b.at(at+i*unix.IFNAMSIZ, unix.IFNAMSIZ))
	}
	at += 4 * unix.IFNAMSIZ
	h.Proto = b.u16(at)
	var flags, inv uint8
	if ip6 {
		h.TOS = b.u8(at + 2)
		flags, inv = b.u8(at+3), b.u8(at+4)
		h.TOSSet, h.Goto = flags&ip6TOS != 0, flags&ip6Goto != 0
	} else {
		flags, inv = b.u8(at+2), b.u8(at+3)
		h.Fragment, h.Goto = flags&ipFragment != 0, flags&ipGoto != 0
	}
	h.NotIn, h.NotOut, h.NotSrc, h.NotDst = inv&invIn != 0, inv&invOut != 0, inv&invSrc != 0, inv&invDst != 0
	h.NotFragment, h.NotProto, h.NotTOS = inv&invFragment != 0, inv&invProto != 0, inv&invTOS != 0
	return h
}

// headerLen is the length of struct ipt_ip or ip6t_ip6.
func headerLen(ip6 bool) int {
	if ip6 {
		return 136
	}
	return 84
}

// Options returns what iptables prints before the matches.
func (h Header) Options() string {
	w := &words{}
	address := func(not bool, option string, a, mask netip.Addr) {
		if a.IsUnspecified() && mask.IsUnspecified() && !not {
			return
		}
		w.not(not, option, masked(a, mask))
	}
	address(h.NotSrc, "-s", h.Src.Addr, h.Src.Mask)
	address(h.NotDst, "-d", h.Dst.Addr, h.Dst.Mask)
	if h.InMask[0] != 0 || h.NotIn {
		w.not(h.NotIn, "-i", ifaceText(h.In, h.InMask))
	}
	if h.OutMask[0] != 0 || h.NotOut {
		w.not(h.NotOut, "-o", ifaceText(h.Out, h.OutMask))
	}
	if h.Proto != 0 || h.NotProto {
		w.not(h.NotProto, "-p", protoName(h.Proto))
	}
	if h.Fragment {
		w.not(h.NotFragment, "-f")
	}
	return w.String()
}

// protoName is the name that iptables prints for a protocol.
func protoName(proto uint16) string {
	switch proto {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_UDPLITE:
		return "udplite"
	case unix.IPPROTO_ICMP:
		return "icmp"
	case unix.IPPROTO_ICMPV6:
		return "ipv6-icmp"
	case unix.IPPROTO_SCTP:
		return "sctp"
	case unix.IPPROTO_DCCP:
		return "dccp"
	case unix.IPPROTO_ESP:
		return "esp"
	case unix.IPPROTO_AH:
		return "ah"
	case unix.IPPROTO_GRE:
		return "gre"
	case unix.IPPROTO_COMP:
		return "ipcomp"
	case unix.IPPROTO_IGMP:
		return "igmp"
	case unix.IPPROTO_MH:
		return "mobility-header"
	case 0:
		return "all"
	}
	return strconv.Itoa(int(proto))
}

// arpHeaderLen is the length of struct arpt_arp.
const arpHeaderLen = 164

// ARPHeader is what arptables-legacy compares itself. Masks of zero: any.
type ARPHeader struct {
	Src, Dst                   AddrMask
	SrcDevice, DstDevice       DeviceAddr
	Len, LenMask               uint8 // of link-layer addresses
	Op, OpMask                 uint16
	Type, TypeMask             uint16
	Proto, ProtoMask           uint16
	In, InMask, Out, OutMask   [unix.IFNAMSIZ]byte
	NotIn, NotOut              bool
	NotSrc, NotDst             bool
	NotSrcDevice, NotDstDevice bool
	NotOp, NotType             bool
	NotProto, NotLen           bool
}

// DeviceAddr is a link-layer address with a mask.
type DeviceAddr struct{ Addr, Mask [6]byte }

// Set reports whether any bit is compared.
func (d DeviceAddr) Set() bool { return d.Mask != [6]byte{} }

// Is reports whether an address is one of them.
func (d DeviceAddr) Is(a []byte) bool {
	for i, m := range d.Mask {
		if i >= len(a) || (a[i]^d.Addr[i])&m != 0 {
			return false
		}
	}
	return true
}

func decodeARPHeader(b *blob) Match {
	inv := b.u16(160)
	not := func(bit uint16) bool { return inv&bit != 0 }
	h := ARPHeader{
		Src: AddrMask{b.addr4(0), b.addr4(8)}, Dst: AddrMask{b.addr4(4), b.addr4(12)}, Len: b.u8(16), LenMask: b.u8(17),
		Op: b.be16(82), OpMask: b.be16(84), Type: b.be16(86), TypeMask: b.be16(88), Proto: b.be16(90), ProtoMask: b.be16(92),
		NotIn: not(0x01), NotOut: not(0x02), NotSrc: not(0x04), NotDst: not(0x08), NotSrcDevice: not(0x10),
		NotDstDevice: not(0x20), NotOp: not(0x40), NotType: not(0x80), NotProto: not(0x100), NotLen: not(0x200),
	}
	for i, d := range []*DeviceAddr{&h.SrcDevice, &h.DstDevice} {
		copy(d.Addr[:], b.at(18+32*i, 6))
		copy(d.Mask[:], b.at(34+32*i, 6))
	}
	for i, field := range []*[unix.IFNAMSIZ]byte{&h.In, &h.Out, &h.InMask, &h.OutMask} {
		copy(field[:], b.at(94+i*unix.IFNAMSIZ, unix.IFNAMSIZ))
	}
	return h
}

// Options returns what arptables prints before the target.
func (h ARPHeader) Options() string {
	w := &words{}
	address := func(not bool, option string, m AddrMask) {
		if not || !m.Addr.IsUnspecified() || !m.Mask.IsUnspecified() {
			w.not(not, option, hostOr(m.Addr, m.Mask))
		}
	}
	iface := func(not bool, option string, name, mask [unix.IFNAMSIZ]byte) {
		if not || mask[0] != 0 {
			w.not(not, option, ifaceText(name, mask))
		}
	}
	device := func(not bool, option string, d DeviceAddr) {
		if !not && !d.Set() {
			return
		}
		w.not(not, option, d)
	}
	address(h.NotSrc, "-s", h.Src)
	address(h.NotDst, "-d", h.Dst)
	iface(h.NotIn, "-i", h.In, h.InMask)
	iface(h.NotOut, "-o", h.Out, h.OutMask)
	device(h.NotSrcDevice, "--src-mac", h.SrcDevice)
	device(h.NotDstDevice, "--dst-mac", h.DstDevice)
	if h.LenMask != 0 && (h.Len != 6 || h.NotLen) {
		w.not(h.NotLen, "--h-length", h.Len)
	}
	if h.OpMask != 0 {
		w.not(h.NotOp, "--opcode", h.Op)
	}
	if h.TypeMask != 0 && (h.Type != 1 || h.NotType) {
		w.not(h.NotType, "--h-type", h.Type)
	}
	if h.ProtoMask != 0 {
		w.not(h.NotProto, "--proto-type", h.Proto)
	}
	return w.String()
}
