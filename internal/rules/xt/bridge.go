// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package xt

import (
	"fmt"
	"strconv"
	"strings"
)

// The matches and targets of ebtables, which have names and layouts of their own
// (include/uapi/linux/netfilter_bridge).
type (
	// BridgeIP compares headers of IPv4 or IPv6. Flags and Invert are EBT_IP_*.
	BridgeIP struct {
		IP6                bool
		Flags, Invert      uint8
		Src, Dst           AddrMask
		TOS, Proto         uint8
		SrcPort, DstPort   PortRange
		ICMPType, ICMPCode [2]uint8
	}
	// BridgeARP compares ARP packets. Flags and Invert are EBT_ARP_*.
	BridgeARP struct {
		Flags, Invert        uint8
		Type, Proto, Op      uint16
		Src, Dst             AddrMask
		SrcDevice, DstDevice DeviceAddr
	}
	// BridgeMark compares the packet's mark, or asks whether it has a bit of the mask (Any).
	BridgeMark struct {
		Mark, Mask uint32
		Any, Not   bool
	}
	// BridgeVLAN compares the tag of a frame. Flags and Invert are EBT_VLAN_*.
	BridgeVLAN struct {
		Flags, Invert uint8
		ID            uint16
		Prio          uint8
		Encap         uint16
	}
	// BridgeFrame is a match of frames that have neither IP nor ARP in them (stp, 802_3).
	BridgeFrame struct{ options string }
	// BridgeSetMark sets the packet's mark: (mark &^ Clear | Set) ^ Flip.
	BridgeSetMark struct {
		Clear, Set, Flip uint32
		Verdict          int32 // EBT_*
		options          string
	}
	// BridgeAnswer answers ARP requests, and then does what the verdict says.
	BridgeAnswer struct {
		Verdict int32
		options string
	}
	// BridgeSource changes the source of frames, and then does what the verdict says.
	BridgeSource struct {
		Verdict int32
		options string
	}
)

// EBT_IP_*, EBT_VLAN_* and EBT_ARP_*.
const (
	BridgeSrc = 1 << iota
	BridgeDst
	BridgeTOS
	BridgeProto
	BridgeSrcPort
	BridgeDstPort
	BridgeICMP

	BridgeVLANID    = 1
	BridgeVLANPrio  = 2
	BridgeVLANEncap = 4

	BridgeARPOp        = 1
	BridgeARPType      = 2
	BridgeARPProto     = 4
	BridgeARPSrc       = 8
	BridgeARPDst       = 16
	BridgeARPSrcDevice = 32
	BridgeARPDstDevice = 64
	BridgeARPSame      = 128 // both addresses are the same
)

// Verdicts of ebtables, EBT_*.
const (
	BridgeAccept   = -1
	BridgeDrop     = -2
	BridgeContinue = -3
	BridgeReturn   = -4
)

// decodeBridgeMatch returns nil for what is not of ebtables.
func decodeBridgeMatch(b *blob, name string) Match {
	switch name {
	case "ip":
		m := BridgeIP{
			Src: AddrMask{b.addr4(0), b.addr4(8)}, Dst: AddrMask{b.addr4(4), b.addr4(12)}, TOS: b.u8(16), Proto: b.u8(17),
			Flags: b.u8(18), Invert: b.u8(19),
		}
		m.ports(b, 20)
		return m
	case "ip6":
		m := BridgeIP{
			IP6: true,
			Src: AddrMask{b.addr6(0), b.addr6(32)}, Dst: AddrMask{b.addr6(16), b.addr6(48)}, TOS: b.u8(64), Proto: b.u8(65),
			Flags: b.u8(66), Invert: b.u8(67),
		}
		m.ports(b, 68)
		return m
	case "arp":
		m := BridgeARP{
			Type: b.be16(0), Proto: b.be16(2), Op: b.be16(4), Src: AddrMask{b.addr4(8), b.addr4(12)},
			Dst: AddrMask{b.addr4(16), b.addr4(20)}, Flags: b.u8(48), Invert: b.u8(49),
		}
		for i, d := range []*DeviceAddr{&m.SrcDevice, &m.DstDevice} {
			copy(d.Addr[:], b.at(24+12*i, 6))
			copy(d.Mask[:], b.at(30+12*i, 6))
		}
		return m
	case "mark_m":
		long := b.long(24)
		return BridgeMark{
			Mark: b.low32(0, long), Mask: b.low32(long, long), Not: b.flag(2 * long), Any: b.u8(2*long+1)&2 != 0,
		}
	case "pkttype":
		return PktType{Type: uint32(b.u8(0)), Not: b.flag(1)}
	case "vlan":
		return BridgeVLAN{ID: b.u16(0), Prio: b.u8(2), Encap: b.be16(4), Flags: b.u8(6), Invert: b.u8(7)}
	case "stp", "802_3":
		return BridgeFrame{options: fmt.Sprintf("[%s, %d bytes]", name, len(b.data))}
	}
	return nil
}

func (m *BridgeIP) ports(b *blob, at int) {
	m.SrcPort, m.DstPort = PortRange{b.u16(at), b.u16(at + 2)}, PortRange{b.u16(at + 4), b.u16(at + 6)}
	m.ICMPType, m.ICMPCode = [2]uint8{b.u8(at), b.u8(at + 1)}, [2]uint8{b.u8(at + 4), b.u8(at + 5)}
}

// long is the length of an unsigned long in a struct that is so long in kernels of 64 bits.
func (b *blob) long(size int) int {
	if len(b.data) >= size {
		return 8
	}
	return 4
}

// low32 is the lower half of a number of 4 or 8 bytes.
func (b *blob) low32(at, size int) uint32 {
	if size == 8 {
		return uint32(b.u64(at))
	}
	return b.u32(at)
}

// decodeBridgeTarget returns nil for what is not of ebtables.
func decodeBridgeTarget(b *blob, name string) Target {
	w := &words{}
	switch name {
	case "mark":
		return decodeBridgeSetMark(b)
	case "snat":
		t := BridgeSource{Verdict: bridgeVerdict(b.u32(8))}
		w.add("--to-src", macText(b.at(0, 6)))
		w.add("--snat-target", bridgeVerdictName(t.Verdict))
		t.options = w.String()
		return t
	case "dnat":
		w.add("--to-dst", macText(b.at(0, 6)))
		w.add("--dnat-target", bridgeVerdictName(int32(b.u32(8)))) //nolint:gosec // a signed number of the kernel
		return Taking{Text: "dnat of ebtables, which changes where a frame goes", options: w.String()}
	case "redirect":
		if v := int32(b.u32(0)); v != BridgeAccept { //nolint:gosec // a signed number of the kernel
			w.add("--redirect-target", bridgeVerdictName(v))
		}
		return Taking{Text: "redirect of ebtables, which takes frames for the host itself", options: w.String()}
	case "arpreply":
		t := BridgeAnswer{Verdict: int32(b.u32(8))} //nolint:gosec // a signed number of the kernel
		w.add("--arpreply-mac", macText(b.at(0, 6)))
		if t.Verdict != BridgeDrop {
			w.add("--arpreply-target", bridgeVerdictName(t.Verdict))
		}
		t.options = w.String()
		return t
	case "log":
		levels := []string{"emerg", "alert", "critical", "error", "warning", "notice", "info", "debug"}
		w.add("--log-level", levels[b.u8(0)&7])
		w.add("--log-prefix", `"`+b.text(1, 30)+`"`)
		w.on(b.u32(32)&1 != 0, "--log-ip")
		w.on(b.u32(32)&2 != 0, "--log-arp")
		w.on(b.u32(32)&8 != 0, "--log-ip6")
		return Harmless{options: w.String()}
	case "nflog":
		if p := b.text(12, 64); p != "" {
			w.add("--nflog-prefix", `"`+p+`"`)
		}
		w.add("--nflog-group", b.u16(4))
		return Harmless{options: w.String()}
	}
	return nil
}

// bridgeVerdict is that of mark and snat, which have something else in the upper bits.
func bridgeVerdict(target uint32) int32 { return int32(target | ^uint32(0xf)) } //nolint:gosec // so the kernel says it

func bridgeVerdictName(v int32) string {
	switch v {
	case BridgeAccept:
		return "ACCEPT"
	case BridgeDrop:
		return "DROP"
	case BridgeContinue:
		return "CONTINUE"
	case BridgeReturn:
		return "RETURN"
	}
	return strconv.Itoa(int(v))
}

func decodeBridgeSetMark(b *blob) Target {
	long := b.long(16)
	mark, target := b.low32(0, long), b.u32(long)
	t := BridgeSetMark{Verdict: bridgeVerdict(target)}
	w := &words{}
	switch target &^ 0xf {
	case 0xfffffff0:
		t.Clear, t.Set = 1<<32-1, mark
		w.add("--mark-set", fmt.Sprintf("%#x", mark))
	case 0xffffffe0:
		t.Set = mark
		w.add("--mark-or", fmt.Sprintf("%#x", mark))
	case 0xffffffd0:
		t.Clear = ^mark
		w.add("--mark-and", fmt.Sprintf("%#x", mark))
	case 0xffffffc0:
		t.Flip = mark
		w.add("--mark-xor", fmt.Sprintf("%#x", mark))
	default:
		return nil
	}
	w.add("--mark-target", bridgeVerdictName(t.Verdict))
	t.options = w.String()
	return t
}

// Options returns what is compared.
func (m BridgeIP) Options() string {
	w := &words{}
	asks := func(flag uint8) bool { return m.Flags&flag != 0 }
	not := func(flag uint8) bool { return m.Invert&flag != 0 }
	prefix := "--ip-"
	if m.IP6 {
		prefix = "--ip6-"
	}
	if asks(BridgeSrc) {
		w.not(not(BridgeSrc), prefix+"src", hostOr(m.Src.Addr, m.Src.Mask))
	}
	if asks(BridgeDst) {
		w.not(not(BridgeDst), prefix+"dst", hostOr(m.Dst.Addr, m.Dst.Mask))
	}
	if asks(BridgeTOS) {
		name := "tos"
		if m.IP6 {
			name = "tclass"
		}
		w.not(not(BridgeTOS), prefix+name, fmt.Sprintf("0x%02X", m.TOS))
	}
	if asks(BridgeProto) {
		w.not(not(BridgeProto), prefix+"proto", protoName(uint16(m.Proto)))
	}
	if asks(BridgeSrcPort) {
		w.not(not(BridgeSrcPort), prefix+"sport", m.SrcPort)
	}
	if asks(BridgeDstPort) {
		w.not(not(BridgeDstPort), prefix+"dport", m.DstPort)
	}
	if asks(BridgeICMP) {
		w.not(not(BridgeICMP), prefix+"icmp-type", span(m.ICMPType[0], m.ICMPType[1])+"/"+span(m.ICMPCode[0], m.ICMPCode[1]))
	}
	return w.String()
}

// Options returns what is compared.
func (m BridgeARP) Options() string {
	w := &words{}
	asks := func(flag uint8) bool { return m.Flags&flag != 0 }
	not := func(flag uint8) bool { return m.Invert&flag != 0 }
	if asks(BridgeARPOp) {
		op := strconv.Itoa(int(m.Op))
		switch m.Op {
		case 1:
			op = "Request"
		case 2:
			op = "Reply"
		}
		w.not(not(BridgeARPOp), "--arp-op", op)
	}
	if asks(BridgeARPType) {
		w.not(not(BridgeARPType), "--arp-htype", m.Type)
	}
	if asks(BridgeARPProto) {
		w.not(not(BridgeARPProto), "--arp-ptype", fmt.Sprintf("0x%x", m.Proto))
	}
	address := func(flag uint8, option string, a AddrMask) {
		if asks(flag) {
			w.not(not(flag), option, hostOr(a.Addr, a.Mask))
		}
	}
	address(BridgeARPSrc, "--arp-ip-src", m.Src)
	address(BridgeARPDst, "--arp-ip-dst", m.Dst)
	device := func(flag uint8, option string, d DeviceAddr) {
		if asks(flag) {
			w.not(not(flag), option, d.String())
		}
	}
	device(BridgeARPSrcDevice, "--arp-mac-src", m.SrcDevice)
	device(BridgeARPDstDevice, "--arp-mac-dst", m.DstDevice)
	if asks(BridgeARPSame) {
		w.not(not(BridgeARPSame), "--arp-gratuitous")
	}
	return w.String()
}

// String is the address, with its mask unless that is all ones.
func (d DeviceAddr) String() string {
	text := macText(d.Addr[:])
	if d.Mask != [6]byte{255, 255, 255, 255, 255, 255} {
		text += "/" + macText(d.Mask[:])
	}
	return text
}

// Options returns mark and mask.
func (m BridgeMark) Options() string {
	w := &words{}
	switch {
	case m.Any:
		w.not(m.Not, "--mark", fmt.Sprintf("/%#x", m.Mask))
	default:
		w.not(m.Not, "--mark", hex(m.Mark, m.Mask))
	}
	return w.String()
}

// Options returns what is compared.
func (m BridgeVLAN) Options() string {
	w := &words{}
	not := func(flag uint8) bool { return m.Invert&flag != 0 }
	if m.Flags&BridgeVLANID != 0 {
		w.not(not(BridgeVLANID), "--vlan-id", m.ID)
	}
	if m.Flags&BridgeVLANPrio != 0 {
		w.not(not(BridgeVLANPrio), "--vlan-prio", m.Prio)
	}
	if m.Flags&BridgeVLANEncap != 0 {
		w.not(not(BridgeVLANEncap), "--vlan-encap", fmt.Sprintf("%04X", m.Encap))
	}
	return w.String()
}

// Options returns what is compared.
func (m BridgeFrame) Options() string { return m.options }

// Options returns mark and verdict.
func (t BridgeSetMark) Options() string { return t.options }

// Options returns address and verdict.
func (t BridgeAnswer) Options() string { return t.options }

// Options returns address and verdict.
func (t BridgeSource) Options() string { return t.options }

// equal is a comparison as nft(8) prints it.
func equal(w *words, inverted bool, left, value string) {
	if inverted {
		left += " !="
	}
	w.add(left, value)
}

// nft returns what is compared as nft(8) prints it.
func (m BridgeIP) nft() string {
	w := &words{}
	not := func(flag uint8) bool { return m.Invert&flag != 0 }
	header, icmp, protocol, tos := "ip", "icmp", "protocol", "tos"
	if m.IP6 {
		header, icmp, protocol, tos = "ip6", "icmpv6", "nexthdr", "traffic class"
	}
	if m.Flags&BridgeSrc != 0 {
		equal(w, not(BridgeSrc), header+" saddr", hostOr(m.Src.Addr, m.Src.Mask))
	}
	if m.Flags&BridgeDst != 0 {
		equal(w, not(BridgeDst), header+" daddr", hostOr(m.Dst.Addr, m.Dst.Mask))
	}
	if m.Flags&BridgeTOS != 0 {
		equal(w, not(BridgeTOS), header+" "+tos, fmt.Sprintf("%#x", m.TOS))
	}
	if m.Flags&BridgeProto == 0 {
		return w.String()
	}
	name := protoName(uint16(m.Proto))
	if m.Flags&(BridgeSrcPort|BridgeDstPort|BridgeICMP) == 0 || not(BridgeProto) {
		equal(w, not(BridgeProto), header+" "+protocol, name)
	}
	ports := func(p PortRange) string { return strings.Replace(p.String(), ":", "-", 1) }
	if m.Flags&BridgeSrcPort != 0 {
		equal(w, not(BridgeSrcPort), name+" sport", ports(m.SrcPort))
	}
	if m.Flags&BridgeDstPort != 0 {
		equal(w, not(BridgeDstPort), name+" dport", ports(m.DstPort))
	}
	if m.Flags&BridgeICMP != 0 {
		both := func(r [2]uint8) string { return strings.Replace(span(r[0], r[1]), ":", "-", 1) }
		equal(w, not(BridgeICMP), icmp+" type", both(m.ICMPType))
		if m.ICMPCode != [2]uint8{0, 255} {
			equal(w, not(BridgeICMP), icmp+" code", both(m.ICMPCode))
		}
	}
	return w.String()
}

// nft returns what is compared as nft(8) prints it.
func (m BridgeMark) nft() string {
	w := &words{}
	switch {
	case m.Any:
		equal(w, !m.Not, fmt.Sprintf("meta mark & %#x", m.Mask), "0x0")
	case m.Mask == 1<<32-1:
		equal(w, m.Not, "meta mark", fmt.Sprintf("%#x", m.Mark))
	default:
		equal(w, m.Not, fmt.Sprintf("meta mark & %#x", m.Mask), fmt.Sprintf("%#x", m.Mark))
	}
	return w.String()
}

// nft returns the type as nft(8) prints it.
func (m PktType) nft() string {
	names := [...]string{"host", "broadcast", "multicast", "other"}
	name := strconv.Itoa(int(m.Type))
	if int(m.Type) < len(names) {
		name = names[m.Type]
	}
	w := &words{}
	equal(w, m.Not, "meta pkttype", name)
	return w.String()
}
