// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/rules/xt"
)

// bridgeIP evaluates the matches ip and ip6 of ebtables.
func (x *xtMatch) bridgeIP(m xt.BridgeIP) known {
	p := x.p
	want := uint16(unix.ETH_P_IP)
	if m.IP6 {
		want = unix.ETH_P_IPV6
	}
	if p.EtherType != want {
		return yes(false)
	}
	list := []known{yes(true)}
	check := func(flag uint8, k known) {
		if m.Flags&flag != 0 {
			list = append(list, k.not(m.Invert&flag != 0))
		}
	}
	check(xt.BridgeTOS, yes(p.TOS == m.TOS))
	check(xt.BridgeSrc, masked(m.Src, p.Src, "source"))
	check(xt.BridgeDst, masked(m.Dst, p.Dst, "destination"))
	if m.Flags&xt.BridgeProto != 0 {
		check(xt.BridgeProto, yes(p.Proto == m.Proto))
		check(xt.BridgeSrcPort, x.port(m.SrcPort, true))
		check(xt.BridgeDstPort, x.port(m.DstPort, false))
		check(xt.BridgeICMP, yes(within(p.ICMPType, m.ICMPType) && within(p.ICMPCode, m.ICMPCode)))
	}
	return all(list...)
}

func within(n uint8, r [2]uint8) bool { return n >= r[0] && n <= r[1] }

// bridgeARP evaluates the match arp of ebtables.
func (x *xtMatch) bridgeARP(m xt.BridgeARP) known {
	p := x.p
	if p.EtherType != unix.ETH_P_ARP {
		return yes(false)
	}
	list := []known{yes(true)}
	check := func(flag uint8, k known) {
		if m.Flags&flag != 0 {
			list = append(list, k.not(m.Invert&flag != 0))
		}
	}
	op := yes(p.ARPOp == m.Op)
	if p.ARPOp == 0 {
		op = maybe("whether the ARP packet is a request or an answer")
	}
	device := func(d xt.DeviceAddr, have []byte) known {
		if len(have) != 6 {
			return maybe("a link-layer address in the ARP packet, which is not known")
		}
		return yes(d.Is(have))
	}
	check(xt.BridgeARPOp, op)
	check(xt.BridgeARPType, yes(m.Type == 1))
	check(xt.BridgeARPProto, yes(m.Proto == unix.ETH_P_IP))
	check(xt.BridgeARPSrc, masked(m.Src, p.Src, "source"))
	check(xt.BridgeARPDst, masked(m.Dst, p.Dst, "destination"))
	check(xt.BridgeARPSrcDevice, device(m.SrcDevice, p.SrcMAC))
	check(xt.BridgeARPDstDevice, device(m.DstDevice, nil)) // a request has none
	check(xt.BridgeARPSame, yes(p.Src == p.Dst))
	return all(list...)
}

// bridgeVLAN evaluates the match vlan of ebtables.
func (x *xtMatch) bridgeVLAN(m xt.BridgeVLAN) known {
	p := x.p
	list := []known{yes(p.VLAN != 0)}
	const id = 1<<12 - 1
	if m.Flags&xt.BridgeVLANID != 0 {
		list = append(list, yes(p.VLAN&id == m.ID).not(m.Invert&xt.BridgeVLANID != 0))
	}
	if m.Flags&xt.BridgeVLANPrio != 0 {
		list = append(list, maybe("the priority in the VLAN tag"))
	}
	if m.Flags&xt.BridgeVLANEncap != 0 {
		list = append(list, yes(p.EtherType == m.Encap).not(m.Invert&xt.BridgeVLANEncap != 0))
	}
	return all(list...)
}

// bridgeCode is the verdict of a target of ebtables.
func bridgeCode(verdict int32) int32 {
	switch verdict {
	case xt.BridgeAccept:
		return codeAccept
	case xt.BridgeDrop:
		return codeDrop
	case xt.BridgeReturn:
		return codeReturn
	}
	return codeContinue
}
