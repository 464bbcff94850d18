// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// WhoHas asks the neighbours on a link which of them has an address, by ARP or a neighbour
// solicitation of its own, and returns the hardware address that answers first; nil: none does. It
// is for addresses whose entry is permanent: the kernel does not ask for them.
func (h *Host) WhoHas(addr netip.Addr, link *Link, from netip.Addr, timeout time.Duration) (mac []byte, err error) {
	if len(link.MAC) != 6 || addr.Is4() != from.Is4() {
		return nil, nil
	}
	err = h.do(func() error {
		mac, err = whoHas(addr, link, from, timeout)
		return err
	})
	if err != nil {
		return nil, h.note(fmt.Errorf("ask who has %s on %s: %w", addr, link.Name, err))
	}
	return mac, nil
}

func whoHas(addr netip.Addr, link *Link, from netip.Addr, timeout time.Duration) (mac []byte, err error) {
	protocol, question, to := uint16(unix.ETH_P_ARP), arpQuestion(addr, link.MAC, from), []byte{255, 255, 255, 255, 255, 255}
	if addr.Is6() {
		protocol, question = unix.ETH_P_IPV6, ndQuestion(addr, link.MAC, from)
		to = ethernetGroup(addr)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	at := &unix.SockaddrLinklayer{Protocol: bigEndian(protocol), Ifindex: link.Index}
	if err := unix.Bind(fd, at); err != nil {
		return nil, err
	}
	at.Halen = 6
	copy(at.Addr[:], to)
	if err := unix.Sendto(fd, question, 0, at); err != nil {
		return nil, err
	}
	b := make([]byte, 256)
	for end := time.Now().Add(timeout); ; {
		left := time.Until(end)
		if left <= 0 {
			return nil, nil
		}
		tv := unix.NsecToTimeval(max(left, time.Microsecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return nil, err
		}
		n, _, err := unix.Recvfrom(fd, b, 0)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case err != nil:
			return nil, err
		}
		answer := arpAnswer
		if addr.Is6() {
			answer = ndAnswer
		}
		if mac := answer(b[:n], addr); mac != nil {
			return mac, nil
		}
	}
}

func bigEndian(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func arpQuestion(addr netip.Addr, mac []byte, from netip.Addr) []byte {
	b := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, mac...)
	b = append(append(b, from.AsSlice()...), make([]byte, 6)...)
	return append(b, addr.AsSlice()...)
}

// arpAnswer returns the hardware address of an ARP answer for an address; nil: it is none.
func arpAnswer(b []byte, addr netip.Addr) []byte {
	if len(b) < 28 || !bytes.Equal(b[:8], []byte{0, 1, 8, 0, 6, 4, 0, 2}) || !bytes.Equal(b[14:18], addr.AsSlice()) {
		return nil
	}
	return bytes.Clone(b[8:14])
}

// ethernetGroup is where neighbour solicitations for an address go.
func ethernetGroup(addr netip.Addr) []byte {
	a := addr.As16()
	return []byte{0x33, 0x33, 0xff, a[13], a[14], a[15]}
}

// Of RFC 4861.
const (
	ndSolicitation  = 135
	ndAdvertisement = 136
	ndSourceOption  = 1
	ndTargetOption  = 2
	ipv6Header      = 40
)

func ndQuestion(addr netip.Addr, mac []byte, from netip.Addr) []byte {
	a := addr.As16()
	group := [16]byte{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a[13], a[14], a[15]}
	icmp := append([]byte{ndSolicitation, 0, 0, 0, 0, 0, 0, 0}, a[:]...)
	icmp = append(append(icmp, ndSourceOption, 1), mac...)
	b := []byte{0x60, 0, 0, 0, 0, byte(len(icmp)), unix.IPPROTO_ICMPV6, 255}
	b = append(append(b, from.AsSlice()...), group[:]...)
	binary.BigEndian.PutUint16(icmp[2:], checksum6(b[8:ipv6Header], icmp))
	return append(b, icmp...)
}

// checksum6 is the checksum of ICMPv6 with the addresses of its header.
func checksum6(addrs, icmp []byte) uint16 {
	sum := uint32(len(icmp)) + unix.IPPROTO_ICMPV6
	for _, b := range [][]byte{addrs, icmp} {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// ndAnswer returns the hardware address of a neighbour advertisement for an address; nil: it is none.
func ndAnswer(b []byte, addr netip.Addr) []byte {
	if len(b) < ipv6Header+24 || b[6] != unix.IPPROTO_ICMPV6 || b[ipv6Header] != ndAdvertisement || !bytes.Equal(b[ipv6Header+8:ipv6Header+24], addr.AsSlice()) {
		return nil
	}
	for o := b[ipv6Header+24:]; len(o) >= 8; {
		n := int(o[1]) * 8
		if n == 0 || n > len(o) {
			return nil
		}
		if o[0] == ndTargetOption {
			return bytes.Clone(o[2:8])
		}
		o = o[n:]
	}
	return nil
}
