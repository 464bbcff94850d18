// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// header is what is read of the headers of a packet.
type header struct {
	proto    uint8
	src, dst netip.AddrPort // ports of ICMP are zero
	flags    uint8          // of TCP
	icmp     [2]uint8       // type and code
	// id tells packets of a connection apart: the sequence numbers of TCP, and else the identification of
	// IPv4 and the length.
	id [2]uint32
}

// parseHeader reads the headers of IP and of the protocol in it. Transport is nil if it follows in
// network.
func parseHeader(network, transport []byte) (h header, ok bool) {
	if len(network) < 20 {
		return header{}, false
	}
	var src, dst netip.Addr
	n := 0
	switch network[0] >> 4 {
	case 4:
		n = int(network[0]&15) * 4
		h.proto = network[9]
		src, dst = netip.AddrFrom4([4]byte(network[12:16])), netip.AddrFrom4([4]byte(network[16:20]))
		h.id = [2]uint32{uint32(binary.BigEndian.Uint16(network[4:])), uint32(binary.BigEndian.Uint16(network[2:]))}
	case 6:
		n = 40
		if len(network) < n {
			return header{}, false
		}
		h.proto = network[6]
		src, dst = netip.AddrFrom16([16]byte(network[8:24])), netip.AddrFrom16([16]byte(network[24:40]))
		h.id = [2]uint32{binary.BigEndian.Uint32(network) & 0xfffff, uint32(binary.BigEndian.Uint16(network[4:]))}
	default:
		return header{}, false
	}
	if transport == nil && len(network) > n {
		transport = network[n:]
	}
	var sport, dport uint16
	if (h.proto == unix.IPPROTO_TCP || h.proto == unix.IPPROTO_UDP) && len(transport) >= 4 {
		sport, dport = binary.BigEndian.Uint16(transport), binary.BigEndian.Uint16(transport[2:])
	}
	if h.proto == unix.IPPROTO_TCP && len(transport) >= 14 {
		h.id = [2]uint32{binary.BigEndian.Uint32(transport[4:]), binary.BigEndian.Uint32(transport[8:])}
		h.flags = transport[13]
	}
	if (h.proto == unix.IPPROTO_ICMP || h.proto == unix.IPPROTO_ICMPV6) && len(transport) >= 2 {
		h.icmp = [2]uint8(transport)
	}
	h.src, h.dst = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	return h, true
}

// protoText names a protocol as nft(8) does.
func protoText(proto uint8) string {
	switch proto {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_ICMP:
		return "icmp"
	case unix.IPPROTO_ICMPV6:
		return "icmpv6"
	}
	return "ip"
}

// flagsText names the flags of TCP, or the type of ICMP.
func flagsText(h header) string {
	switch h.proto {
	case unix.IPPROTO_TCP:
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return fmt.Sprintf("type %d code %d", h.icmp[0], h.icmp[1])
	default:
		return ""
	}
	var words []string
	for i, word := range []string{"fin", "syn", "rst", "psh", "ack", "urg"} {
		if h.flags&(1<<i) != 0 {
			words = append(words, word)
		}
	}
	return strings.Join(words, ",")
}

func beginOf(h header, number uint64, now time.Time) Begin {
	return Begin{Time: now, Number: number, Proto: protoText(h.proto), Flags: flagsText(h), Src: h.src, Dst: h.dst}
}
