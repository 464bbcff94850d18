// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/internal/lab"
)

// spray sends a packet that begins a flow, a SYN or a datagram, from each of the ports, and
// returns their number. No socket has the ports, so that answers are refused.
func spray(t *testing.T, ns *lab.NS, network string, from netip.Addr, to netip.AddrPort, ports []int) (sent int) {
	t.Helper()
	require.NoError(t, ns.Do(func() error {
		fd, err := rawSocket(network, from, to.Addr())
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		for _, port := range ports {
			packet := firstSegment(network, netip.AddrPortFrom(from, uint16(port)), to)
			if _, err := unix.Write(fd, packet); err != nil {
				return err
			}
			sent++
		}
		return nil
	}))
	return sent
}

func rawSocket(network string, from, to netip.Addr) (fd int, err error) {
	domain := unix.AF_INET6
	if from.Is4() {
		domain = unix.AF_INET
	}
	fd, err = unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protoNumber(network))
	if err != nil {
		return 0, err
	}
	if err = unix.Bind(fd, sockaddr(from)); err == nil {
		err = unix.Connect(fd, sockaddr(to))
	}
	if err != nil {
		_ = unix.Close(fd)
	}
	return fd, err
}

func sockaddr(a netip.Addr) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Addr: a.As16()}
}

// firstSegment returns the first packet of a flow, without the IP header.
func firstSegment(network string, from, to netip.AddrPort) []byte {
	size, sum := 8, 6 // UDP: the header's size and the offset of the checksum (RFC 768)
	if network == "tcp" {
		size, sum = 20, 16 // RFC 9293 section 3.1
	}
	b := make([]byte, size)
	binary.BigEndian.PutUint16(b, from.Port())
	binary.BigEndian.PutUint16(b[2:], to.Port())
	if network == "tcp" {
		const syn = 0x02
		b[12], b[13] = byte(size/4)<<4, syn
		binary.BigEndian.PutUint16(b[14:], 65535)
	} else {
		binary.BigEndian.PutUint16(b[4:], uint16(size))
	}
	pseudo := append(from.Addr().AsSlice(), to.Addr().AsSlice()...)
	pseudo = append(pseudo, 0, byte(protoNumber(network)), 0, byte(size))
	binary.BigEndian.PutUint16(b[sum:], checksum(append(pseudo, b...)))
	return b
}

// checksum is that of RFC 1071 for an even number of bytes. Zero is sent as 0xffff, which UDP
// requires and TCP allows.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	if sum == 0xffff {
		return 0xffff
	}
	return ^uint16(sum)
}
