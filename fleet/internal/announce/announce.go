// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Announce tells all neighbours on the interface that the address is at it: by a gratuitous
// ARP request (RFC 5227 section 3; neighbours believe a reply less often), or by an
// unsolicited neighbour advertisement that overrides (RFC 4861 section 7.2.6). Those with an
// entry for the address change it, those without make none. It is sent once: some may be lost.
func (i *Interface) Announce(a netip.Addr) error {
	l, err := i.link()
	if err != nil {
		return err
	}
	if len(l.addr) != 6 {
		return fmt.Errorf("announce %s on %s: %w: it is not Ethernet", a, i.name, errors.ErrUnsupported)
	}
	to := unix.SockaddrLinklayer{Ifindex: int(l.index), Halen: 6}
	var packet []byte
	if a.Is4() {
		to.Protocol = bigEndian(unix.ETH_P_ARP)
		to.Addr = [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		packet = request(a, l.addr)
	} else {
		to.Protocol = bigEndian(unix.ETH_P_IPV6)
		to.Addr = [8]byte{0x33, 0x33, 0, 0, 0, 1} // of ff02::1 (RFC 2464 section 7)
		packet = advertisement(a, l.addr, i.forwarding())
	}
	if err := unix.Sendto(i.packet, packet, 0, &to); err != nil {
		return fmt.Errorf("announce %s on %s: %w", a, i.name, err)
	}
	return nil
}

// bigEndian is a number as it is in network byte order, read in that of the host.
func bigEndian(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// request is an ARP request for an address by its owner (RFC 826).
func request(a netip.Addr, mac []byte) []byte {
	b := []byte{
		0, 1, // Ethernet
		8, 0, // IPv4
		6, 4, // lengths of their addresses
		0, 1, // request
	}
	b = append(b, mac...)
	b = append(b, a.AsSlice()...)
	b = append(b, 0, 0, 0, 0, 0, 0) // whose it is asked for
	return append(b, a.AsSlice()...)
}

// Values of a neighbour advertisement (RFC 4861 sections 4.4 and 4.6.1).
const (
	typeAdvertisement = 136
	flagRouter        = 0x80
	flagOverride      = 0x20
	optionTarget      = 2 // the link-layer address; one unit of 8 bytes
)

// advertisement is a whole IPv6 packet.
func advertisement(a netip.Addr, mac []byte, router bool) []byte {
	body := []byte{typeAdvertisement, 0, 0, 0, flagOverride, 0, 0, 0}
	if router {
		body[4] |= flagRouter
	}
	body = append(body, a.AsSlice()...)
	body = append(body, optionTarget, 1)
	body = append(body, mac...)

	source := a.As16()
	all := [16]byte{0xff, 0x02, 15: 1}
	binary.BigEndian.PutUint16(body[2:], checksum(source, all, body))

	b := []byte{0x60, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(b, unix.IPPROTO_ICMPV6, 255) // a router would have made it less
	b = append(b, source[:]...)
	b = append(b, all[:]...)
	return append(b, body...)
}

// checksum is that of ICMPv6 (RFC 4443 section 2.3). The body has an even length.
func checksum(from, to [16]byte, body []byte) uint16 {
	sum := uint32(len(body)) + unix.IPPROTO_ICMPV6
	for _, part := range [][]byte{from[:], to[:], body} {
		for k := 0; k < len(part); k += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[k:]))
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
