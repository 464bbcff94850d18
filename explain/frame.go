// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/explain/internal/eval"
)

// anyPort is the source port of a client of which only that is known that it is a high one.
const anyPort = 50000

// frame returns a packet as a frame of Ethernet, for programs and filters that take such.
func frame(p *eval.Packet) []byte {
	b := make([]byte, 0, 128)
	b = append(b, mac(p.DstMAC)...)
	b = append(b, mac(p.SrcMAC)...)
	b = binary.BigEndian.AppendUint16(b, p.EtherType)
	if p.EtherType == unix.ETH_P_ARP {
		return appendARP(b, p)
	}
	segment := segment(p)
	if p.Src.Is4() {
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+len(segment)))
		b = append(b, 0, 1, 0x40, 0, ttl(p), p.Proto, 0, 0)
	} else {
		b = append(b, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(len(segment)))
		b = append(b, p.Proto, ttl(p))
	}
	b = append(b, bare(p.Src)...)
	b = append(b, bare(p.Dst)...)
	return append(b, segment...)
}

// appendARP appends a request or an answer.
func appendARP(b []byte, p *eval.Packet) []byte {
	b = append(b, 0, 1, 8, 0, 6, 4, 0, byte(p.ARPOp))
	b = append(b, mac(p.SrcMAC)...)
	b = append(b, bare(p.Src)...)
	if p.ARPOp == 1 {
		b = append(b, mac(nil)...)
	} else {
		b = append(b, mac(p.DstMAC)...)
	}
	return append(b, bare(p.Dst)...)
}

func segment(p *eval.Packet) []byte {
	src := p.SrcPort
	if src == 0 {
		src = anyPort
	}
	switch p.Proto {
	case unix.IPPROTO_TCP:
		b := binary.BigEndian.AppendUint16(nil, src)
		b = binary.BigEndian.AppendUint16(b, p.DstPort)
		return append(b, 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, p.TCPFlags, 0xff, 0xff, 0, 0, 0, 0)
	case unix.IPPROTO_UDP:
		b := binary.BigEndian.AppendUint16(nil, src)
		b = binary.BigEndian.AppendUint16(b, p.DstPort)
		return append(b, 0, 12, 0, 0, 0, 0, 0, 0)
	}
	return []byte{p.ICMPType, p.ICMPCode, 0, 0, 0, 0, 0, 0}
}

func mac(b []byte) []byte {
	if len(b) == 6 {
		return b
	}
	return make([]byte, 6)
}

func bare(a netip.Addr) []byte { return a.AsSlice() }

func ttl(p *eval.Packet) uint8 {
	if p.TTL != 0 {
		return p.TTL
	}
	return 64
}
