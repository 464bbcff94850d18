// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/nftnat/nftnat/nat"
)

// Holders returns the sockets, also of this process, that wait for clients at any of the ports and
// an address, and so would keep a socket from being bound there: those of TCP that listen, and those of UDP that are not
// connected. The zero Addr is every address of both families, 0.0.0.0 and :: are every one of theirs. Not every kernel tells of a socket of TCP that
// is bound and does not listen yet.
func Holders(ns *Namespace, proto nat.Proto, addr netip.Addr, ports PortRange) (found []Socket, err error) {
	err = ns.Do(func() error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			err := listWaiting(family, proto, func(s Socket) {
				if port := s.Addr.Port(); ports.First <= port && port <= ports.Last && s.meets(addr) {
					found = append(found, s)
				}
			})
			if err != nil && !errors.Is(err, unix.ENOENT) { // no IPv6, or no module for it
				return fmt.Errorf("list sockets: %w", err)
			}
		}
		return nil
	})
	return found, err
}

// meets reports whether a socket that is bound meets one that is to be bound to an address, on the same port.
func (s Socket) meets(other netip.Addr) bool {
	addr := s.Addr.Addr()
	if addr == netip.IPv6Unspecified() && !s.V6Only {
		addr = netip.Addr{}
	}
	other = other.Unmap()
	switch {
	case !addr.IsValid() || !other.IsValid():
		return true
	case addr.Is4() != other.Is4():
		return false
	}
	return addr.IsUnspecified() || other.IsUnspecified() || addr.WithZone("") == other.WithZone("")
}

// listWaiting lists sockets of a family that wait for clients (sock_diag(7)).
func listWaiting(family uint8, proto nat.Proto, found func(Socket)) error {
	const (
		requestSize = 56 // struct inet_diag_req_v2
		messageSize = 72 // struct inet_diag_msg
		v6only      = 11 // INET_DIAG_SKV6ONLY
	)
	protocol, states := uint8(unix.IPPROTO_TCP), uint32(1)<<tcpListen
	if proto == nat.UDP {
		protocol, states = unix.IPPROTO_UDP, 1<<tcpClose
	}
	request := make([]byte, requestSize)
	request[0], request[1] = family, protocol
	binary.NativeEndian.PutUint32(request[4:], states)
	r := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	r.AddRawData(request)
	messages, err := r.Execute(unix.NETLINK_INET_DIAG, 0)
	if err != nil {
		return err
	}
	for _, m := range messages {
		if len(m) < messageSize {
			return fmt.Errorf("socket of %d bytes: %w", len(m), unix.EBADMSG)
		}
		addr := netip.AddrFrom16([16]byte(m[8:24])).Unmap()
		if family == unix.AF_INET {
			addr = netip.AddrFrom4([4]byte(m[8:12]))
		}
		s := Socket{
			Addr: netip.AddrPortFrom(addr, binary.BigEndian.Uint16(m[4:])),
			UID:  binary.NativeEndian.Uint32(m[64:]), Inode: binary.NativeEndian.Uint32(m[68:]),
		}
		attributes, err := nl.ParseRouteAttr(m[messageSize:])
		if err != nil {
			return err
		}
		for _, a := range attributes {
			if a.Attr.Type == v6only && len(a.Value) > 0 {
				s.V6Only = a.Value[0] != 0
			}
		}
		found(s)
	}
	return nil
}
