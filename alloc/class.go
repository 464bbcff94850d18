// SPDX-FileCopyrightText: The nftnat authors
// SPDX-License-Identifier: Apache-2.0

package alloc

import "net/netip"

// zoneIPv6Only marks the stand-in of IPv6Only. "::" cannot have a real zone, for
// it has no scope (RFC 4007 section 4).
const zoneIPv6Only = "ipv6only"

// IPv6Only returns the stand-in for every IPv6 address and no IPv4 address: what
// a socket bound to [::] with IPV6_V6ONLY set answers for (RFC 3493 section
// 5.3). It is written "::%ipv6only". No address looks like that outside of this
// package; do not hand it to the kernel.
func IPv6Only() netip.Addr { return netip.IPv6Unspecified().WithZone(zoneIPv6Only) }

// A class is a kind of host that a port can be reserved for. Every reservation
// is of exactly one.
type class int

const (
	dual    class = iota // ::, every address of both families
	any4                 // 0.0.0.0, every IPv4 address
	any6                 // IPv6Only(), every IPv6 address
	one4                 // one IPv4 address
	one6                 // one IPv6 address
	classes              // how many there are
)

// conflicting lists the classes that conflict with each class on the same port.
// A specific address also conflicts with itself.
//
// It is the kernel's rule for binding sockets without SO_REUSEADDR
// (inet_rcv_saddr_equal in net/ipv4/inet_connection_sock.c), and symmetric.
var conflicting = [classes][]class{
	dual: {dual, any4, any6, one4, one6},
	any4: {dual, any4, one4},
	any6: {dual, any6, one6},
	one4: {dual, any4},
	one6: {dual, any6},
}

// classify returns the class of a host, the host unmapped, and whether it is
// valid: an address without zone, or IPv6Only.
func classify(host netip.Addr) (class, netip.Addr, bool) {
	if zone := host.Zone(); zone != "" {
		ok := zone == zoneIPv6Only && host.WithZone("").IsUnspecified()
		return any6, host, ok
	}
	host = host.Unmap()
	switch {
	case !host.IsValid():
		return 0, host, false
	case host.Is4() && host.IsUnspecified():
		return any4, host, true
	case host.Is4():
		return one4, host, true
	case host.IsUnspecified():
		return dual, host, true
	default:
		return one6, host, true
	}
}

// specific reports whether the hosts of the class are single addresses.
func (c class) specific() bool { return c == one4 || c == one6 }

// wildcard returns the only host of a class that is not specific.
func (c class) wildcard() netip.Addr {
	if c == any4 {
		return netip.IPv4Unspecified()
	}
	if c == any6 {
		return IPv6Only()
	}
	return netip.IPv6Unspecified()
}
