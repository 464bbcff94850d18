// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// rawName is a socket address as the kernel writes it, padded with zeros to
// the longer of sockaddr_in (16 bytes) and sockaddr_in6 (28).
type rawName [unix.SizeofSockaddrInet6]byte

// family is the address family, whose place is the same in all of them.
func (n *rawName) family() int { return int(binary.NativeEndian.Uint16(n[:2])) }

// sockaddr is an address ready to be handed to the kernel.
type sockaddr struct {
	raw    rawName
	size   uint32
	family int
}

func (s *sockaddr) port() uint16 { return binary.BigEndian.Uint16(s.raw[2:]) }

func (s *sockaddr) setPort(port uint16) { binary.BigEndian.PutUint16(s.raw[2:], port) }

// host is the IP address, as bytes.
func (n *rawName) host() []byte {
	if n.family() == unix.AF_INET {
		return n[4:8]
	}
	return n[8:24]
}

// encode lays ap out as sockaddr_in or sockaddr_in6. An IPv4-mapped IPv6
// address is an IPv4 one here.
func encode(ap netip.AddrPort) (*sockaddr, error) {
	s := &sockaddr{}
	addr := ap.Addr().Unmap()
	binary.BigEndian.PutUint16(s.raw[2:], ap.Port())
	if addr.Is4() {
		s.family, s.size = unix.AF_INET, unix.SizeofSockaddrInet4
		a := addr.As4()
		copy(s.raw[4:], a[:])
	} else {
		s.family, s.size = unix.AF_INET6, unix.SizeofSockaddrInet6
		a := addr.As16()
		copy(s.raw[8:], a[:])
		scope, err := scopeID(addr.Zone())
		if err != nil {
			return nil, err
		}
		binary.NativeEndian.PutUint32(s.raw[24:], scope)
	}
	binary.NativeEndian.PutUint16(s.raw[:], uint16(s.family))
	return s, nil
}

// mapped lays an IPv4 address out as sockaddr_in6.
func mapped(ap netip.AddrPort) *sockaddr {
	s := &sockaddr{size: unix.SizeofSockaddrInet6, family: unix.AF_INET6}
	binary.NativeEndian.PutUint16(s.raw[:], unix.AF_INET6)
	s.setPort(ap.Port())
	a := ap.Addr().As16()
	copy(s.raw[8:], a[:])
	return s
}

// scopeID turns the zone of a link-local address into an interface index.
func scopeID(zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	ifc, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, fmt.Errorf("find zone %s: %w", zone, err)
	}
	return uint32(ifc.Index), nil
}

// decode reads the address back.
func (n *rawName) decode() netip.AddrPort {
	port := binary.BigEndian.Uint16(n[2:])
	if n.family() == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(n[4:8])), port)
	}
	addr := netip.AddrFrom16([16]byte(n[8:24]))
	if scope := binary.NativeEndian.Uint32(n[24:]); scope != 0 {
		addr = addr.WithZone(strconv.FormatUint(uint64(scope), 10))
	}
	return netip.AddrPortFrom(addr, port)
}

// unmapped is an address as callers know it.
func unmapped(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// addrPort converts a net.Addr of either protocol. Without IP the result has the zero
// Addr: any address of both families.
func addrPort(a net.Addr) (network string, ap netip.AddrPort, err error) {
	var t *net.TCPAddr
	switch a := a.(type) {
	case *net.TCPAddr:
		network, t = "tcp", a
	case *net.UDPAddr:
		network, t = "udp", (*net.TCPAddr)(a)
	default:
		return "", ap, fmt.Errorf("%w: %T is neither *net.TCPAddr nor *net.UDPAddr", ErrAddr, a)
	}
	switch {
	case t == nil:
		return "", ap, fmt.Errorf("%w: nil %s address", ErrAddr, network)
	case t.Port < 0 || t.Port > 65535:
		return "", ap, fmt.Errorf("%w: port %d", ErrAddr, t.Port)
	case len(t.IP) == 0:
		return network, netip.AddrPortFrom(netip.Addr{}, uint16(t.Port)), nil
	}
	addr, ok := netip.AddrFromSlice(t.IP)
	if !ok {
		return "", ap, fmt.Errorf("%w: address of %d bytes", ErrAddr, len(t.IP))
	}
	return network, netip.AddrPortFrom(addr.Unmap().WithZone(t.Zone), uint16(t.Port)), nil
}

// netAddr is the reverse of addrPort.
func netAddr(network string, ap netip.AddrPort) net.Addr {
	if network == "tcp" {
		return net.TCPAddrFromAddrPort(ap)
	}
	return net.UDPAddrFromAddrPort(ap)
}

// destination is a backend.
type destination struct {
	addr net.Addr
	to   *sockaddr // addr, for connect
}

// newDestination checks the address of a backend and encodes it.
func newDestination(network string, backend net.Addr) (*destination, error) {
	of, ap, err := addrPort(backend)
	switch addr := ap.Addr(); {
	case err != nil:
	case of != network:
		err = fmt.Errorf("%w: %s is not %s", ErrAddr, backend, network)
	case ap.Port() == 0 || !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast():
		err = fmt.Errorf("%w: %s is nothing to connect to", ErrAddr, backend)
	default:
		var to *sockaddr
		if to, err = encode(ap); err == nil {
			return &destination{backend, to}, nil
		}
	}
	return nil, fmt.Errorf("backend: %w", err)
}
